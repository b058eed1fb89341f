#!/usr/bin/env bash
# Builds RocksDB's C++ once, outside the checkout, and prints the folder that holds librocksdb.a.
#
# Its crate compiles 340 files one by one, most of whose time goes into the same headers; four units that include them
# take a sixth of that. The sources, defines and version are the crate's own. The result is keyed by crate version,
# compiler and flags. Exits with 1, having said why, where the units do not build: the crate then compiles itself. Exits
# with 2 where it cannot even tell which version is wanted.
set -euo pipefail
cache=${PROVENDER_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/provender}
cd "$(dirname "$0")/.."

say() { echo "rocksdb: $*" >&2; }

[ "$(uname -sm)" = "Linux x86_64" ] || { say "the four units are only tried on Linux x86_64"; exit 1; }
command -v clang++ >/dev/null || { say "clang++ is missing"; exit 1; }
metadata=$(cargo metadata --format-version 1 --locked --filter-platform x86_64-unknown-linux-gnu) ||
    { say "cargo cannot tell which version is locked"; exit 2; }
packages=$(python3 -c 'import json, os, sys
dirs = {p["name"]: os.path.dirname(p["manifest_path"]) for p in json.load(sys.stdin)["packages"]}
print(dirs["librocksdb-sys"], dirs["zstd-sys"], sep="\n")' <<<"$metadata")
{ read -r sys; read -r zstd; } <<<"$packages"
flags=(-std=c++20 -O2 -fPIC -msse4.2 -mpclmul -include cstdint -w
    -DNDEBUG=1 -DHAVE_ALIGNED_NEW -DHAVE_UINT128_EXTENSION -DZSTD=1 -DOS_LINUX -DROCKSDB_PLATFORM_POSIX
    -DROCKSDB_LIB_IO_POSIX -DROCKSDB_SCHED_GETCPU_PRESENT -DROCKSDB_AUXV_GETAUXVAL_PRESENT
    -DROCKSDB_FALLOCATE_PRESENT -DROCKSDB_RANGESYNC_PRESENT)
key=$(echo "$(basename "$sys") $(clang++ --version | head -1) ${flags[*]}" | sha256sum | cut -c1-16)
out=$cache/rocksdb-$key
if [ -f "$out/librocksdb.a" ]; then echo "$out"; exit; fi
# A failure would repeat itself, after minutes, with every make.
[ ! -e "$out.failed" ] || { say "the four units did not build before; remove $out.failed to try again"; exit 1; }

mkdir -p "$cache"
work=$(mktemp -d "$cache/rocksdb-build.XXXXXX")
trap 'rm -rf "$work"' EXIT
say "compiling $(basename "$sys") as four units, once (about 5 minutes on 2 cores)"
mapfile -t sources < <(grep -v '^util/build_version.cc$' "$sys/rocksdb_lib_sources.txt" | sed 's/^ *//;s/ *$//;/^$/d')
for i in "${!sources[@]}"; do
    echo "#include \"$sys/rocksdb/${sources[i]}\"" >>"$work/unit$((i * 4 / ${#sources[@]})).cc"
done
cp "$sys/build_version.cc" "$work/"
failed=0
printf '%s\0' "$work"/*.cc | xargs -0 -P "$(nproc)" -I{} clang++ "${flags[@]}" \
    -I"$sys/rocksdb/include" -I"$sys/rocksdb" -I"$sys" -I"$zstd/zstd/lib" -c {} -o {}.o || failed=$?
if [ "$failed" -ne 0 ]; then
    # 123: the compiler refused. Anything else (a kill, no memory) may go better another time.
    [ "$failed" -ne 123 ] || touch "$out.failed"
    say "the four units do not build with this compiler"
    exit 1
fi
ar crs "$work/librocksdb.a" "$work"/*.o
mkdir -p "$out"
mv "$work/librocksdb.a" "$out/"
echo "$out"
