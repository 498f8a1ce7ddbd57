# Two commands for a newcomer:  make report   and   make test.
# Each sets itself up in .venv on first use and is quick afterwards.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
REPORT ?= report
BENCH ?= .

.PHONY: help report test lint format bench peers clean

help:  ## list the commands
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 10

$(BIN)/python:
	@command -v $(PYTHON) >/dev/null || { echo "no '$(PYTHON)' found: install Python 3.11 or newer, or run make PYTHON=..."; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed, '$(PYTHON)' is older: run make PYTHON=python3.12, say"; exit 1; }
	@echo "[setup] making a virtual environment in $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -qq --upgrade pip

# A stamp each for the two sets of dependencies; pyproject.toml is what they depend on.
$(VENV)/.report: $(BIN)/python pyproject.toml
	@echo "[setup] installing the library and the report's dependencies (about a minute, once)"
	@$(BIN)/python -m pip install -qq --editable '.[validation]'
	@touch $@

$(VENV)/.dev: $(VENV)/.report requirements-dev.txt
	@echo "[setup] installing the development tools, torch and JAX (a few minutes, once)"
	@$(BIN)/python -m pip install -qq --requirement requirements-dev.txt
	@touch $@

report: $(VENV)/.report  ## run the validation suite and write report/index.html (about 6 minutes the first time, compiling; then about 3)
	@echo "[report] running the validation suite"
	@$(BIN)/python -m dpo.validation --out $(REPORT)

test: $(VENV)/.dev  ## run the test-suite (20 minutes the first time, compiling; then about 12)
	@echo "[test] running the tests; the first run also compiles the kernels"
	@$(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder tests

lint: $(VENV)/.dev  ## ruff and mypy
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: $(VENV)/.dev  ## rewrite the sources in the house style
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: $(VENV)/.dev  ## check the asv suite and run it quickly in place (5 minutes; BENCH=argmax for a part)
	@$(BIN)/asv check --python=same
	@$(BIN)/asv machine --yes
	@$(BIN)/asv run --python=same --quick --show-stderr --bench '$(BENCH)' --set-commit-hash $$(git rev-parse HEAD)

peers: $(VENV)/.dev  ## time this library against torch, jaxopt, optax and NumPy in one run
	@$(BIN)/python -m benchmarks.peers

clean:  ## remove everything that make wrote
	rm -rf $(VENV) $(REPORT) .asv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
