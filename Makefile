# The tasks of a contributor; `make` alone lists them.
# PYTHON names the environment they run in, ARGS what pytest or the benchmarks are given:
#   make test ARGS='tests/unit -k metrics'
PYTHON ?= .venv/bin/python
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help install fmt lint type test bench docs constraints ci

help: ## list the tasks
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "%-12s %s\n", $$1, $$2 }' Makefile

install: ## make .venv with all that the other tasks need, in the versions that were tried
	python3 -m venv .venv
	.venv/bin/pip install --quiet --upgrade 'pip>=25.1' # the first with --group
	.venv/bin/pip install --constraint constraints.txt --editable . --group dev

fmt: ## format the code, and correct what ruff can correct
	$(PYTHON) -m ruff check --fix
	$(PYTHON) -m ruff format

lint: ## report what ruff finds, and change nothing
	$(PYTHON) -m ruff check
	$(PYTHON) -m ruff format --check

type: ## check the types, strictly
	$(PYTHON) -m mypy

test: ## run the tests
	$(PYTHON) -m pytest $(ARGS)

bench: ## measure, as docs/performance.md describes: all, or those that ARGS names
	$(PYTHON) -m benchmarks $(ARGS)

docs: ## write the generated pages, and build the site
	$(PYTHON) -m scripts.generate_docs
	NO_MKDOCS_2_WARNING=1 $(PYTHON) -m mkdocs build --quiet --strict

constraints: ## write constraints.txt from the installed versions, after the tests have passed
	{ echo '# The versions that the tests last passed with; `make constraints` writes this file.'; \
	  $(PYTHON) -m pip freeze --exclude-editable; } > constraints.txt

ci: ## run everything that a change has to pass, in fresh environments
	.ci/run
