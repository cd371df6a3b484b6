# verl.baremetal: `make site` installs the stack on this machine, `make test` runs every check; `make help` lists the rest.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help

ROOT := $(patsubst %/,%,$(dir $(abspath $(lastword $(MAKEFILE_LIST)))))
TREE := $(ROOT)/.tree
COLLECTION := $(TREE)/ansible_collections/verl/baremetal
ARGS ?=

# The virtual environment comes first: molecule and ansible-lint look for ansible's programs on PATH.
export PATH := $(ROOT)/.venv/bin:$(PATH)
export ANSIBLE_COLLECTIONS_PATH := $(TREE)
export ANSIBLE_CONFIG := $(ROOT)/ansible.cfg
# The local inventory runs everything with the controller's own Python, never with whatever discovery finds.
export PYTHONUNBUFFERED := 1

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 16

.PHONY: venv
venv: ## make .venv with what `make site` needs
	@sh tools/venv.sh controller

.PHONY: venv-dev
venv-dev: ## make .venv with the test tools too
	@sh tools/venv.sh dev

.PHONY: tree
tree: ## make .tree, where ansible finds this checkout as verl.baremetal
	@if [ "$$(readlink $(COLLECTION) 2>/dev/null || true)" != "$(ROOT)" ]; then \
		mkdir -p $(dir $(COLLECTION)) && ln -sfn $(ROOT) $(COLLECTION); fi

.PHONY: site
site: venv tree ## install the stack on this machine (ARGS="-e ... --check")
	@cd $(ROOT) && exec ansible-playbook -i inventories/local site.yml $(ARGS)

.PHONY: verify
verify: venv tree ## compare this machine with the stack
	@cd $(ROOT) && exec ansible-playbook -i inventories/local playbooks/verify.yml $(ARGS)

.PHONY: test
test: ## every check, as CI runs it
	@bash tests/ci/test.sh

.PHONY: lint
lint: venv-dev tree ## yamllint, ruff, mypy, ansible-lint
	@bash tests/ci/lint.sh

.PHONY: unit
unit: venv-dev tree ## unit tests (ARGS="tests/unit/test_tree.py -k name")
	@cd $(ROOT) && exec pytest -q $(if $(ARGS),$(ARGS),tests/unit -n 2)

.PHONY: integration
integration: venv-dev tree ## the installer with real uv and a small stack: kills, full disks, wrong hashes
	@cd $(ROOT) && exec pytest -q $(if $(ARGS),$(ARGS),tests/integration -n 2)

.PHONY: sanity
sanity: venv-dev tree ## ansible-test sanity (ARGS="--test validate-modules")
	@bash tests/ci/sanity.sh $(ARGS)

.PHONY: docker
docker: ## install and start docker and make the base image of the tests
	@bash tests/ci/docker.sh

.PHONY: molecule
molecule: venv-dev tree docker ## every molecule scenario of CI
	@python3 tests/ci/scenarios.py $(SCENARIOS)

.PHONY: scenario
scenario: venv-dev tree docker ## one molecule scenario: SCENARIO=name [STEP=converge]
	@bash tests/ci/scenario.sh "$(SCENARIO)" "$(if $(STEP),$(STEP),test)" $(ARGS)

.PHONY: bench
bench: venv-dev tree ## benchmarks (BENCH="version_check switch") into docs/benchmarks.md; needs 35 GB and an hour
	@python tests/benchmarks/run.py $(BENCH)

.PHONY: test-flash-attention
test-flash-attention: venv tree ## by hand, 3 CPU-hours: FlashAttention built whole with nvcc 12.4 or that of --cuda-home, interrupted and resumed (ARGS="--help")
	@python tests/heavy/flash_attention.py $(ARGS)

.PHONY: relock
relock: venv tree ## make the stacks' locks anew from stack.yml and relock.yml
	@cd $(ROOT) && for inputs in roles/stack/files/*/relock.yml; do python tools/relock.py "$$(dirname $$inputs)"; done

.PHONY: relock-tools
relock-tools: venv ## resolve requirements/*.txt anew from pyproject.toml
	@sh tools/relock-tools.sh

.PHONY: changelog
changelog: venv-dev tree ## check the changelog's fragments
	@cd $(COLLECTION) && exec antsibull-changelog lint

.PHONY: clean
clean: ## remove what was made here: .venv, .tree, logs
	@rm -rf .venv .tree .ansible .logs tests/output .mypy_cache .ruff_cache .pytest_cache
