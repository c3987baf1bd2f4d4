# shellcheck shell=sh
# Where tests keep what servers and sidecars write: in memory, if there is room and programs may run from there.
# Source it; it only sets TMPDIR, and leaves one that is set. Benches and the demo measure a disk and don't use it.
#
# A test makes and removes thousands of files. Whenever a file is made, ext4 passes over the inodes that were
# removed in the last seconds one by one.
if [ -z "${TMPDIR:-}" ] && ! grep -q '^[^ ]* /dev/shm [^ ]* [^ ]*noexec' /proc/mounts 2>/dev/null &&
    [ "$(df -Pk /dev/shm 2>/dev/null | awk 'NR == 2 { print $4 }')" -ge 12582912 ] 2>/dev/null; then
    TMPDIR=/dev/shm
    export TMPDIR
fi
