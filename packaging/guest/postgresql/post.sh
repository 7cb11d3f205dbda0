#!/bin/sh
# After a backup's snapshot: every PostgreSQL cluster that runs has to answer, and to take writes. Parameters as of pre.sh.
set -eu
cd /
[ -z "${2:-}" ] || export PGHOST="$2"
if [ -n "${1:-}" ] || ! command -v pg_lsclusters > /dev/null; then
    ports=${1:-5432}
else
    ports=$(pg_lsclusters -h | awk '$4 ~ /^online/ { print $3 }')
fi
for port in $ports; do
    # A transaction's number is given for writing alone; a standby has none to give.
    runuser -u postgres -- psql -X -q -A -t -v ON_ERROR_STOP=1 -p "$port" -d postgres \
        -c "SELECT CASE WHEN pg_is_in_recovery() THEN 0 ELSE pg_current_xact_id()::text::bigint END" > /dev/null \
        || { echo "the PostgreSQL cluster at port $port does not answer" >&2; exit 1; }
done
