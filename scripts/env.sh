# shellcheck shell=sh
# Where everything that is not source lives. Source it; it only sets variables:
#
#   CUTOVER_CACHE    downloads and build products that survive a fresh clone
#   CUTOVER_SERVERS  database servers and clients: $CUTOVER_SERVERS/pg/<major>/bin,
#                    $CUTOVER_SERVERS/pgclient/<major>/bin, $CUTOVER_SERVERS/pgbouncer/bin
#   CARGO_TARGET_DIR one target directory for every checkout
#   ROCKSDB_LIB_DIR, ROCKSDB_STATIC
#                    the archive of `scripts/setup rocksdb`, when it was built for the version in
#                    Cargo.lock. Without it cargo compiles RocksDB itself (about 14 minutes on 2 cores).
#
# Each may be set beforehand. `scripts/setup` fills the directories.

CUTOVER_CACHE=${CUTOVER_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/cutover}
export CUTOVER_CACHE

# postgres refuses to run as root, so root's servers run as user postgres, who may not be able to
# enter root's home (mode 700). They therefore live outside of it; nobody's home is opened up.
if [ -z "${CUTOVER_SERVERS:-}" ]; then
    if [ "$(id -u)" -eq 0 ]; then
        CUTOVER_SERVERS=/var/cache/cutover
    else
        CUTOVER_SERVERS=$CUTOVER_CACHE
    fi
fi
export CUTOVER_SERVERS

CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$CUTOVER_CACHE/target}
export CARGO_TARGET_DIR

if [ -n "${BASH_SOURCE:-}" ]; then
    # shellcheck disable=SC3028,SC3054,SC2128 # bash only; other shells take the branch below
    CUTOVER_ROOT=$(cd "$(dirname "$BASH_SOURCE")/.." && pwd)
else
    CUTOVER_ROOT=$(git rev-parse --show-toplevel 2>/dev/null || pwd)
fi
export CUTOVER_ROOT

# The version of librocksdb-sys, for example 0.19.0+11.8.1: the archive must match its bindings.
CUTOVER_ROCKSDB_VERSION=$(awk -F'"' '/^name = "librocksdb-sys"$/ { getline; print $2; exit }' "$CUTOVER_ROOT/Cargo.lock" 2>/dev/null)
export CUTOVER_ROCKSDB_VERSION
if [ -z "${ROCKSDB_LIB_DIR:-}" ] && [ -n "$CUTOVER_ROCKSDB_VERSION" ] &&
    [ -f "$CUTOVER_CACHE/rocksdb/$CUTOVER_ROCKSDB_VERSION/librocksdb.a" ]; then
    ROCKSDB_LIB_DIR=$CUTOVER_CACHE/rocksdb/$CUTOVER_ROCKSDB_VERSION
    ROCKSDB_STATIC=1
    export ROCKSDB_LIB_DIR ROCKSDB_STATIC
fi
