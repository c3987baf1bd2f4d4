# shellcheck shell=bash
# Runs once in a new blue and a new green: the application's own role. The sidecar is `cutover`; the
# two must differ, because a cutover ends the sessions of the one and not those of the other.
psql -X -v ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" <<'SQL'
\set password `tr -d "\n" < "${CUTOVER_PASSWORD_FILE:-/run/secrets/password}"`
CREATE ROLE app LOGIN PASSWORD :'password';
GRANT ALL ON DATABASE app TO app;
GRANT ALL ON SCHEMA public TO app;
SQL
