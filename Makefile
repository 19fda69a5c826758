PYTHON ?= python3.11
PROCESSES ?= 2
VENV := .venv
BIN := $(VENV)/bin
PROJECT := setup.cfg pyproject.toml

.PHONY: demo test test-browser test-gpu-compile lint base clean

# Trains the embedded model through all three stages on this machine's CPU. Started again, it goes on where it was.
demo: $(VENV)/installed
	$(BIN)/python -m jaxrl.train --config=configs/three_stage.py:tiny

# Every test, in a fresh or kept virtual environment: on two cores 34 minutes in two processes, about an hour in one
# (PROCESSES=1). A file's tests stay in one process, since each has its own compiled programs. A process takes up to 5 GB.
test: $(VENV)/tested
	$(BIN)/python -m pytest --numprocesses=$(PROCESSES) --dist=loadfile

lint: $(VENV)/tested
	$(BIN)/ruff check .

# The report in headless Chromium, which has to be there (apt-get install chromium); the extra browser is Playwright (50 MB).
test-browser: $(VENV)/tested
	$(BIN)/python -m pip install --quiet --editable '.[browser]'
	$(BIN)/python -m pytest tests/reporting/browser_page.py

# Compiles the decode loop for A100s, without one: needs the extra cuda12 (about 2 GB), which stays out of the other tests.
test-gpu-compile: $(VENV)/tested
	$(BIN)/python -m pip install --quiet --editable '.[cuda12]'
	$(BIN)/python -m pytest tests/gpu_compile.py -s

# Trains the embedded base model anew (benchmarks/RESULTS.md has the time); a stopped run goes on.
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
	rm -rf $(VENV) build dist *.egg-info
