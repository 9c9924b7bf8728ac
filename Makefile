# What there is to do here. `make` alone lists it.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
SEED ?=
# Processes that run tests: most tests wait for engines, clients and brokers, so more than there are cores.
WORKERS ?= 3

# Hundreds of engines and commands are started by tests and benchmarks: each would compile every module anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --upgrade pip
	$(BIN)/pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/.developing: $(VENV)/.installed
	$(BIN)/pip install --quiet --disable-pip-version-check --group dev
	@touch $@

demo: $(VENV)/.installed  ## run the bundled pipeline and watch a poison record being isolated; SEED=n moves it
	@$(BIN)/python -m eventcore.cli.demo $(if $(SEED),--seed $(SEED))

test: $(VENV)/.developing  ## run the whole suite; real servers are started where they can be had
	$(BIN)/python -m pytest -q -n $(WORKERS) --dist loadgroup $(PYTEST_ARGS)

test-clients: $(VENV)/.developing  ## run every Kafka test that can be on every Kafka client
	EVENTCORE_KAFKA_CLIENTS=all $(BIN)/python -m pytest -q -m "any_client or both_clients" tests/servers $(PYTEST_ARGS)

VERSITYGW := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/eventcore/versitygw/versitygw

$(VERSITYGW):
	GOBIN=$(@D) go install github.com/versity/versitygw/cmd/versitygw@v1.8.0

test-s3: $(VENV)/.developing $(VERSITYGW)  ## run the tests of buckets on a real object store, which is built first (Go, two minutes)
	$(BIN)/python -m pytest -q tests/servers/test_object_store.py $(PYTEST_ARGS)

settings: $(VENV)/.developing  ## run each setting's test with and without the setting, and write the table; SERVERS=1: those of servers
	$(BIN)/python -m tests.settings --write $(if $(SERVERS),--servers)

bench: $(VENV)/.developing  ## measure speed against peers and floors and print the table; ROWS="kafka send" chooses
	$(BIN)/python -m tests.benchmarks $(ROWS)

check: $(VENV)/.developing  ## formatting, lint, types, layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	PYTHONPATH=.:connectors:functions $(BIN)/lint-imports

clean:  ## remove the environment and what the tools left
	rm -rf $(VENV) dist build .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache

.PHONY: help demo test test-clients test-s3 settings bench check clean
