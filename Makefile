# The two commands: `make pretrain` and `make test`. Everything happens in .venv.
PYTHON ?= python3
BIN := .venv/bin
RECIPE ?= shakespeare

.PHONY: pretrain test check test-parity test-slow bench docs clean

pretrain: .venv/installed
	$(BIN)/corestone pretrain $(RECIPE)

# What CI runs: lint, types, layers, budgets, then the default tests.
test: check
	$(BIN)/pytest

check: .venv/installed-test
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/ruff format --check src tests benchmarks
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest tests/house

# Compares with reference libraries, which it installs.
test-parity: .venv/installed-bench
	$(BIN)/pytest -m parity

# Trains for minutes: learning on real data, kills at random moments.
test-slow: .venv/installed-test
	$(BIN)/pytest -m slow

bench: .venv/installed-bench
	$(BIN)/python benchmarks/run_all.py

# The reference of the Python interface, as HTML pages.
docs: .venv/installed-docs
	$(BIN)/pdoc --docformat google --output-directory build/docs corestone
	@echo build/docs/index.html

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/installed: pyproject.toml | .venv/bin/python
	$(BIN)/pip install --quiet -e .
	touch $@

.venv/installed-test: pyproject.toml | .venv/bin/python
	$(BIN)/pip install --quiet -e '.[test]'
	touch $@ .venv/installed

.venv/installed-bench: pyproject.toml | .venv/bin/python
	$(BIN)/pip install --quiet -e '.[test,hf,eval,bench]'
	touch $@ .venv/installed .venv/installed-test

.venv/installed-docs: pyproject.toml | .venv/bin/python
	$(BIN)/pip install --quiet -e '.[docs]'
	touch $@ .venv/installed

clean:
	rm -rf .venv build dist
