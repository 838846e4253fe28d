# make demo: the environment, then the demo.   make test: lint, types, tests (about 8 minutes).   make test-slow: campaigns.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-slow check data bench clean

demo: .venv/run
	$(BIN)/largebatch demo

test: .venv/dev data check
	$(BIN)/pytest -n 2 --dist worksteal

test-slow: .venv/dev data
	$(BIN)/pytest -m slow

check: .venv/dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright

# What the package needs to run.
.venv/run: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable .
	touch $@

# And what its developers need.
.venv/dev: .venv/run
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

# Fashion-MNIST and Chromium as Debian packages, where apt is at hand; tests that need them say so and skip where they are not.
data:
	@test -d /usr/share/datasets/fashion-mnist || ! command -v apt-get >/dev/null || \
	  { apt-get update -qq && apt-get install -y -qq dataset-fashion-mnist; } || \
	  echo "Fashion-MNIST is not here: its tests will be skipped (apt-get install dataset-fashion-mnist)"
	@test -x /usr/bin/chromium || \
	  { command -v apt-get >/dev/null && apt-get update -qq && apt-get install -y -qq chromium; } || \
	  echo "Chromium is not here: the tests of the page in a browser will be skipped (apt-get install chromium)"

# The peers that benchmarks compare with live in an environment of their own.
.venv-bench/done: benchmarks/requirements.txt benchmarks/requirements-bare.txt constraints.txt
	$(PYTHON) -m venv .venv-bench
	.venv-bench/bin/pip install --quiet --constraint constraints.txt torch
	.venv-bench/bin/pip install --quiet --constraint constraints.txt --requirement benchmarks/requirements.txt --editable .
	.venv-bench/bin/pip install --quiet --no-deps --requirement benchmarks/requirements-bare.txt
	touch $@

bench: .venv-bench/done data
	.venv-bench/bin/python benchmarks/train_speed.py
	.venv-bench/bin/python benchmarks/ghost_batchnorm.py
	.venv-bench/bin/python benchmarks/curvature_speed.py

clean:
	rm -rf .venv .venv-bench
