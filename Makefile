# Two commands do everything, their own set-up included: `make scenarios` and `make test`.
# `make` alone explains them. The set-up itself is lab/provision/, in Python's standard library only.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:

PYTHON ?= python3
VENV_PYTHON := .venv/bin/python
CORE := ftvmm/core/Cargo.toml
# rustup's directory is on the PATH of login shells only.
export PATH := $(PATH):$(HOME)/.cargo/bin

# What a person may set:
SCENARIO ?=
ARGS ?=
JOBS ?=
FOR ?=
export SCENARIO ARGS JOBS

HOST ?= host-a
LAB ?= netns
REPORT = reports/allure-report$(if $(filter-out netns,$(LAB)),-$(LAB))

.PHONY: help setup scenarios mutants report test test-rust test-python explore simulate lint bench demo clean
.PHONY: lab-setup lab-up lab-scenarios lab-smoke lab-down lab-status lab-reset lab-ssh

help:  ## What there is to do here
	@echo "ftvmm: a fault-tolerant virtual machine on two hosts, and the suite that tries to break it."
	@echo
	@echo "As root, on Debian 12 with Python 3.11, Rust and /dev/kvm (what is missing is said before anything changes):"
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo "  make scenarios SCENARIO=\"primary and killed\"   only the scenarios whose names match (pytest's -k)"
	@echo "  make scenarios ARGS=\"-x -vv\"                   more options for pytest"
	@echo "  make scenarios JOBS=1                          one lab at a time, instead of two under load"
	@echo "  make PYTHON=/usr/bin/python3.11 setup          another Python"
	@echo
	@echo "README.md shows a first failover step by step."

setup:  ## Install and build what the rest needs; done once, checked in a moment afterwards
	@command -v "$(PYTHON)" >/dev/null || { echo "ftvmm cannot be set up here. $(PYTHON) is not installed: install Python 3.11 or newer (Debian 12: apt-get install python3)." >&2; exit 2; }
	@"$(PYTHON)" -B -m lab.provision

scenarios: setup  ## The main job: run the suite on the embedded lab, then write the Allure report
	@$(VENV_PYTHON) reports/scenarios.py

mutants: setup  ## Run VMMs broken on purpose: each must be caught by the oracle named for it (MUTANTS=8: eight drawn ones)
	@MUTANTS="$(MUTANTS)" MUTANTS_SEED="$${MUTANTS_SEED:-$$RANDOM}" $(VENV_PYTHON) -m pytest tests/mutants -v --tb=short \
		--numprocesses=$(or $(JOBS),2) --maxschedchunk=1 $(ARGS)

report:  ## Show the last report, or with LAB=vagrant the Vagrant lab's: on this machine only, until Ctrl-C
	@test -f $(REPORT)/index.html || { echo "There is no report in $(REPORT) yet: run \`make scenarios\` or \`make lab-scenarios\` first." >&2; exit 2; }
	@echo "http://127.0.0.1:8080/ (Ctrl-C ends it)"
	@"$(PYTHON)" -m http.server --bind 127.0.0.1 --directory $(REPORT) 8080 >/dev/null 2>&1 || [ $$? -eq 130 ]

test: setup lint test-rust test-python  ## ftvmm's own tests: lint, the Rust core and guests, then tests/

test-rust: setup  ## Of these the Rust core's and the guests' only
	cargo test --locked --no-default-features --manifest-path $(CORE)
	cargo test --locked --no-default-features --features lab --lib --manifest-path $(CORE) node::
	$(MAKE) --no-print-directory -C ftvmm/guests test

test-python: setup  ## Of these the ones in tests/ only (ARGS="-k word": pytest's)
	MUTANTS=0 $(VENV_PYTHON) -m pytest tests/ --numprocesses=$(or $(JOBS),2) --dist=loadfile $(ARGS)

explore: setup  ## Walk every interleaving of the protocol's small worlds, and find each rule broken that is switched off
	cargo run --release --quiet --locked --no-default-features --manifest-path $(CORE) --example explore -- $(ARGS)

simulate: setup  ## Search for FOR=1h (2m unless given) with fresh seeds for a fault schedule that breaks a promise
	@$(VENV_PYTHON) -m ftvmm simulate --for $(or $(FOR),2m) $(ARGS)

lint: setup  ## Formatting, lints and types, without changing anything
	cargo fmt --check --manifest-path $(CORE)
	cargo clippy --quiet --locked --all-targets --no-default-features --manifest-path $(CORE) -- -D warnings
	cargo clippy --quiet --locked --all-targets --no-default-features --features lab --manifest-path $(CORE) -- -D warnings
	$(MAKE) --no-print-directory -C ftvmm/guests lint
	$(VENV_PYTHON) -m ruff check --quiet .
	$(VENV_PYTHON) -m ruff format --quiet --check .
	$(VENV_PYTHON) -m mypy ftvmm harness fault_injectors lab reports bench
	$(VENV_PYTHON) -m mypy scenarios

bench: setup  ## Measure the figures of SPECIFICATION.md and print them as one table
	@$(VENV_PYTHON) -m bench $(ARGS)

demo: setup  ## Watch a VM survive two hosts, live: it is taken over, and gets a backup again, after each loss
	@$(VENV_PYTHON) -m bench.demo $(ARGS)

lab-setup:  ## As `setup`, and Vagrant, libvirt and QEMU for the Vagrant lab
	@command -v "$(PYTHON)" >/dev/null || { echo "ftvmm cannot be set up here. $(PYTHON) is not installed: install Python 3.11 or newer (Debian 12: apt-get install python3)." >&2; exit 2; }
	@"$(PYTHON)" -B -m lab.provision --vagrant

lab-up: lab-setup  ## Bring up the Vagrant lab: the same hosts as nested virtual machines (lab/README.md)
	@$(VENV_PYTHON) -m lab.vagrant up $(if $(PROVIDER),--provider $(PROVIDER)) $(ARGS)

lab-scenarios: lab-setup  ## Run the suite on the Vagrant lab that is up, then write the Allure report
	@$(VENV_PYTHON) -m lab.vagrant check
	@LAB=vagrant $(VENV_PYTHON) reports/scenarios.py

lab-smoke: lab-setup  ## The Vagrant lab: up, the hosts' checks, five scenarios of five fault families, report; down if it was not up
	@$(VENV_PYTHON) -m lab.vagrant smoke

lab-status: lab-setup  ## What of the Vagrant lab is there
	@$(VENV_PYTHON) -m lab.vagrant status

lab-ssh: lab-setup  ## A root shell on a host of the Vagrant lab: HOST=host-b (ARGS="uptime": one command)
	@$(VENV_PYTHON) -m lab.vagrant ssh $(HOST) $(ARGS)

lab-reset: lab-setup  ## Put the Vagrant lab back to how it was when it had just come up
	@$(VENV_PYTHON) -m lab.vagrant reset

lab-down: lab-setup  ## Take the Vagrant lab down; nothing of it stays but box and wheels, in .state/
	@$(VENV_PYTHON) -m lab.vagrant down

clean:  ## Remove everything that was built or installed into this tree (Debian packages stay)
	@[ ! -e .state/lab/state.json ] || { echo "The Vagrant lab is up: run \`make lab-down\` first." >&2; exit 2; }
	rm -rf .venv .tools .state ftvmm/_core*.so ftvmm/core/target ftvmm/guests/target ftvmm/guests/images
	rm -rf reports/allure-results* reports/allure-report* reports/evidence* reports/bench .mypy_cache .ruff_cache .pytest_cache .hypothesis
