# Two commands for a fresh machine: `make demo` and `make test`; `make bench` measures.
# PYTHON is any Python from 3.11 on; the environment is made in .venv.

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

.PHONY: demo test lint bench clean

demo: $(VENV)/installed
	$(BIN)/python -m crl_jax.main --config=configs/digits.py --workdir=runs/digits
	@echo
	@echo "The run is in runs/digits. Try next:"
	@echo "  $(BIN)/python -m crl_jax.evaluate --workdir=runs/digits --predictions=predictions.csv"
	@echo "  $(BIN)/python -m crl_jax.summary --config=configs/vso.py"
	@echo "  your own pictures: README.md, \"Your own pictures\""

test: lint
	$(BIN)/python -m pytest

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --requirement benchmarks/requirements.txt
	mkdir -p runs/bench
	for name in step tasks scaling startup input; do \
	  $(BIN)/python -m benchmarks.$$name --json=runs/bench/$$name.json || exit 1; \
	done

$(VENV)/installed: requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --requirement requirements.txt
	@touch $@

clean:
	rm -rf $(VENV) runs
