# shellcheck shell=bash
# What the parts of scripts/setup share: one line per step with its seconds, and failures that say why.

EXIT_ACTIONS=()

# Runs COMMAND... when the script ends, however it ends.
at_exit() { EXIT_ACTIONS+=("$*"); }

run_exit_actions() {
    local action
    for action in "${EXIT_ACTIONS[@]}"; do $action || true; done
}

# Output of the command that runs now. A background job opens its own, with its own exit actions.
open_log() {
    EXIT_ACTIONS=()
    trap run_exit_actions EXIT
    SETUP_LOG=$(mktemp "${TMPDIR:-/tmp}/cutover-setup.XXXXXX")
    at_exit rm -f "$SETUP_LOG"
}
open_log

STEP_NAME=
STEP_STARTED_MS=0

now_ms() { date +%s%3N; }

step_begin() {
    STEP_NAME=$1
    STEP_STARTED_MS=$(now_ms)
}

step_end() { # [NAME, if it says more than the one at the beginning]
    STEP_NAME=${1:-$STEP_NAME}
    local took_ms=$(($(now_ms) - STEP_STARTED_MS))
    printf 'setup: %-58s %4d.%d s\n' "$STEP_NAME" $((took_ms / 1000)) $((took_ms % 1000 / 100))
    STEP_NAME=
}

step_cached() { printf 'setup: %-58s  there\n' "$1"; }

# Ends the set-up; shows the tail of what the failing command printed.
fail() {
    printf 'setup: FAILED%s: %s\n' "${STEP_NAME:+ in \"$STEP_NAME\"}" "$1" >&2
    [ -s "$SETUP_LOG" ] && tail -n 25 "$SETUP_LOG" | sed 's/^/    | /' >&2
    exit 1
}

# Runs a command with its output kept aside for `fail`.
quietly() { "$@" >"$SETUP_LOG" 2>&1; }

need_command() { # COMMAND WHERE_FROM
    command -v "$1" >/dev/null 2>&1 || fail "$1 is not in PATH; it comes from: $2"
}

as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi
}

# Two set-ups at once (a demo beside a test run) would unpack into the same place: the second waits.
lock_setup() {
    exec 9>"$CUTOVER_CACHE/setup.lock"
    flock -n 9 && return 0
    printf 'setup: another set-up is running, waiting for it\n' >&2
    flock 9
}
