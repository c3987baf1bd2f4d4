# shellcheck shell=bash
# Programs of another Debian release, unpacked beside the system: no chroot, no maintainer scripts.

# The mirror of this machine, or the public one where the machine is not Debian.
debian_mirror() { # LABEL (Debian, Debian-Security) PATH
    local uri
    # shellcheck disable=SC2016 # apt's own format, not the shell's
    uri=$(apt-get indextargets --format '$(REPO_URI)' "Label: $1" 2>/dev/null | sort -u | head -n 1)
    printf '%s\n' "${uri:-http://deb.debian.org/$2/}"
}

# Unpacks PACKAGE... of SUITE with everything they depend on, so that they run from FINAL.
# The tree is made in FINAL.partial; the caller renames it when it is content.
debian_unpack() { # SUITE FINAL PACKAGE...
    local suite=$1 final=$2 tree=$2.partial work=$2.work key loader libraries file
    shift 2
    rm -rf "$tree" "$work"
    mkdir -p "$work"/state/lists/partial "$work"/cache/archives/partial "$work"/etc "$tree"
    : >"$work/status"
    key=$(dpkg -L debian-archive-keyring | grep 'keyrings/debian-archive-keyring\.\(gpg\|pgp\)$' | head -n 1)
    printf 'deb [signed-by=%s] %s %s main\n' "$key" "$(debian_mirror Debian debian)" "$suite" >"$work/etc/list"
    # sid has no security suite. The newest minors of the others are only there.
    [ "$suite" = sid ] ||
        printf 'deb [signed-by=%s] %s %s-security main\n' "$key" "$(debian_mirror Debian-Security debian-security)" "$suite" >>"$work/etc/list"
    # A state and a cache of its own: the system's package lists stay as they are. Mirrors may lag
    # behind the two weeks that sid's Release file is valid; its signature is checked all the same.
    local options=(-q -o Dir::State="$work/state" -o Dir::State::status="$work/status" -o Dir::Cache="$work/cache"
        -o Dir::Etc::sourcelist="$work/etc/list" -o Dir::Etc::sourceparts=- -o Dir::Etc::preferencesparts=-
        -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache= -o APT::Sandbox::User="$(id -un)"
        -o Acquire::Check-Valid-Until=false -o Acquire::Languages=none -o APT::Keep-Downloaded-Packages=true)
    apt-get "${options[@]}" update || return 1
    apt-get "${options[@]}" -y --no-install-recommends --download-only install "$@" || return 1
    for file in "$work"/cache/archives/*.deb; do
        dpkg-deb -x "$file" "$tree" || return 1
    done
    rm -rf "$work" "$tree"/usr/share/{doc,man,locale,perl,perl5,info,lintian,bug} "$tree"/usr/lib/x86_64-linux-gnu/perl*
    # Every program gets the tree's own loader and libraries: those of another release do not fit
    # the system's C library. They name the place where the tree will be.
    libraries=usr/lib/x86_64-linux-gnu
    loader=$libraries/ld-linux-x86-64.so.2
    [ -e "$tree/$loader" ] || loader=$(cd "$tree" && find lib lib64 -name 'ld-*.so*' 2>/dev/null | sort | head -n 1)
    [ -n "$loader" ] || { printf 'no loader among the packages of %s\n' "$*"; return 1; }
    while IFS= read -r file; do
        patchelf --print-interpreter "$file" >/dev/null 2>&1 || continue # a script or a library
        patchelf --set-interpreter "$final/$loader" --force-rpath \
            --set-rpath "$final/$libraries:$final/lib/x86_64-linux-gnu:$final/$libraries/mysql/private" "$file" || return 1
    done < <(find "$tree"/usr/bin "$tree"/usr/sbin "$tree"/usr/lib/postgresql -type f -perm -u+x 2>/dev/null)
}
