# The services of docker-compose.yml: back office and chat nodes are one image.
FROM python:3.13-slim
COPY . /source
RUN pip install --no-cache-dir "/source[speed,postgresql]" \
 && rm -rf /source \
 && useradd --create-home chat && install -d -o chat /data
USER chat
WORKDIR /data
