#!/usr/bin/env bash
# Builds the two programs and copies them to bin/. Run it by `make build`.
set -euo pipefail
cd "$(dirname "$0")/.."
# Features are those of the whole workspace, as for the tests, so that nothing is compiled twice.
cargo build --locked --workspace --bin provender --bin provenderd
mkdir -p bin
for program in provender provenderd; do
    cmp -s "$TARGET/debug/$program" "bin/$program" && continue
    # By rename: one that is running keeps its file.
    cp "$TARGET/debug/$program" "bin/.$program"
    mv "bin/.$program" "bin/$program"
done
