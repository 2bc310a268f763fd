# `make help` lists what there is. Each target makes the environment (.venv) if it is missing.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
ARGS ?=
export ARGS SWEEP

# Some images set it, and then every start of torch compiles it anew: 25 s instead of 10.
unexport PYTHONDONTWRITEBYTECODE

AZURITE := .azurite/node_modules/.bin/azurite-blob

.PHONY: help setup train sweep sweeps reproduce report serve test test-slow test-azure bench gpu-check image-test ansible-test azurite lint lock build clean \
	vm-up vm-setup vm-sweep vm-logs vm-pull vm-down vm-cost vm-wheel infra-lint
.DEFAULT_GOAL := help

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo '  ARGS="..." passes overrides: make train ARGS="max_epochs=3 seed=1"'

setup: $(READY) ## make the environment .venv with the locked packages (about 6 GB, two minutes on a fast line)

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v < (3, 14) else f"Python {v[0]}.{v[1]} will not do: use 3.11, 3.12 or 3.13, for example make setup PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet uv
	VIRTUAL_ENV=$(CURDIR)/$(VENV) $(BIN)/uv pip install --require-hashes -r requirements.lock
	VIRTUAL_ENV=$(CURDIR)/$(VENV) $(BIN)/uv pip install --no-deps -e .
	@echo 'Loading everything once, which compiles it.'
	@$(BIN)/python -c 'import pneumonia.training.train'
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

gpu-check: $(READY) ## on a machine with an NVIDIA card: does it train what a CPU trains, how fast, in how much memory
	$(BIN)/python -m benchmarks.gpu_check $(ARGS)

image-test: $(READY) ## the serving image, built and asked with Docker or buildah: make image-test BUNDLE=DIR IMAGE=FILE
	deploy/image_test.sh $(BUNDLE) $(IMAGE)

ansible-test: ## as root: the playbook of the VM on a throw-away Debian that boots here, ten minutes
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

lint: $(READY) ## style, formatting, layers of imports, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy
	$(BIN)/mypy infra/vm.py

# A GPU VM in Google Cloud: docs/gpu-vm.md. infra/vm.py needs nothing but Python; Ansible and the linters have an environment of their own.
VM ?=
INFRA := .venv-infra

vm-up: ## a GPU VM in the first zone that has one, about 0.14 USD an hour as spot VM: make vm-up VM="spot=false"
	@$(PYTHON) infra/vm.py up $(VM)

vm-setup: $(INFRA)/.ready vm-wheel ## installs the project there, ten minutes the first time; vm-sweep does it by itself
	@$(PYTHON) infra/vm.py setup $(ARGS)

vm-sweep: $(INFRA)/.ready vm-wheel ## starts a sweep there: make vm-sweep SWEEP=optimizer ARGS="data=azure backup.place=CONTAINER/PREFIX"
	@$(PYTHON) infra/vm.py sweep "$$SWEEP" --words "$$ARGS"

vm-logs: ## what the sweep there prints, until Ctrl-C
	@$(PYTHON) infra/vm.py logs

vm-pull: ## copies the runs from there into runs/; deletes nothing
	@$(PYTHON) infra/vm.py pull $(ARGS)

vm-down: ## removes the VM with its disk, network and account; works twice
	@$(PYTHON) infra/vm.py down

vm-cost: ## what the VM has cost at most
	@$(PYTHON) infra/vm.py cost

vm-wheel: $(INFRA)/.ready
	@$(INFRA)/bin/pip wheel --quiet --no-deps --wheel-dir dist .

$(INFRA)/.ready: infra/requirements.txt
	$(PYTHON) -m venv $(INFRA)
	$(INFRA)/bin/pip install --quiet -r infra/requirements.txt
	@touch $@

.venv-sky/.ready:
	$(PYTHON) -m venv .venv-sky
	.venv-sky/bin/pip install --quiet skypilot==0.14.1
	@touch $@

infra-lint: $(INFRA)/.ready $(if $(wildcard infra/sky.yaml),.venv-sky/.ready) ## checks of infra/ without a cloud; a missing tool is named, and fails
	@infra/lint.sh

COMPILE := $(BIN)/uv pip compile --python-version 3.11 --no-annotate --no-header --generate-hashes --no-emit-index-url

lock: ## compile requirements.lock and requirements-serve.lock anew from pyproject.toml
	$(COMPILE) pyproject.toml --all-extras --universal -o requirements.lock
	$(COMPILE) --group pyproject.toml:serving --constraint requirements.lock --python-platform x86_64-unknown-linux-gnu -o requirements-serve.lock

build: $(READY) ## the wheel, into dist/
	$(BIN)/uv build --wheel

clean: ## remove decoded caches and build leftovers; runs/ stays
	rm -rf cache build dist .mypy_cache .ruff_cache .pytest_cache
