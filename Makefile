# Everything goes through one virtual environment that these targets make themselves.
VENV   ?= .venv
PYTHON ?= python3
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

.PHONY: setup demo test test-slow faults check format bench clean

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[cpu,plot,train,serve,anndata,dev]'
	@# The page of maps, without what it needs for other things than showing it: torch of its own kind, litellm and more.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt umap-learn
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps embedding-atlas
	touch $(READY)

demo: $(READY)
	$(BIN)/raypipe demo -o demo-atlas

test: $(READY)
	$(BIN)/python -m pytest -m 'not slow' -n 2 --dist loadfile --no-loadscope-reorder

test-slow: $(READY)
	$(BIN)/python -m pytest -m slow

# KILLS=100 SEED=7 make faults
faults: $(READY)
	$(BIN)/python -m tests.faults.storm

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(READY)
	$(BIN)/python -m tests.benchmarks.run

clean:
	rm -rf $(VENV) .bench demo-atlas build dist .pytest_cache .ruff_cache .hypothesis
