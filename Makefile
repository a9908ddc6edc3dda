# GNU Make 3.81 (macOS) and a POSIX shell are enough. `make help` lists the targets.

PYTHON ?= python3
# A second Python needs a directory of its own: make test PYTHON=/usr/bin/python3 VENV=.venv-system
# This is no ?=, because make may delete the directory: a VENV that happens to be in the environment must not count.
VENV = .venv
SWAGGER_UI_VERSION = 5.35.0

PIP := $(VENV)/bin/python -m pip --disable-pip-version-check
LOCKED := install --quiet --require-hashes --use-pep517 --no-build-isolation
COMPILE := uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url
SWAGGER_UI := httpqueue/api/static/swagger-ui
INSTALL_PYTHON := Debian: apt install python3 python3-venv; macOS: brew install python; or name another one: make PYTHON=...

# Both are empty when all is well. $(error) prints one line; a failing recipe would add Make's own to it.
python_found = $(shell $(PYTHON) -c 'import sys; v = sys.version_info; print("" if v >= (3, 11) else "found %d.%d.%d" % v[:3])' 2>/dev/null || echo "$(PYTHON) does not run")
venv_failed = $(shell $(PYTHON) -m venv --clear $(VENV) >/dev/null 2>&1 || { rm -rf $(VENV); echo failed; })

.PHONY: help
help: ## list these targets
	@sed -n 's/^\([a-z-]*\):.*## /\1|/p' Makefile | while IFS='|' read -r target text; do printf '%-16s %s\n' "$$target" "$$text"; done

.PHONY: install
install: $(VENV)/.installed ## create .venv with the locked packages and httpqueue

.PHONY: run
run: $(VENV)/.installed ## start everything in one process on http://127.0.0.1:8080
	@exec $(VENV)/bin/httpqueue

.PHONY: test
test: $(VENV)/.installed-dev ## run all tests, and fail below 95 % branch coverage
	$(VENV)/bin/pytest --numprocesses auto --maxprocesses 4 --dist worksteal --cov

.PHONY: test-partitions
test-partitions: $(VENV)/.installed-dev ## run integration and acceptance tests with four partitions, in cluster mode
	HTTPQUEUE_TEST_PARTITIONS=4 $(VENV)/bin/pytest --numprocesses auto --maxprocesses 4 --dist worksteal tests/integration tests/acceptance

.PHONY: test-faults
test-faults: $(VENV)/.installed-dev ## break processes, servers and connections, and see that nothing is lost
	$(VENV)/bin/pytest --numprocesses 4 --dist worksteal tests/faults

.PHONY: lint
lint: $(VENV)/.installed-dev ## ruff, mypy and import-linter
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

.PHONY: check
check: lint test ## lint and test

.PHONY: bench
bench: $(VENV)/.installed-dev ## measure all goals beside the rivals, and write docs/benchmarks.md
	$(VENV)/bin/python -m tests.benchmarks.bench

.PHONY: bench-quick
bench-quick: $(VENV)/.installed-dev ## see in a minute whether the benchmark works
	$(VENV)/bin/python -m tests.benchmarks.bench --quick

# Settings of `make soak`: minutes of load, timers posted a second, seed (none: a new one).
MINUTES = 2
RATE = 60
SEED =

.PHONY: soak
soak: $(VENV)/.installed-dev ## random faults over a mixed load, and what must hold: make soak MINUTES=30 SEED=7
	$(VENV)/bin/python -m tests.soak.soak --minutes $(MINUTES) --rate $(RATE) $(if $(SEED),--seed $(SEED))

.PHONY: coverage-report
coverage-report: $(VENV)/.installed-dev ## write htmlcov/index.html from the last test run
	$(VENV)/bin/coverage html --fail-under 0

.PHONY: docker-run
docker-run: ## build the image and start redis, api, relay and worker
	docker compose up --build

.PHONY: openapi
openapi: $(VENV)/.installed ## rewrite docs/swagger.json from the API's models
	$(VENV)/bin/python -m httpqueue.api.schema.openapi > docs/swagger.json.new
	mv docs/swagger.json.new docs/swagger.json

.PHONY: audit
audit: ## look the locked packages up in a database of known vulnerabilities, if pip-audit and one are there
	@.ci/audit

.PHONY: lock
lock: ## rewrite the lock files with uv; pins that still fit stay
	printf 'setuptools>=77\n' | $(COMPILE) --no-annotate - --output-file requirements-build.lock
	$(COMPILE) pyproject.toml --output-file requirements.lock
	$(COMPILE) pyproject.toml --extra dev --constraint requirements.lock --output-file requirements-dev.lock

.PHONY: vendor
vendor: ## fetch the Swagger UI files that the API serves
	rm -rf build/swagger-ui && mkdir -p build/swagger-ui
	cd build/swagger-ui && npm pack --silent swagger-ui-dist@$(SWAGGER_UI_VERSION) && tar -xzf *.tgz
	cd build/swagger-ui/package && cp swagger-ui-bundle.js swagger-ui.css swagger-ui-bundle.js.LICENSE.txt favicon-32x32.png LICENSE NOTICE $(CURDIR)/$(SWAGGER_UI)
	echo swagger-ui-dist $(SWAGGER_UI_VERSION) > $(SWAGGER_UI)/VERSION

# The build tools come first: a locked package without a wheel is built with them, not with unlocked ones.
$(VENV)/.installed: Makefile pyproject.toml requirements-build.lock requirements.lock
	$(if $(python_found),$(error httpqueue needs Python 3.11 or newer ($(python_found)). $(INSTALL_PYTHON)))
	$(if $(venv_failed),$(error $(PYTHON) -m venv does not work here. $(INSTALL_PYTHON)))
	@echo "Installing httpqueue into $(VENV) ..."
	@$(PIP) $(LOCKED) -r requirements-build.lock
	@$(PIP) $(LOCKED) -r requirements.lock
	@PYTHONWARNINGS=ignore $(PIP) install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.installed-dev: requirements-dev.lock $(VENV)/.installed
	@echo "Installing the development tools into $(VENV) ..."
	@$(PIP) $(LOCKED) -r requirements-dev.lock
	@touch $@
