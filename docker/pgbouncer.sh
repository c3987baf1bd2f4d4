#!/bin/sh
# Fills the volume on the first start only: afterwards pgbouncer.ini belongs to the cutover, which
# changes the line of [databases].
set -eu
umask 077
dir=/etc/pgbouncer
[ -e "$dir/pgbouncer.ini" ] || cp /usr/share/cutover/pgbouncer.ini "$dir/pgbouncer.ini"
# Quotes inside of a userlist entry are doubled.
password=$(sed 's/"/""/g' "${CUTOVER_PASSWORD_FILE:-/run/secrets/password}")
printf '"%s" "%s"\n' app "$password" cutover "$password" >"$dir/userlist.txt"
exec pgbouncer "$dir/pgbouncer.ini"
