# Two commands do everything on a fresh machine: `make demo` and `make test`. Both install first.
.DEFAULT_GOAL := help
PYTHON ?= python3
PYTHON312 ?= python3.12
UV_VERSION := 0.13.8
BIN := .venv/bin
INSTALLED := .venv/.installed
UV := build/uv/bin/uv
# uv does not read pip's configuration: give it the package index that pip has been told to use
WITH_INDEX = index="$${UV_DEFAULT_INDEX:-$${PIP_INDEX_URL:-$$($(UV:uv=pip) config get global.index-url 2>/dev/null)}}"; \
  test -z "$$index" || export UV_DEFAULT_INDEX="$$index";
PYTEST := $(BIN)/python -m pytest
# a file's tests stay together: many share a store or a Ray; in their order, the long ones do not come last
WORKERS ?= 2
PYTEST_SPREAD := $(PYTEST) --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder
SIBLINGS := cluster configs data_prep kernels
VIEW := build/view/histodiff
# each process would compile torch's and Ray's sources anew: 5 s of CPU to import torch instead of 2
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help install system demo test test-integration test-real test-ceph test-faults test-browser test-export test-slow test-fuzz test-e2e bench-peers bench-loader bench-train-peers bench-train bench-slabs check format view types layers lock wheel

help:   # the targets
	@grep -E '^[a-z-]+:.*#' $(MAKEFILE_LIST) | sed -E 's/:[^#]*#/ -/'

demo: install   # the whole chain on generated slides; prints where report.html is
	$(BIN)/histodiff demo

test: install   # tests that pass anywhere: unit and integration; WORKERS=0 is one process
	$(PYTEST_SPREAD)

test-integration: install   # the part of `make test` that is not in `make check`
	$(PYTEST_SPREAD) tests --ignore tests/unit

test-real: install   # tests on real slides in ../shared/data; fail without them
	$(PYTEST) -m "real_data and not slow"

test-ceph: install   # tests against a real S3 server, Ceph's gateway
	$(PYTEST) -m "ceph and not slow"

test-faults: install   # 20 runs of encode, killed and disturbed at random, on Ceph's gateway
	$(PYTEST) -m "slow and ceph" tests/faults

test-browser: install   # pages in a real browser: chromium and chromium-driver
	$(PYTEST) -m browser

test-export: install   # an exported folder in build/export: an environment with diffusers alone
	test -x build/export/bin/python || $(PYTHON) -m venv --without-pip build/export
	$(WITH_INDEX) $(UV) pip install --python build/export/bin/python --constraint requirements.lock \
	  diffusers torch safetensors
	$(PYTEST) -m export

test-slow: install   # tests that take more than a minute each
	$(PYTEST) -m "slow and not ceph"

test-fuzz: install   # 2,000 random inputs of every kind that people write
	$(PYTEST) -m fuzz --hypothesis-profile=fuzz

test-e2e: install   # the whole chain, as tests
	$(PYTEST) -m e2e

bench-peers: install   # build/peers/bin/python for the peers of `bench loader`
	test -x build/peers/bin/python || $(BIN)/python -m venv --without-pip build/peers
	$(WITH_INDEX) $(UV) pip install --python build/peers/bin/python -r tests/benchmarks/peers/requirements.txt

bench-loader: install   # `bench loader` with its peers (make bench-peers) and Ceph's gateway
	mkdir -p build/bench
	$(BIN)/python -m tests.benchmarks.loader_on_ceph folder=build/bench peers=build/peers/bin/python

bench-train-peers: install   # build/peers-train/bin/python for the Accelerate loop of `bench train`
	test -x build/peers-train/bin/python || $(BIN)/python -m venv --without-pip build/peers-train
	$(WITH_INDEX) $(UV) pip install --python build/peers-train/bin/python \
	  -r tests/benchmarks/peers/requirements-train.txt

bench-train: install   # `bench train` with the Accelerate loop (make bench-train-peers)
	$(BIN)/histodiff bench train --json peers=build/peers-train/bin/python

bench-slabs: install   # the table of what reads a slab; PYTHON312=... names an interpreter
	test -x build/slabs-3.11/bin/python || $(BIN)/python -m venv --without-pip build/slabs-3.11
	test -x build/slabs-3.12/bin/python || $(PYTHON312) -m venv --without-pip build/slabs-3.12
	$(WITH_INDEX) for version in 3.11 3.12; do $(UV) pip install --python build/slabs-$$version/bin/python \
	  -r tests/benchmarks/slabs/requirements-$$version.txt || exit 1; done
	mkdir -p build/bench
	$(BIN)/python -m tests.benchmarks.slabs.slab_table --folder build/bench \
	  build/slabs-3.11/bin/python build/slabs-3.12/bin/python

check: install view   # format, lint, types, layers, unit tests: what every change must pass
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy -p histodiff
	cd build/view && ../../$(BIN)/lint-imports --no-cache --config ../../pyproject.toml
	$(PYTEST_SPREAD) tests/unit

format: install   # formats the code and mends what ruff can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

types: install view   # mypy alone
	$(BIN)/mypy -p histodiff

layers: install view   # import-linter alone
	cd build/view && ../../$(BIN)/lint-imports --no-cache --config ../../pyproject.toml

view:   # the installed shape of the package, as symlinks, for tools that resolve imports statically
	@rm -rf build/view && mkdir -p $(addprefix $(VIEW)/,$(SIBLINGS))
	@ln -s $(CURDIR)/histodiff/* $(VIEW)/
	@for s in $(SIBLINGS); do ln -s $(CURDIR)/$$s/* $(VIEW)/$$s/; touch $(VIEW)/$$s/__init__.py; done

install: $(INSTALLED)   # .venv with the locked dependencies and this checkout

$(INSTALLED): requirements.lock pyproject.toml
	@$(MAKE) --no-print-directory system
	test -x $(UV) || { $(PYTHON) -m venv build/uv && build/uv/bin/pip install --quiet uv==$(UV_VERSION); }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(WITH_INDEX) $(UV) pip install --python $(BIN)/python --require-hashes -r requirements.lock
	$(UV) pip uninstall --quiet --python $(BIN)/python histodiff   # the other one would overwrite this
	$(WITH_INDEX) $(UV) pip install --python $(BIN)/python --no-deps -e .
	touch $(INSTALLED)

system:   # checks for Python and compilers, and names the Debian packages that are missing
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "error: $(PYTHON) is older than 3.11, or missing; run: make PYTHON=python3.11 ..." >&2; exit 2; }
	@missing=""; \
	for tool in g++ git; do command -v $$tool >/dev/null || missing="$$missing $$tool"; done; \
	$(PYTHON) -c 'import ensurepip' 2>/dev/null || missing="$$missing python3-venv"; \
	$(PYTHON) -c 'import pathlib, sys, sysconfig; \
	  sys.exit(not (pathlib.Path(sysconfig.get_path("include")) / "Python.h").is_file())' \
	  || missing="$$missing python3-dev"; \
	test -z "$$missing" || { echo "error: missing; run: apt-get install -y$$missing" >&2; exit 2; }

lock: $(INSTALLED)   # requirements.lock anew from pyproject.toml: names, versions and hashes, no addresses
	$(WITH_INDEX) $(UV) pip compile pyproject.toml --extra dev --generate-hashes --python-version 3.11 \
	  --python-platform x86_64-manylinux_2_28 --no-emit-index-url --no-annotate --no-header \
	  -o requirements.lock

wheel: install   # dist/histodiff_train-*.whl
	$(WITH_INDEX) $(UV) build --python $(BIN)/python --wheel --out-dir dist

golden: install   # tests/golden/configs anew; look at the difference before you commit it
	$(BIN)/python -m tests.support.golden_configs
