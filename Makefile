# `make demo` and `make test` set themselves up in .venv from nothing but Python.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: demo test docs bench audit setup clean

demo: $(STAMP)
	$(BIN)/hcml demo --run_dir runs/demo

# A process for each core, each of one thread; a file's tests stay together as long as nobody is idle.
test: $(STAMP)
	$(BIN)/python -m pytest -n auto --maxprocesses 8 --dist worksteal

# docs/_build/index.html; a warning is an error. SPHINX='-D nb_execution_mode=off' leaves the notebooks as they are stored.
docs: $(STAMP)
	$(BIN)/python -m sphinx -W --keep-going -q -b html $(SPHINX) docs docs/_build

# On a GPU: make bench BENCH='--device cuda --dtype bfloat16', or benchmarks/gpu.sh.
bench: $(STAMP)
	for name in cost_volume contrastive_loss train_step inference; do \
	  $(BIN)/python benchmarks/$$name.py $(BENCH) || exit 1; done
	$(BIN)/python benchmarks/targets.py

# Known holes in what is installed. Asks a public service, so it is no part of the tests; see SECURITY.md.
audit: $(STAMP)
	$(BIN)/python -m pip install --quiet pip-audit
	$(BIN)/pip-audit --strict --skip-editable

setup: $(STAMP)

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "hcml_lightning needs Python 3.11 or newer, and '$(PYTHON)' is $$($(PYTHON) --version 2>&1)." >&2; \
	  echo "Name another one: make $(or $(MAKECMDGOALS),test) PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -e '.[dev]'
	@touch $@

clean:
	rm -rf .venv build dist docs/_build docs/generated docs/jupyter_execute runs src/*.egg-info
