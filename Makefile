# `make help` lists the targets. Each creates the environment (.venv) if it is missing.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
ARGS ?=
export ARGS SWEEP

# Some images set it; every start of torch then compiles it again: 25 s instead of 10.
unexport PYTHONDONTWRITEBYTECODE

AZURITE := .azurite/node_modules/.bin/azurite-blob

.PHONY: help setup train sweep sweeps reproduce report serve test coverage test-slow test-azure examples bench gpu-check image-test ansible-test azurite lint lock build clean \
	vm-up vm-setup vm-sweep vm-logs vm-pull vm-down vm-cost vm-wheel infra-lint
.DEFAULT_GOAL := help

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo '  ARGS="..." passes overrides: make train ARGS="max_epochs=3 seed=1"'

setup: $(READY) ## create the environment .venv with the locked packages (about 6 GB)

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v < (3, 14) else f"Python {v[0]}.{v[1]} will not do: use 3.11, 3.12 or 3.13, for example make setup PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet uv
	VIRTUAL_ENV=$(CURDIR)/$(VENV) $(BIN)/uv pip install --require-hashes -r requirements.lock
	VIRTUAL_ENV=$(CURDIR)/$(VENV) $(BIN)/uv pip install --no-deps -e .
	@echo 'Importing once to compile the bytecode.'
	@$(BIN)/python -c 'import pneumonia.training.train'
	@touch $@

train: $(READY) ## one training run, on phantoms unless ARGS names data
	$(BIN)/pneumonia train $(ARGS)

sweep: $(READY) ## every job of sweeps/NAME.yaml: make sweep NAME=optimizer
	@[ -n "$(NAME)" ] || { echo 'Which sweep? make sweep NAME=optimizer; `make sweeps` does all of them. Sweeps: $(SWEEPS) search'; exit 2; }
	$(BIN)/pneumonia sweep $(NAME) $(ARGS)

SWEEPS := perceptron_schedules mlp optimizer learning_rate learning_rate_one_cycle batch_size image_size augmentation activation \
	cross_validation final final_kfold kfold learning_curve seeds families backbones logistic_regression

sweeps: $(READY) ## every sweep, the quick ones first; rerun it to resume
	@failed=""; for name in $(SWEEPS); do $(BIN)/pneumonia sweep $$name $(ARGS) || { code=$$?; [ $$code -eq 1 ] || exit $$code; failed="$$failed $$name"; }; done; \
	[ -z "$$failed" ] || { echo "Not all jobs are done in:$$failed"; exit 1; }

PRESET ?= smoke

reproduce: $(READY) ## the study from sweeps to report: PRESET=smoke (phantoms, minutes), cpu or full with ARGS="data=folder data.root=DIR"
	$(BIN)/pneumonia reproduce preset=$(PRESET) $(ARGS)

RUNS ?= runs

report: $(READY) ## compare runs, into report/: make report RUNS=runs/optimizer
	$(BIN)/pneumonia report $(RUNS) $(ARGS)

BUNDLE ?= bundle

serve: $(READY) ## serve a bundle of `pneumonia export` over HTTP, with a page: make serve BUNDLE=bundle
	$(BIN)/pneumonia serve $(BUNDLE) $(ARGS)

test: $(READY) ## the tests; PNEUMONIA_XRAYS=DIR adds those on real X-rays
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" -n logical --maxprocesses 4 --dist worksteal $(ARGS)

coverage: $(READY) ## the tests, with the coverage of each module; fails below 93 %
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" -n logical --maxprocesses 4 --dist worksteal --cov=pneumonia --cov-report=term $(ARGS)

test-slow: $(READY) ## the tests that take minutes
	$(BIN)/python -m pytest -m slow $(ARGS)

bench: $(READY) ## measure speed beside hand-written code and the machine's limit; writes docs/results/bench-DEVICE.json
	$(BIN)/python -m benchmarks.bench $(ARGS)

gpu-check: $(READY) ## compare training on an NVIDIA GPU with training on the CPU
	$(BIN)/python -m benchmarks.gpu_check $(ARGS)

image-test: $(READY) ## build and test the serving image with Docker or buildah: make image-test BUNDLE=DIR IMAGE=FILE
	deploy/image_test.sh $(BUNDLE) $(IMAGE)

ansible-test: ## as root: test the playbook of the VM on a temporary Debian, ten minutes
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

examples: $(READY) ## run examples/*.py as notebooks and keep their tables and pictures in examples/*.ipynb
	OMP_NUM_THREADS=1 $(BIN)/python docs/notebooks.py $(ARGS)

lint: $(READY) ## check style, formatting, import layers and types
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

vm-setup: $(INFRA)/.ready vm-wheel ## install the project on the VM, ten minutes the first time; vm-sweep does it if necessary
	@$(PYTHON) infra/vm.py setup $(ARGS)

vm-sweep: $(INFRA)/.ready vm-wheel ## start a sweep on the VM: make vm-sweep SWEEP=optimizer ARGS="data=azure backup.place=CONTAINER/PREFIX"
	@$(PYTHON) infra/vm.py sweep "$$SWEEP" --overrides "$$ARGS"

vm-logs: ## show the output of the sweep until Ctrl-C
	@$(PYTHON) infra/vm.py logs

vm-pull: ## copy the runs of the VM into runs/; deletes nothing
	@$(PYTHON) infra/vm.py pull $(ARGS)

vm-down: ## remove the VM with its disk, network and account
	@$(PYTHON) infra/vm.py down

vm-cost: ## print the maximum cost of the VM
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

infra-lint: $(INFRA)/.ready $(if $(wildcard infra/sky.yaml),.venv-sky/.ready) ## check infra/ without a cloud; fails if a tool is missing
	@infra/lint.sh

COMPILE := $(BIN)/uv pip compile --python-version 3.11 --no-annotate --no-header --generate-hashes --no-emit-index-url

lock: ## compile requirements.lock and requirements-serve.lock from pyproject.toml
	$(COMPILE) pyproject.toml --all-extras --universal -o requirements.lock
	$(COMPILE) --group pyproject.toml:serving --constraint requirements.lock --python-platform x86_64-unknown-linux-gnu -o requirements-serve.lock

build: $(READY) ## build the wheel into dist/
	$(BIN)/uv build --wheel

clean: ## remove caches and build files; keeps runs/
	rm -rf cache build dist .mypy_cache .ruff_cache .pytest_cache
