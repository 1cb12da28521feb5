# What a contributor runs. `make` alone lists the verbs; every one works on a fresh clone.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
PYTHON ?= python3
# More than the cores of a small machine: much of what runs waits for processes, fsync and timers.
JOBS ?= 3
BIN := .venv/bin
STAMP := .venv/.deps-stamp

demo-dialog: dialog

.PHONY: help setup system demo dialog demo-dialog test check unit soak bench format clean

help: ## list these verbs
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' Makefile

setup: $(STAMP) ## make .venv with the project and its development tools

$(STAMP): pyproject.toml provisioning/pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or newer is needed; say which with: make PYTHON=python3.11 $(MAKECMDGOALS)" >&2; exit 69; }
	@$(PYTHON) -m venv .venv \
	  || { echo "The venv module is missing. Install it with: apt-get install python3-venv" >&2; exit 69; }
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]' --editable provisioning
	@touch $@

system: ## install SoftHSMv2 and the other system packages, or say the command
	@softhsm/require-packages.sh

demo: setup system ## from nothing to an answered message, with the keys in a SoftHSMv2 token
	@softhsm/with-softhsm.sh softhsm/demo/run.sh

dialog: setup system ## two services in a dialog: shifts on both sides, a restart, a policy that fails it
	@softhsm/with-softhsm.sh softhsm/demo-dialog/run.sh

test: setup system check ## everything a change must pass
	$(BIN)/pytest -n $(JOBS) --dist worksteal -m 'not soak'

check: setup ## linters, types and import contracts only
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

unit: setup ## the tests that need no token, in seconds
	$(BIN)/pytest -n $(JOBS) --dist worksteal tests/unit tests/property tests/vectors

soak: setup system ## the long runs: minutes of load on a real server and token
	$(BIN)/pytest -m soak

bench: setup system ## messages per second of one core, beside a bare loop of the same cryptography
	@$(BIN)/python benchmarks/bench_engine.py

format: setup ## put the code into its form
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove what the verbs above made
	rm -rf .venv .run build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
