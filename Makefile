# make demo   set up, train on the built-in corpus, write some text (about 3 minutes after the installation)
# make test   set up, run the tests
PYTHON ?= python3
VENV ?= .venv
PIP_OPTIONS ?=
BIN := $(VENV)/bin
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_OPTIONS) --constraint constraints.txt
DEMO := checkpoints/demo

# make torture  the faults of `make test` with 300 kills in place of 50
.PHONY: demo test torture lint types docs bench clean

demo: $(VENV)/installed
	$(BIN)/charlm train --config tiny --num-layers 2 --max-minutes 1.5 --out $(DEMO) --overwrite
	@echo; echo "What it writes after 'def ':"; echo
	$(BIN)/charlm sample $(DEMO) --prompt "def " --length 400
	@echo; echo "Watch how it learned: $(BIN)/tensorboard --logdir checkpoints"

test: $(VENV)/installed-dev
	$(BIN)/python -m pytest

torture: $(VENV)/installed-dev
	CHARLM_TEST_KILLS=300 $(BIN)/python -m pytest -s tests/reliability

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/installed-dev
	$(BIN)/mypy

docs: $(VENV)/installed-dev
	$(BIN)/python docs/generate.py

bench: $(VENV)/installed
	$(BIN)/charlm bench --hidden-size 512 --batch-size 64 --sequence-length 64

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(INSTALL) --editable .
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(INSTALL) --editable ".[dev]"
	@touch $@

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache
