#!/usr/bin/env bash
# Everything that must hold before a change lands. Run it by `make test`.
#
# Each suite runs, whatever failed before it. The last line counts the tests; a suite that fails without counting (a lint,
# a build) counts as one.
set -uo pipefail
cd "$(dirname "$0")/.."
passed=0 failed=0 report=()
log=$(mktemp)
trap 'rm -f "$log"' EXIT

suite() { # NAME COUNTER COMMAND…: runs it; COUNTER prints its passed and failed tests
    local name=$1 counter=$2 began=$EPOCHREALTIME status=0 good bad word=passed
    echo "== $name"
    "${@:3}" 2>&1 | tee "$log" || status=1
    read -r good bad <<<"$($counter)"
    [ "$status" -eq 0 ] || [ "$bad" -gt 0 ] || bad=1
    [ "$bad" -eq 0 ] || word=FAILED
    passed=$((passed + good)) failed=$((failed + bad))
    report+=("$(LC_ALL=C awk -v a="$began" -v b="$EPOCHREALTIME" -v n="$name" -v g="$good" -v w="$word" 'BEGIN {
        sub(",", ".", a); sub(",", ".", b); printf "%-10s %6.1f min  %s", n, (b - a) / 60, w (g ? " (" g ")" : "") }')")
}
uncounted() { echo 0 0; }

scripts() {
    local file
    for file in scripts/*.sh .ci/run; do bash -n "$file" || return 1; done
    for file in scripts/*.py; do python3 -c 'import sys; compile(open(sys.argv[1]).read(), sys.argv[1], "exec")' "$file" || return 1; done
    ! command -v shellcheck >/dev/null || shellcheck scripts/*.sh .ci/run || return 1
    ! cargo deny --version >/dev/null 2>&1 || cargo deny --log-level error check
}

junit=target/nextest/default/junit.xml
nextest() {
    rm -f "$junit"
    cargo nextest run --locked --workspace --no-fail-fast
}
nextest_count() {
    [ -f "$junit" ] || { echo 0 0; return; }
    python3 -c 'import sys, xml.etree.ElementTree as tree
suites = tree.parse(sys.argv[1]).getroot()
bad = int(suites.get("failures", 0)) + int(suites.get("errors", 0))
print(int(suites.get("tests")) - bad, bad)' "$junit"
}

doctest_count() { awk '/^test result:/ { good += $4; bad += $6 } END { print good + 0, bad + 0 }' "$log"; }

# They are for who works on the code, so private items are in, and may be linked to.
docs() {
    RUSTDOCFLAGS="-D warnings -A rustdoc::private_intra_doc_links" \
        cargo doc --locked --workspace --no-deps --document-private-items
}

suite scripts uncounted scripts
suite format uncounted cargo fmt --all --check
suite clippy uncounted cargo clippy --locked --workspace --all-targets -- -D warnings
# The end-to-end tests run the programs that stand beside them.
suite build uncounted cargo build --locked --workspace --bins
suite tests nextest_count nextest
suite doctests doctest_count cargo test --locked --workspace --doc --quiet
suite docs uncounted docs

echo "== all"
printf '%s\n' "${report[@]}"
echo
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
