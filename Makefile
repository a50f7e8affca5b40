# Two commands do everything on a machine with Python 3.11 or newer:
#   make demo   trains, probes and reports a small grokking run
#   make test   runs the checks and the tests
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: demo test lint clean

$(VENV)/.package: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) install -q -c constraints.txt -e .
	touch $@

$(VENV)/.test: $(VENV)/.package
	$(PIP) install -q -c constraints.txt -e '.[test]'
	touch $@

demo: $(VENV)/.package
	$(BIN)/grokscope quickstart

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

# a process a core, one thread each, a file of tests at a time
test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

clean:
	rm -rf $(VENV)
