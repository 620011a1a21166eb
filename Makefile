# For people and for .ci/run. As an ordinary user what needs root goes through sudo, or: be root.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DEFAULT_GOAL := build
MAKEFLAGS += --no-print-directory

export PATH := $(HOME)/.cargo/bin:$(PATH)
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
RUST := 1.88
TEST_MINUTES := 25
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)

# To build and run; to run the tests and the demo besides; to compare with.
PACKAGES := gcc libc6-dev make pkg-config libnftnl-dev libmnl-dev protobuf-compiler libprotobuf-dev \
    ca-certificates git python3 util-linux
TEST_PACKAGES := acl attr bash-completion btrfs-progs bubblewrap certinfo chromium cmake curl dbus default-jdk-headless dropbear-bin \
    e2fsprogs emacs-nox gdb git-lfs gnupg golang-go gradle inotify-tools iproute2 kmod less libmaven-compiler-plugin-java \
    libmaven-jar-plugin-java libmaven-resources-plugin-java libsurefire-java man-db maven nftables nginx-light nodejs \
    openssh-client openssl php-cli procps python3-pip python3-venv rsync ruby screen sqlite3 strace tmux vim wget xfsprogs zsh
BENCH_PACKAGES := bubblewrap crun runc
BENCH_NET_PACKAGES := dnsmasq-base iproute2 mitmproxy openssl socat squid tinyproxy unbound
DEB_PACKAGES := debhelper dpkg-dev fakeroot lintian man-db
RPM_PACKAGES := rpm
VM_PACKAGES := mmdebstrap qemu-system-x86 e2fsprogs

# $(call install,PACKAGES): those of them that are missing, by one apt-get. RUNLEVEL=1: no server of theirs is started.
define install
missing=()
for package in $(1); do
    dpkg-query -W -f '$${Status}\n' "$$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$$package")
done
if [ $${#missing[@]} != 0 ]; then
    echo "installing $${missing[*]}"
    command -v apt-get >/dev/null || { echo "no apt-get here: install these by hand" >&2; exit 1; }
    $(SUDO) apt-get -qq update
    $(SUDO) env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get -qq -y --no-install-recommends install "$${missing[@]}" >/dev/null
fi
endef

.PHONY: build setup setup-test setup-bench setup-bench-net demo test test-vm lint bench bench-pair bench-crowd bench-net soak fuzz fuzz-build fuzz-corpus install install-docs deb rpm package-deb package-rpm clean

build: setup
	cargo build --release --workspace

# What is missing, and nothing else. A cargo that is there is left alone.
setup:
	@$(call install,$(PACKAGES))
	at_least() { [ "$$(printf '%s\n' "$$1" "$(RUST)" | sort -V | head -n 1)" = "$(RUST)" ]; }
	if ! command -v cargo >/dev/null && command -v apt-cache >/dev/null; then
	    # Debian 12 has a current toolchain for its browsers, under names of their own.
	    there=$$(apt-cache policy cargo-web | sed -n 's/ *Candidate: //p')
	    at_least "$${there:-0}" || { $(SUDO) apt-get -qq update; there=$$(apt-cache policy cargo-web | sed -n 's/ *Candidate: //p'); }
	    if at_least "$${there:-0}"; then
	        $(call install,cargo-web rustfmt-web)
	    fi
	fi
	found=$$(cargo --version 2>/dev/null | cut -d ' ' -f 2 || true)
	at_least "$${found:-0}" || {
	    echo "cargo $(RUST) or newer is needed (found: $${found:-none}); https://rustup.rs has it: curl -sSf https://sh.rustup.rs | sh" >&2
	    exit 1
	}

setup-test: setup
	@$(call install,$(TEST_PACKAGES))
	# What no distribution has; without it, its tests say that they were not tried.
	tools=target/test-tools
	if command -v npm >/dev/null && [ ! -e $$tools/node_modules/playwright-core ]; then
	    npm install --silent --no-audit --no-fund --ignore-scripts --prefix $$tools playwright-core@1.64 pnpm@10 ||
	        echo "pnpm and playwright cannot be installed: their tests are left out" >&2
	fi
	if [ ! -e $$tools/python/bin/uv ]; then
	    { python3 -m venv $$tools/python && $$tools/python/bin/pip -q install --disable-pip-version-check 'uv<1'; } ||
	        echo "uv cannot be installed: its test is left out" >&2
	fi

setup-bench: setup
	@$(call install,$(BENCH_PACKAGES))

# Servers that nobody asked for: while they are installed nothing may start them, and afterwards not the next boot.
setup-bench-net: setup
	@new=()
	for unit in squid tinyproxy unbound; do
	    dpkg-query -W -f '$${Status}\n' $$unit 2>/dev/null | grep -q 'ok installed' || new+=($$unit.service)
	done
	if [ $${#new[@]} = 0 ] || ! command -v systemctl >/dev/null; then
	    $(call install,$(BENCH_NET_PACKAGES))
	    exit 0
	fi
	$(SUDO) systemctl --quiet mask "$${new[@]}"
	trap '$(SUDO) systemctl --quiet unmask "$${new[@]}"' EXIT
	$(call install,$(BENCH_NET_PACKAGES))
	$(SUDO) systemctl --quiet unmask "$${new[@]}"
	$(SUDO) systemctl --quiet disable "$${new[@]}"

# A private daemon, and a scripted agent that works and then misbehaves.
demo: build
	@$(SUDO) tests/demo/private-daemon tests/demo/demo.sh

# Unit, compliance, escape, privilege and recovery tests. Built by you, run by root.
test: setup-test
	@mkdir -p target
	began=$$SECONDS status=0 log=target/test.log
	$(MAKE) lint || status=1
	host=$$(rustc -vV | sed -n 's/^host: //p' | tr a-z- A-Z_)
	export CARGO_TARGET_$${host}_RUNNER="$(if $(SUDO),sudo -E --)"
	[ -n "$(SUDO)" ] || unset CARGO_TARGET_$${host}_RUNNER
	cargo build --workspace
	cargo test --workspace --no-run
	timeout -k 10 $(TEST_MINUTES)m cargo test --workspace --no-fail-fast -- $(TEST_ARGS) 2>&1 | tee $$log || status=1
	awk -v took=$$((SECONDS - began)) '
	    /^test .* FAILED$$/ { print "failed: " $$2 }
	    /^test .* NOT TRIED: / { sub(/^test /, ""); print "skipped: " $$0 }
	    /^NOT TRIED: / { print "skipped: " $$0; passed--; skipped++ }
	    /^test result: / { passed += $$4; failed += $$6; skipped += $$8 }
	    END { printf "%d passed, %d failed, %d skipped in %d s\n", passed, failed, skipped, took }' $$log
	[ $$status = 0 ] || { echo "make test failed" >&2; exit 1; }

lint:
	@cargo fmt --all --check
	if cargo clippy --version >/dev/null 2>&1; then
	    cargo clippy --workspace --all-targets -- -D warnings
	else
	    echo "lint: no clippy here; left out"
	fi
	if cargo deny --version >/dev/null 2>&1; then cargo deny check licenses bans sources; fi

# Beside bubblewrap, crun and runc. RUNS=50 is the number of tries of each.
bench: build setup-bench
	@$(SUDO) env RUNS=$(or $(RUNS),50) tests/demo/private-daemon tests/bench/bench.py

# Starts of this build and of another one in turns: BASE=DIR has the other's programs. ROUNDS=300 of each.
bench-pair: build setup-bench
	@[ -n "$(BASE)" ] || { echo "bench-pair: BASE=DIR is missing: where the programs to compare with are" >&2; exit 2; }
	$(SUDO) env ROUNDS=$(or $(ROUNDS),300) tests/bench/pair.py $(BASE) target/release

# Starts beside loops of another user, LOOPS=8 of them that connect and close, RUNS=40 of each kind.
bench-crowd: build setup-bench
	@$(SUDO) env RUNS=$(or $(RUNS),40) LOOPS=$(or $(LOOPS),8) tests/demo/private-daemon tests/bench/crowd.py

# A session's way out, beside a direct connection, squid, tinyproxy, mitmproxy, dnsmasq and unbound: in a network
# namespace with nothing in it. RUNS=5 is the number of turns, JSON=1 prints every figure.
define BENCH_NET_CONFIG
[egress]
resolvers = ["192.0.2.80:53"]
allow_private_ranges = ["192.0.2.0/24"]
endef
export BENCH_NET_CONFIG
bench-net: build setup-bench-net
	@cargo build --release -p agentd-tests --example netload
	$(SUDO) env RUNS=$(RUNS) JSON=$(JSON) NETLOAD=$(CURDIR)/target/release/examples/netload \
	    DEMO_CONFIG="$$BENCH_NET_CONFIG" unshare --net -- tests/demo/private-daemon tests/bench/net.py

# Sessions of every kind of end for MINUTES=10, JOBS=8 at a time; then as long ones with a network, beside a WebSocket
# and server-sent events that go on; and a million connections. Nothing may be left.
soak: build setup-test
	@$(SUDO) env MINUTES=$(or $(MINUTES),10) JOBS=$(or $(JOBS),8) tests/demo/private-daemon tests/bench/soak.py
	host=$$(rustc -vV | sed -n 's/^host: //p' | tr a-z- A-Z_)
	export CARGO_TARGET_$${host}_RUNNER="$(if $(SUDO),sudo -E --)"
	[ -n "$(SUDO)" ] || unset CARGO_TARGET_$${host}_RUNNER
	export AGENTD_TEST_MINUTES=$(or $(MINUTES),10) AGENTD_BIN_DIR=$(CURDIR)/target/release
	cargo test -p agentd-tests --test net -- --test-threads 2 --nocapture endurance
	cargo test -p agentd-tests --test escape-net -- --test-threads 1 --nocapture crowds

# Each reader of hostile bytes, or TARGET=…, for SECONDS=60, from tests/fuzz/corpus on. What is found stays in target/fuzz.
# libFuzzer by way of libfuzzer-sys, with cargo-fuzz's flags and without cargo-fuzz: these need no nightly toolchain, and
# the sanitizers that do would look for what safe Rust does not have.
FUZZ := target/fuzz
FUZZ_FLAGS := --cfg fuzzing -Cpasses=sancov-module $(addprefix -Cllvm-args=-sanitizer-coverage-, \
    level=4 inline-8bit-counters pc-table trace-compares)
FUZZ_TARGETS = $(or $(TARGET),$(notdir $(wildcard tests/fuzz/corpus/*)))
fuzz: fuzz-build
	@for target in $(FUZZ_TARGETS); do
	    mkdir -p $(FUZZ)/corpus/$$target $(FUZZ)/found
	    echo "fuzz: $$target"
	    TARGET=$$target $(FUZZ)/fuzz -max_total_time=$(or $(SECONDS),60) -timeout=5 -rss_limit_mb=1024 \
	        -artifact_prefix=$(FUZZ)/found/$$target- -print_final_stats=1 -verbosity=0 \
	        $(FUZZ)/corpus/$$target tests/fuzz/corpus/$$target
	done

fuzz-build: setup
	@$(call install,g++)
	host=$$(rustc -vV | sed -n 's/^host: //p')
	RUSTFLAGS="$(FUZZ_FLAGS)" cargo build -p agentd-fuzz --features libfuzzer --profile fuzz --target $$host --target-dir $(FUZZ)/build
	ln -sf build/$$host/fuzz/fuzz $(FUZZ)/fuzz

# The fewest files that reach every edge that was reached so far become tests/fuzz/corpus, for TARGET=… or each.
fuzz-corpus: fuzz-build
	@for target in $(FUZZ_TARGETS); do
	    corpus=tests/fuzz/corpus/$$target least=$(FUZZ)/least/$$target
	    mkdir -p $(FUZZ)/corpus/$$target "$$least"
	    TARGET=$$target $(FUZZ)/fuzz -set_cover_merge=1 -use_counters=0 -use_cmp=0 -verbosity=0 "$$least" "$$corpus" $(FUZZ)/corpus/$$target
	    rm -r "$$corpus" && mv "$$least" "$$corpus"
	done

# For a package or a host without one: PREFIX=/usr DESTDIR=… make install
PREFIX ?= /usr/local
install:
	@lib=$(PREFIX)/lib to=$(DESTDIR)$(PREFIX)/lib
	install -d "$$to"/{agentd,systemd/system,sysusers.d,tmpfiles.d} "$(DESTDIR)$(PREFIX)/bin" "$(DESTDIR)/etc/agentd"
	install -m 755 target/release/{agentd,agentd-launcher,agentd-relay} "$$to/agentd"
	install -m 755 target/release/agentctl "$(DESTDIR)$(PREFIX)/bin"
	for unit in agentd agentd-launcher; do
	    sed "s|^ExecStart=/usr/lib/|ExecStart=$$lib/|" systemd/$$unit.service > "$$to/systemd/system/$$unit.service"
	    chmod 644 "$$to/systemd/system/$$unit.service"
	done
	install -m 644 systemd/agentd.socket systemd/agentd-offer.socket "$$to/systemd/system"
	install -m 644 systemd/agentd.sysusers "$$to/sysusers.d/agentd.conf"
	install -m 644 systemd/agentd.tmpfiles "$$to/tmpfiles.d/agentd.conf"
	[ -e "$(DESTDIR)/etc/agentd/agentd.toml" ] || install -m 644 systemd/agentd.toml "$(DESTDIR)/etc/agentd"

# What users read: manual pages and completions, from the command line's own definition; AGENTCTL is asked for them.
AGENTCTL ?= target/release/agentctl
install-docs:
	@share=$(DESTDIR)$(PREFIX)/share
	zsh=$$share/zsh/$(or $(ZSH_FUNCTIONS),site-functions) doc=$$share/doc/agentd
	install -d "$$share"/man/man{1,5,7,8} "$$share"/bash-completion/completions "$$zsh" \
	    "$$share"/fish/vendor_completions.d "$$doc"/examples/profiles
	$(AGENTCTL) manpages "$$share/man/man1"
	systemd/man/config-page systemd/agentd.toml $(VERSION) > "$$share/man/man5/agentd.toml.5"
	for section in 5 7 8; do install -m 644 systemd/man/*.$$section "$$share/man/man$$section"; done
	$(AGENTCTL) completion bash > "$$share/bash-completion/completions/agentctl"
	$(AGENTCTL) completion zsh > "$$zsh/_agentctl"
	$(AGENTCTL) completion fish > "$$share/fish/vendor_completions.d/agentctl.fish"
	install -m 644 systemd/agentd.toml "$$doc/examples"
	install -m 644 daemon/policy/profiles/*.toml "$$doc/examples/profiles"
	install -m 644 README.md SECURITY.md "$$doc"
	install -d "$$doc/docs"
	install -m 644 docs/*.md "$$doc/docs"

# target/package/agentd_VERSION_ARCH.deb, from the release build; and what lintian says.
deb: build
	@$(call install,$(DEB_PACKAGES))
	$(MAKE) package-deb

package-deb:
	@grep -q "^agentd ($(VERSION)-" debian/changelog || { echo "debian/changelog begins with another version than $(VERSION)" >&2; exit 1; }
	rm -rf target/deb && mkdir -p target/deb target/package
	cp -r debian target/deb
	rm -f target/package/agentd_*.deb
	cd target/deb
	fakeroot debian/rules binary TOP=$(CURDIR) OUT=$(CURDIR)/target/package SKIP_BUILD=1
	lintian --fail-on error --info ../package/agentd_*.deb
	ls -l ../package/agentd_*.deb

# target/package/agentd-VERSION-1.ARCH.rpm, from the release build.
rpm: build
	@$(call install,$(RPM_PACKAGES))
	$(MAKE) package-rpm

package-rpm:
	@rm -rf target/rpm && mkdir -p target/rpm target/package
	rm -f target/package/agentd-*.rpm
	rpmbuild -bb --quiet --define "_topdir $(CURDIR)/target/rpm" --define "_rpmdir $(CURDIR)/target/package" \
	    --define '_rpmfilename %%{NAME}-%%{VERSION}-%%{RELEASE}.%%{ARCH}.rpm' \
	    --define "top $(CURDIR)" --define "agentd_version $(VERSION)" systemd/agentd.spec
	ls -l target/package/agentd-*.rpm

# Debian with systemd, pure cgroup v2 and AppArmor in a virtual machine: installs the package and tries all of it.
# CHECKS=… runs those alone, KEEP=1 leaves the machine's files. Needs no hardware acceleration.
test-vm: deb
	@$(call install,$(VM_PACKAGES))
	cargo test -p agentd-tests --no-run --message-format json-render-diagnostics | tests/vm/suites target/vm/suites
	$(SUDO) env CHECKS="$(CHECKS)" KEEP="$(KEEP)" PREVIOUS="$(PREVIOUS)" MINUTES="$(MINUTES)" tests/vm/run target

clean:
	cargo clean
