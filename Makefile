# An index of tools/, for people, packages and .ci/run. What needs root goes through sudo, or: be root.
# A variable on make's command line, such as RUNS=50, reaches the script by its environment.
.DEFAULT_GOAL := build
MAKEFLAGS += --no-print-directory
export PATH := $(HOME)/.cargo/bin:$(PATH)

.PHONY: help
help: ## This list
	@sed -nE 's/^([a-z-]+):.*## (.*)/\1	\2/p' Makefile | expand -t 18

.PHONY: build clean demo
build: setup ## Release build, in target/release
	cargo build --release --workspace
clean: ## Remove target/
	cargo clean
demo: build ## A private daemon, and a scripted agent that works and then misbehaves
	@[ "$$(id -u)" = 0 ] || sudo=sudo; $$sudo tests/demo/private-daemon tests/demo/demo.sh

.PHONY: setup setup-test setup-lint setup-bench setup-bench-net
setup: ## Install what the build needs and this host lacks
	@tools/setup
setup-test: setup ## Install what tests and demo need besides
	@tools/setup-test
setup-lint: setup ## Install shellcheck and cargo-deny, which lint uses where they are
	@tools/setup-lint
setup-bench: setup ## Install what bench compares with
	@tools/setup bench
setup-bench-net: setup ## Install what bench-net compares with
	@tools/setup-bench-net

.PHONY: lint test test-vm soak
lint: ## Format, clippy, rustdoc, dependencies, shell scripts
	@tools/lint
test: setup-test ## lint, and each test; TEST_ARGS= go to the test programs
	@tools/test $(TEST_ARGS)
test-vm: deb ## The package in a virtual machine of Debian 12; CHECKS=NAME, KEEP=1
	@tools/setup vm
	@tools/test-vm
soak: build setup-test ## Sessions without a pause; MINUTES=10, JOBS=8
	@tools/soak

.PHONY: bench bench-pair bench-crowd bench-net
bench: build setup-bench ## Start times beside bubblewrap, crun and runc; RUNS=50
	@tools/bench starts
bench-pair: build setup-bench ## Start times of two builds in turns; BASE=DIR, ROUNDS=300
	@tools/bench pair
bench-crowd: build setup-bench ## Start times beside loops of another user; RUNS=40, LOOPS=8
	@tools/bench crowd
bench-net: build setup-bench-net ## Egress beside proxies and resolvers; RUNS=5, JSON=1
	@tools/bench net

.PHONY: fuzz fuzz-build fuzz-corpus
fuzz: fuzz-build ## Fuzz each reader of hostile bytes; TARGET=NAME, SECONDS=60
	@FUZZ_SECONDS=$(or $(SECONDS),60) tools/fuzz run
fuzz-build: setup ## Build the fuzzers
	@tools/setup fuzz
	@tools/fuzz build
fuzz-corpus: fuzz-build ## Minimise what was found into tests/fuzz/corpus; TARGET=NAME
	@tools/fuzz minimise

.PHONY: install install-docs deb rpm
install: ## Install the release build; PREFIX=/usr/local, DESTDIR=
	@tools/install
install-docs: ## Install manual pages, completions, documents; PREFIX=, DESTDIR=
	@tools/install-docs
deb: build ## target/package/agentd_VERSION_ARCH.deb
	@tools/setup deb
	@tools/deb
rpm: build ## target/package/agentd-VERSION-1.ARCH.rpm
	@tools/setup rpm
	@tools/rpm
