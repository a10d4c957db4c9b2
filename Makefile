# Everything a newcomer types. `make` alone lists the targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed

.DEFAULT_GOAL := help
.PHONY: help venv lint test test-newest fuzz schema demo bench clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 20

venv: $(STAMP)  ## make .venv and install the project with its training and development tools

# pip says nothing but errors: its warnings are about the machine's own set-up. libexpat is the one library that the
# wheels (rasterio, osmium) take from the system. The newest Icechunk, zarr and NumPy need Python 3.12, so the versions
# that were tested are those of constraints.txt on 3.11 and of constraints-3.13.txt on any later one.
$(STAMP): pyproject.toml constraints.txt constraints-3.13.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Python 3.11 or newer is needed, and '$(PYTHON)' is not. Name another: make $(MAKECMDGOALS) PYTHON=python3.12"; \
		exit 1; }
	@missing=; \
	$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || missing="$$missing python3-venv"; \
	$(PYTHON) -c 'import ctypes, sys; sys.platform == "linux" and ctypes.CDLL("libexpat.so.1")' 2>/dev/null \
		|| missing="$$missing libexpat1"; \
	if [ -z "$$missing" ]; then exit 0; fi; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		apt-get update -qq && apt-get install -y -qq --no-install-recommends $$missing; \
	else \
		echo "The system lacks$$missing. On Debian or Ubuntu: sudo apt-get install$$missing"; exit 1; \
	fi
	@echo "Installing into $(VENV) (a few minutes the first time)"
	@$(PYTHON) -m venv $(VENV)
	@tested=$$($(BIN)/python -c 'import sys; print("constraints.txt" if sys.version_info < (3, 12) else "constraints-3.13.txt")') \
		&& $(BIN)/python -m pip install -qq --disable-pip-version-check -c $$tested -e '.[train,dev]'
	@touch $@

lint: $(STAMP)  ## ruff and mypy
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

# One more than there are cores: many tests wait for servers that do wrong.
WORKERS ?= $(shell echo $$(( $$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2) + 1 )))

test: $(STAMP)  ## all tests, or those that TESTS names
	$(BIN)/python -m pytest --numprocesses=$(WORKERS) --maxprocesses=4 --dist=loadgroup $(TESTS)

# What depends most on the libraries: all rooms, stores and work directories of earlier programs, and training.
test-newest:  ## a part of them with the libraries that need a later Python: make test-newest PYTHON=python3.13
	@$(MAKE) --no-print-directory test VENV=.venv-3.13 \
		TESTS='tests/tasks tests/training tests/flows/test_continued.py tests/flows/test_same_as_before.py'

fuzz: $(STAMP)  ## odd input of every kind, by chance: make fuzz CASES=100000 SEED=7 KINDS="recipe raster", or CASE=recipe:7:42
	nice $(BIN)/python -m tests.fuzz --cases $(or $(CASES),100000) --seed $(or $(SEED),1) \
		$(if $(KINDS),--kinds $(KINDS)) $(if $(CASE),--again $(CASE))

schema: $(STAMP)  ## write datasets/recipe.schema.json, by which editors check recipes, from the model
	$(BIN)/python -m tasks.recipe.schema

demo: $(STAMP)  ## build a synthetic dataset and train on it: no token, no GPU, no network
	@$(BIN)/python -m infra.demo

bench:  ## list the benchmarks
	@printf '  $(BIN)/python -m benchmarks.%s\n' rasterize fetch build orchestration reader scenes stac

clean:  ## remove the environment, the caches and the demo's records (datasets under stores/ stay)
	rm -rf $(VENV) .venv-3.13 demo build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
