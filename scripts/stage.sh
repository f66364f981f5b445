#!/usr/bin/env bash
# Run a command as a stage: say on stderr what begins, and how long it took.
#
#     scripts/stage.sh NAME COMMAND...
set -uo pipefail

name=$1 start=$SECONDS
shift
echo "==> $name" >&2
"$@"
status=$?
if [ $status -eq 0 ]; then
    echo "    $name: $((SECONDS - start)) s" >&2
else
    echo "    $name: failed after $((SECONDS - start)) s" >&2
fi
exit $status
