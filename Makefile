# make mine: the main job on the embedded demo.  make test: the tests.  Both make the environment first.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
PY := .venv/bin/python
ARGS ?=
# tests/conftest.py says which tests stay together
BOTH_CORES := -n 2 --no-loadscope-reorder

.PHONY: mine test test-all check clean

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,speech,speech-demo]'
	touch $@

mine: .venv/ready
	$(PY) jobs/mine.py $(ARGS)

test: .venv/ready
	$(PY) -m pytest $(BOTH_CORES) -m 'not slow' $(ARGS)

test-all: .venv/ready
	$(PY) -m pytest $(BOTH_CORES) $(ARGS)

check: .venv/ready
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

clean:
	rm -rf .venv *.egg-info
