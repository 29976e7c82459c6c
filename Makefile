# The commands of this checkout. Only a Python 3.11 to 3.14 has to be there: `make demo` and
# `make test` set up the rest in .venv. PYTHON=/path/to/python3.12 chooses one.

PYTHON ?=
MINUTES ?= 10
IN_VENV := .venv/bin/python -m
export PYTHON

.DEFAULT_GOAL := help
.PHONY: help setup setup-demo demo test client soak bench bench-quick bench-full check lint audit fmt lock

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/    make \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "%-20s %s\n", $$1, $$2 }'

setup: ## .venv with everything, as the locks say (the other targets do it when needed)
	@sh scripts/setup.sh dev

setup-demo:
	@sh scripts/setup.sh demo

demo: setup-demo ## the whole service on this machine, with events flowing; DEMO_SECONDS=20 ends by itself
	@exec $(IN_VENV) demo

test: setup ## all tests, with coverage (fails below 80 %); in parallel, but for those that compare latencies
	@rm -f .coverage .coverage.*
	@$(IN_VENV) coverage run -m pytest -n 3 --dist worksteal -m "not alone" $(PYTEST_ARGS)
	@$(if $(PYTEST_ARGS),,$(IN_VENV) coverage run -m pytest -m alone)
	@$(IN_VENV) coverage combine --quiet
	@$(IN_VENV) coverage report

client: ## the client for pages, clients/typescript: build it and test it (needs node 20 and npm; chromium for all tests)
	@cd clients/typescript && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error && npm test
	@cmp clients/typescript/dist/index.js gateway/console/client.js || \
		{ echo "the console has another client than was built: cp clients/typescript/dist/index.js gateway/console/client.js"; exit 1; }

soak: setup ## MINUTES=10: everything that may fail fails at random, under load (SEED=7, RATE=150)
	@.venv/bin/python tests/soak.py --minutes $(MINUTES) $(if $(SEED),--seed $(SEED)) $(if $(RATE),--rate $(RATE))

bench: setup ## measure, and write docs/benchmarks.md: 15 minutes (node and Kafka from scripts/ci/get-node, get-kafka)
	@$(IN_VENV) bench --effort standard --write

bench-quick: setup ## measure for two minutes; fails when something is far off its target
	@$(IN_VENV) bench --effort quick

bench-full: setup ## as bench, with more rounds and larger crowds: an hour or two
	@$(IN_VENV) bench --effort full --write

lint: setup ## ruff (lint, format), mypy --strict, all pinned and declared, what is made from the code is fresh
	@$(IN_VENV) ruff check .
	@$(IN_VENV) ruff format --check .
	@$(IN_VENV) mypy --strict gateway relay shared demo scripts bench
	@$(IN_VENV) scripts.lock --check
	@$(IN_VENV) scripts.env_example --check
	@$(IN_VENV) scripts.settings_table --check
	@$(IN_VENV) scripts.metrics_table --check
	@$(IN_VENV) scripts.prometheus_rule --check

check: lint test ## lint and test

audit: setup ## known vulnerabilities of the locked packages, asked of OSV; OSV=all.zip from its dump, offline
	@$(IN_VENV) scripts.audit $(if $(OSV),--osv $(OSV))

fmt: setup ## format the code, and mend what ruff can
	@$(IN_VENV) ruff check --fix .
	@$(IN_VENV) ruff format .

lock: setup ## make anew what is made: requirements/*.txt (needs uv), .env.example, tables of documents, PrometheusRule
	@$(IN_VENV) scripts.lock
	@$(IN_VENV) scripts.env_example
	@$(IN_VENV) scripts.settings_table
	@$(IN_VENV) scripts.metrics_table
	@$(IN_VENV) scripts.prometheus_rule
