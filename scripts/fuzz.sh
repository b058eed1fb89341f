#!/usr/bin/env bash
# Fuzzes one target of fuzz/ for some minutes: scripts/fuzz.sh dag_file 10. Needs a nightly compiler and clang++; cargo-fuzz, which
# takes the same folder, is not needed.
set -euo pipefail
cd "$(dirname "$0")/../fuzz"
target=${1:?which target}
minutes=${2:-10}
folder=${FUZZ_TARGET:-target}
sanitize="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters"
sanitize+=" -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares -Zsanitizer=address"
triple=$(rustc -vV | sed -n 's/^host: //p')
# For one triple by name, so that build scripts and macros are compiled without.
RUSTFLAGS="--cfg fuzzing $sanitize -Cdebug-assertions -Coverflow-checks" \
    cargo +nightly build --target-dir "$folder" --target "$triple" --bin "$target"
mkdir -p "corpus/$target" "artifacts/$target"
exec "$folder/$triple/debug/$target" -max_total_time=$((minutes * 60)) -rss_limit_mb=2048 -timeout=25 -max_len=65536 \
    -artifact_prefix="artifacts/$target/" -print_final_stats=1 "corpus/$target" "seeds/$target"
