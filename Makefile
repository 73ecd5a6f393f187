# Everything a clone needs is made here: two commands, nothing installed by hand.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

export OMP_WAIT_POLICY ?= PASSIVE  # two torch processes on two cores collapse otherwise

.PHONY: demo test slow gpu lint types unit doctest clean

demo: $(VENV)/installed
	$(BIN)/lightning-unlearn fit --config bundled:quickstart
	@echo "Open runs/quickstart/report.html"

# Everything but what is marked `slow`; CI runs both.
test: lint types doctest unit

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/installed
	$(BIN)/mypy

# Two workers, a file to each: what a file makes once for its tests is made once.
unit: $(VENV)/installed
	$(BIN)/pytest -n 2 --dist loadfile -m "not slow"

slow: $(VENV)/installed
	$(BIN)/pytest -n 2 --dist loadfile -m slow

# On a machine with an NVIDIA GPU, where `torch` may be of its own; `PYTEST=pytest` for another environment.
PYTEST ?= $(BIN)/pytest
gpu:
	$(PYTEST) tests/gpu -n 8 -p no:cacheprovider -p no:benchmark -rA --tb=short

doctest: $(VENV)/installed
	$(BIN)/pytest --doctest-modules lightning_unlearn

# torch first, by its exact version: a bare `torch` may bring gigabytes of CUDA.
$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet $$(grep '^torch==' constraints.txt)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) runs .mypy_cache .ruff_cache .pytest_cache
