# shellcheck shell=bash
# mdBook, for `make docs` only.

MDBOOK_VERSION=0.5.4

part_mdbook() {
    local dir=$CUTOVER_CACHE/mdbook/$MDBOOK_VERSION
    if [ -x "$dir/bin/mdbook" ] || command -v mdbook >/dev/null 2>&1; then
        step_cached mdbook
        return 0
    fi
    step_begin "mdbook $MDBOOK_VERSION (compiled once, some minutes)"
    # A target directory of its own: that of the checkout would fill with what nothing else needs.
    if quietly env -u CARGO_TARGET_DIR cargo install mdbook --locked --version "$MDBOOK_VERSION" --root "$dir"; then
        step_end
        return 0
    fi
    fail "mdbook could not be installed"
}
