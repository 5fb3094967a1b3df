# Two commands are for newcomers: `make demo` and `make test`. They need git, make and python3 (3.11 or newer) with venv.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup demo test test-vm test-arm soak lint bench demo-model clean brokers vm-tools arm-tools

PYTHON ?= python3
ARGS ?=

DEV := .venv
DEV_DONE := $(DEV)/.installed
# The demo alone needs far less than development: it gets a small environment of its own, unless the large one is there.
DEMO := $(if $(wildcard $(DEV_DONE)),$(DEV),.venv-demo)
PIP_INSTALL := -m pip install --disable-pip-version-check --no-input --constraint constraints.txt

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo '  ARGS=... goes to the demo, pytest and make_demo: make demo ARGS="--duration 30 --faults none"'

setup: $(DEV_DONE) ## .venv with all that development needs (TensorFlow too: 3 GB)

%/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or newer is needed; name one with PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -m venv $(@D) \
	  || { echo "venv is missing; on Debian: apt-get install python3-venv" >&2; rm -rf $(@D); exit 1; }
	@touch $@

$(DEV_DONE): pyproject.toml constraints.txt | $(DEV)/.made
	$(DEV)/bin/python $(PIP_INSTALL) --editable '.[dev]'
	@touch $@

.venv-demo/.installed: pyproject.toml constraints.txt | .venv-demo/.made
	.venv-demo/bin/python $(PIP_INSTALL) --editable '.[demo]'
	@touch $@

demo: $(DEMO)/.installed ## the whole path at work, with faults, and the account (about a minute)
	@$(DEMO)/bin/gateway demo $(ARGS)

test: $(DEV_DONE) brokers vm-tools ## style, types and all tests but the longest
	@start=$$SECONDS; $(MAKE) --no-print-directory lint; echo "style and types: $$((SECONDS - start)) s"
	@PATH="$(CURDIR)/$(DEV)/bin:$$PATH:/usr/sbin" $(DEV)/bin/python -m pytest --numprocesses 2 --dist loadgroup $(ARGS)
	@$(if $(ARGS),,echo "in a virtual machine, alone on the cores, two minutes more where it has to be built:"; \
	  PATH="$(CURDIR)/$(DEV)/bin:$$PATH:/usr/sbin" $(DEV)/bin/python -m pytest -m vm tests/vm/test_short.py)

soak: $(DEV_DONE) ## the long tests, an hour and more: many signals, damaged files, whole conversions, faults by seed
	@FIDGET_SOAK="$${FIDGET_SOAK:-600}" PATH="$(CURDIR)/$(DEV)/bin:$$PATH:/usr/sbin" \
	  $(DEV)/bin/python -m pytest -m soak --verbose $(ARGS)

lint: $(DEV_DONE) ## style and types alone
	@$(DEV)/bin/ruff check --quiet .
	@$(DEV)/bin/ruff format --check --quiet . \
	  || { echo "not formatted: run $(DEV)/bin/ruff format" >&2; exit 1; }
	@$(DEV)/bin/mypy --no-error-summary

test-vm: $(DEV_DONE) vm-tools ## on a real kernel, BlueZ and systemd, in a virtual machine (root; an hour, 3 GB in build/)
	@PATH="$(CURDIR)/$(DEV)/bin:$$PATH:/usr/sbin" $(DEV)/bin/python -m pytest -m 'vm and not soak' --verbose $(ARGS)

test-arm: $(DEV_DONE) vm-tools arm-tools ## the same on arm64, emulated: wheels, bundle, daemon (root; ten minutes to build, once)
	@PATH="$(CURDIR)/$(DEV)/bin:$$PATH:/usr/sbin" $(DEV)/bin/python -m pytest -m arm --verbose $(ARGS)

# What the tests use and pip cannot bring: $(call installed,COMMAND,PACKAGES,WHAT IS LEFT OUT WITHOUT THEM)
define installed
	@export PATH="$$PATH:/usr/sbin:/sbin" DEBIAN_FRONTEND=noninteractive; \
	absent=; for tool in $(1); do command -v $$tool > /dev/null || absent=$$tool; done; \
	if [ -z "$$absent" ]; then exit 0; fi; \
	root=; if [ "$$(id -u)" != 0 ]; then root="sudo -n"; fi; \
	install="apt-get install -y --no-install-recommends $(2)"; \
	if command -v apt-get > /dev/null && $$root true 2> /dev/null; then \
	  echo "installing what tests use ($$install)"; \
	  $$root apt-get update -qq && $$root env DEBIAN_FRONTEND=noninteractive $$install -qq > /dev/null && exit 0; \
	fi; \
	echo "left out: $(3); bring them in with: sudo $$install"
endef

brokers:
	$(call installed,mosquitto,mosquitto,the tests marked mosquitto)

vm-tools:
	$(call installed,qemu-system-x86_64 qemu-img mmdebstrap mke2fs ssh,qemu-system-x86 qemu-utils ipxe-qemu seabios mmdebstrap zstd e2fsprogs openssh-client,the tests marked vm)

arm-tools:
	$(call installed,qemu-system-aarch64 qemu-aarch64-static arch-test,qemu-system-arm qemu-user-static arch-test binfmt-support,the tests marked arm)

bench: $(DEV_DONE) ## measurements, as ratios within one run
	@for file in tests/bench/bench_*.py; do echo "== $$file"; $(DEV)/bin/python "$$file"; done

demo-model: $(DEV_DONE) ## make the demo's model bundle again (minutes of training)
	@$(DEV)/bin/python -m models.make_demo $(ARGS)

clean: ## remove the environments and everything that was built
	rm -rf .venv .venv-demo build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
