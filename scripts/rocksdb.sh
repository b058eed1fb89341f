#!/usr/bin/env bash
# Builds RocksDB's C++ once, outside the checkout, and prints the folder that holds librocksdb.a.
#
# Its crate compiles 340 files one by one, most of whose time goes into the same headers; four units that include them
# take a sixth of that. The sources, defines and version are the crate's own. The result is keyed by crate version,
# compiler and flags. Prints nothing and fails where the units do not build: the crate then compiles itself.
set -euo pipefail
cache=${PROVENDER_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/provender}
cd "$(dirname "$0")/.."

say() { echo "rocksdb: $*" >&2; }
package_dir() { # the unpacked sources of a locked package
    cargo metadata --format-version 1 --locked --filter-platform x86_64-unknown-linux-gnu 2>/dev/null |
        python3 -c 'import json,os,sys
print(next(os.path.dirname(p["manifest_path"]) for p in json.load(sys.stdin)["packages"] if p["name"] == sys.argv[1]))' "$1"
}

[ "$(uname -sm)" = "Linux x86_64" ] || { say "units are only tried on Linux x86_64"; exit 1; }
command -v clang++ >/dev/null || { say "clang++ is missing"; exit 1; }
sys=$(package_dir librocksdb-sys)
zstd=$(package_dir zstd-sys)
flags=(-std=c++20 -O2 -fPIC -msse4.2 -mpclmul -include cstdint -w
    -DNDEBUG=1 -DHAVE_ALIGNED_NEW -DHAVE_UINT128_EXTENSION -DZSTD=1 -DOS_LINUX -DROCKSDB_PLATFORM_POSIX
    -DROCKSDB_LIB_IO_POSIX -DROCKSDB_SCHED_GETCPU_PRESENT -DROCKSDB_AUXV_GETAUXVAL_PRESENT
    -DROCKSDB_FALLOCATE_PRESENT -DROCKSDB_RANGESYNC_PRESENT)
key=$(echo "$(basename "$sys") $(clang++ --version | head -1) ${flags[*]}" | sha256sum | cut -c1-16)
out=$cache/rocksdb-$key
if [ -f "$out/librocksdb.a" ]; then echo "$out"; exit; fi

mkdir -p "$cache"
work=$(mktemp -d "$cache/rocksdb-build.XXXXXX")
trap 'rm -rf "$work"' EXIT
say "compiling $(basename "$sys") as four units, once (about 5 minutes on 2 cores)"
mapfile -t sources < <(grep -v '^util/build_version.cc$' "$sys/rocksdb_lib_sources.txt" | sed 's/^ *//;s/ *$//;/^$/d')
for i in "${!sources[@]}"; do
    echo "#include \"$sys/rocksdb/${sources[i]}\"" >>"$work/unit$((i * 4 / ${#sources[@]})).cc"
done
cp "$sys/build_version.cc" "$work/"
ls "$work"/*.cc | xargs -P "$(nproc)" -I{} sh -c 'clang++ "$@" -c {} -o {}.o' clang++ \
    "${flags[@]}" -I"$sys/rocksdb/include" -I"$sys/rocksdb" -I"$sys" -I"$zstd/zstd/lib"
ar crs "$work/librocksdb.a" "$work"/*.o
mkdir -p "$out"
mv "$work/librocksdb.a" "$out/"
echo "$out"
