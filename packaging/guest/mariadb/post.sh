#!/bin/sh
# After a backup's snapshot: MariaDB commits again. Fails if the lock was not held until now: then the snapshot may have caught
# the database in the middle of something, and is not labelled as application-consistent.
set -eu
state=/run/strongroom-mariadb
# pre.sh has locked nothing.
[ -d "$state" ] || exit 0
# The session says that it is still there, and ends. (Without it nobody reads the pipe.)
timeout 10 sh -c 'echo "SELECT '\''held'\'';" > "$0"' "$state/hold" || true
for _ in $(seq 100); do
    if grep -qx held "$state/said"; then
        rm -rf "$state"
        exit 0
    fi
    sleep 0.05
done
tail -n 3 "$state/said" >&2
echo "MariaDB's lock was lost before the snapshot was over" >&2
exit 1
