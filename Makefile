# What to type when working on runcvm. Everything is made below target/.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

KERNELS := RUNCVM_HOME=target/runcvm target/runcvm/bin/runcvm-kernels
SCRIPTS := install .ci/run $(addprefix packaging/,check dist place setup deb/postinst deb/prerm) tests/demo/run \
	$(addprefix tests/lab/,image prepare run) tests/rootfs/build tests/run \
	$(addprefix tests/docker/,disk images/build prelude.sh run)

# One suite of tests/tests, and only its tests whose names contain this.
SUITE ?= *
TEST ?=
# Suites of `make test`: all that need no docker.
PLAIN := boot errors exec files hundred machine network parity runtime teardown
# Seconds that a suite may take in the lab, boot included.
SUITE_TIMEOUT ?= 1500
# Cases of each property test.
CASES ?= 20000

.PHONY: help setup build demo test unit e2e lint install dist fuzz

help: ## show this
	@sed -n 's/^\([a-z0-9]*\):.*## /\1\t/p' Makefile | expand -t 10
	@echo
	@echo 'make e2e SUITE=boot TEST=writes runs the tests of tests/tests/boot.rs with "writes" in their names.'
	@echo 'Without hardware KVM, e2e and demo run in an emulated machine: tests/lab/README.md.'

setup: ## install Debian packages, build virtiofsd, lay out target/runcvm
	packaging/setup

build: setup ## build the release binaries and fetch a kernel
	cargo build --release --workspace --exclude runcvm-tests
	$(KERNELS) default >/dev/null 2>&1 || $(KERNELS) add debian

demo: build ## boot a small Debian and look around in it
	tests/demo/run

test: unit build ## the unit tests, and all suites that need no docker
	tests/rootfs/build
	SUITE_TIMEOUT=$(SUITE_TIMEOUT) tests/run '$(PLAIN)'

unit: setup ## the tests that need neither root nor KVM
	cargo test --workspace --exclude runcvm-tests
	cargo test -p runcvm-tests --lib

e2e: build ## all suites that boot machines
	tests/rootfs/build
	SUITE_TIMEOUT=$(SUITE_TIMEOUT) tests/run '$(SUITE)' '$(TEST)'

lint: ## formatting, clippy, shellcheck, and dependencies if cargo-deny is installed
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	@if command -v shellcheck >/dev/null; then \
		shellcheck $(SCRIPTS) && shellcheck --shell sh tests/lab/guest/*; \
	else echo 'shellcheck is not installed: scripts are not checked'; fi
	@if command -v cargo-deny >/dev/null; then cargo deny check bans licenses sources; \
	else echo 'cargo-deny is not installed: dependencies are not checked'; fi

install: ## install to /opt/runcvm, or to PREFIX=…
	./install $(PREFIX)

dist: build ## make a tarball and a Debian package in target/dist, and try both in the lab
	packaging/dist
	packaging/check

fuzz: ## property tests with many more cases: CASES=20000
	PROPTEST_CASES=$(CASES) cargo test --release --workspace --exclude runcvm-tests
