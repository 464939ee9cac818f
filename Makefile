# One virtual environment, .venv, made from requirements.lock; every target makes it when it is missing or out of date.
# Needs Python >= 3.11, pip and make; uses uv where it is found. Another interpreter: make PYTHON=python3.12

SHELL := /bin/bash
.DEFAULT_GOAL := help
BIN := .venv/bin
STAMP := .venv/.installed
ARGS ?=

.PHONY: help venv demo test check faults nemesis mutants bench asyncapi lock screenshots clean

help: ## this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 10

venv: $(STAMP) ## only make .venv

demo: $(STAMP) ## everything on this machine: server, three nodes, back office, bots (ARGS="--port 0 …")
	@exec $(BIN)/chatbridge demo $(ARGS)

test: $(STAMP) ## the test suite, quick profile (ARGS="-k mute …")
	$(BIN)/python -m pytest -n auto -m "not slow" $(ARGS)

check: $(STAMP) ## style, types and import boundaries
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

faults: $(STAMP) ## the fault suites with the full figures (ARGS="--seed N …" to repeat a run)
	$(BIN)/python -m pytest -m faults --full --timeout 1800 $(ARGS)

nemesis: $(STAMP) ## everything under load and faults, on six kinds of servers (ARGS="--seed N --only cluster/redis-7.0 --minutes 1 --no-docs")
	$(BIN)/python -m tests.nemesis $(ARGS)

mutants: $(STAMP) ## take out one safeguard at a time and expect the suite to fail
	$(BIN)/python -m tests.mutants $(ARGS)

bench: $(STAMP) ## the figures, each beside its baseline
	$(BIN)/python -m bench $(ARGS)

asyncapi: $(STAMP) ## write docs/asyncapi.json anew, from the models of the protocol's frames
	$(BIN)/python -m chatserver.asyncapi docs/asyncapi.json

screenshots: $(STAMP) ## pictures of every page of the admin UI (ARGS="FOLDER overview …"; else into build/screenshots)
	$(BIN)/python -m tests.browser.screenshots $(or $(ARGS),build/screenshots)

lock: $(STAMP) ## resolve the dependencies again and write requirements.lock
	@$(FIND_UV); [ -n "$$uv" ] || { \
	  $(FIND_PYTHON); "$$python" -m pip install -qq --upgrade --target .venv/uv uv && uv=.venv/uv/bin/uv; }; \
	"$$uv" lock --quiet $(ARGS) && \
	"$$uv" export --quiet --format requirements.txt --all-extras --no-emit-project --no-header > requirements.lock

clean: ## remove .venv and everything that was generated
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .coverage* htmlcov
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A name on the PATH may be a shim without a Python behind it, so each is run before it is believed.
define FIND_PYTHON
python=; for candidate in $(PYTHON) python3 python3.13 python3.12 python3.11 python3.14 python; do \
  "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && { python=$$candidate; break; }; done; \
[ -n "$$python" ] || { echo "make: no Python >= 3.11 found; install one, or name it: make PYTHON=/path/to/python" >&2; exit 1; }
endef

define FIND_UV
uv=$$(command -v uv || true)
endef

# Without uv, pip installs from outside into the new environment: that needs no ensurepip, which Debian splits off.
# The project itself is built with the hatchling of the lock file, so that nothing unpinned is fetched.
$(STAMP): requirements.lock pyproject.toml
	@set -e; $(FIND_PYTHON); $(FIND_UV); \
	if ! $(BIN)/python -c '' >/dev/null 2>&1; then \
	  echo "making .venv with $$($$python --version)"; \
	  if [ -n "$$uv" ]; then "$$uv" venv --quiet --clear --python "$$python" .venv; \
	  else "$$python" -m venv --clear --without-pip .venv; fi; \
	fi; \
	if [ -n "$$uv" ]; then install="$$uv pip install --quiet --python $(BIN)/python"; \
	else install="$$python -m pip --python $(BIN)/python install -qq --disable-pip-version-check --retries 10 --timeout 60"; fi; \
	echo "installing requirements.lock"; \
	$$install --no-deps --require-hashes -r requirements.lock; \
	$$install --no-deps --no-build-isolation --editable .
	@touch $@
