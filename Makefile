# The two main commands are `make site` and `make test`. Only make and a shell must be installed beforehand.
VENV := .venv
TEST_VENV := .venv-test
DOCS_VENV := .venv-docs
PYTHON := $(VENV)/bin/python
SHELL := /bin/bash
.DEFAULT_GOAL := help
# With it set, each of hundreds of ansible-playbook runs would compile every module that it imports.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help
help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1|/p' $(MAKEFILE_LIST) | while IFS='|' read -r t d; do printf '  %-14s %s\n' "$$t" "$$d"; done

.PHONY: venv
venv: ## create the controller's virtual environment with pinned versions
	@bootstrap/venv.sh $(VENV) requirements/site.txt
	@bootstrap/link.sh

.PHONY: site
site: ## bring up two tiers behind the router on this machine and ask each one (options: ARGS=...)
	@VENV=$(VENV) bootstrap/site.sh $(ARGS)

.PHONY: host
host: venv ## write the inventory of a host: HOST=192.0.2.10 NAME=my-host (this machine: HOST=localhost ARGS="-c local")
	@test -n "$(HOST)" -a -n "$(NAME)" || { echo 'usage: make host HOST=192.0.2.10 NAME=my-host [ARGS="-u ops"]' >&2; exit 2; }
	@$(VENV)/bin/ansible-playbook playbooks/init.yml -i '$(NAME),' -e 'ansible_host=$(HOST)' $(ARGS)

.PHONY: testbed-up
testbed-up: venv ## start the test-bed: a Docker Engine of its own with simulated GPUs
	@$(PYTHON) tests/testbed/bed.py up

.PHONY: testbed-down
testbed-down: ## stop the test-bed and everything that runs in it
	@test ! -x $(PYTHON) || $(PYTHON) tests/testbed/bed.py down

# --- tests: `make test` installs what the tests need and runs all of them; `make unit` is the daily check ---
T = $(TEST_VENV)/bin
BED = $(T)/python tests/testbed/bed.py
# Molecule scenarios that take too long for `make test`; `make llama` and `make vllm` run them.
OPTIONAL := --exclude llama --exclude vllm
# ansible-lint and molecule install a copy of the collection into HOME and prefer an older copy that is already there.
SCRATCH_HOME := $(CURDIR)/.cache/home
export PATH := $(CURDIR)/$(TEST_VENV)/bin:$(PATH)
export ANSIBLE_COLLECTIONS_PATH := $(CURDIR)/.cache/collections

# --no-compile: few of the thousands of installed files are ever imported. Compiling them at import time halves the install time.
.PHONY: test-venv
test-venv:
	@bootstrap/venv.sh $(TEST_VENV) requirements/test.txt --no-compile
	@bootstrap/link.sh

.PHONY: unit
unit: test-venv ## run the fast unit tests (20 s)
	@bootstrap/docker.sh --client
	@pytest -n auto --dist worksteal -m "not slow" tests/unit

.PHONY: unit-slow
unit-slow: test-venv ## run the unit tests that start programs or try thousands of inputs (half a minute)
	@bootstrap/docker.sh --client
	@pytest -n auto -m slow tests/unit

.PHONY: lint
lint: test-venv ## run ruff, mypy --strict, yamllint, ansible-lint (production) and shellcheck
	ruff check .
	ruff format --check .
	cd .cache/collections && mypy --config-file $(CURDIR)/pyproject.toml -p ansible_collections.anvil.serving.plugins.module_utils
	cd roles/workflow/files && mypy --config-file $(CURDIR)/pyproject.toml -p anvil_workflow
	git ls-files -z --cached --others --exclude-standard -- '*.yml' '*.yaml' | xargs -0 yamllint --strict
	HOME=$(SCRATCH_HOME) ansible-lint --offline --strict
	antsibull-changelog lint
	@bash -c '. bootstrap/lib.sh; ensure shellcheck shellcheck'
	git ls-files -z --cached --others --exclude-standard -- ':!*.j2' | xargs -0 grep -lZE '^#!.*\b(ba)?sh\b' | xargs -0 shellcheck
	@echo "lint: no findings"

.PHONY: sanity
sanity: test-venv ## run ansible-test sanity on a copy of the checkout
	@tests/testbed/ansible-test/sanity.sh $(TEST_VENV)

.PHONY: bed
bed: test-venv
	@tests/testbed/tools.sh
	@$(BED) up
	@$(T)/python tests/testbed/wheels.py

.PHONY: integration
integration: bed ## run the integration tests on a real Docker Engine with simulated GPUs
	@$(BED) run -- pytest tests/integration

.PHONY: molecule
molecule: bed ## run the molecule scenarios on simulated hosts
	@HOME=$(SCRATCH_HOME) $(BED) run -- molecule test --all $(OPTIONAL)

.PHONY: llama
llama: bed ## compile llama.cpp (minutes, once), then test its image, run its molecule scenario and measure its speed
	@$(T)/python tests/testbed/compiled.py fetch
	@$(T)/python tests/testbed/llamabuilds.py
	@HOME=$(SCRATCH_HOME) $(BED) run -- molecule test --scenario-name llama
	@$(BED) run -- pytest tests/integration/images/test_llama_compiled.py tests/integration/images/test_llama_builds.py
	@$(T)/python bench/llama_image

.PHONY: vllm
vllm: bed ## run the molecule scenario on the real vLLM, on the CPU, behind the router (600 MB of wheels and some minutes, once)
	@$(T)/python tests/testbed/cpuvllm.py fetch
	@HOME=$(SCRATCH_HOME) $(BED) run -- molecule test --scenario-name vllm
	@$(BED) run -- pytest tests/integration/serves/test_vllm_kinds.py tests/integration/serves/test_vllm_recipes.py

.PHONY: test
test: ## run every test except `make llama` and `make vllm`, on three Docker Engines in parallel; stop them at the end
	@{ tests/testbed/tools.sh && bootstrap/roots.sh registry builder dockerhost; } & $(MAKE) --no-print-directory test-venv && wait $$!
	@$(T)/python tests/testbed/lanes.py $(OPTIONAL)

.PHONY: long
long: test-venv ## run the unit tests with thousands of generated examples (minutes)
	@ANVIL_LONG=1 pytest -n auto tests/unit

.PHONY: bench
bench: bed ## run every benchmark; the last line of each holds its ratios as JSON
	@for bench in $$(find bench -type f -perm -u+x ! -name llama_image | sort); do $(T)/python $$bench || exit 1; done

.PHONY: lock
lock: ## write requirements/*.lock again: every package with the hashes of its files
	@bootstrap/lock.sh

.PHONY: audit
audit: ## compare the locked packages with the known vulnerabilities; status 3 if the database cannot be reached
	@bootstrap/audit.sh

.PHONY: docs
docs: ## build the documentation site in .cache/docs/html; a warning or a broken link fails the build
	@bootstrap/venv.sh $(DOCS_VENV) requirements/docs.txt
	@bootstrap/link.sh
	@docs/site/build.sh $(DOCS_VENV)

.PHONY: clean
clean: ## stop the test-bed and remove all generated files (containers that `make site` started keep running)
	@test ! -x $(PYTHON) || $(PYTHON) tests/testbed/bed.py down --purge
	rm -rf .cache .venv .venv-*
