# The services of docker-compose.yml: back office and chat nodes are one image.
FROM python:3.13-slim
COPY . /source
# The versions of the lock file, which are the tested ones, of what the image needs: the lock has everything that tests use.
RUN sed -n 's/^\([a-z0-9].*\) \\$/\1/p' /source/requirements.lock > /versions.txt \
 && PIP_CONSTRAINT=/versions.txt PIP_BUILD_CONSTRAINT=/versions.txt \
    pip install --no-cache-dir "/source[speed,postgresql]" \
 && rm -rf /source /versions.txt \
 && useradd --create-home chat && install -d -o chat /data
USER chat
WORKDIR /data
