#!/bin/bash
# What a service asks of the upstream image's entry point: a first start makes the role and the database that the
# environment names, reachable by password from other hosts; root becomes `postgres`. Scripts of a first start are not.
set -euo pipefail

[[ ${1:0:1} == - ]] && set -- postgres "$@"
[[ $1 == postgres ]] || exec "$@"

# Take a variable from the file that its twin names, as a secret is given.
from_file() {
    local file=$1_FILE
    [[ -z ${!file:-} ]] || export "$1=$(<"${!file}")"
}
for name in POSTGRES_USER POSTGRES_PASSWORD POSTGRES_DB; do from_file "$name"; done
user=${POSTGRES_USER:-postgres}
database=${POSTGRES_DB:-$user}

if [[ $(id -u) == 0 ]]; then
    install -d -o postgres -g postgres -m 700 "$PGDATA"
    install -d -o postgres -g postgres -m 3775 /var/run/postgresql
    exec gosu postgres "${BASH_SOURCE[0]}" "$@"
fi

if [[ ! -s $PGDATA/PG_VERSION ]]; then
    : "${POSTGRES_PASSWORD:?must be set for a first start}"
    mkdir -p "$PGDATA"
    chmod 700 "$PGDATA"
    initdb --username="$user" --pwfile=<(printf '%s\n' "$POSTGRES_PASSWORD")
    printf '\nhost all all all scram-sha-256\n' >>"$PGDATA/pg_hba.conf"
    pg_ctl --wait --options="-c listen_addresses=''" start
    if [[ $database != postgres ]]; then
        psql --username="$user" --dbname=postgres --no-psqlrc --set=ON_ERROR_STOP=1 --set=name="$database" \
            <<<'CREATE DATABASE :"name"'
    fi
    pg_ctl --wait --mode=fast stop
fi
exec "$@"
