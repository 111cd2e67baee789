# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
SRC    := silk_nb tests benchmarks tools setup.py

.PHONY: demo test lab bench bench-paper lint docs clean-check

$(READY): settings.ini setup.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "silk_nb needs Python 3.11 or newer: make PYTHON=python3.11 …"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python -e '.[dev]'
	@touch $@

demo: $(READY)
	$(BIN)/silk_nb demo

test: $(READY)
	$(BIN)/python -m pytest -q tests
	$(BIN)/nbdev_test --n_workers 2 --do_print

lab: $(READY)
	$(BIN)/jupyter lab nbs

bench: $(READY)
	$(BIN)/python benchmarks/losses.py
	$(BIN)/python benchmarks/colour.py
	$(BIN)/python benchmarks/store.py
	$(BIN)/python benchmarks/paper_scale.py --variables technique --seeds 1 --workers 2

# All 96 runs of the paper's Table 3: most of an hour.
bench-paper: $(READY)
	$(BIN)/python benchmarks/paper_scale.py --workers 2

lint: $(READY)
	$(BIN)/ruff check $(SRC)

# The site is rendered by quarto; its configuration is _quarto.yml.
docs: $(READY)
	@command -v quarto >/dev/null || \
	  { echo "The site needs quarto ≥ 1.4: see https://quarto.org/docs/get-started/"; exit 1; }
	$(BIN)/nbdev_docs
	$(BIN)/python tools/readme.py  # nbdev has written a README of its own
