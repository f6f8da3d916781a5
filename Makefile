# `make install` sets everything up; every other target does that first. A fresh machine needs python3.11 and make.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3.11
VENV := .venv
PROTO_VENV := .venv-proto
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PROTO_STAMP := $(PROTO_VENV)/.installed
KERNEL_STAMP := $(VENV)/.compiled
PIP := -m pip --disable-pip-version-check install --quiet

.PHONY: help install demo test lint format pytest crash bench proto clean

help: ## Shows this list.
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install: $(STAMP) $(PROTO_STAMP) $(KERNEL_STAMP) ## Creates .venv with everything (some minutes on a fresh machine).

$(STAMP): pyproject.toml setup.py constraints.txt
	@echo "installing into $(VENV) (some minutes on a fresh machine)"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python $(PIP) --constraint constraints.txt --editable '.[server,viewer,dev]'
	touch $@

$(KERNEL_STAMP): $(STAMP)
	@echo "compiling the kernels (once)"
	$(BIN)/python -m streamdgp.warmup
	touch $@

$(PROTO_STAMP): protos/requirements.txt
	@echo "installing the proto generator and linter into $(PROTO_VENV)"
	test -x $(PROTO_VENV)/bin/python || $(PYTHON) -m venv $(PROTO_VENV)
	$(PROTO_VENV)/bin/python $(PIP) --requirement protos/requirements.txt
	touch $@

demo: $(KERNEL_STAMP) ## Streams a simulated scan to a real server, queries the mesh, prints the error, writes demo-out/.
	$(BIN)/python -m streamdgp.demo

test: lint pytest ## Linters, types, proto lint and the whole suite.

lint: $(STAMP) $(PROTO_STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	@mkdir -p build/mypy && ln -sfn ../../server build/mypy/streamdgp_server \
		&& ln -sfn ../../client build/mypy/streamdgp_client
	$(BIN)/mypy
	$(PROTO_VENV)/bin/buf lint

format: $(STAMP) ## Formats the code and mends what ruff can mend.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

pytest: install lint
	$(BIN)/python -m pytest --numprocesses=2 --dist=worksteal

crash: install ## Kills, power cuts, damaged files, ten minutes of everything; a table at the end (about an hour).
	STREAMDGP_CRASH_ROUNDS=200 STREAMDGP_SOAK_MINUTES=10 $(BIN)/python -m pytest --log-cli-level=INFO tests/crash

bench: $(KERNEL_STAMP) ## Runs the benchmarks, writes bench-out/summary.md; needs the shared data beside the checkout.
	$(BIN)/python -m benchmarks

proto: $(PROTO_STAMP) ## Makes the stubs in streamdgp/v1 anew.
	$(PROTO_VENV)/bin/python protos/generate.py .

clean: ## Removes what the other targets made, except the environments.
	rm -rf build dist demo-out bench-out .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
