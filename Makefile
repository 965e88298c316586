# make demo: videos -> pairs -> a better model -> an endpoint -> a table, on this machine.   make test: the test suite.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test lint format lock clean

demo: $(READY)
	$(BIN)/python jobs/demo.py

test: $(READY)
	$(BIN)/python -m pytest

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

$(READY): requirements/cpu.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "tempo_ray needs Python 3.11 or newer: make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet uv
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --requirement requirements/cpu.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	@touch $(READY)

# The pinned lists, without addresses. The overrides stand in pyproject.toml.
lock: $(READY)
	$(BIN)/uv pip compile pyproject.toml --upgrade --extra cpu --extra dev --python-version 3.11 --no-header --no-annotate --quiet --output-file requirements/cpu.txt
	$(BIN)/uv pip compile pyproject.toml --upgrade --extra gpu --python-version 3.11 --python-platform x86_64-unknown-linux-gnu --no-header --no-annotate --quiet --output-file requirements/gpu.txt

clean:
	rm -rf $(VENV) runs build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
