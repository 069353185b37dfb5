# make demo      install, train for 90 seconds on Python's standard library, generate some code: about 3 minutes
# make test      install, run the tests
# make test-without-kernels  run the tests of models, training and sampling as on a machine without native kernels
# make gpu       on a machine with a GPU: run its tests, measure its speed, write docs/gpu.md (at most 8 minutes)
# make native    compile the native kernels again, after a change in native/
# make sanitize  run the kernels' tests with the address and undefined-behavior sanitizers of GCC; AVX-512 and AMX are
#                emulated
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

.PHONY: demo test test-without-kernels native sanitize gpu torture lint types docs bench readme inside clean

demo: $(VENV)/installed
	$(BIN)/charlm train --config tiny --num-layers 2 --max-minutes 1.5 --out $(DEMO) --overwrite
	@echo; echo "Generated after 'def ':"; echo
	$(BIN)/charlm sample $(DEMO) --prompt "def " --length 400
	@echo; echo "To see the training curves: $(BIN)/tensorboard --logdir checkpoints"

test: $(VENV)/installed-dev
	$(BIN)/python -m pytest --numprocesses auto --dist worksteal

test-without-kernels: $(VENV)/installed-dev
	CHARLM_NATIVE=off $(BIN)/python -m pytest --numprocesses auto --dist worksteal tests/model tests/generation tests/training

native:
	$(PYTHON) native/build.py

SANITIZED := build/sanitized/charlm_kernels.so
sanitize: $(VENV)/installed-dev
	$(PYTHON) native/build.py --sanitize --emulate --output $(SANITIZED)
	LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libubsan.so)" ASAN_OPTIONS=detect_leaks=0 \
	CHARLM_NATIVE=$(SANITIZED) $(BIN)/python -m pytest -p no:xdist tests/model/test_native.py tests/model/test_native_bf16.py tests/model/test_native_sampler.py

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
