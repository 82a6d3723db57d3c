# `make quickstart` trains and scores the first recipe; `make test` runs the tests. Both set up .venv when it is missing.
# Another interpreter: make quickstart PYTHON=python3.12 (Python 3.11 or newer, one that torch has wheels for).

.DELETE_ON_ERROR:
.PHONY: quickstart test test-slow test-gpu lint clean

FIND_PYTHON = for p in python3 python3.13 python3.12 python3.11 python; do \
	"$$p" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$p" && break; done
PYTHON ?= $(shell $(FIND_PYTHON))
VENV_PYTHON = .venv/bin/python
PIP_INSTALL = $(VENV_PYTHON) -m pip install --quiet --disable-pip-version-check -c constraints.txt

quickstart: .venv/.installed
	.venv/bin/peftodyssey run recipes/quickstart.yaml --out runs/quickstart
	@printf 'The report: %s\n' "$$(pwd)/runs/quickstart/report/index.html"

# Two processes of one thread each: small models do not fill two threads.
test test-slow: export OMP_NUM_THREADS = 1
test: .venv/.installed-dev
	$(VENV_PYTHON) -m pytest -n 2 --dist loadfile

test-slow: .venv/.installed-dev
	$(VENV_PYTHON) -m pytest -n 2 --dist loadfile -m "slow and not gpu"

test-gpu: .venv/.installed-dev
	$(VENV_PYTHON) -m pytest -m gpu

lint: .venv/.installed-dev
	$(VENV_PYTHON) -m ruff check .
	$(VENV_PYTHON) -m ruff format --check .
	$(VENV_PYTHON) -m mypy

# Results under runs/ and the cache of unpacked models stay.
clean:
	rm -rf .venv build dist .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find peftodyssey tests -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/bin/python:
	@if [ -z "$(PYTHON)" ]; then echo "No Python 3.11 or newer with venv was found. Name one: make PYTHON=/path/to/python3.12" >&2; exit 1; fi
	@"$(PYTHON)" -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	"$(PYTHON)" -m venv .venv

.venv/.installed: pyproject.toml constraints.txt | .venv/bin/python
	@echo "Installing into .venv, which takes a few minutes. If torch has no wheel for this Python: make clean, then make PYTHON=python3.12"
	$(PIP_INSTALL) -e .
	@touch $@

.venv/.installed-dev: pyproject.toml constraints.txt | .venv/bin/python
	@echo "Installing into .venv with the tools for tests, which takes a few minutes."
	$(PIP_INSTALL) -e ".[dev]"
	@touch .venv/.installed $@
