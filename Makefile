# Two commands set everything up on a fresh machine: `make train` and `make test`.
PYTHON ?= python3
VENV   ?= .venv
ARGS   ?=

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# The hub is not needed for anything here; without this, look-ups on a machine without network retry for minutes.
export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM ?= false

.PHONY: train test bench lint format clean

# accelerate launch gives a process one thread where it is not told how many.
train: export OMP_NUM_THREADS ?= $(shell nproc 2>/dev/null || getconf _NPROCESSORS_ONLN)
train: $(STAMP)  ## train, evaluate and save a model on the embedded phantom set
	$(BIN)/accelerate launch --num_processes 1 --num_machines 1 --mixed_precision no --dynamo_backend no \
		recipes/train.py recipes/configs/quickstart.yaml $(ARGS)

test: $(STAMP)  ## run all tests
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder $(ARGS)

bench: $(STAMP)  ## measure every claim of speed; ARGS="loader_steady" measures one
	$(BIN)/python -m benchmarks $(ARGS)

lint: $(STAMP)  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info
