# One place for every command that people type. `make help` lists them.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
HOSTS ?= 2
GATEWAYS ?= 0
INVENTORY ?= inventory/lab.py
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Tests start hundreds of Pythons: what one has compiled, the others reuse.
export PYTHONDONTWRITEBYTECODE :=
# Each step says when it starts and how long it took.
STEP = @bash lab/step.sh
BEGAN := $(shell date +%s)

.PHONY: help setup lint unit programs packaging wheel bench lab-up lab-down lab-reset deploy verify demo demo-steps docs test test-lab nightly mutants clean clean-cache

help: ## Show these targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

setup: $(VENV)/.ready ## Create the virtual environment and install the requirements

$(VENV)/.ready: requirements.txt requirements-dev.txt requirements.lock pyproject.toml lab/bootstrap.py
	$(STEP) "Python environment in $(VENV)" $(PYTHON) lab/bootstrap.py $(VENV)
	@touch $@

lint: setup ## Style and types
	$(STEP) "ruff" $(BIN)/ruff check .
	$(STEP) "ruff format" $(BIN)/ruff format --check .
	$(STEP) "mypy" $(BIN)/mypy

unit: setup ## Unit tests, which need no host: about a minute
	$(STEP) "Unit tests" $(BIN)/python -m tests.unit.in_parts --timeout 300

programs: setup ## Tests with nginx, HAProxy, keepalived and shells on this machine, and of our own tools
	$(STEP) "Tests with real programs and of our own tools" $(BIN)/python -m tests.unit.in_parts programs --timeout 300

bench: setup ## Measure runs: many recorded hosts, and the lab's beside Ansible, for hours; into bench/results
	@$(BIN)/python -m bench.scale
	@$(BIN)/python -m bench.compare

wheel: setup ## What users install, in dist/
	$(STEP) "Wheel in dist" $(BIN)/python -m build --no-isolation --outdir dist .

lab-up: setup ## Boot the lab: HOSTS=2 GPU hosts, GATEWAYS=0 gateways, and a neighbour
	$(STEP) "Lab with $(HOSTS) hosts" $(BIN)/python -m lab up --hosts $(HOSTS) --gateways $(GATEWAYS)

lab-down: ## Stop the lab and remove its hosts; caches are kept for the next time
	@[ ! -x $(BIN)/python ] || $(BIN)/python -m lab down

lab-reset: setup ## Return the lab's hosts to their fresh state
	@$(BIN)/python -m lab reset

deploy: lab-up ## Deploy to the lab's hosts
	$(STEP) "pyinfra $(INVENTORY) deploy.py" $(BIN)/pyinfra -y $(INVENTORY) deploy.py

verify: ## Verify the lab's hosts
	$(STEP) "vllm-hosts verify $(INVENTORY)" $(BIN)/vllm-hosts verify $(INVENTORY) -q

demo: ## Boot two hosts and a gateway, deploy to them, verify them, and print how to call them
	@bash lab/demo.sh begin
	@$(MAKE) --no-print-directory demo-steps GATEWAYS=$(patsubst 0,1,$(GATEWAYS)) \
		INVENTORY=inventory/lab_fleet.py || { bash lab/demo.sh failed $(BEGAN); exit 1; }
	@bash lab/demo.sh end $(BEGAN)

demo-steps: deploy
	@$(MAKE) --no-print-directory verify
	@$(BIN)/vllm-hosts endpoints $(INVENTORY)

docs: setup ## Renew the documents that are made from code
	@$(BIN)/python -m vllm_hosts.settings.docs
	@$(BIN)/python -m vllm_hosts.cli.commands_docs
	@$(BIN)/python -m tests.promises_docs
	@$(BIN)/python -m tests.doctor_docs
	@$(BIN)/python -m tests.capacity_docs
	@$(BIN)/python -m tests.architecture
	@$(BIN)/python -m tests.rehearsal.docs

packaging: setup ## What users install: wheel, sdist, and a site of their own
	$(STEP) "Packaging tests" $(BIN)/pytest tests/packaging --timeout 300

test: setup ## Lint, unit tests, tests with real programs, packaging and lab tests
	@# Each of these two is at one processor.
	@$(MAKE) --no-print-directory --jobs=2 --output-sync=target lint packaging
	@$(MAKE) --no-print-directory unit
	@$(MAKE) --no-print-directory programs
	@$(MAKE) --no-print-directory test-lab

test-lab: setup ## Tests on the lab's hosts
	$(STEP) "Lab tests in two labs" $(BIN)/python -m tests.lab.in_lanes -m "not nightly" --timeout 1500

nightly: setup ## Lab tests, with those that take too long for every change, and many examples
	$(STEP) "Properties" $(BIN)/pytest tests/unit -m hypothesis --hypothesis-profile nightly --timeout 3000
	$(STEP) "Nightly tests" $(BIN)/pytest tests/lab --timeout 3000

mutants: setup ## How many small changes to modules the unit tests notice, in minutes; MODULE=one of them
	$(STEP) "Small changes" $(BIN)/python -m tests.mutants $(MODULE)

clean-cache: ## Remove the lab's caches and state, about 6 GB; the lab has to be down
	@$(PYTHON) -m lab.clean

clean: lab-down ## Remove the environment
	rm -rf $(VENV)
