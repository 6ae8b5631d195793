# Everything goes into .venv; `make PYTHON=/path/to/python3.12 quickstart` chooses another interpreter.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := $(CURDIR)/.venv/bin
export PATH := $(BIN):$(PATH)

.PHONY: quickstart environment test test-fast lint cluster-up cluster-down clean

quickstart: environment  ## the whole line, from raw files to the report, with the recipe of params.yaml
	@# A source archive has no Git, which DVC wants to be told.
	@test -e .git || dvc config --local core.no_scm true
	dvc repro

environment: .venv/installed  ## .venv with the pinned dependencies

test: .venv/installed-dev  ## every test
	python -m pytest

test-fast: .venv/installed-dev  ## the tests without clusters, servers and killed processes
	python -m pytest -m "not slow"

lint: .venv/installed-dev  ## formatting, style, types
	ruff check .
	ruff format --check .
	mypy

cluster-up: environment  ## a local Ray head that takes `ray job submit`
	python -m pipelines.cluster up

cluster-down: environment  ## stop it
	python -m pipelines.cluster down

clean:  ## remove what was made here: products, runs, caches; not .venv
	rm -rf artifacts .seqgen mlflow.db mlartifacts build .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -not -path "./.venv/*" -prune -exec rm -rf {} +

# torch first: the build that is then installed satisfies the pin, so that a CPU build is not replaced by a CUDA one.
.venv/base:
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11))" || \
		{ echo "error: $(PYTHON) is older than Python 3.11; run make PYTHON=/path/to/python3.11" >&2; exit 2; }
	$(PYTHON) -m venv .venv
	pip install torch==2.13.0 uv==0.13.9
	@touch $@

.venv/installed: .venv/base constraints.txt pyproject.toml
	uv pip install -c constraints.txt -e .
	@touch $@

.venv/installed-dev: .venv/installed
	uv pip install -c constraints.txt -e ".[dev]"
	@touch $@
