# shellcheck shell=bash
# Part `packages`: what comes from the machine's own apt.

PACKAGES_BUILD=(build-essential clang libclang-dev pkg-config)
PACKAGES_TOOLS=(ca-certificates curl jq patchelf util-linux debian-archive-keyring)
PACKAGES_SERVERS=(pgbouncer haproxy prometheus prometheus-alertmanager) # prometheus brings promtool

# Only bookworm has PostgreSQL 15; elsewhere part `servers` unpacks it, and this makes user postgres.
if grep -qs '^VERSION_CODENAME=bookworm$' /etc/os-release; then
    PACKAGES_SERVERS+=(postgresql-15)
else
    PACKAGES_SERVERS+=(postgresql-common)
fi

POLICY_RC=/usr/sbin/policy-rc.d
POLICY_RC_SAVED=/usr/sbin/policy-rc.d.before-cutover

packages_missing() { # PACKAGE...
    local listed have package
    # Exit 1 only says that it does not know one of them.
    listed=$(dpkg-query -W -f='${db:Status-Abbrev}${Package}\n' "$@" 2>/dev/null || true)
    have=" $(sed -n 's/^ii *//p' <<<"$listed" | tr '\n' ' ')"
    for package in "$@"; do
        [[ $have == *" $package "* ]] || printf '%s\n' "$package"
    done
}

# Debian starts a daemon as soon as it is installed, on its default port. Not here: the policy file
# forbids it while apt runs, and what was there before comes back, also after a killed set-up.
policy_deny() {
    if as_root test -e "$POLICY_RC" && ! as_root test -e "$POLICY_RC_SAVED"; then
        as_root mv "$POLICY_RC" "$POLICY_RC_SAVED"
    fi
    printf '#!/bin/sh\n# cutover: scripts/setup is installing packages\nexit 101\n' | as_root tee "$POLICY_RC" >/dev/null
    as_root chmod 755 "$POLICY_RC"
}

policy_restore() {
    if as_root test -e "$POLICY_RC_SAVED"; then
        as_root mv "$POLICY_RC_SAVED" "$POLICY_RC"
    elif as_root grep -qs '^# cutover: scripts/setup' "$POLICY_RC"; then
        as_root rm -f "$POLICY_RC"
    fi
}

apt_install() {
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        -o Dpkg::Options::=--force-confold "$@"
}

part_packages() {
    local wanted missing new_daemons=() daemon
    command -v dpkg-query >/dev/null 2>&1 ||
        fail "this machine has no dpkg; the set-up is for Debian. Needed: ${PACKAGES_BUILD[*]} ${PACKAGES_TOOLS[*]} ${PACKAGES_SERVERS[*]} nodejs npm"
    wanted=("${PACKAGES_BUILD[@]}" "${PACKAGES_TOOLS[@]}" "${PACKAGES_SERVERS[@]}")
    command -v npm >/dev/null 2>&1 || wanted+=(nodejs npm) # often there from elsewhere
    mapfile -t missing < <(packages_missing "${wanted[@]}")
    if [ "${#missing[@]}" -eq 0 ]; then
        step_cached "packages"
        return 0
    fi
    if [ "$(id -u)" -ne 0 ] && ! command -v sudo >/dev/null 2>&1; then
        fail "not root, and there is no sudo. As root: apt-get install --no-install-recommends ${missing[*]}"
    fi
    step_begin "packages: apt-get update"
    # One unreachable third-party repository must not stop us: the installation decides.
    quietly as_root apt-get -q update || cp "$SETUP_LOG" "$CUTOVER_CACHE/apt-update.log"
    step_end
    for daemon in pgbouncer haproxy prometheus prometheus-alertmanager postgresql-15; do
        [[ " ${missing[*]} " == *" $daemon "* ]] && new_daemons+=("${daemon%-15}")
    done
    step_begin "packages: install ${#missing[@]} (${missing[*]:0:3}...)"
    policy_deny
    at_exit policy_restore
    quietly apt_install "${missing[@]}" || fail "apt-get could not install: ${missing[*]}"
    policy_restore
    # Nor may they start at the next boot: nothing here uses the system's own instances.
    if [ -d /run/systemd/system ] && [ "${#new_daemons[@]}" -gt 0 ]; then
        quietly as_root systemctl disable "${new_daemons[@]}" || fail "cannot disable: ${new_daemons[*]}"
    fi
    step_end
}
