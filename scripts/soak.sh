#!/usr/bin/env bash
# Runs all tests over and over, property tests with many more and ever new cases, kills 1,000 rounds of them. Run it by `make soak MINUTES=30`.
set -euo pipefail
cd "$(dirname "$0")/.."
minutes=${MINUTES:-30} rounds=0
export PROPTEST_CASES=${PROPTEST_CASES:-4096} PROVENDER_SOAK=1
cargo build --locked --workspace --bins
# 100,000 schedules, shown as they end; a rule that is broken names the seed that replays it.
cargo nextest run --profile soak --locked --workspace --no-capture -E 'binary(simulation)'
while [ "$SECONDS" -lt $((minutes * 60)) ]; do
    cargo nextest run --profile soak --locked --workspace --status-level fail --show-progress none \
        -E 'not binary(simulation)'
    rounds=$((rounds + 1))
    echo "soak: $rounds rounds in $((SECONDS / 60)) of $minutes minutes, none failed"
done
