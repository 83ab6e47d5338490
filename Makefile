# make demo    train on planted domains, publish, serve on 127.0.0.1:8000   (PORT=…, DATA=folder of MovieLens-1M)
# make test    the whole test suite
# make lint    ruff and the type checker
# make bench   every benchmark of the engine, peers included: docs/benchmarks.md and its plot
# make kernels the native CPU kernel, built and installed (a C++20 compiler and CMake)
# make test-kernels   its C++ fuzz under ASan and UBSan
# make load    a small server under load: finds the knee; a report and a plot of each test in .load/
# make claims-main    every promised number of the main path: figure, bound, verdict
# make claims-store   those of the store and the life cycle
# make claims-operate those of running it (installs Prometheus, HAProxy and image tools from Debian)
# make claims-mamdr   those of MAMDR and its baselines (FULL=1: everything, over hours)
# make claims-multilora   those of MultiLoRA, packed training, the gate and new domains (FULL=1: everything, over many hours)
# make claims-engine  those of the scoring engine, against its peers
# make test-ceph      the store's contract on Ceph RGW (installs it from Debian)
# make test-azure     the store's contract on Azure Blob Storage (installs Azurite, its server for tests, from npm)
.DEFAULT_GOAL := help
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
PORT ?= 8000
DATA ?=

.PHONY: help demo test lint bench load kernels test-kernels claims-main claims-store claims-operate claims-mamdr claims-engine claims-multilora test-ceph test-azure clean

help:
	@sed -n 's/^# //p' Makefile

$(VENV)/.demo-installed: pyproject.toml constraints.txt
	test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -c constraints.txt -e '.[train]'
	touch $@

$(VENV)/.dev-installed: pyproject.toml constraints.txt
	test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -c constraints.txt -e '.[dev]'
	$(MAKE) kernels || echo "espalier-kernels is not built here: the tests of the native engine are skipped"
	touch $@

kernels:
	test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet ./kernels

test-kernels:
	kernels/sanitize.sh 60

$(VENV)/.load-installed: pyproject.toml constraints.txt
	test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -c constraints.txt -e '.[train,load]'
	touch $@

demo: $(VENV)/.demo-installed
	@exec $(BIN)/espalier demo --port $(PORT) $(if $(DATA),--data "$(DATA)")

test: $(VENV)/.dev-installed
	$(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadfile

lint: $(VENV)/.dev-installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# the other servers and runtimes that are compared; without them their lines say that they are absent
$(VENV)/.peers-installed: $(VENV)/.dev-installed
	for peer in openvino mosec litserve; do $(BIN)/pip install --quiet -c constraints.txt $$peer || \
		echo "$$peer cannot be had here: its lines say so"; done
	touch $@

bench: $(VENV)/.peers-installed
	$(BIN)/python -m benchmarks.bench

load: $(VENV)/.load-installed
	$(BIN)/python -m loadtest

claims-main: $(VENV)/.dev-installed
	$(BIN)/python -m benchmarks.claims.main

claims-store: $(VENV)/.dev-installed
	$(BIN)/python -m benchmarks.claims.store

claims-operate: $(VENV)/.dev-installed
	SUDO=$$( [ "$$(id -u)" = 0 ] || echo sudo ); $$SUDO apt-get update -qq && $$SUDO env DEBIAN_FRONTEND=noninteractive \
		apt-get install -y --no-install-recommends prometheus haproxy buildah podman crun debootstrap $$(command -v npm >/dev/null || echo npm)
	$(BIN)/python -m benchmarks.claims.operate

claims-mamdr: $(VENV)/.dev-installed
	$(BIN)/python -m benchmarks.claims.mamdr

claims-multilora: $(VENV)/.dev-installed
	$(BIN)/python -m benchmarks.claims.multilora

claims-engine: $(VENV)/.peers-installed
	$(BIN)/python -m benchmarks.claims.engine

test-ceph: $(VENV)/.dev-installed
	SUDO=$$( [ "$$(id -u)" = 0 ] || echo sudo ); $$SUDO apt-get update -qq && \
	$$SUDO env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends ceph-mon ceph-osd radosgw
	$(BIN)/python -m pytest tests/adapters_store/test_ceph.py

test-azure: $(VENV)/.dev-installed
	mkdir -p build/azurite
	cd build/azurite && npm install --no-audit --no-fund --ignore-scripts azurite@3
	$(BIN)/python -m pytest tests/adapters_store/test_azure.py

clean:
	rm -rf $(VENV) .demo .bench .load build *.egg-info
