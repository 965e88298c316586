# make demo: videos -> pairs -> a better model -> an endpoint -> a table, on this machine.
# make cluster-demo: the same jobs, submitted to a cluster of nodes that come and go, and a picture.
# make test: the whole test suite, with the real engines.   make check: the fast part of it.
# the first that runs: a version manager puts shims on the PATH for versions that do not
PYTHON ?= $(firstword $(foreach version,3.11 3.12 3.13,\
	$(shell python$(version) -c pass 2>/dev/null && echo python$(version))) python3)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo cluster-demo check unit test lint format lock wheel clean

demo: $(READY)
	$(BIN)/tempo-ray demo

cluster-demo: $(READY)
	$(BIN)/python -m cluster.local.demo

check: $(READY)
	@$(MAKE) --no-print-directory --jobs=2 lint unit

unit: $(READY)
	$(BIN)/python -m pytest -m "not engine and not slow and not gpu" \
		--ignore=tests/integration --numprocesses=2 --durations=3

# Files are shared out between two processes; the tests of a file share its Ray or its endpoint.
# Then, alone, those whose ranks wait for each other at every collective: on two cores, anything
# beside them holds up both.
test: $(READY)
	$(BIN)/python -m pytest -m "not ranks" --numprocesses=2 --dist=loadfile --no-loadscope-reorder \
		--cov --cov-report= --cov-fail-under=0
	$(BIN)/python -m pytest -m ranks --cov --cov-append

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

$(READY): requirements/cpu.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13) and \
		"tempo_ray needs Python 3.11, 3.12 or 3.13: make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet uv
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --requirement requirements/cpu.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	@touch $(READY)

wheel: $(READY)
	$(BIN)/uv build --quiet --wheel --out-dir dist

# The pinned lists, without addresses. The overrides are in pyproject.toml.
LOCK := $(BIN)/uv pip compile pyproject.toml --python-version 3.11 --no-header --no-annotate --quiet
lock: $(READY)
	$(LOCK) --upgrade --extra cpu --extra dev --output-file requirements/cpu.txt
	$(LOCK) --upgrade --extra gpu --python-platform x86_64-unknown-linux-gnu \
		--output-file requirements/gpu.txt
	# exactly: pip would take 2.13.0+cpu for 2.13.0 where an index has it, and torchvision not load
	sed -i -E 's/^(torch|torchvision)==([0-9])/\1===\2/' requirements/cpu.txt requirements/gpu.txt

clean:
	rm -rf $(VENV) runs build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage
