# make         set up and run the whole job        make test    the tests
# make venv    set up only                         make slow    the long checks as well

PYTHON ?= python3
BIN := .venv/bin

run: .venv/ready
	$(BIN)/python arianna_ft.py

venv: .venv/ready

test: .venv/ready-test
	$(BIN)/python -m pytest -q -m "not slow"

slow: .venv/ready-test
	$(BIN)/python -m pytest -q

.venv/ready: requirements.txt
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "Python 3.11 or later is needed"'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

.venv/ready-test: .venv/ready requirements-test.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-test.txt
	touch $@

.PHONY: run venv test slow
