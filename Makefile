# Two commands on a fresh machine: `make quickstart` and `make test`.
# They share one set-up, in .venv; PYTHON=python3.12 chooses another interpreter.

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null && echo $$p && break; done)
BIN = .venv/bin
ARGS =

.PHONY: quickstart test test-all check clean

quickstart: .venv/installed
	$(BIN)/folio quickstart $(ARGS)

# One thread a process: with more threads than cores, torch slows down 10 to 30 times.
test: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto -m "not slow" $(ARGS)

test-all: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto $(ARGS)

check: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

.venv/installed: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "FolioGPT needs Python 3.11, 3.12 or 3.13 (transformers 5.23 does); install one, or name it: make PYTHON=/path/to/python3.12"; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch .venv/installed

clean:
	rm -rf .venv build dist *.egg-info
