# `make compare` runs the main job, `make test` the tests. Both set themselves up, once, in .venv/ from a lock file.
# PYTHON names another interpreter (3.11 or newer), ARGS what is passed on: make test ARGS='-k heap -x'.

PYTHON ?= python3
ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
RUNTIME := $(VENV)/.runtime
DEV := $(VENV)/.dev
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input -qq
PYTEST := $(BIN)/python -m pytest -n 2 --dist worksteal
CODE := src tests tools benchmarks examples

.DEFAULT_GOAL := help
.PHONY: help compare test setup lint check check-medium check-all bench programs plotly lock clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 18

compare: $(RUNTIME) ## the main job: page-size designs side by side, on one host state
	@$(BIN)/twofold compare $(ARGS)

test: $(DEV) ## the fast tests: a minute on two idle cores
	@$(PYTEST) $(ARGS)

setup: $(DEV) ## .venv/ with everything for development, and nothing else

lint: $(DEV) ## ruff and mypy
	@$(BIN)/ruff check --quiet $(CODE)
	@$(BIN)/ruff format --quiet --check $(CODE)
	@$(BIN)/mypy --no-error-summary

check: lint test ## lint and the fast tests

check-medium: $(DEV) ## the medium tests: at most eight minutes
	@$(PYTEST) -m 'medium and not slow' $(ARGS)

check-all: lint ## everything there is: lint, the fast, the medium and the slow tests
	@$(PYTEST) -m '' --hypothesis-profile=thorough $(ARGS)

bench: $(DEV) ## the benchmarks: ratios, on a quiet machine
	@set -e; for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python $$script; done

programs: $(DEV) ## build the guest programs again (needs gcc)
	@$(BIN)/python tools/build_programs.py

# What pages draw with: one bundle of plotly.js, as npm has it. For a newer one change the number here, make it, look at
# what came, and write the new sums: sha256sum plotly-cartesian.min.js LICENSE >SHA256SUMS
PLOTLY := 4.1.1
BUNDLE := src/twofold/data/plotly

plotly: ## fetch the library that pages draw with again, and check it (needs npm)
	@cd $(BUNDLE) && npm pack --silent plotly.js-cartesian-dist-min@$(PLOTLY) >/dev/null
	@cd $(BUNDLE) && tar -xzf plotly.js-cartesian-dist-min-$(PLOTLY).tgz --strip-components 1 \
		package/plotly-cartesian.min.js package/LICENSE && rm plotly.js-cartesian-dist-min-$(PLOTLY).tgz
	@cd $(BUNDLE) && sha256sum --check --quiet SHA256SUMS

# The build backend stands in the locks too, so that installing Twofold itself takes nothing that is not locked.
COMPILE = echo 'setuptools>=77' | $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --upgrade \
	--no-header --no-annotate --no-emit-index-url --generate-hashes pyproject.toml -

lock: $(DEV) ## new lock files from pyproject.toml
	@$(PIP) install uv
	@$(COMPILE) -o requirements.lock
	@$(COMPILE) -c requirements.lock --group dev -o requirements-dev.lock

clean: ## remove all that make has made, .venv/ included
	@rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis .benchmarks src/twofold.egg-info
	@find $(CODE) -name __pycache__ -type d -prune -exec rm -rf {} +

# -- setting up --------------------------------------------------------------------------------------------------

# What is wrong with PYTHON, and what to do; empty when it will do. Only asked when .venv/ has to be made.
python_problem = $(shell \
	if $(has_venv); then exit; fi; \
	say() { echo "$$1, or name another one: make $(MAKECMDGOALS) PYTHON=/path/to/python3"; exit; }; \
	command -v "$(PYTHON)" >/dev/null || say "$(PYTHON) is not installed: install Python 3.11 or newer"; \
	version=$$("$(PYTHON)" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || \
		say "$(PYTHON) does not run: install Python 3.11 or newer"; \
	"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		say "$(PYTHON) is Python $$version: install Python 3.11 or newer"; \
	"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || \
		say "$(PYTHON) has no venv module: install it (Debian and Ubuntu: apt install python$$version-venv)")

# Whether .venv/ is there and its interpreter still runs, pip and all.
has_venv = $(BIN)/python -c 'import sys, pip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1

# $(call install,LOCK): make .venv/ if there is none, bring it to the lock, put Twofold in as it stands here.
define install
	$(if $(strip $(python_problem)),$(error $(strip $(python_problem))))
	@echo "Setting up $(VENV)/ from $(1): once, about a minute" >&2
	@$(has_venv) || "$(PYTHON)" -m venv --clear $(VENV)
	@$(PIP) install -r $(1)
	@$(PIP) install --no-deps --no-build-isolation -e .
endef

$(RUNTIME): requirements.lock pyproject.toml
	$(call install,requirements.lock)
	@touch $@

# The lock for development holds all of the other one, in the same versions.
$(DEV): requirements-dev.lock pyproject.toml
	$(call install,requirements-dev.lock)
	@touch $@ $(RUNTIME)
