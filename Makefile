# The two commands of the README are `make demo` and `make test`; each makes its own environment.
PYTHON ?= python3
VENV ?= .venv
OLDEST ?= .venv-oldest
BIN := $(VENV)/bin
PACKAGES := edge_runtime trainer_lite export

TRITON ?= .venv-triton
RAY ?= .venv-ray

.PHONY: demo test test-all test-arm test-engines test-oldest lint docs clean

demo: $(VENV)/installed
	$(BIN)/python -m benchmarks.demo $(ARGS)

test: lint test-oldest
	$(BIN)/python -m pytest -q $(ARGS)

test-all: lint test-oldest
	$(BIN)/python -m pytest -q -rs -m "" --hypothesis-profile=default $(ARGS)

# Bundles and the image on emulated ARM. Needs root, qemu-user-static and buildah; each test that
# lacks one says NOT tried, and why. Also part of test-all.
test-arm: $(VENV)/installed
	$(BIN)/python -m pytest -q -rs -m "" tests/arm $(ARGS)

# A real Triton and a real Ray, each in a large environment of its own; test-all skips what they need.
test-engines: $(VENV)/installed $(TRITON)/installed $(RAY)/installed
	EDGETUNE_TRITON=$(TRITON)/bin/python $(BIN)/python -m pytest -q -rs -m slow \
		tests/export/test_triton.py $(ARGS)
	$(RAY)/bin/python -m pytest -q -rs -m slow tests/export/test_ray_engine.py \
		tests/export/serve/test_ray_serve.py $(ARGS)

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

$(TRITON)/installed: setup.py
	$(PYTHON) -m venv $(TRITON)
	$(TRITON)/bin/pip install -q -e '.[triton]'
	touch $@

$(RAY)/installed: setup.py constraints.txt
	$(PYTHON) -m venv $(RAY)
	$(RAY)/bin/pip install -q -c constraints.txt -e '.[ray]' onnx pytest hypothesis
	touch $@

clean:
	rm -rf $(VENV) $(OLDEST) $(TRITON) $(RAY) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis demo-out
