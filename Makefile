# The commands of this project. Everything they make is under venv/ and build/.
# PYTHON=COMMAND makes venv/ with that Python; else the newest suitable one on PATH is taken (tools/find-python.sh).
PYTHON ?=
STACK ?= dev
SCENARIO ?= *
RUN = venv/bin/python -m
# Without --no-compile pip compiles each of the SDKs' thousands of modules. Python compiles those that are imported.
INSTALL = $(RUN) pip install --quiet --no-compile --disable-pip-version-check
MACHINE_SCENARIOS = $(wildcard tests/e2e/scenarios/e2e_machine*.py)
# Scenarios and soak tests may take two hours a test, others half an hour (pyproject.toml).
LONG = --timeout=7200 -o faulthandler_timeout=7500

# Chromium cancels requests when an interface of the machine changes, as it does when Docker starts a container.
OWN_NETWORK = $(if $(filter 0,$(shell id -u)),unshare --net sh -c 'ip link set lo up && exec "$$0" "$$@"')

# Processes that share the tests; each of them starts servers of its own. One more than processors: a test on a real
# server waits for a third of its time.
WORKERS ?= $(shell expr $$(getconf _NPROCESSORS_ONLN) + 1)
PYTEST = $(RUN) pytest -q -n $(WORKERS)

# If this is set, as in many container images, every process compiles the program again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help try unit contract lint servers test soak browser picture preview policy bench e2e generate clean

help:
	@echo 'make try            a live PDS on this machine, configured by the program (CHECK=1 stops after the checks)'
	@echo 'make unit           tests that start no real server'
	@echo 'make contract       tests on the real servers, which npm installs once'
	@echo 'make lint           style, types, and whether generated files are up to date'
	@echo 'make test           all of them (WORKERS=1: one after the other)'
	@echo 'make soak           a PDS of 50 members under writes: 50 snapshots, and 50 times each, at random moments, SIGKILL'
	@echo '                    to snapshot, server, upload, download and restore; an account of 50,000 records moves'
	@echo 'make browser        the pages that people see, in Chromium behind Caddy: sign-in, sign-up, an upload from another'
	@echo '                    origin, the dashboard (Debian packages caddy, chromium, libnss3-tools, pebble)'
	@echo 'make picture        rewrite the picture of the dashboard in the guide (chromium, victoria-metrics on PATH)'
	@echo 'make preview        the wanted graph of STACK, with no engine, account or network (DIFF=REV compares;'
	@echo '                    ALLOW="NAME …": what may be replaced or deleted)'
	@echo 'make policy         the policy pack: its virtual environment, and build/policy-pack, which can be published'
	@echo 'make e2e            `pulumi up` for real, against an API of the tests (engine, Nomad, Docker on PATH; root);'
	@echo '                    SCENARIO=faults: every call fails once; SCENARIO=kill: killed anywhere, hosts lost;'
	@echo '                    MACHINE=1: on a virtual machine that boots the exact user_data; QEMU, debootstrap'
	@echo 'make bench          ratios: what evaluating costs; with the engine, previews, changes, memory, many clubs,'
	@echo '                    clusters: takeovers, drains, prices, 100 hosts with 2,000 clubs'
	@echo 'make generate       rewrite what is derived from the code: Pulumi.yaml, schema, tables in README and docs, golden files'
	@echo 'make clean          remove build/, and with it the data of `make try`'

# A virtual environment whose Python is gone, after an upgrade of the system, is made anew.
ifneq ($(wildcard venv/.tools),)
ifneq ($(shell venv/bin/python -c 'print(0)' 2>&1),0)
$(shell rm -f venv/.tools venv/.tests venv/.browser)
endif
endif

venv/.tools: requirements.txt tools/requirements.txt
	@venv/bin/python -c '' 2>/dev/null || { python=$$(sh tools/find-python.sh $(PYTHON)) && "$$python" -m venv --clear venv; }
	$(INSTALL) -r tools/requirements.txt
	@touch $@

venv/.tests: venv/.tools tests/requirements.txt tests/e2e/requirements.txt
	$(INSTALL) -r tests/requirements.txt
	@touch $@

try: venv/.tools
	@$(RUN) tools.trial --stack $(STACK) $(if $(CHECK),--check)

unit: venv/.tests
	$(PYTEST) -m 'not contract' --ignore=tests/contract

contract: venv/.tests
	$(PYTEST) tests/contract

lint: venv/.tests
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) mypy
	$(RUN) tools.generate --check

servers: venv/.tests
	@$(RUN) tools.trial.node

test:
	@$(MAKE) --no-print-directory -j2 lint servers
	$(PYTEST)

soak: venv/.tests
	$(RUN) pytest -v -s $(LONG) --soak tests/contract/test_snapshot.py tests/contract/test_killed.py \
		tests/contract/test_migrate_account.py

browser: venv/.browser servers
	$(OWN_NETWORK) $(RUN) pytest -v tests/browser/browser_*.py

picture: venv/.browser
	@$(OWN_NETWORK) $(RUN) tests.browser.dashboard_picture

venv/.browser: venv/.tests tests/browser/requirements.txt
	$(INSTALL) -r tests/browser/requirements.txt
	@touch $@

preview: venv/.tools
	@$(RUN) tools.preview --stack $(STACK) $(if $(DIFF),--diff $(DIFF)) $(if $(ALLOW),--allow "$(ALLOW)")

policy: build/policy-venv/.installed
	@$(RUN) tools.policy_pack

build/policy-venv/.installed: venv/.tools policy/requirements.txt
	venv/bin/python -m venv --clear build/policy-venv
	build/policy-venv/bin/python -m pip install --quiet --no-compile --disable-pip-version-check -r policy/requirements.txt
	@touch $@

bench: venv/.tests
	@$(RUN) tools.bench
	@$(RUN) tests.contract.figures
	@$(RUN) tests.contract.figures_records
	@$(RUN) tests.contract.figures_accounts
	@$(RUN) tests.contract.figures_migration
	@$(RUN) tests.contract.figures_blobs
	@$(RUN) tests.e2e.figures
	@$(RUN) tests.e2e.figures_clubs
	@$(RUN) tests.e2e.figures_prices
	@$(RUN) tests.e2e.figures_cluster
	@$(RUN) tests.e2e.figures_fleet_servers
	@$(RUN) tests.e2e.figures_fleet

e2e: venv/.tests
	$(RUN) pytest -x -v $(LONG) $(if $(MACHINE),-s $(MACHINE_SCENARIOS),$(filter-out $(MACHINE_SCENARIOS),$(wildcard tests/e2e/scenarios/e2e_$(SCENARIO).py)))

generate: venv/.tests
	$(RUN) tools.generate
	$(RUN) tests.golden

clean:
	rm -rf build
