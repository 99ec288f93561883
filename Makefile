# Two commands for a newcomer: `make demo` and `make test`.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
RUN    := $(VENV)/.installed-run
DEV    := $(VENV)/.installed-dev

.DEFAULT_GOAL := help
FUZZ_SECONDS ?= 300

.PHONY: help demo test fuzz check format install dev lock clean

help: ## Show this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1\t/' | expand -t 12

demo: $(RUN) ## From an OTLP span to a verified rollback, on this machine
	$(BIN)/driftgate demo

test: $(DEV) ## Run every test
	$(BIN)/python -m pytest

fuzz: $(DEV) ## Fuzz receivers and redaction, FUZZ_SECONDS=300 each; the corpus stays in .cache/fuzz
	for target in protobuf receiver compression engine structured; do \
	  $(BIN)/python tests/fuzz/run.py $$target .cache/fuzz/$$target -max_total_time=$(FUZZ_SECONDS) || exit 1; \
	done

check: $(DEV) ## Format, lint, types, floors
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

format: $(DEV) ## Rewrite the code in the project's format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

install: $(RUN) ## Make the environment with everything needed to run

dev: $(DEV) ## Make the environment with everything needed to develop

# The stamps make a second run start in seconds.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "driftgate needs Python 3.11 or newer; set PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(RUN): requirements.lock pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

$(DEV): requirements-dev.lock pyproject.toml | $(RUN)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@touch $@

lock: ## Refresh the lock files (needs uv); hashes and versions only, no addresses
	uv pip compile --quiet --universal --generate-hashes --python-version 3.11 --no-header --no-emit-package driftgate --extra all -c deploy/lock-constraints.txt pyproject.toml deploy/build-requirements.in -o requirements.lock
	uv pip compile --quiet --universal --generate-hashes --python-version 3.11 --no-header --no-emit-package driftgate --extra dev -c requirements.lock pyproject.toml deploy/build-requirements.in -o requirements-dev.lock
	uv pip compile --quiet --generate-hashes --python-version 3.11 --python-platform linux --no-header --no-emit-package driftgate --extra kafka --excludes deploy/slim-excludes.txt -c requirements.lock pyproject.toml deploy/build-requirements.in -o deploy/requirements-slim.lock

clean: ## Remove the environment and caches
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
