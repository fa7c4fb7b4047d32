# The two commands of the README are `make demo` and `make test`; each makes its own environment.
PYTHON ?= python3
VENV ?= .venv
OLDEST ?= .venv-oldest
BIN := $(VENV)/bin
PACKAGES := edge_runtime trainer_lite export

.PHONY: demo test test-all test-arm test-oldest lint docs clean

demo: $(VENV)/installed
	$(BIN)/python -m benchmarks.demo $(ARGS)

test: lint test-oldest
	$(BIN)/python -m pytest -q $(ARGS)

test-all: lint test-oldest
	$(BIN)/python -m pytest -q -rs -m "" $(ARGS)

# Bundles and the image on emulated ARM. Needs root, qemu-user-static and buildah; each test that
# lacks one says NOT tried, and why. Also part of test-all.
test-arm: $(VENV)/installed
	$(BIN)/python -m pytest -q -rs -m "" tests/arm $(ARGS)

# The device packages on the oldest numpy they support, with nothing else installed.
test-oldest: $(OLDEST)/installed
	$(OLDEST)/bin/python -m pytest -q tests/edge_runtime tests/trainer_lite tests/test_imports.py

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The pages that are generated: commands and signatures.
docs: $(VENV)/installed
	$(BIN)/python -m tests.make_docs

$(VENV)/installed: setup.py constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q -c constraints.txt -e '.[export,demo,dev]'
	touch $@

$(OLDEST)/installed: setup.py constraints-oldest.txt
	$(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/pip install -q -c constraints-oldest.txt -e . pytest
	touch $@

clean:
	rm -rf $(VENV) $(OLDEST) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis demo-out
