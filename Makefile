# Two commands for a fresh machine: `make demo` and `make test`.
# PYTHON is any Python from 3.11 on; the environment is made in .venv.

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

.PHONY: install demo test faults lint docs clean

install: $(VENV)/installed

demo: $(VENV)/installed
	$(BIN)/python -m crl_jax.main --config=configs/digits.py --workdir=runs/digits
	@echo
	@echo "The run is in runs/digits. Try next:"
	@echo "  $(BIN)/python -m crl_jax.evaluate --workdir=runs/digits --predictions=predictions.csv"
	@echo "  $(BIN)/python -m crl_jax.report --workdir=runs/digits"
	@echo "  $(BIN)/python -m crl_jax.demo --workdir=runs/digits"
	@echo "  $(BIN)/python -m crl_jax.summary --config=configs/vso.py"
	@echo "  your own pictures: README.md, \"Your own pictures\""

test: lint
	$(BIN)/python -m pytest

# Kills runs, damages files, throws in what it can; under half an hour.
faults: $(VENV)/installed
	$(BIN)/python -m pytest -m "faults or not faults" $(FAULTS)

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(VENV)/installed: requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --requirement requirements.txt
	@touch $@

docs: $(VENV)/installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

clean:
	rm -rf $(VENV) runs site
