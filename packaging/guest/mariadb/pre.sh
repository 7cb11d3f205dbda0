#!/bin/sh
# Before a backup's snapshot: the MariaDB server of this machine brings its tables to a state on disk from which it can start,
# and commits nothing until post.sh has run (BACKUP STAGE BLOCK_COMMIT; FLUSH TABLES WITH READ LOCK where it is older than 10.4.1,
# or MySQL). Reading goes on, and what would commit waits.
#
# The lock is held by a session in the background, which ends by itself after a time, whatever becomes of the backup. It runs
# as the database's root, through the socket: as Debian sets it up, or by what /root/.my.cnf says.
#
# Fails if the server does not answer, or does not grant the lock within a minute. Parameters:
#
#   pre.sh [SOCKET [SECONDS]]        SECONDS: how long the lock is held at the most (100)
set -eu
umask 077
state=/run/strongroom-mariadb
socket=${1:-}
seconds=${2:-100}
client=$(command -v mariadb || command -v mysql) || { echo "there is no client of MariaDB" >&2; exit 1; }
ask() { "$client" ${socket:+--socket="$socket"} --batch --skip-column-names --unbuffered "$@"; }

# Of a backup that came to nothing: who held the lock then has lost it when its pipe is gone.
rm -rf "$state"
version=$(ask -e 'SELECT VERSION()') || { echo "MariaDB does not answer" >&2; exit 1; }
lock='FLUSH TABLES WITH READ LOCK;'
case $version in
    5.* | 10.[0-3].* | 10.4.0-*) ;;
    *MariaDB*) lock='BACKUP STAGE START; BACKUP STAGE FLUSH; BACKUP STAGE BLOCK_DDL; BACKUP STAGE BLOCK_COMMIT;' ;;
esac
mkdir "$state"
mkfifo "$state/hold"
# What is written to the pipe is run by the session; with the pipe's end it ends, and with it the lock.
{
    echo "SET SESSION lock_wait_timeout = 60, wait_timeout = 3600; $lock SELECT 'locked';"
    timeout "$seconds" cat "$state/hold"
} 2> /dev/null | ask > "$state/said" 2>&1 &
session=$!
until grep -qx locked "$state/said" 2> /dev/null; do
    if ! kill -0 "$session" 2> /dev/null; then
        cat "$state/said" >&2 || true
        rm -rf "$state"
        echo "MariaDB did not grant the lock" >&2
        exit 1
    fi
    sleep 0.05
done
echo "MariaDB $version: locked for at most $seconds s"
