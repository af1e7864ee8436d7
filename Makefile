# The two commands of a fresh machine are `make quickstart` and `make test`; each makes its own environment first.
# Settings, given on the command line (make test PYTHON=python3.12):
PYTHON ?= python3
VENV ?= .venv
# Extras of pyproject.toml that go into the environment.
EXTRAS ?= test,plots
# The torch to install: constraints.txt pins the one that everything is tested with.
TORCH ?= $(shell grep '^torch==' constraints.txt)
# An index that holds the torch build you want, beside pip's own (the CPU build, or the CUDA version of your driver).
TORCH_INDEX ?=
# Processes that run tests side by side.
WORKERS ?= 2
# Options for pytest, for example PYTEST="-k rank -x".
PYTEST ?=

BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed
LINTERS := $(VENV)/installed-linters
WITH_EXTRAS := build/venv-extras/installed
# Without bytecode, importing transformers takes three times as long: never go without it, whatever the caller's settings.
export PYTHONDONTWRITEBYTECODE :=
# Each test process has one thread: several of them share the cores.
TEST_ENVIRONMENT := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false HF_HUB_DISABLE_TELEMETRY=1
RUN_TESTS = $(TEST_ENVIRONMENT) $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help venv quickstart test test-full test-extras test-lowest parity lint format bench docs clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' Makefile | sed -E 's/:.*## /\t/' | expand -t 14

venv: $(INSTALLED) ## make the environment in .venv (TORCH=, TORCH_INDEX=, EXTRAS=, PYTHON= change what goes in)

$(INSTALLED): pyproject.toml constraints.txt scripts/make_venv.sh
	TORCH="$(TORCH)" TORCH_INDEX="$(TORCH_INDEX)" EXTRAS="$(EXTRAS)" PYTHON="$(PYTHON)" bash scripts/make_venv.sh $(VENV) constraints.txt
	@touch $@

$(LINTERS): $(INSTALLED)
	$(BIN)/python -m pip install --quiet --no-compile -c $(VENV)/constraints.txt -e '.[dev]'
	@touch $@

$(WITH_EXTRAS): pyproject.toml constraints.txt scripts/make_venv.sh
	mkdir -p build
	TORCH="$(TORCH)" TORCH_INDEX="$(TORCH_INDEX)" EXTRAS="test,plots,census,curation,ray" PYTHON="$(PYTHON)" \
		bash scripts/make_venv.sh build/venv-extras constraints.txt
	@touch $@

quickstart: $(INSTALLED) ## annotate with the model that ships; train, fine-tune, save, reload (about five minutes)
	$(BIN)/python -m scfm_hf.quickstart

test: $(INSTALLED) ## run the tests, all but those marked full or extras
	$(RUN_TESTS) -m "not full and not extras" $(PYTEST)

test-full: $(INSTALLED) ## run the tests marked full, which `make test` leaves out
	$(RUN_TESTS) -m "full and not extras" $(PYTEST)

test-extras: $(WITH_EXTRAS) ## run the tests that need the extras census, curation and ray, in an environment of their own
	$(TEST_ENVIRONMENT) build/venv-extras/bin/python -m pytest -n $(WORKERS) --dist worksteal -m extras $(PYTEST)

test-lowest: $(INSTALLED) ## run the tests with the oldest dependencies that pyproject.toml allows (all but torch; LOWEST_TORCH=1 for torch too)
	mkdir -p build
	$(BIN)/python scripts/lowest_versions.py --extras test,plots $(if $(LOWEST_TORCH),,--but "$(TORCH)") > build/lowest.txt
	TORCH="$$(grep '^torch==' build/lowest.txt)" TORCH_INDEX="$(TORCH_INDEX)" EXTRAS=test,plots PYTHON="$(PYTHON)" \
		bash scripts/make_venv.sh build/venv-lowest build/lowest.txt
	$(TEST_ENVIRONMENT) build/venv-lowest/bin/python -m pytest -n $(WORKERS) --dist worksteal -m "not full and not extras" -W default $(PYTEST)

parity: $(INSTALLED) ## compare with the originals' numbers in ../shared/golden, and write docs/parity.md
	$(RUN_TESTS) tests/parity
	$(BIN)/python scripts/write_parity_page.py

lint: $(LINTERS) ## check format, style, types, import layers and spelling
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell

format: $(LINTERS) ## format the code and mend what can be mended by itself
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(INSTALLED) ## run the benchmarks (one core)
	@for file in $(filter-out %_worker.py,$(wildcard benchmarks/*.py)); do echo "== $$file"; OMP_NUM_THREADS=1 $(BIN)/python $$file || exit 1; done

docs: $(INSTALLED) ## build the documentation in site/
	$(BIN)/python -m pip install --quiet --no-compile -c $(VENV)/constraints.txt -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean: ## remove everything that the other targets made
	rm -rf $(VENV) build dist site quickstart-results .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
