# shellcheck shell=bash
# Part `rocksdb`: librocksdb.a from the sources inside the librocksdb-sys crate.
#
# The crate compiles 342 files one by one, and most of that time is spent reading the same headers
# (about 23 CPU minutes). Read as 12 larger files it takes about 6, and one archive then serves every
# profile and every checkout.

ROCKSDB_UNITS=12

# Directory of the unpacked librocksdb-sys crate.
rocksdb_crate_dir() {
    local dir
    for dir in "${CARGO_HOME:-$HOME/.cargo}"/registry/src/*/librocksdb-sys-"$CUTOVER_ROCKSDB_VERSION" \
        "$CUTOVER_ROOT"/vendor/librocksdb-sys; do
        [ -f "$dir/rocksdb_lib_sources.txt" ] && { printf '%s\n' "$dir"; return 0; }
    done
    return 1
}

rocksdb_compile() { # CRATE_DIR WORK_DIR
    local crate=$1 work=$2 unit
    grep '\.cc$' "$crate/rocksdb_lib_sources.txt" | grep -v '^util/build_version\.cc$' |
        awk -v units="$ROCKSDB_UNITS" -v dir="$work" '
            { line[NR] = "#include \"rocksdb/" $0 "\"" }
            END { per = int((NR + units - 1) / units)
                  for (i = 1; i <= NR; i++) print line[i] > sprintf("%s/unit%02d.cc", dir, int((i - 1) / per)) }'
    cp "$crate/build_version.cc" "$work/"
    # The definitions are those of the crate's build.rs for Linux.
    # One compiler takes up to 2.5 GB, so no more than two at a time.
    for unit in "$work"/*.cc; do printf '%s\n' "$unit"; done |
        (cd "$crate" && xargs -P "${CUTOVER_JOBS:-2}" -I{} nice -n 5 "${CXX:-g++}" -std=c++20 -O2 -DNDEBUG -fPIC -w \
            -include cstdint -I. -Irocksdb -Irocksdb/include \
            -DHAVE_UINT128_EXTENSION -DOS_LINUX -DROCKSDB_PLATFORM_POSIX -DROCKSDB_LIB_IO_POSIX \
            -DROCKSDB_SUPPORT_THREAD_LOCAL -DROCKSDB_SCHED_GETCPU_PRESENT -DROCKSDB_AUXV_GETAUXVAL_PRESENT \
            -DROCKSDB_FALLOCATE_PRESENT -DROCKSDB_RANGESYNC_PRESENT \
            -c {} -o {}.o) || return 1
    ar rcs "$work/librocksdb.a" "$work"/*.cc.o
}

part_rocksdb() {
    local out crate work
    [ -n "$CUTOVER_ROCKSDB_VERSION" ] || fail "Cargo.lock names no librocksdb-sys: run cargo generate-lockfile"
    out=$CUTOVER_CACHE/rocksdb/$CUTOVER_ROCKSDB_VERSION
    [ -f "$out/librocksdb.a" ] && { step_cached "rocksdb $CUTOVER_ROCKSDB_VERSION"; return 0; }
    need_command cargo "the Rust toolchain, https://rustup.rs"
    need_command "${CXX:-g++}" "scripts/setup packages"
    if ! crate=$(rocksdb_crate_dir); then
        step_begin "rocksdb $CUTOVER_ROCKSDB_VERSION: fetch sources"
        quietly cargo fetch --locked --manifest-path "$CUTOVER_ROOT/Cargo.toml" || fail "cargo fetch failed"
        crate=$(rocksdb_crate_dir) || fail "librocksdb-sys $CUTOVER_ROCKSDB_VERSION is not in cargo's registry"
        step_end
    fi
    step_begin "rocksdb $CUTOVER_ROCKSDB_VERSION: compile (about 3 minutes on 2 cores)"
    mkdir -p "$out"
    # Beside its destination, so that the closing rename is atomic. Not `mktemp -p`: a fixed name
    # per process is enough, and a killed build is found and removed by the next.
    rm -rf "$out"/build.*
    work=$out/build.$$
    mkdir "$work"
    quietly rocksdb_compile "$crate" "$work" || fail "RocksDB did not compile"
    mv "$work/librocksdb.a" "$out/librocksdb.a"
    rm -rf "$work"
    step_end
}
