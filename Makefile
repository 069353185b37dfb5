# make demo      install, train for 90 seconds on Python's standard library, generate some code: about 3 minutes
# make test      install, run the tests
# make gpu       on a machine with a GPU: run its tests, measure its speed, write docs/gpu.md (at most 8 minutes)
# make torture   run the failure tests with 300 kills instead of 50
# make readme    run the commands of README.md, update its outputs, pictures and recording: about 25 minutes
#                make readme QUICK=1 trains a few steps and writes to build/readme only
# make inside    train the model of docs/inside-an-lstm.md, take the pictures of that page: about 3 minutes
PYTHON ?= python3
VENV ?= .venv
PIP_OPTIONS ?=
BIN := $(VENV)/bin
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_OPTIONS) --constraint constraints.txt
DEMO := checkpoints/demo
QUICK ?=

.PHONY: demo test gpu torture lint types docs bench readme inside clean

demo: $(VENV)/installed
	$(BIN)/charlm train --config tiny --num-layers 2 --max-minutes 1.5 --out $(DEMO) --overwrite
	@echo; echo "Generated after 'def ':"; echo
	$(BIN)/charlm sample $(DEMO) --prompt "def " --length 400
	@echo; echo "To see the training curves: $(BIN)/tensorboard --logdir checkpoints"

test: $(VENV)/installed-dev
	$(BIN)/python -m pytest --numprocesses auto --dist worksteal

gpu: $(VENV)/installed-dev
	$(BIN)/python benchmarks/gpu.py

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

readme: $(VENV)/installed-readme
	$(BIN)/python docs/readme.py $(if $(QUICK),--quick)
	$(BIN)/python docs/pictures.py $(if $(QUICK),--quick)
	$(BIN)/python docs/recording.py $(if $(QUICK),--quick)

inside: $(VENV)/installed-readme
	$(BIN)/python docs/inside.py

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(INSTALL) --editable .
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(INSTALL) --editable ".[dev]"
	@touch $@

$(VENV)/installed-readme: $(VENV)/installed
	$(INSTALL) --editable ".[readme]"
	@touch $@

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache
