# make demo: set up, train on the built-in corpus, sample.  make test: set up, run the tests.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO := checkpoints/demo

.PHONY: demo test lint types check clean

demo: $(VENV)/.installed
	$(BIN)/charlm train --config tiny --max-minutes 1.5 --hidden-size 256 --num-layers 2 --out $(DEMO) --overwrite
	@echo "--- what it writes:"
	$(BIN)/charlm sample $(DEMO) --prompt "def " --length 400 --num-samples 2 --seed 1

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed-dev
	$(BIN)/mypy

check: lint types test

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache
