# One command for each thing. Every target sets up what it needs by itself: a virtual environment in .venv,
# with the versions of requirements/lock.txt. It is set up again only when pyproject.toml or the lock changes.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LOCK := requirements/lock.txt
# What only the tests need, whose own dependencies would bring another torch: see the file.
NO_DEPS := requirements/test-no-deps.txt
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check --no-input
# The torch that the hooks and FLOP counts were checked with; `make lock` keeps it.
TORCH := torch==2.13.0
# Stamps: what .venv holds already. "full" includes "run".
RUN := $(VENV)/.set-up-run
FULL := $(VENV)/.set-up-full

# setuptools is pinned and installed first, and builds without isolation: the lock then covers the build too.
install = $(PIP) install -c $(LOCK) setuptools && $(PIP) install -c $(LOCK) --no-build-isolation -e ".[$(1)]"

.DEFAULT_GOAL := help
.PHONY: help demo test test-gpu check bench lock clean

help: ## show this list
	@echo "ergometry: make TARGET [PYTHON=python3.12]"
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 12

demo: $(RUN) ## train a small model for about a minute and a half, and leave a run and an HTML report
	@$(BIN)/erg demo

# A test that fails is run once more, and listed as such (RERUN): tests of real processes meet other people's load here.
test: $(FULL) ## run the tests, two processes at a time
	$(BIN)/python -m pytest -n 2 --reruns 1 -raR --dist worksteal --durations 10 $(TESTS)

test-gpu: $(FULL) ## test and measure an NVIDIA GPU's power sensor, calibrate it, and store the readings; elsewhere say why not
	$(BIN)/python -m pytest -q -p no:xdist -m nvml tests/hardware
	@$(BIN)/python -m benchmarks gpu calibration

check: $(FULL) ## format, lint, types, rooms, dependencies; every tool runs, then the failed ones are named
	@failed=; \
	run() { echo "== $$*"; $(BIN)/"$$@" || failed="$$failed, $$*"; }; \
	run ruff format --check; \
	run ruff check; \
	run mypy; \
	run lint-imports; \
	run deptry .; \
	if [ -n "$$failed" ]; then echo "make check: failed: $${failed#, }" >&2; exit 1; fi

bench: $(FULL) ## measure the figures that the README quotes, on this machine
	@$(BIN)/python -m benchmarks

lock: $(BIN)/python ## write requirements/lock.txt anew, from the newest versions (of all but torch) in a clean environment
	@dir=$$(mktemp -d) && trap 'rm -rf "$$dir"' EXIT && $(BIN)/python -m venv "$$dir" && \
	echo "installing the newest versions into a clean environment ..." && \
	"$$dir/bin/python" -m pip install --quiet --disable-pip-version-check --no-input $(TORCH) setuptools ".[torch,nvidia,parquet,test,dev]" && \
	"$$dir/bin/python" requirements/freeze.py > $(LOCK).new && mv $(LOCK).new $(LOCK) && rm -rf build && echo "wrote $(LOCK)"

clean: ## remove .venv, builds and caches; stored runs are kept
	rm -rf $(VENV) build dist src/*.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis

$(RUN): pyproject.toml $(LOCK) | $(BIN)/python
	@echo "setting up: installing ergometry, PyTorch and what they need into $(VENV) (the first time takes minutes) ..."
	@$(call install,torch$(comma)nvidia)
	@touch $@ && echo "setting up: done"

$(FULL): pyproject.toml $(LOCK) $(NO_DEPS) | $(BIN)/python
	@echo "setting up: installing ergometry and all its tools into $(VENV) (the first time takes minutes) ..."
	@$(call install,torch$(comma)nvidia$(comma)parquet$(comma)test$(comma)dev)
	@$(PIP) install --no-deps -r $(NO_DEPS)
	@touch $(RUN) $@ && echo "setting up: done"

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	echo "make: expected Python 3.11 or newer, got '$$($(PYTHON) --version 2>&1 | head -n 1)'; name one: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@echo "setting up: creating $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
	echo "make: $(PYTHON) could not create a virtual environment; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }

comma := ,
