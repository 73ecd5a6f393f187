# Everything a clone needs is made here: two commands, nothing installed by hand.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

export OMP_WAIT_POLICY ?= PASSIVE  # two torch processes on two cores collapse otherwise

.PHONY: demo test lint types unit clean

demo: $(VENV)/installed
	$(BIN)/lightning-unlearn fit --config bundled:quickstart
	@echo "Open runs/quickstart/report.html"

test: lint types unit

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/installed
	$(BIN)/mypy

unit: $(VENV)/installed
	$(BIN)/pytest
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
