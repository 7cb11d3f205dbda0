#!/bin/sh
# Before a backup's snapshot. Bring the application to a state on disk from which it can start, and keep it there until
# post.sh has run: end with 0 when that is so, with anything else when it is not. What is printed is shown in the backup's job.
#
# Root owns this file, mode 700, and the directories above it can be changed by root alone. $STRONGROOM_SCRIPT is its path
# ($0 is not: the file that was checked is what runs), the working directory is the one it lies in.
#
# A process that has to live until post.sh (a session that holds a lock) may be left behind; let it end by itself after a
# minute or two as well.
set -eu
echo "replace this by what your application needs" >&2
exit 1
