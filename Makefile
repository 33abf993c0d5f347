# Two commands on a fresh machine: `make quickstart` and `make test`.
# They share one set-up, in .venv; PYTHON=python3.12 chooses another interpreter.

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null && echo $$p && break; done)
BIN = .venv/bin
ARGS =

.PHONY: quickstart book site test test-all test-oldest test-newest clean-newest test-gpu check clean

quickstart: .venv/installed
	$(BIN)/folio quickstart $(ARGS)

# One thread a process: with more threads than cores, torch slows down 10 to 30 times. A file's tests stay in one process,
# which makes what they share once; tests/conftest.py has put the files in order.
PYTEST = python -m pytest -n auto --dist loadfile --no-loadscope-reorder

test: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/$(PYTEST) -m "not slow" $(ARGS)

test-all: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/$(PYTEST) $(ARGS)

# The ends of what pyproject.toml allows: exactly its floors, and the newest of everything. Each in a new environment.
test-oldest: .venv-oldest/requirements.txt
.venv-oldest/requirements.txt: pyproject.toml
	rm -rf .venv-oldest
	$(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/python -m pip install --quiet packaging uv
	.venv-oldest/bin/python tests/floors.py > .venv-oldest/floors.txt
	.venv-oldest/bin/uv pip compile --quiet --python .venv-oldest/bin/python --resolution lowest-direct \
		--extra dev --constraints .venv-oldest/floors.txt pyproject.toml --output-file $@

test-newest: clean-newest
clean-newest:
	rm -rf .venv-newest
	$(PYTHON) -m venv .venv-newest
	touch .venv-newest/requirements.txt

test-oldest test-newest: test-%:
	.venv-$*/bin/python -m pip install --quiet --use-pep517 -r .venv-$*/requirements.txt -e '.[dev]'
	.venv-$*/bin/python -m pip list | grep -iE '^(torch|transformers|tokenizers|datasets|accelerate|peft|trl|chromadb) '
	OMP_NUM_THREADS=1 .venv-$*/bin/$(PYTEST) -m "not slow" $(ARGS)

# As if on a GPU, whose kernels are the CPU's; needs a torch that is built for CUDA, which test-oldest has installed.
AS_ON_A_GPU = .venv-oldest/bin/python tests/gpu_stand_in/run.py .venv-oldest/bin/python
test-gpu:
	.venv-oldest/bin/python -m pytest -q tests/test_gpu_stand_in.py
	$(AS_ON_A_GPU) -m benchmarks.gpu --tiny --minutes 30
	$(AS_ON_A_GPU) -m pytest -q -m "not slow" tests/training/finetuning/test_finetuning.py \
		-k "learns_and_is_loaded or reference or assistant or bf16 or forges" $(ARGS)

# The chapters, executed; ARGS=05 builds one. The site needs no network, neither to be built nor to be read.
book: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python notebooks/build_book.py $(ARGS)

site: .venv/installed
	$(BIN)/python -m sphinx -q -W --keep-going -c docs/site . build/site
	@echo "build/site/index.html"

check: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

# An older pip would else run the setup.py of some packages, which fails.
.venv/installed: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "FolioGPT needs Python 3.11, 3.12 or 3.13 (transformers 5.23 does); install one, or name it: make PYTHON=/path/to/python3.12"; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --use-pep517 -c constraints.txt -e '.[dev]'
	touch .venv/installed

clean:
	rm -rf .venv .venv-oldest .venv-newest build dist *.egg-info
