# What a clone can do; `make` alone lists it.
# Paths are relative, so a clone may lie in a folder with spaces in its name. GNU make 3.81 (macOS) is enough.

BIN       := .venv/bin
INSTALLED := .venv/.medassay-installed

# PYTHON=... chooses the Python of .venv; without it the first of these that the lock was resolved for.
CANDIDATES := $(if $(PYTHON),"$(PYTHON)",python3 python3.13 python3.12 python3.11 python3.14)
SUITABLE   := import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))

# ARGS=... is handed on to the command: make test ARGS="-k phantom", make lock ARGS=--upgrade.
# VERBOSE=1 shows pip's own progress.
PIP := $(BIN)/python -m pip --disable-pip-version-check $(if $(VERBOSE)$(shell test -t 2 && echo terminal),,-qq)

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-long lint types format tensorboard wheel lock clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' Makefile | awk -F ':.*## ' '{ printf "  make %-12s %s\n", $$1, $$2 }'

setup: $(INSTALLED) ## make .venv with the locked packages, once; several GB the first time
	@echo "Ready: .venv matches requirements.lock."

demo: $(INSTALLED) ## set-up and the main job, offline: minutes on two CPU cores
	@$(BIN)/python scripts/demo.py $(ARGS)

test: $(INSTALLED) ## the tests
	@$(BIN)/python -m pytest -m "not long" -n auto --maxprocesses 4 --dist loadfile $(ARGS)

test-long: $(INSTALLED) ## the studies that take minutes each
	@$(BIN)/python -m pytest -m long $(ARGS)

lint: $(INSTALLED) ## style, formatting and the import order
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports

types: $(INSTALLED) ## static types
	$(BIN)/mypy

format: $(INSTALLED) ## rewrite the code in house style
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

tensorboard: $(INSTALLED) ## curves and pictures of every run in outputs/
	@$(BIN)/tensorboard --logdir outputs $(ARGS)

wheel: $(INSTALLED) ## source distribution and wheel in dist/
	@$(BIN)/python -m build --no-isolation $(ARGS)

# Pre-releases only where pyproject names one; `fewest` gives every Python the same versions, the ones that are tested.
lock: | $(BIN)/uv ## resolve requirements.lock anew (ARGS=--upgrade for newer versions)
	@$(BIN)/uv pip compile --quiet --no-config --universal --python-version 3.11 --fork-strategy fewest \
	  --prerelease explicit --group dev pyproject.toml --annotation-style line \
	  --custom-compile-command "make lock" --output-file requirements.lock $(ARGS)
	@echo "requirements.lock is resolved; make setup installs it."

clean: ## remove caches and build output; outputs/ and .venv stay
	@rm -rf dist build .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
	@find . \( -path ./.venv -o -path ./outputs \) -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

# A lock that can no longer be installed must not keep `make lock` from mending it: uv alone is enough for that.
$(BIN)/uv:
	@$(MAKE_VENV)
	@$(PIP) install uv

# The stamp holds the folder it was made in: in a moved or copied clone the scripts of .venv, and the import of medassay,
# would lead to the old place.
ifneq ($(shell cat $(INSTALLED) 2>/dev/null),$(CURDIR))
.PHONY: $(INSTALLED)
endif

# The stamp is written last, so an interrupted install is taken up again by the next `make`.
$(INSTALLED): requirements.lock pyproject.toml
	@$(MAKE_VENV)
	@echo "Installing the locked packages into .venv: several GB to download the first time, so minutes (VERBOSE=1 shows them)."
	@$(PIP) install -r requirements.lock
	@$(PIP) install --no-deps --no-build-isolation -e .
	@pwd -P > $(INSTALLED)

# Leaves a .venv that works alone; makes anew one that is missing, half made, made elsewhere, or whose Python is gone.
define MAKE_VENV
test "$$(cat $(INSTALLED) 2>/dev/null || pwd -P)" = "$$(pwd -P)" \
  && $(BIN)/python -c 'import pip; $(SUITABLE)' 2>/dev/null && exit 0; \
for python in $(CANDIDATES); do \
  "$$python" -c '$(SUITABLE)' 2>/dev/null || continue; \
  echo "Making .venv with $$("$$python" --version)."; \
  exec "$$python" -m venv --clear .venv; \
done; \
echo "No Python from 3.11 to 3.14 among: $(subst ",,$(CANDIDATES)). Install one, or name it: make setup PYTHON=/path/to/python" >&2; \
exit 1
endef
