# make         set up and run the whole job        make test    the tests
# make venv    set up only                         make slow    the long checks as well
# make faults  kill, cut, fill and fuzz a run hundreds of times, and tell what survived

PYTHON ?= python3
BIN := .venv/bin

run: .venv/ready
	$(BIN)/python arianna_ft.py

venv: .venv/ready

test: .venv/ready-test
	$(BIN)/python -m pytest -q -n auto --dist loadscope -m "not slow"

slow: .venv/ready-test
	$(BIN)/python -m pytest -q

faults: .venv/ready-test
	FAULTS=full $(BIN)/python -m pytest -q tests/faults
	$(BIN)/python tests/faults/mutate.py

.venv/ready: requirements.txt
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "Python 3.11 or later is needed"'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

.venv/ready-test: .venv/ready requirements-test.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-test.txt
	touch $@

.PHONY: run venv test slow faults
