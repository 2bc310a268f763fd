# `make help` lists what there is. Each target makes the environment (.venv) if it is missing.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
ARGS ?=

# Some images set it, and then every start of torch compiles it anew: 25 s instead of 10.
unexport PYTHONDONTWRITEBYTECODE

AZURITE := .azurite/node_modules/.bin/azurite-blob

.PHONY: help setup train sweep sweeps reproduce report serve test test-slow test-azure bench image-test ansible-test azurite lint lock build clean
.DEFAULT_GOAL := help

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo '  ARGS="..." passes overrides: make train ARGS="max_epochs=3 seed=1"'

setup: $(READY) ## make the environment .venv with the locked packages (about 6 GB, two minutes on a fast line)

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v < (3, 14) else f"Python {v[0]}.{v[1]} will not do: use 3.11, 3.12 or 3.13, for example make setup PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet uv
	VIRTUAL_ENV=$(CURDIR)/$(VENV) $(BIN)/uv pip install --require-hashes -r requirements.lock
	VIRTUAL_ENV=$(CURDIR)/$(VENV) $(BIN)/uv pip install --no-deps -e .
	@echo 'Loading everything once, which compiles it.'
	@$(BIN)/python -c 'import pneumonia.train'
	@touch $@

train: $(READY) ## one training run; on drawn phantoms unless ARGS names data
	$(BIN)/pneumonia train $(ARGS)

sweep: $(READY) ## every job of sweeps/NAME.yaml: make sweep NAME=optimizer
	@[ -n "$(NAME)" ] || { echo 'Which sweep? make sweep NAME=optimizer; `make sweeps` does all of them. There are: $(SWEEPS) search'; exit 2; }
	$(BIN)/pneumonia sweep $(NAME) $(ARGS)

SWEEPS := perceptron_schedules mlp optimizer learning_rate learning_rate_one_cycle batch_size image_size augmentation activation \
	cross_validation final final_kfold kfold learning_curve seeds families backbones logistic_regression

sweeps: $(READY) ## every sweep, the quick ones first; call it again and it goes on
	@failed=""; for name in $(SWEEPS); do $(BIN)/pneumonia sweep $$name $(ARGS) || { code=$$?; [ $$code -eq 1 ] || exit $$code; failed="$$failed $$name"; }; done; \
	[ -z "$$failed" ] || { echo "Not all jobs are done in:$$failed"; exit 1; }

PRESET ?= smoke

reproduce: $(READY) ## the study from sweeps to report: PRESET=smoke (drawn phantoms, minutes), cpu or full with ARGS="data=folder data.root=DIR"
	$(BIN)/pneumonia reproduce preset=$(PRESET) $(ARGS)

RUNS ?= runs

report: $(READY) ## which differences between runs are real, into report/: make report RUNS=runs/optimizer
	$(BIN)/pneumonia report $(RUNS) $(ARGS)

BUNDLE ?= bundle

serve: $(READY) ## a bundle of `pneumonia export` behind HTTP, with a page: make serve BUNDLE=bundle
	$(BIN)/pneumonia serve $(BUNDLE) $(ARGS)

test: $(READY) ## the tests; PNEUMONIA_XRAYS=DIR adds those on real X-rays
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" -n logical --maxprocesses 4 --dist worksteal $(ARGS)

test-slow: $(READY) ## the tests that take minutes
	$(BIN)/python -m pytest -m slow $(ARGS)

bench: $(READY) ## how near the machine's limit, how far ahead of hand-written code: a table, and docs/results/bench-DEVICE.json
	$(BIN)/python -m benchmarks.bench $(ARGS)

image-test: $(READY) ## the serving image, built and asked with Docker or buildah: make image-test BUNDLE=DIR IMAGE=FILE
	deploy/image_test.sh $(BUNDLE) $(IMAGE)

ansible-test: ## the playbook of GPU machines on a throw-away Debian that boots here: root, debootstrap, systemd-nspawn, ten minutes
	infra/ansible/try.sh

test-azure: $(READY) $(AZURITE) ## the tests of Blob Storage alone, against the emulator Azurite
	$(BIN)/python -m pytest tests/storage $(ARGS)

azurite: $(AZURITE) ## an emulator of Blob Storage on 127.0.0.1:10000, empty, until Ctrl-C (npm installs it into .azurite/)
	@echo 'In another terminal, with the key that every Azurite has:'
	@echo "  export AZURE_STORAGE_CONNECTION_STRING='DefaultEndpointsProtocol=http;AccountName=devstoreaccount1;AccountKey=Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==;BlobEndpoint=http://127.0.0.1:10000/devstoreaccount1;'"
	$(AZURITE) --blobHost 127.0.0.1 --blobPort 10000 --silent --disableTelemetry --skipApiVersionCheck --inMemoryPersistence

$(AZURITE):
	@command -v npm > /dev/null || { echo 'npm is missing, and Azurite comes with it: install Node.js 20 or newer.'; exit 1; }
	npm install --no-audit --no-fund --prefix .azurite azurite@3

lint: $(READY) ## style, types, formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

COMPILE := $(BIN)/uv pip compile --python-version 3.11 --no-annotate --no-header --generate-hashes --no-emit-index-url

lock: ## compile requirements.lock and requirements-serve.lock anew from pyproject.toml
	$(COMPILE) pyproject.toml --all-extras --universal -o requirements.lock
	$(COMPILE) --group pyproject.toml:serving --constraint requirements.lock --python-platform x86_64-unknown-linux-gnu -o requirements-serve.lock

build: $(READY) ## the wheel, into dist/
	$(BIN)/uv build --wheel

clean: ## remove decoded caches and build leftovers; runs/ stays
	rm -rf cache build dist .mypy_cache .ruff_cache .pytest_cache
