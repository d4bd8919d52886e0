# Every word here sets up what it needs in .venv; a second call finds it there.
#
#   PYTHON=python3.12 make test    another interpreter (3.10 or newer)
#   WORKERS=8 make test            more test processes than two

PYTHON  ?= python3
WORKERS ?= 2
VENV    := .venv
BIN     := $(VENV)/bin
READY   := $(VENV)/.ready
BENCH   := $(VENV)/.ready-bench
FLOORS  := .venv-floors

# What the versions of other packages can break: the losses, training, resuming, tables, commands.
FLOOR_TESTS := $(addprefix tests/test_,losses.py losses_back_ends.py models.py training.py \
	resume.py table.py cli.py)

.DEFAULT_GOAL := help
.PHONY: help setup reproduce test test-floors lab bench notebooks zip badges clean

help:
	@echo "make reproduce  train the baselines and the contrastive method on the embedded data set,"
	@echo "                print the table and draw the figures (minutes on two cores, no network)"
	@echo "make test       linters, types and tests"
	@echo "make test-floors  the main tests with the lowest versions of everything that segnb needs"
	@echo "make lab        JupyterLab on notebooks/"
	@echo "make notebooks  make notebooks/*.ipynb again from notebooks/src, executed"
	@echo "make zip        dist/segnb.zip, the copy to upload to Colab"
	@echo "make bench      time the loss against a peer"
	@echo "make badges REPO=owner/name   write the address of this repository into the notebooks"
	@echo "make clean      remove .venv and caches; data, runs and results stay"

setup: $(READY)

# The stamp is touched last, so an interrupted installation is taken up again.
$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || { \
	  echo "segnb needs Python 3.10 or newer; '$(PYTHON)' is not one" \
	       "($$($(PYTHON) --version 2>&1 | head -n 1))."; \
	  echo "Name another interpreter, as in: make $(or $(MAKECMDGOALS),setup) PYTHON=python3.12"; \
	  exit 1; } >&2
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV) || { \
	  echo "'$(PYTHON) -m venv' failed. On Debian and Ubuntu: apt-get install python3-venv"; \
	  exit 1; } >&2
	@echo "Installing into $(VENV); the first time takes some minutes, torch being large." >&2
	$(BIN)/python -m pip install --editable ".[dev]"
	@touch $@

$(BENCH): $(READY)
	$(BIN)/python -m pip install --editable ".[bench]"
	@touch $@

reproduce: $(READY)
	$(BIN)/segnb reproduce

test: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(WORKERS)

# An environment of its own, with uv: pip can't ask for the lowest versions. They were made for
# Python 3.10 to 3.12.
$(FLOORS)/.ready: pyproject.toml
	@test -x $(FLOORS)/bin/pip || $(PYTHON) -m venv $(FLOORS)
	$(FLOORS)/bin/python -m pip install --quiet uv
	$(FLOORS)/bin/uv pip install --python $(FLOORS)/bin/python --resolution lowest-direct \
	  --editable ".[dev]"
	@touch $@

test-floors: $(FLOORS)/.ready
	OMP_NUM_THREADS=1 $(FLOORS)/bin/python -m pytest $(FLOOR_TESTS)

lab: $(READY)
	PATH="$(CURDIR)/$(BIN):$$PATH" SEGNB_DATA="$${SEGNB_DATA:-$(CURDIR)/data}" \
	  $(BIN)/jupyter lab --notebook-dir=notebooks

bench: $(BENCH)
	$(BIN)/python -m benchmarks.loss

notebooks: $(READY)
	$(BIN)/python tools/notebooks.py build

zip: $(READY)
	$(BIN)/python tools/pack.py

badges: $(READY)
	@test -n "$(REPO)" || { echo "make badges needs REPO=owner/name" >&2; exit 1; }
	$(BIN)/python tools/notebooks.py badges "$(REPO)"

clean:
	rm -rf $(VENV) $(FLOORS) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
