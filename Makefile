# Everything is built into .venv from hashed locks; nothing outside this directory is touched.
SHELL := /bin/bash
.DEFAULT_GOAL := help

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.stamp
LOCKS := locks/dev.lock locks/weights.lock

.PHONY: setup
setup: $(STAMP) ## Build .venv with every locked dependency and the project itself

$(STAMP): $(LOCKS) pyproject.toml
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "OrchQueue needs Python 3.11 or newer; '$(PYTHON)' is older or missing. Name another: make setup PYTHON=/path/to/python3.11" >&2; exit 1; }
	@test -x $(PY) || "$(PYTHON)" -m venv $(VENV)
	@$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes $(addprefix -r ,$(LOCKS))
	@$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@
	@echo "setup: .venv is ready"

.PHONY: lock
lock: $(STAMP) ## Recompile the locks (UPGRADE=1 lets pins rise)
	@$(PY) -m tools.lock $(if $(UPGRADE),--upgrade)
