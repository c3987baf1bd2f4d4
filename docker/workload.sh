#!/bin/bash
# pgbench through PgBouncer, at a rate that leaves the machine room to replicate.
set -euo pipefail
umask 077
PGPASSFILE=$HOME/.pgpass
export PGPASSFILE
printf '*:*:*:*:%s\n' "$(sed 's/[\\:]/\\&/g' "${CUTOVER_PASSWORD_FILE:-/run/secrets/password}")" >"$PGPASSFILE"
if [ "$(psql -XAtc "select to_regclass('pgbench_accounts') is null")" = t ]; then
    pgbench --initialize --quiet --scale="${SCALE:-10}"
fi
exec pgbench --no-vacuum --client=4 --jobs=2 --rate="${RATE:-200}" --time="${SECONDS_TO_RUN:-86400}" --progress=5 --protocol=prepared
