# Everything goes into .venv; `make PYTHON=/path/to/python3.12 quickstart` chooses another interpreter.
NEW_ENOUGH = import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
	$$p -c "$(NEW_ENOUGH)" 2>/dev/null && echo $$p && break; done)
export VIRTUAL_ENV := $(CURDIR)/.venv
BIN := $(VIRTUAL_ENV)/bin
# The stages of dvc.yaml call `python`.
export PATH := $(BIN):$(PATH)

.PHONY: quickstart environment test test-fast lint docs audit cluster-up cluster-down services-up services-down clean

quickstart: environment  ## the whole line, from raw files to the report, with the recipes of params.yaml
	@# A source archive has no Git, which DVC wants to be told.
	@test -e .git || $(BIN)/dvc config --local core.no_scm true
	$(BIN)/dvc repro

environment: .venv/kernels  ## .venv with the pinned dependencies, and the native kernels

# Half of the time that tests take: what runs beside the others, on a core of its own.
BESIDE = $(filter-out %/test_retraining.py %/test_search.py, $(wildcard tests/faults/test_*.py))
COSTLY = --durations=40 --durations-min=10

test: .venv/installed-dev .venv/kernels  ## every test: those that often wait beside the others
	@log=$$(mktemp); $(BIN)/pytest $(COSTLY) $(BESIDE) >$$log 2>&1 & beside=$$!; \
	$(BIN)/pytest $(COSTLY) $(addprefix --ignore=,$(BESIDE)); others=$$?; \
	wait $$beside; code=$$?; cat $$log; rm $$log; exit $$((others | code))

test-fast: .venv/installed-dev .venv/kernels  ## the tests without clusters, servers and killed processes
	$(BIN)/pytest -m "not slow"

lint: .venv/installed-dev  ## formatting, style, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: .venv/installed-docs  ## the docs with the API reference as a site, in site/
	$(BIN)/mkdocs build --strict

audit: environment  ## known holes of the pinned packages, by PyPI's advisories
	$(BIN)/uv tool run pip-audit==2.10.1 --requirement constraints.txt --no-deps --disable-pip --strict

cluster-up: environment  ## a local Ray head that takes `ray job submit`
	$(BIN)/python -m pipelines.cluster up

cluster-down: environment  ## stop it
	$(BIN)/python -m pipelines.cluster down

services-up: .venv/installed-services  ## PostgreSQL, S3 and MLflow's server of this project's own
	$(BIN)/python -m pipelines.services up

services-down: environment  ## stop them; their data are kept
	$(BIN)/python -m pipelines.services down

clean:  ## remove what was made here: products, runs, caches; not .venv
	@test ! -e .seqgen/cluster.json || $(BIN)/python -m pipelines.cluster down
	@test ! -e $(BIN)/seqgen || $(BIN)/seqgen services down
	rm -rf "$${SEQGEN_STATE:-.seqgen}/services"
	@# With the registry goes what DVC believes to be in it.
	rm -rf dvc.lock .dvc/cache .dvc/tmp artifacts .seqgen mlflow.db mlartifacts build site
	rm -rf .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -not -path "./.venv/*" -prune -exec rm -rf {} +

# torch first: the build that is then installed satisfies the pin, so that a CPU build is not replaced by a CUDA one.
.venv/base:
	@"$(PYTHON)" -c "$(NEW_ENOUGH)" || \
		{ echo "error: no Python 3.11 or newer; name one: make PYTHON=/path/to/python3.11" >&2; exit 2; }
	"$(PYTHON)" -m venv .venv
	$(BIN)/pip install "$$(grep '^torch==' constraints.txt)" uv==0.13.9
	@touch $@

# Compiled at once: otherwise each of a training's fifteen processes may compile what it imports.
.venv/installed: .venv/base constraints.txt pyproject.toml
	$(BIN)/uv pip install --compile-bytecode -c constraints.txt -e .
	@touch $@

# Without a C++ compiler it says so, and everything works, more slowly on a CPU.
.venv/kernels: .venv/installed $(wildcard seqgen/native/*.cpp seqgen/native/*.h seqgen/native/*.py)
	-@$(BIN)/python -m seqgen.native
	@touch $@

.venv/installed-services: .venv/installed
	$(BIN)/uv pip install --compile-bytecode -c constraints.txt -e ".[services]"
	@touch $@

.venv/installed-docs: .venv/installed
	$(BIN)/uv pip install --compile-bytecode -c constraints.txt -e ".[docs]"
	@touch $@

.venv/installed-dev: .venv/installed
	$(BIN)/uv pip install --compile-bytecode -c constraints.txt -e ".[dev]"
	@touch $@
