# `make demo` and `make test`: each does all set-up on a machine with Python 3.11 and make.
SHELL := /bin/bash
.DEFAULT_GOAL := help

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# Debian packages whose programs the peer tests talk to.
PEERS := dcmtk dicom3tools orthanc orthanc-dicomweb postgresql poppler-utils nodejs npm chromium fonts-dejavu-core
# Tests side by side; two suit two cores.
JOBS ?= 2
# In a process of its own: what drives a browser leaves its traces in one. Exit status 5: no test was selected.
VIEWER := tests/peers/test_viewer.py
# With the machine to themselves: senders that pause, and a node that tells an end by it.
TIMED := tests/integration/test_scenarios.py tests/integration/test_completeness.py
# Kills of a chaos run, on SQLite and again on PostgreSQL
KILLS ?= 100
# Further options of pytest: make test PYTEST='-k routing'
PYTEST ?=

# Inputs of a long campaign of broken ones; what failed is had again by ONLY=number, with the same SEED.
INPUTS ?= 100000
# Real DICOM files that are broken as well.
FILES ?= ../shared/data/interop

.PHONY: help demo test chaos fuzz check serve install peers format clean

help: ## Say what there is
	@awk -F':.*## ' '/^[a-z]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

demo: $(INSTALLED) ## A phantom CT (or STUDY=folder, PIPELINE=name, PROFILE=name) through a node to a small PACS and back
	$(BIN)/osteonode demo $(if $(STUDY),--study '$(STUDY)') $(if $(PIPELINE),--pipeline '$(PIPELINE)') $(if $(PROFILE),--profile '$(PROFILE)')

test: check peers ## Everything that can be checked: lint, types, tests with real peers
	$(BIN)/pytest -n $(JOBS) --dist loadfile $(addprefix --ignore=,$(VIEWER) $(TIMED)) $(PYTEST) || [ $$? -eq 5 ]
	$(BIN)/pytest -n $(JOBS) --dist loadfile $(TIMED) $(PYTEST) || [ $$? -eq 5 ]
	$(BIN)/pytest $(VIEWER) $(PYTEST) || [ $$? -eq 5 ]

chaos: $(INSTALLED) ## A node killed 200 times while it works, among other blows (KILLS=100 on each database, SEED=number)
	$(BIN)/pytest tests/chaos/test_chaos.py -s --chaos-kills $(KILLS) $(if $(SEED),--chaos-seed $(SEED)) $(PYTEST)

fuzz: $(INSTALLED) ## A long campaign of broken conversations and files (INPUTS=100000 SEED=1 FILES=folder ONLY=number)
	PYTHONPATH=tests $(BIN)/python -m fuzz.campaign --inputs $(INPUTS) --seed $(or $(SEED),1) $(if $(ONLY),--only $(ONLY)) \
	  $(if $(wildcard $(FILES)),--data $(FILES))

check: $(INSTALLED) ## Lint (ruff's S: bandit's rules), format, types, known vulnerabilities of dependencies
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	@.ci/audit $(BIN)/pip-audit

serve: $(INSTALLED) ## Run the node with config.toml, or with defaults where there is none
	$(BIN)/osteonode serve

install: $(INSTALLED) ## The virtual environment and nothing else

format: $(INSTALLED) ## Lay out the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

peers: ## Install the programs the peer tests need (root or sudo without a password)
	@.ci/peers $(PEERS)

clean: ## Remove the virtual environment and what the demo wrote
	rm -rf $(VENV) demo dist build

$(BIN)/python:
	@[ -n "$(PYTHON)" ] || { echo 'Python 3.11 is missing: apt-get install python3 python3-venv' >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo 'Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11 ...' >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || .ci/peers python3-venv
	$(PYTHON) -m venv $(VENV)

# torch first and pinned: pip takes a CPU build where one is provided, the CUDA build elsewhere.
$(INSTALLED): pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet 'torch==2.13.0'
	$(BIN)/python -m pip install --quiet -e '.[dev]'
	@touch $@
