#!/usr/bin/env bash
# Runs a command that builds, while no other checkout builds into the same target folder; gives it that folder as $TARGET.
#
# All checkouts of a user share one target folder, so that dependencies are compiled once. But cargo tells our own crates
# of two checkouts apart by nothing: a source that is older than what the other one compiled looks fresh. So the folder
# names the checkout that it was last used by, and who takes it over touches its own sources.
set -euo pipefail
cd "$(dirname "$0")/.."
here=$(pwd -P)
target=${CARGO_TARGET_DIR:-$(sed -n 's/^target-dir = "\(.*\)"$/\1/p' .cargo/config.toml)}
mkdir -p "$target"
exec 9>>"$target/.checkout"
flock -s 9
while [ "$(cat "$target/.checkout")" != "$here" ]; do
    flock -u 9
    flock -n 9 || { echo "waiting: another checkout is building in $target" >&2; flock 9; }
    find . -type f -not -path './.git/*' -not -path './bin/*' -not -path './target/*' -exec touch -c {} +
    printf '%s' "$here" >"$target/.checkout"
    flock -u 9
    flock -s 9
done
# Only this shell holds the lock, so that nothing that outlives the command can.
TARGET=$target "$@" 9>&-
