#!/bin/sh
# Gives libpq and the replicator their passwords as a PGPASSFILE: mode 600, which a mounted secret
# need not have, and never on a command line.
set -eu
umask 077
secret=${CUTOVER_PASSWORD_FILE:-/run/secrets/password}
if [ -r "$secret" ] && [ -z "${PGPASSFILE:-}" ]; then
    PGPASSFILE=$HOME/.pgpass
    export PGPASSFILE
    # In a pgpass file, backslash and colon are escaped.
    printf '*:*:*:*:%s\n' "$(sed 's/[\\:]/\\&/g' "$secret")" >"$PGPASSFILE"
fi
exec "$@"
