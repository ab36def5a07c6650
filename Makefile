# Two commands for a fresh machine: `make demo` and `make test`; `make bench` measures.
# PYTHON is one of 3.11 to 3.13; the environment is made in .venv.

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

.PHONY: install demo test slow faults lint docs bench clean

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

# Most tests compile, which keeps one core busy. Those of a file share what it trains.
PYTEST = $(BIN)/python -m pytest --numprocesses=2 --dist=loadfile --no-loadscope-reorder

test: lint
	$(PYTEST)

# Those that take minutes.
slow: $(VENV)/installed
	$(PYTEST) -m slow

# Kills runs, damages files and throws in what it can: docs/reliability.md.
faults: $(VENV)/installed
	$(PYTEST) -m "slow or not slow" $(FAULTS)

FAULTS = $(addprefix tests/test_,any_input.py checkpoints.py demo.py disk.py killed.py \
	left_out.py processes.py security.py stopping.py terminal.py)

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --requirement benchmarks/requirements.txt
	mkdir -p runs/bench
	for name in step roofline tasks memory scaling startup input; do \
	  $(BIN)/python -m benchmarks.$$name --json=runs/bench/$$name.json || exit 1; \
	done

$(VENV)/installed: requirements.txt requirements-onnx.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
	  { echo "$(PYTHON) is not Python 3.11, 3.12 or 3.13: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --requirement requirements.txt
	$(BIN)/python -m pip install --quiet --no-deps --requirement requirements-onnx.txt
	@touch $@

docs: $(VENV)/installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

clean:
	rm -rf $(VENV) site
