# Two commands matter: `make site` and `make test`. Nothing but make and a shell is taken for granted.
VENV := .venv
TEST_VENV := .venv-test
DOCS_VENV := .venv-docs
PYTHON := $(VENV)/bin/python
SHELL := /bin/bash
.DEFAULT_GOAL := help
# Where it is set, hundreds of runs of ansible-playbook would each compile all that they import.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help
help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1|/p' $(MAKEFILE_LIST) | while IFS='|' read -r t d; do printf '  %-14s %s\n' "$$t" "$$d"; done

.PHONY: venv
venv: ## the controller's virtual environment, pinned
	@bootstrap/venv.sh $(VENV) requirements/site.txt
	@bootstrap/link.sh

.PHONY: site
site: ## from a bare machine to an answer: two tiers behind the router, on this machine (options: ARGS=...)
	@VENV=$(VENV) bootstrap/site.sh $(ARGS)

.PHONY: testbed-up
testbed-up: venv ## the tests' own Docker Engine, with simulated GPUs
	@$(PYTHON) tests/testbed/bed.py up

.PHONY: testbed-down
testbed-down: ## stop that engine and all that runs in it
	@test ! -x $(PYTHON) || $(PYTHON) tests/testbed/bed.py down

# --- tests: `make test` runs them all and sets up what they need; `make unit` is for the daily loop ---
T = $(TEST_VENV)/bin
BED = $(T)/python tests/testbed/bed.py
# What takes too long for everybody: `make llama`, `make vllm`.
OPTIONAL := --exclude llama --exclude vllm
# ansible-lint and molecule install a copy of the collection into HOME, and would find an old one there.
SCRATCH_HOME := $(CURDIR)/.cache/home
export PATH := $(CURDIR)/$(TEST_VENV)/bin:$(PATH)
export ANSIBLE_COLLECTIONS_PATH := $(CURDIR)/.cache/collections

# Of the thousands of files in it few are ever imported, and those are compiled then: half of the time.
.PHONY: test-venv
test-venv:
	@bootstrap/venv.sh $(TEST_VENV) requirements/test.txt --no-compile
	@bootstrap/link.sh

.PHONY: unit
unit: test-venv ## unit tests (seconds)
	@bootstrap/docker.sh --client
	@pytest -n auto tests/unit

.PHONY: lint
lint: test-venv ## ruff, mypy --strict, yamllint, ansible-lint (production), shellcheck
	ruff check .
	ruff format --check .
	cd .cache/collections && mypy --config-file $(CURDIR)/pyproject.toml -p ansible_collections.anvil.serving.plugins.module_utils
	cd roles/workflow/files && mypy --config-file $(CURDIR)/pyproject.toml -p anvil_workflow
	git ls-files -z --cached --others --exclude-standard -- '*.yml' '*.yaml' | xargs -0 yamllint --strict
	HOME=$(SCRATCH_HOME) ansible-lint --offline --strict
	antsibull-changelog lint
	@bash -c '. bootstrap/lib.sh; ensure shellcheck shellcheck'
	git ls-files -z --cached --others --exclude-standard | xargs -0 grep -lZE '^#!.*\b(ba)?sh\b' | xargs -0 shellcheck

.PHONY: sanity
sanity: test-venv ## ansible-test sanity, on a copy
	@tests/testbed/ansible-test/sanity.sh $(TEST_VENV)

.PHONY: bed
bed: test-venv
	@tests/testbed/tools.sh
	@$(BED) up
	@$(T)/python tests/testbed/wheels.py

.PHONY: integration
integration: bed ## integration tests on a real Docker Engine with simulated GPUs
	@$(BED) run -- pytest tests/integration

.PHONY: molecule
molecule: bed ## molecule scenarios on simulated hosts
	@HOME=$(SCRATCH_HOME) $(BED) run -- molecule test --all $(OPTIONAL)

.PHONY: llama
llama: bed ## llama.cpp really compiled (minutes, once): the image, the molecule scenario on it, its speed
	@$(T)/python tests/testbed/compiled.py fetch
	@HOME=$(SCRATCH_HOME) $(BED) run -- molecule test --scenario-name llama
	@$(BED) run -- pytest tests/integration/images/test_llama_compiled.py
	@$(T)/python bench/llama_image

.PHONY: vllm
vllm: bed ## the real vLLM, on the CPU and behind the router (600 MB of wheels and some minutes, once)
	@$(T)/python tests/testbed/cpuvllm.py fetch
	@HOME=$(SCRATCH_HOME) $(BED) run -- molecule test --scenario-name vllm

.PHONY: test
test: ## everything, on three engines at a time (but what `make llama` and `make vllm` try); they are stopped at the end
	@{ tests/testbed/tools.sh && bootstrap/roots.sh registry builder dockerhost; } & $(MAKE) --no-print-directory test-venv && wait $$!
	@$(T)/python tests/testbed/lanes.py $(OPTIONAL)

.PHONY: bench
bench: bed ## every benchmark; the last line of each is its ratios
	@for bench in $$(find bench -type f -perm -u+x ! -name llama_image | sort); do $(T)/python $$bench || exit 1; done

.PHONY: docs
docs: ## the documentation as a site, in .cache/docs/html; a warning or a broken link fails it
	@bootstrap/venv.sh $(DOCS_VENV) requirements/docs.txt
	@bootstrap/link.sh
	@docs/site/build.sh $(DOCS_VENV)

.PHONY: clean
clean: ## stop the test-bed and remove all that was generated (what `make site` started keeps running)
	@test ! -x $(PYTHON) || $(PYTHON) tests/testbed/bed.py down --purge
	rm -rf .cache .venv .venv-*
