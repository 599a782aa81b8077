# make quickstart   installs into .venv, then trains, evaluates and draws on the embedded images
# make test         installs into .venv, then runs the tests
# make lint         checks and format
# make bench        the measurements of benchmarks/

PYTHON ?= python3
VENV ?= .venv
RUN = $(VENV)/bin/python

quickstart: $(VENV)/.installed
	$(RUN) train.py --config experiments/quickstart.py --workdir runs/quickstart
	$(RUN) eval.py --workdir runs/quickstart --draw

test: $(VENV)/.installed
	$(RUN) -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

lint: $(VENV)/.installed
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

bench: $(VENV)/.installed
	for script in benchmarks/*.py; do $(RUN) $$script || exit 1; done

$(VENV)/.installed: setup.cfg pyproject.toml
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "Python >= 3.11 is needed; make PYTHON=python3.12"'
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --editable '.[test]'
	touch $@

.PHONY: quickstart test lint bench
