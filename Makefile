# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
SRC    := silk_nb tests benchmarks tools setup.py

.PHONY: demo test lab bench bench-gpu bench-paper lint docs quarto

$(READY): settings.ini setup.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "silk_nb needs Python 3.11 or newer: make PYTHON=python3.11 …"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python -e '.[dev]'
	@touch $@

demo: $(READY)
	$(BIN)/silk_nb demo

test: $(READY)
	$(BIN)/python -m pytest -q tests
	$(BIN)/python tools/pages.py --workers 2

lab: $(READY)
	$(BIN)/jupyter lab nbs

bench: $(READY)
	for subject in losses colour samplers store losses_in_training rows; do \
	  $(BIN)/python benchmarks/$$subject.py --json benchmarks/results/$$subject.json || exit 1; done
	$(BIN)/python benchmarks/fine_tuning.py --small --json benchmarks/results/fine_tuning.json
	$(BIN)/python benchmarks/paper_scale.py --variables technique --seeds 1 --workers 2

# ResNet152 at 224 px in bf16, against the bare network.
bench-gpu: $(READY)
	$(BIN)/python benchmarks/fine_tuning.py --json benchmarks/results/fine_tuning_gpu.json

# All 96 runs of the paper's Table 3: most of an hour.
bench-paper: $(READY)
	$(BIN)/python benchmarks/paper_scale.py --workers 2

lint: $(READY)
	$(BIN)/ruff check $(SRC)

# The site is rendered by quarto; its configuration is _quarto.yml.
docs: quarto $(READY)
	$(BIN)/nbdev_docs
	$(BIN)/python tools/readme.py  # nbdev has written a README of its own
	@echo "The site is in _docs: open _docs/index.html"

quarto:
	@command -v quarto >/dev/null || { \
	  echo "The site is rendered by quarto (1.9 and 1.10 are known to work), which is not here."; \
	  echo "Install it from https://quarto.org/docs/get-started/ , or by one of"; \
	  echo "  brew install --cask quarto"; \
	  echo "  conda install -c conda-forge quarto"; \
	  echo "then run make docs again. The pages can be read without it: make lab"; \
	  exit 1; }
