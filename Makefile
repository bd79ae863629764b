# `make demo` and `make test` need only Python: they install everything else into .venv.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: demo test docs bench audit setup clean

demo: $(STAMP)
	$(BIN)/hcml demo --run_dir runs/demo

# One single-threaded process for each core, at most 8; tests of a file stay together unless another process is idle.
test: $(STAMP)
	$(BIN)/python -m pytest -n auto --maxprocesses 8 --dist worksteal

# Builds docs/_build/index.html; a warning is an error. SPHINX='-D nb_execution_mode=off' does not run the notebooks.
docs: $(STAMP)
	$(BIN)/python -m sphinx -W --keep-going -q -b html $(SPHINX) docs docs/_build

# On a GPU: make bench BENCH='--device cuda --dtype bfloat16', or benchmarks/gpu.sh.
bench: $(STAMP)
	for name in cost_volume contrastive_loss train_step inference; do \
	  $(BIN)/python benchmarks/$$name.py $(BENCH) || exit 1; done
	$(BIN)/python benchmarks/targets.py

# Looks for known vulnerabilities in installed packages. No test, because it asks a public service; see SECURITY.md.
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
