PYTHON ?= python3.11
PROCESSES ?= 2
VENV := .venv
BIN := $(VENV)/bin
PROJECT := setup.cfg pyproject.toml
# The tests of a file run in one process, because they share fixtures. A process uses up to 5 GB.
# A crashed process ends the run, since pytest-xdist does not recover its remaining tests.
PYTEST := $(BIN)/python -m pytest --numprocesses=$(PROCESSES) --dist=loadfile --max-worker-restart=0
TYPED := models jaxrl/algorithms jaxrl/sampling jaxrl/learning

.PHONY: demo check test test-all test-browser test-gpu-compile lint format types base clean

# Train the embedded model through all three stages on this machine's CPU. An interrupted run resumes.
demo: $(VENV)/installed
	$(BIN)/python -m jaxrl.train --config=configs/three_stage.py:tiny

# Under 2 minutes on two cores: run it before each commit. Lint, types, layers, glossary, laws and one short run.
check: lint types
	$(PYTEST) -m check

# At most 10 minutes on two cores: what a user needs to trust an installation.
test: $(VENV)/tested
	$(PYTEST) -m "not slow"

# At most 45 minutes on two cores: also killed processes, several processes, sweeps, compiler tuning and the report in a
# browser (see test-browser).
test-all: $(VENV)/tested
	$(PYTEST) --durations=10

# The report in headless Chromium, which must be installed: apt-get install chromium.
test-browser: $(VENV)/tested
	$(BIN)/python -m pytest tests/reporting/test_browser_page.py

# Compile the decode loop for A100s without a GPU. Needs the extra cuda12 (about 2 GB).
test-gpu-compile: $(VENV)/tested
	$(BIN)/python -m pip install --quiet --editable '.[cuda12]'
	$(BIN)/python -m pytest tests/gpu_compile.py -s

lint: $(VENV)/tested
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/tested
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

types: $(VENV)/tested
	$(BIN)/basedpyright $(TYPED)

# Train the embedded base model again (benchmarks/RESULTS.md has the time). An interrupted run resumes.
base: $(VENV)/installed
	$(BIN)/python -m jaxrl.sft --config=configs/tiny_base.py

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: $(PROJECT) | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/tested: $(PROJECT) | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	touch $@ $(VENV)/installed

clean:
	rm -rf $(VENV) .pytest_cache build dist *.egg-info
