# Every target makes its own virtual environment when it is missing or older than the files that define it.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
STAMP := .venv/.stamp
WORKERS ?= 2
export OMP_NUM_THREADS ?= 1

.PHONY: help env demo test slow lint docs tutorials bench mutants release clean

help:
	@echo "make demo   train two VAEs on real digits and draw them into demo_output/"
	@echo "make test   the default test suite, doctests included (make slow: the long grids)"
	@echo "make lint   ruff and mypy"
	@echo "make docs   run every tutorial in its quick mode, then HTML into docs/_build/html; warnings are errors"
	@echo "make tutorials  run the tutorials in full and write their pages (make tutorials ARGS=directions: one)"
	@echo "make mutants  what share of one-token mistakes the default suite notices (an hour)"
	@echo "make bench  timings against named peers"
	@echo "make release  build the wheel, install it into an empty environment and use it there"
	@echo "make clean  remove what the others made, .venv included"

env: $(STAMP)

$(STAMP): setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check --quiet -c constraints.txt -e ".[dev]"
	touch $@

demo: $(STAMP)
	OMP_NUM_THREADS=2 $(BIN)/python -m pyro_manifold.demo $(ARGS)

test: $(STAMP)
	$(BIN)/python -m pytest -q -n $(WORKERS) $(ARGS)

slow: $(STAMP)
	$(BIN)/python -m pytest -q -n $(WORKERS) -m slow $(ARGS)

lint: $(STAMP)
	$(BIN)/python -m ruff check .
	$(BIN)/python -m mypy

docs: $(STAMP)
	$(BIN)/python -m pytest -q -m "slow or not slow" tests/tutorials
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

tutorials: $(STAMP)
	$(BIN)/python docs/make_tutorials.py $(ARGS)

bench: $(STAMP)
	@for f in tests/benchmarks/bench_*.py; do echo "== $$f"; $(BIN)/python $$f || exit 1; done

mutants: $(STAMP)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet -c constraints.txt -e ".[dev,mutants]"
	$(BIN)/python tests/benchmarks/mutants.py $(ARGS)

release: $(STAMP)
	$(BIN)/python tests/release/check.py $(ARGS)

clean:
	rm -rf .venv build dist docs/_build demo_output mutants release .pytest_cache .mypy_cache .ruff_cache *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
