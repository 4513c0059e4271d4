# Doors of the project. Every target does its own set-up; `make help` lists them.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

VENV := .venv
BIN := $(VENV)/bin
PY := $(BIN)/python
PIP := $(PY) -m pip --disable-pip-version-check
STAMP := $(VENV)/.stamp
TORCH := torch==2.13.0
# Where pip finds torch if not where it finds the rest: PyTorch's own index for processors spares gigabytes of CUDA.
TORCH_INDEX ?=
# Docker's plugin, or the program of its own that came before it.
DOCKER_COMPOSE = $(shell docker compose version >/dev/null 2>&1 && echo docker compose || echo docker-compose)
PROFILES ?= core monitoring
PLOT ?= build/eval-procedures.png
# Most tests wait for processes: so many run side by side. `SIDE_BY_SIDE=` runs one after another, as `pytest` does.
SIDE_BY_SIDE ?= -n 2 --dist worksteal
COMPOSE = TORCH_INDEX=$(TORCH_INDEX) $(DOCKER_COMPOSE) -f compose/compose.yaml $(if $(filter cluster,$(PROFILES)),--env-file compose/cluster.env)
CODE := services schemas tests
GENERATED := schemas/generated services/README.md services/CLI.md services/ALERTS.md compose k8s

.PHONY: help setup demo test ci format lint types imports eval eval-toc eval-procedures bench fault up-compose down-compose docs docs-check wheel packaging lock clean

help:  ## List the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## ?/\1\t/' | \
	  awk -F'\t' '{ printf "  make %-15s %s\n", $$1, $$2 }'

setup: $(STAMP)  ## Make .venv with pinned dependencies (skipped when up to date)

$(STAMP): requirements.lock pyproject.toml
	@python=; \
	for each in $${PYTHON:-} python3.11 python3; do \
	  if command -v "$$each" >/dev/null && \
	     "$$each" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then python=$$each; break; fi; \
	done; \
	if [ -z "$$python" ]; then \
	  echo "make setup: Python 3.11 or newer is needed; install it, or name it: make setup PYTHON=/path/to/python3.11" >&2; \
	  exit 2; \
	fi; \
	if [ ! -x $(PY) ]; then echo "making $(VENV) with $$("$$python" --version)"; "$$python" -m venv $(VENV); fi
	@echo "installing $(TORCH)"
	@$(PIP) install -q $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) $(TORCH)
	@echo "installing what requirements.lock pins"
	@$(PIP) install -q -r requirements.lock
	@$(PIP) install -q --no-deps -e .
	@touch $(STAMP)

demo: setup  ## Load the sample, ask it questions, show the answers
	@$(BIN)/jetmem demo

test: setup  ## Run the tests
	@$(PY) -m pytest $(SIDE_BY_SIDE)

ci: setup  ## Exactly what CI runs
	@$(BIN)/ruff format --check $(CODE)
	@$(BIN)/ruff check $(CODE)
	@$(MAKE) types imports
	@$(PY) -m pytest $(SIDE_BY_SIDE) -m "not slow" --ignore=tests/packaging
	@$(MAKE) docs-check packaging

format: setup  ## Format the code
	@$(BIN)/ruff format $(CODE)
	@$(BIN)/ruff check --fix $(CODE)

lint: setup  ## Format check, lint, import rules
	@$(BIN)/ruff format --check $(CODE)
	@$(BIN)/ruff check $(CODE)
	@$(MAKE) imports

types: setup  ## Strict types
	@$(BIN)/mypy --strict services schemas

imports: setup
	@$(BIN)/lint-imports

eval: setup  ## Retrieval quality on LoCoMo (LOCOMO=locomo10.json for the public file)
	@$(PY) -m jetmem.evaluation.retrieval $(if $(LOCOMO),--locomo $(LOCOMO))

eval-toc: setup  ## What a walk down the table of contents finds on LoCoMo
	@$(PY) -m jetmem.evaluation.toc

eval-procedures: setup  ## How well runs tell what works for a task; the simulation is drawn into PLOT
	@$(PY) -m jetmem.evaluation.procedures --plot $(PLOT)

bench: setup  ## Speed, freshness, memory
	@$(PY) -m jetmem.evaluation.bench

fault: setup  ## Kill processes at their worst moments; long
	@$(PY) -m pytest $(SIDE_BY_SIDE) tests/fault -m "slow or not slow"

up-compose:  ## The pipeline in containers, with Prometheus and Grafana (PROFILES="core monitoring")
	@$(COMPOSE) $(addprefix --profile ,$(PROFILES)) up --build --detach

down-compose:  ## Stop them; data stays in volumes
	@$(COMPOSE) $(addprefix --profile ,$(PROFILES)) down

docs: setup  ## Write what is generated: schemas, AsyncAPI, stage table, CLI help, dashboards, alerts
	@$(PY) -m jetmem.docs

docs-check: docs
	@git diff --exit-code -- $(GENERATED) || { echo "make docs changed what is generated: commit it" >&2; exit 1; }

wheel: setup  ## Build the wheel into dist/
	@rm -rf build dist
	@$(PY) -m build --wheel --outdir dist . >/dev/null
	@ls dist/*.whl

packaging: wheel
	@$(PY) -m pytest tests/packaging

lock: setup  ## Write requirements.lock from .venv
	@{ head -1 requirements.lock; $(PIP) freeze | grep -vE '^(-e|#|jetmem\b)' | sed 's/+cpu$$//'; } > requirements.lock.new
	@mv requirements.lock.new requirements.lock

clean:  ## Remove the environment and everything built
	@rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache services/*.egg-info
	@find services schemas tests -name __pycache__ -type d -prune -exec rm -rf {} +
