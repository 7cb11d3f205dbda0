#!/bin/sh
# Before a backup's snapshot: every running PostgreSQL cluster of this machine writes all it has to its disks (CHECKPOINT),
# and names the moment in its log of changes (a restore point, where wal_level allows). The database goes on serving; what the
# freeze that follows catches is a moment from which it starts by itself, with every transaction that was committed,
# and with next to nothing to redo.
#
# Fails if a cluster that should be running does not answer. Parameters, for a cluster that pg_lsclusters does not know:
#
#   pre.sh [PORT [SOCKET_DIRECTORY]]
set -eu
cd /
[ -z "${2:-}" ] || export PGHOST="$2"
if [ -n "${1:-}" ] || ! command -v pg_lsclusters > /dev/null; then
    ports=${1:-5432}
else
    ports=$(pg_lsclusters -h | awk '$4 ~ /^online/ { print $3 }')
    # Of those that are down, the ones that start with the machine are missed.
    for cluster in $(pg_lsclusters -h | awk '$4 ~ /^down/ { print $1 "/" $2 }'); do
        start=$(sed 's/#.*//' "/etc/postgresql/$cluster/start.conf" 2> /dev/null | tr -d ' \n')
        [ "$start" != auto ] || { echo "PostgreSQL $cluster is down" >&2; exit 1; }
    done
fi
[ -n "$ports" ] || { echo "no PostgreSQL cluster runs here"; exit 0; }
for port in $ports; do
    runuser -u postgres -- psql -X -q -v ON_ERROR_STOP=1 -p "$port" -d postgres -c 'CHECKPOINT' \
        || { echo "the PostgreSQL cluster at port $port did not make its checkpoint" >&2; exit 1; }
    runuser -u postgres -- psql -X -q -A -t -p "$port" -d postgres -c "SELECT pg_create_restore_point('strongroom')
        WHERE NOT pg_is_in_recovery() AND current_setting('wal_level') <> 'minimal'" > /dev/null \
        || echo "no restore point was made at port $port"
    echo "PostgreSQL at port $port: checkpoint made"
done
