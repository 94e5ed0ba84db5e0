# Every target needs only Python 3.11 to 3.13, git and make: each makes or reuses .venv first.

VENV ?= .venv
PYTHON ?=
BIN = $(VENV)/bin
# Two cores have to be enough for everything.
PYTEST = $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder
GPU_PYTHON = $(or $(PYTHON),python3)

# Test processes start quicker with byte code on disk.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup demo lint test test-all chaos falsify bench docs gpu lock
.NOTPARALLEL:
.DEFAULT_GOAL := help

help:
	@echo "make setup     .venv from the committed pins"
	@echo "make demo      prepare, plan, train, kill, resume, verify and sample, in a few minutes"
	@echo "make test      lint, types and all tests but the slow ones; what CI runs"
	@echo "make test-all  the slow tests too"
	@echo "make chaos     SIGKILL at N=1000 seeded moments, and TORCHRUN=40 through torchrun; SEED=1, ONLY=w7 for one run"
	@echo "make falsify   tries to get other bits under the same fingerprint; ONLY=name, JOBS=2, WRITE=1"
	@echo "make bench     the benchmarks"
	@echo "make lint      ruff, formatting, types"
	@echo "make docs      write the generated pages of docs/"
	@echo "make gpu       the GPU tests under this machine's own python3 (or PYTHON=...)"
	@echo "make lock      resolve requirements.lock again (needs uv)"

setup:
	@tools/setup.sh $(VENV) $(PYTHON)

demo: setup
	@$(BIN)/python demo/demo.py

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(PYTEST) -m "not slow and not gpu"

test-all: lint
	$(PYTEST) -m "not gpu"

# WRITE=1 puts the tally into docs/chaos.md.
N ?= 1000
TORCHRUN ?= 40
SEED ?= 1
chaos: setup
	@PYTHONPATH=$(CURDIR)/tests$(if $(PYTHONPATH),:$(PYTHONPATH)) $(BIN)/python -m chaos \
	  --kills $(N) --torchrun $(TORCHRUN) --seed $(SEED) $(if $(ONLY),--only $(ONLY)) $(if $(WRITE),--write)

# WRITE=1 puts the table into docs/falsify.md.
JOBS ?= 2
falsify: setup
	@PYTHONPATH=$(CURDIR)/tests $(BIN)/python -m falsify --jobs $(JOBS) $(if $(ONLY),--only $(ONLY)) $(if $(WRITE),--write)

bench: setup
	@set -e; for benchmark in benchmarks/*.py; do $(BIN)/python $$benchmark; done

docs: setup
	$(BIN)/python -m llmrun.cli.config_reference
	$(BIN)/python -m llmrun.cli.command_reference

gpu:
	$(GPU_PYTHON) -m pytest -p no:cacheprovider -m gpu
	$(GPU_PYTHON) benchmarks/reduction.py --D 1 --precision bf16 --mu 8192

lock:
	uv pip compile --universal --python-version 3.11 --fork-strategy fewest --generate-hashes \
	  --custom-compile-command "make lock" --no-annotate --quiet --output-file requirements.lock \
	  pyproject.toml --extra dev --group torch
