# `make demo` and `make test` set up everything they need in .venv; the machine needs Python 3.11 or later and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-full-size lint types architecture planted-bugs bench clean

demo: $(VENV)/.demo
	$(BIN)/python docs/demo.py

# Compiled modules are kept in the environment: the many processes that the tests start need not compile them anew.
test test-full-size: export PYTHONDONTWRITEBYTECODE =
test test-full-size: export PYTHONPYCACHEPREFIX = $(CURDIR)/$(VENV)/pycache
test: $(VENV)/.dev
	$(BIN)/python -m pytest -n 2 --dist worksteal

# The tests of memory and concurrency with images of gigabytes and thousands of operations; `test` runs them smaller.
test-full-size: export OCIPORT_FULL_TESTS = 1
test-full-size: $(VENV)/.dev
	$(BIN)/python -m pytest tests/end_to_end/resources

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/.dev
	$(BIN)/mypy
	PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(BIN)/pyright

architecture: $(VENV)/.dev
	$(BIN)/lint-imports

planted-bugs: $(VENV)/.dev
	$(BIN)/python tests/planted_bugs.py $(PLANTED_BUGS)

bench: $(VENV)/.dev
	$(BIN)/python tests/benchmarks/run.py

$(VENV)/.base: pyproject.toml
	$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("ociport needs Python 3.11 or later")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	touch $@

$(VENV)/.demo: $(VENV)/.base
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[serve]'
	touch $@

$(VENV)/.dev: $(VENV)/.base
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[serve,testing,otel,build,fast]' --group test --group lint
	touch $@ $(VENV)/.demo

clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
