# The commands of the project. `make suites` is the main one.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.editguard-ready
PYTEST := $(BIN)/python -m pytest
WORKERS ?= 2
SPREAD := -n $(WORKERS) --dist worksteal

.PHONY: setup suites suites-all test test-all lint types wheel clean

setup: $(STAMP)

# Made again only when what decides the environment has changed; offline otherwise.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

suites: $(STAMP)
	$(PYTEST) suites/ $(SPREAD) $(ARGS)

suites-all: $(STAMP)
	$(PYTEST) suites/ --editguard-methods all $(SPREAD) $(ARGS)

test: $(STAMP)
	$(PYTEST) tests/ -m "not slow and not gpu" $(SPREAD) $(ARGS)

test-all: $(STAMP)
	$(PYTEST) tests/ --hypothesis-profile=thorough $(SPREAD) $(ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

wheel: $(STAMP)
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .
	ls -l dist

clean:
	rm -rf $(VENV) dist build .pytest_cache .ruff_cache .mypy_cache .hypothesis
