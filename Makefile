# `make` alone explains itself.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.set-up

.DEFAULT_GOAL := help
.PHONY: help setup run demo test check format test-faults bench lock clean fuzz test-sending

help: ## Show this
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

setup: $(STAMP) ## Install the program and all it needs into .venv, as the lock file says

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "dialwatch needs Python 3.11 or newer: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { echo "python3 can't make a virtual environment: install its venv module (Debian: python3-venv)"; exit 1; }
	@echo "Installing what requirements.lock names into $(VENV)"
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements.lock
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

run: setup ## Run the whole product once on this machine: real Kafka, worker, simulated dialer
	@$(BIN)/dialwatch demo $(ARGS)

demo: run

test: setup ## Pass all tests, on a real Kafka
	@$(BIN)/python -m pytest -q $(ARGS)

check: setup ## What CI looks at besides the tests: style and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: setup ## Bring the code into shape
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

test-faults: setup ## Crash, freeze and cut off workers and brokers for a while (SEED=n, ROUNDS=n)
	@$(BIN)/python -m tests.faults.long $(if $(SEED),--seed $(SEED)) $(if $(ROUNDS),--rounds $(ROUNDS))

bench: setup ## Measure this worker beside its peers on one prefilled topic
	@$(BIN)/python -m tests.bench $(ARGS)

lock: setup ## Pin the newest versions that pyproject.toml allows
	@$(PYTHON) -m venv $(VENV)/lock && $(VENV)/lock/bin/pip install --quiet uv
	@$(VENV)/lock/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --extra dev --no-emit-index-url --no-emit-find-links --no-header --upgrade pyproject.toml --output-file requirements.lock

clean: ## Remove what was installed and cached here
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info

fuzz: setup ## Throw a million bodies at the WeChat callback (ARGS="--bodies n --seed n")
	@$(BIN)/python -m tests.wechat.fuzz $(ARGS)

test-sending: setup ## 100,000 notifications through the faulty stand-in, each customer once
	@$(BIN)/python -m tests.send.long $(ARGS)
