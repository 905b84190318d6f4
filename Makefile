# What a newcomer, a developer and a pipeline run. Everything needs only make, git and Python 3.11 or newer.

.DEFAULT_GOAL := help
SHELL := /bin/sh
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
SERVICE := {{cookiecutter.__project_folder}}
BENCHMARKS := .cache/benchmarks/.ready

# What benchmarks run on: the Python of the images, where it is installed.
BENCH_PYTHON ?= $(shell python3.13 -c 'import sys; print(sys.executable)' 2>/dev/null || echo $(BIN)/python)

# The first Python that is new enough and can make environments; set PYTHON to choose another.
PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	"$$python" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& echo "$$python" && break; done)

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

.PHONY: demo
demo: $(READY) ## Generate the default service, start it, and follow one request through its telemetry
	@$(BIN)/python -m demo

# A part of the tests, for machines that share a run: SHARD=1/4 is the first of four.
SHARD ?=

# Some of the longer tests have to be root: AS_ROOT=1 lets them, and only them.
AS_ROOT ?=
TESTER = $(if $(AS_ROOT),sudo --preserve-env env "PATH=$$PATH") $(BIN)/python
PYTEST = $(TESTER) -m pytest $(if $(SHARD),--shard=$(SHARD))

.PHONY: test
test: $(READY) lint types ## Run the tests that need Python packages only
	$(PYTEST) -n auto -m 'not ci and not live and not cluster and not long and not jenkins and not drills'

.PHONY: test-ci
test-ci: $(READY) ## Run the longer tests that a pipeline can afford: PostgreSQL, the components of the stack, other Pythons, the lock files, manifests, roll-outs in a cluster
	$(PYTEST) -n auto --dist loadfile --no-loadscope-reorder -m 'ci and not cluster and not long'
	$(PYTEST) -m 'ci and cluster'

.PHONY: test-live
test-live: $(READY) ## Run the tests of images and of the stack in a container engine
	$(PYTEST) -m 'live and not ci and not long'

.PHONY: test-cluster
test-cluster: $(READY) ## Run the tests of the manifests in a Kubernetes of their own
	$(PYTEST) -m cluster --durations=0 --durations-min=1

.PHONY: test-profiles
test-profiles: $(READY) ## Generate a service for each profile of answers, and run its suite
	$(PYTEST) tests/test_profiles.py

.PHONY: test-jenkins
test-jenkins: $(READY) ## Let a Jenkins controller judge every Jenkinsfile (pulls its image)
	$(PYTEST) -m jenkins

.PHONY: test-portable
test-portable: $(READY) ## Run the tests that need neither make nor Linux
	$(PYTEST) @tests/portable.txt

.PHONY: test-services
test-services: $(READY) ## Run the suites of generated services
	$(PYTEST) -m 'not ci' tests/test_service.py

.PHONY: test-all
test-all: $(READY) ## Say what is missing for the longer tests, then run all tests
	@$(TESTER) tests/needs.py
	@$(MAKE) test test-live test-cluster
	$(PYTEST) -m '(ci or long) and not cluster'

.PHONY: drills
drills: $(READY) ## Run all drills, by hand and on an idle machine (three hours), and write what they saw into docs/drills
	$(BIN)/python -m pytest -m drills tests/cluster/test_cluster_drills.py tests/live/test_all_drills.py

.PHONY: soak
soak: $(READY) ## Send half of what the service can do for half an hour, by hand and on an idle machine, and write docs/soak.md
	$(BIN)/python -m pytest -m drills tests/live/test_load.py

.PHONY: lint
lint: $(READY) ## Check style and formatting of Python, YAML and shell
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/yamllint --strict .github
	$(BIN)/shellcheck .ci/run tests/live/images/*.sh

.PHONY: format
format: $(READY) ## Fix style and formatting
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

.PHONY: types
types: $(READY) ## Check the types
	$(BIN)/mypy

.PHONY: secrets
secrets: $(READY) ## Look for secrets in what Git would share, by the rules that services have
	@git ls-files --error-unmatch Makefile >/dev/null
	@git ls-files -z | xargs -0 $(BIN)/detect-secrets-hook $(SECRETS)

# Nobody is called to try what was found. What opens nothing is let through, or says on its line why it is none.
SECRETS = --no-verify --disable-plugin HexHighEntropyString --exclude-files '(^|/)(requirements.*\.txt|constraints\.txt|go\.sum)' \
	--exclude-secrets '^(app|password|hunter2|REDACTED|STORAGE_URL)$$' --exclude-secrets '^(kubectl |name: |password`)' \
	--exclude-lines 'noqa: S105 - |pragma: allowlist secret - '

.PHONY: bench
bench: $(READY) $(BENCHMARKS) ## Measure generation and the cost of telemetry (15 minutes), and write their pages in docs/
	$(BIN)/python benchmarks/generation.py --write
	$(BIN)/python benchmarks/telemetry.py --write

.PHONY: bench-quick
bench-quick: $(READY) $(BENCHMARKS) ## Measure the most important of that in two minutes, and write nothing
	$(BIN)/python benchmarks/telemetry.py --quick

.PHONY: lock
lock: $(READY) ## Refresh all lock files (UPGRADE=1 takes newer versions)
	$(BIN)/python tools/lock.py $(if $(UPGRADE),--upgrade)

.PHONY: options
options: $(READY) ## Write docs/options.md: what is asked, and what each choice adds to the tree
	$(BIN)/python tools/options.py

.PHONY: release
release: $(READY) ## Say whether HEAD can be a release, and how to make it one; with TAG, whether it is the one of that name
	@$(BIN)/python tools/release.py $(if $(TAG),--tag="$$TAG")

NAME = cookiecutter-fastapi-sre
VERSION = $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)

.PHONY: dist
dist: sbom ## Put together what a release brings: the template as an archive, what its tools are made of, and what is new
	git archive --format=zip --prefix=$(NAME)-$(VERSION)/ --output=dist/$(NAME)-$(VERSION).zip HEAD
	@$(BIN)/python tools/release.py --notes >dist/notes.txt

.PHONY: sbom
sbom: $(READY) ## List what the template's own tools are made of, as CycloneDX
	@mkdir -p dist
	$(BIN)/python -W ignore -m cyclonedx_py requirements --pyproject pyproject.toml --output-reproducible \
		--output-file dist/$(NAME)-$(VERSION).cdx.json requirements.txt

# The signature of all of them is beside them, for who verifies without asking anybody.
.PHONY: publish
publish: ## Make the release TAG on GitHub of what is in dist, with the signatures in BUNDLE; for the pipeline
	cp "$$BUNDLE" dist/$(NAME)-$(VERSION).sigstore.json
	gh release create "$$TAG" --verify-tag --title "$$TAG" --notes-file dist/notes.txt dist/*.zip dist/*.json

.PHONY: pictures
pictures: $(READY) ## Draw the pictures of the documents: a terminal that generates, and the burn rate of a drill
	$(BIN)/python tools/terminal.py
	$(BIN)/python tools/burn_rate.py

.PHONY: machine
machine: ## Install what the longer tests need on a machine of Debian's kind
	$(if $(filter 0,$(shell id -u)),,sudo) .ci/run prepare

.PHONY: clean
clean: ## Remove environments, caches and the demo
	rm -rf $(VENV) .cache .demo dist .hypothesis .mypy_cache .pytest_cache .ruff_cache

$(READY): requirements.txt
	@test -n "$(PYTHON)" || { echo 'No Python 3.11 or newer with venv was found. Install one (Debian: python3-venv) or set PYTHON.' >&2; exit 1; }
	@echo 'Installing the locked requirements into $(VENV) ...'
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements.txt
	@touch $@

$(BENCHMARKS): benchmarks/requirements.txt | $(READY)
	@echo 'Installing what the service is compared with into $(@D) ...'
	@$(BENCH_PYTHON) -m venv --clear $(@D)
	@$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement $<
	@touch $@
