# `make search` runs the main job, `make test` the tests: each creates .venv, installs and runs.
PYTHON ?= python3
BIN := .venv/bin
BUDGET ?= 24steps

export OMP_NUM_THREADS ?= 1
# A process that dies ends the run: xdist would go on without its files and never end.
PYTEST := $(BIN)/pytest -n 3 --dist loadfile --no-loadscope-reorder --max-worker-restart 0

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

.PHONY: search test test-all lint format vectors wheel clean
search: .venv/installed
	$(BIN)/automc train resnet8 --data digits --epochs 12 --out .automc/digits-resnet8.am
	$(BIN)/automc search .automc/digits-resnet8.am --data digits --gamma 0.3 --budget $(BUDGET)

test: .venv/installed lint
	$(PYTEST) -m 'not slow and not neo4j'
	tests/neo4j.sh --if-possible -m 'neo4j and not slow' tests/kg/store

test-all: .venv/installed lint
	$(PYTEST) -m 'not neo4j'
	tests/neo4j.sh --if-possible -m neo4j tests/kg tests/cli tests/study

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

vectors: .venv/installed
	$(BIN)/python -m benchmarks.ship_vectors

wheel: .venv/installed
	$(BIN)/pip wheel --quiet --no-deps -w dist .

clean:
	rm -rf .venv build dist *.egg-info
