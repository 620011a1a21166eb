# shellcheck shell=bash
# For the scripts beside it: where the workspace is, root, the version, packages.

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
export PATH="${HOME:+$HOME/.cargo/bin:}$PATH"

# What runs as root: nothing before it where the caller is root.
sudo=()
[ "$(id -u)" = 0 ] || sudo=(sudo)

# The workspace's version.
version() { sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1; }

# The version of Rust that the workspace needs.
rust_version() { sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml | head -n 1; }

# at_least VERSION WANTED
at_least() { [ "$(printf '%s\n' "$1" "$2" | sort -V | head -n 1)" = "$2" ]; }

# Test programs that cargo starts run as root, as CARGO_TARGET_…_RUNNER.
run_tests_as_root() {
    [ "${#sudo[@]}" != 0 ] || return 0
    local host
    host=$(rustc -vV | sed -n 's/^host: //p' | tr a-z- A-Z_)
    export "CARGO_TARGET_${host}_RUNNER=sudo -E --"
}

installed() { dpkg-query -W -f '${Status}\n' "$1" 2>/dev/null | grep -q 'ok installed'; }

# install_packages PACKAGE…: those that are missing, by one apt-get. RUNLEVEL=1: no server of theirs is started.
install_packages() {
    local package missing=()
    for package; do
        installed "$package" || missing+=("$package")
    done
    [ "${#missing[@]}" != 0 ] || return 0
    echo "installing ${missing[*]}"
    command -v apt-get >/dev/null || { echo "no apt-get here: install these by hand" >&2; return 1; }
    "${sudo[@]}" apt-get -qq update
    "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 \
        apt-get -qq -y --no-install-recommends install "${missing[@]}" >/dev/null
}
