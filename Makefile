# `make` alone explains itself.
# The first Python that is new enough; `make PYTHON=/path/to/python3.12 …` names another.
PYTHON ?= $(firstword $(foreach name,python3 python3.14 python3.13 python3.12 python3.11,$(shell \
	$(name) -c 'import sys; sys.version_info < (3, 11) or print("$(name)")' 2>/dev/null)))
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.set-up
COMPILE := $(VENV)/lock/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-emit-find-links --no-header pyproject.toml

.DEFAULT_GOAL := help
.PHONY: help setup run demo test test-browser test-monitoring check format test-faults test-months test-recover test-sending fuzz bench describe lock clean bench-console bench-fairness

help: ## Show this
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-16s %s\n", $$1, $$2}'

setup: $(STAMP) ## Install the program and all it needs into .venv, as the lock file says

$(STAMP): requirements.lock pyproject.toml
	@$(or $(PYTHON),false) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "dialwatch needs Python 3.11 or newer, and $(if $(PYTHON),$(PYTHON) is none,there is none): install one, or name yours: make PYTHON=/path/to/python3 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -m app.local.set_up $(VENV)

run: setup ## Run the whole product once on this machine: real Kafka, worker, simulated dialer
	@$(BIN)/dialwatch demo $(ARGS)

demo: run

test: setup ## Pass all tests but those in a browser, on a real Kafka
	@$(BIN)/python -m pytest -q -m 'not browser and not promtool' $(ARGS)

test-browser: setup ## Look at the worker's page in a real browser (Chromium; see .ci/run)
	@$(BIN)/python -m pytest -q -m browser $(ARGS)

test-monitoring: setup ## Hold alert rules and metrics against Prometheus' own promtool (see .ci/run)
	@$(BIN)/python -m pytest -q -m promtool $(ARGS)

check: setup ## What CI looks at besides the tests: style and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: setup ## Bring the code into shape
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

test-faults: setup ## Crash, freeze and cut off workers and brokers for a while (SEED=n, ROUNDS=n)
	@$(BIN)/python -m tests.faults.long $(if $(SEED),--seed $(SEED)) $(if $(ROUNDS),--rounds $(ROUNDS))

test-months: setup ## Let months pass: quiet weeks, holidays, deploys, upgrades (SEED=n, ROUNDS=n)
	@$(BIN)/python -m tests.months.suite $(if $(SEED),--seed $(SEED)) $(if $(ROUNDS),--rounds $(ROUNDS))

test-recover: setup ## Lose, restore, move, upgrade and reset an installation (SEED=n, ACT=name)
	@$(BIN)/python -m tests.recover.suite $(if $(SEED),--seed $(SEED)) $(if $(ACT),--only $(ACT))

# By hand, side by side: .venv/bin/python -m tests.faults.outages --help
test-outages: setup ## Ten outages in a row under six groups (SEED=n, CLUSTER=--cluster)
	@$(BIN)/python -m tests.faults.outages $(if $(SEED),--seed $(SEED)) $(CLUSTER)

bench: setup ## Measure this worker beside its peers on one prefilled topic
	@$(BIN)/python -m tests.bench $(ARGS)

describe: setup ## Write docs/asyncapi.json and docs/schemas from the records
	@$(BIN)/python -m app.describe docs

bench-fairness: setup ## Who waits for whom: partitions in a backlog, alerts beside a fan-out
	@$(BIN)/python -m tests.bench.fairness $(ARGS)

bench-operators: setup ## Measure the operators' commands at a million accounts
	@$(BIN)/python -m tests.operations.scale $(ARGS)

lock: setup ## Pin the newest versions that pyproject.toml allows; the image holds no tools
	@$(PYTHON) -m venv $(VENV)/lock && $(VENV)/lock/bin/pip install --quiet uv
	@$(COMPILE) --extra dev --upgrade --output-file requirements.lock
	@$(COMPILE) --constraint requirements.lock --output-file image.lock

clean: ## Remove what was installed and cached here
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info

fuzz: setup ## Throw a million bodies at the WeChat callback (ARGS="--bodies n --seed n")
	@$(BIN)/python -m tests.wechat.fuzz $(ARGS)

test-sending: setup ## 100,000 notifications through the faulty stand-in, each customer once
	@$(BIN)/python -m tests.send.long $(ARGS)

bench-console: setup ## How fast the console indexes and answers (ARGS="--deliveries n --accounts n")
	@$(BIN)/python -m tests.console.measure $(ARGS)
