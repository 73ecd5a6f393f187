# Everything a clone needs is made here: two commands, nothing installed by hand.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

export OMP_WAIT_POLICY ?= PASSIVE  # two torch processes on two cores collapse otherwise

.PHONY: demo test slow jitter gpu docs links lint types unit doctest matrix newest lowest package release clean

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

# What documents and examples say is so, with gradients rounded as another processor would: `tests/_jitter.py`; JITTER=2 for other digits.
jitter: $(VENV)/installed
	JITTER=$(or $(JITTER),1) PYTHONPATH=tests $(BIN)/pytest -n 2 --dist loadfile -p _jitter -m slow tests/test_docs.py tests/test_examples.py

# The documentation. A warning fails it, and so does a public name without a word, or a link between pages that leads nowhere.
docs: $(VENV)/installed
	$(BIN)/python -m sphinx -W --keep-going -q docs docs/_build
	@echo "Open docs/_build/index.html"

# Links to other people's pages: needs the network.
links: $(VENV)/installed
	$(BIN)/python -m sphinx -b linkcheck -q docs build/links

# On a machine with an NVIDIA GPU, where `torch` may be of its own; `PYTEST=pytest` for another environment.
PYTEST ?= $(BIN)/pytest
gpu:
	$(PYTEST) tests/gpu -n 8 -p no:cacheprovider -p no:benchmark -v -rA --tb=short

doctest: $(VENV)/installed
	$(BIN)/pytest --doctest-modules lightning_unlearn

# Every interpreter that is there with the newest dependencies, and the lowest one with the lowest that pyproject.toml allows: of
# many of those there is no wheel for a newer Python. TORCH=torch tries another torch than CI's.
PYTHONS      ?= python3.11 python3.12 python3.13
TORCH        ?= $$(grep '^torch==' constraints.txt)
MATRIX_TESTS ?= -m "not slow"
LOWEST_OF    := s/.*"([a-z0-9-]+)(\[[^]]*\])?>=([0-9.]+).*/\1==\3/p
matrix: newest lowest

newest:
	@set -e; for python in $(PYTHONS); do \
	  $$python -c "" 2>/dev/null || { echo "$$python: not here, left out"; continue; }; \
	  echo "== $$python, newest dependencies"; made=build/matrix/$$(basename $$python); bin=$$made/bin; \
	  $$python -m venv --clear $$made; \
	  $$bin/pip install --quiet $(TORCH); \
	  $$bin/pip install --quiet --editable '.[dev]'; \
	  $$bin/pytest -n 2 --dist loadfile $(MATRIX_TESTS); \
	done

lowest:
	$(PYTHON) -m venv --clear build/matrix/lowest
	sed -nE '$(LOWEST_OF)' pyproject.toml | grep -v '^torch==' > build/matrix/lowest.txt
	build/matrix/lowest/bin/pip install --quiet $(TORCH)
	build/matrix/lowest/bin/pip install --quiet --constraint build/matrix/lowest.txt --editable '.[dev]'
	build/matrix/lowest/bin/pytest -n 2 --dist loadfile $(MATRIX_TESTS)

# Wheel and sdist, checked as PyPI would and then from outside: in an environment of their own, so that `dev` stays small.
package:
	rm -rf dist build/package
	$(PYTHON) -m venv build/package
	build/package/bin/pip install --quiet build twine
	build/package/bin/python -m build
	build/package/bin/twine check --strict dist/*
	build/package/bin/pip install --quiet --no-deps --target build/package/installed dist/*.whl
	cd build/package && PYTHONPATH=installed bin/python -m lightning_unlearn_command --help >/dev/null

# The last look before an upload, which is done by hand: CONTRIBUTING has the checklist.
release: package
	@! grep -n '\.example/' pyproject.toml || { echo "[project.urls] should say where the project lives"; exit 1; }
	@grep -q "^## \[$$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)\]" CHANGELOG.md \
	  || { echo "CHANGELOG.md should have a heading for this version"; exit 1; }
	@git diff --quiet HEAD || { echo "everything should be committed"; exit 1; }

# torch first, by its exact version: a bare `torch` may bring gigabytes of CUDA.
$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet $$(grep '^torch==' constraints.txt)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) runs build dist docs/_build docs/api docs/gallery docs/measured .mypy_cache .ruff_cache .pytest_cache
