# shellcheck shell=bash
# The Python package data-diff, which the bench `verify_full` compares with; nothing else needs it.

# Its last release does not bound what it needs: newer ones of these two no longer fit.
DATA_DIFF=(data-diff==0.11.2 'dbt-core==1.7.*' 'pydantic==1.10.*' psycopg2-binary setuptools)

part_data_diff() {
    local directory=$CUTOVER_CACHE/data-diff
    if [ -x "$directory/bin/data-diff" ] && "$directory/bin/data-diff" --version >/dev/null 2>&1; then
        step_cached 'data-diff'
        return
    fi
    step_begin 'data-diff'
    rm -rf "$directory"
    {
        python3 -m venv "$directory" && "$directory/bin/pip" install -q "${DATA_DIFF[@]}"
    } >"$SETUP_LOG" 2>&1 || fail "data-diff can't be installed: $(tail -n 3 "$SETUP_LOG")"
    step_end
}
