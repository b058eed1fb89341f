#!/usr/bin/env bash
# Makes this machine ready to build provender; `setup.sh test`, `setup.sh demo` and `setup.sh postgres` also to test it, to show it, or
# to run it on a PostgreSQL of its own. Installs what is missing and says why; quick and silent where nothing is.
#
# What plain cargo needs to know afterwards stands in .cargo/config.toml, which changes only when its content does, so
# that make and plain cargo never rebuild for each other.
set -euo pipefail
cd "$(dirname "$0")/.."
cache=${PROVENDER_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/provender}
wanted=" $* "

say() { echo "setup: $*" >&2; }
die() { say "$*"; exit 1; }

# --- Debian packages, found missing by what they bring ---
missing=() # package: why
have() { command -v "$1" >/dev/null || [ -x "/usr/sbin/$1" ] || [ -x "/sbin/$1" ]; }
any() { compgen -G "$1" >/dev/null; }
need() { have "$1" || missing+=("$2: $3"); } # PROGRAM PACKAGE WHY
need cc gcc "compiles the C parts of dependencies, and a demo"
need c++ g++ "links RocksDB"
need clang++ clang "compiles RocksDB"
any '/usr/lib/llvm-*/lib/libclang[.-]*so*' || any '/usr/lib*/libclang[.-]*so*' || any '/usr/lib/*/libclang[.-]*so*' ||
    [ -n "${LIBCLANG_PATH-}" ] || missing+=("libclang-dev: makes the Rust bindings of RocksDB")
need python3 python3 "runs the demos and parts of these scripts"
need fusermount3 fuse3 "mounts the view where one is not root"
if [[ $wanted == *" test "* || $wanted == *" postgres "* ]]; then
    any '/usr/lib/postgresql/*/bin/initdb' || need initdb postgresql "a private server, for tests and META=postgres"
    need setpriv util-linux "runs that server as another user"
fi
if [[ $wanted == *" test "* || $wanted == *" demo "* ]]; then
    python3 -c 'import ensurepip, venv' 2>/dev/null || missing+=("python3-venv: Python packages of the demo, and of the tests, have places of their own")
fi
if [[ $wanted == *" test "* ]]; then
    need mkfs.ext4 e2fsprogs "tests of full disks"
    need mkfs.xfs xfsprogs "tests of power cuts"
    any '/usr/include/seccomp.h' || missing+=("libseccomp-dev: tests that leave out what a program asks the kernel for")
    need losetup mount "tests of full and unmounted disks"
    need kill procps "tests that kill"
    need script bsdutils "tests with a terminal"
    need cmp diffutils "tests that compare files"
    need rsync rsync "a test that copies a mounted view"
    need fio fio "tests that read a mounted view in all ways"
    need git git "tests that mount a repository"
    any '/usr/lib/*/faketime/libfaketimeMT.so.1' || missing+=("libfaketime: tests that step a daemon's clock")
fi
if [ ${#missing[@]} -gt 0 ]; then
    say "these Debian packages are missing:"
    printf 'setup:   %s\n' "${missing[@]}" >&2
    packages=("${missing[@]%%:*}")
    as_root=()
    if ! have apt-get; then
        die "there is no apt-get here: install what brings the same, then try again"
    elif [ "$(id -u)" -ne 0 ]; then
        have sudo || die "as root: apt-get install --no-install-recommends ${packages[*]}"
        as_root=(sudo)
    fi
    log=$(mktemp)
    apt() {
        "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=300 "$@" >"$log" 2>&1 </dev/null ||
            { cat "$log" >&2; die "apt-get $1 failed"; }
    }
    say "installing them with apt-get"
    apt update
    if [[ " ${packages[*]} " == *" postgresql "* ]] && ! have pg_createcluster; then
        # Debian would start a server at once; the programs alone are wanted.
        apt install -y --no-install-recommends postgresql-common
        "${as_root[@]}" sed -i 's/^#*create_main_cluster.*/create_main_cluster = false/' /etc/postgresql-common/createcluster.conf
    fi
    apt install -y --no-install-recommends "${packages[@]}"
    rm -f "$log"
fi

# --- Rust ---
have cargo || die "Rust is missing: install it with rustup, then try again"
least=$(sed -n 's/^rust-version = "\(.*\)"$/\1/p' Cargo.toml)
version() { rustc --version | cut -d' ' -f2; }
new_enough() { [ "$(printf '%s\n' "$least" "$(version)" | sort -V | head -1)" = "$least" ]; }
if ! new_enough && have rustup; then
    say "Rust $(version) is older than $least: updating the stable toolchain"
    rustup update stable --no-self-update
fi
new_enough || die "Rust $(version) is older than $least: update it, then try again"
if [[ $wanted == *" test "* ]] && ! cargo nextest --version >/dev/null 2>&1; then
    say "compiling cargo-nextest, which runs the tests (once, some minutes)"
    # Elsewhere than in the shared target folder, whose dependencies are compiled otherwise.
    env -u CARGO_TARGET_DIR cargo install --quiet --locked cargo-nextest
fi

if [[ $wanted == *" test "* ]]; then
    scripts/seaweedfs.sh install >/dev/null
fi

# --- RocksDB, and what cargo must know ---
status=0
rocksdb=$(scripts/rocksdb.sh) || status=$?
[ "$status" -le 1 ] || exit "$status"
[ "$status" -eq 0 ] || say "RocksDB's crate will compile itself instead: about 25 minutes, once"
config="# Written by scripts/setup.sh: do not edit, do not commit.
[build]
target-dir = \"$cache/target\""
[ -z "$rocksdb" ] || config+="
[env]
ROCKSDB_LIB_DIR = \"$rocksdb\"
ROCKSDB_STATIC = \"1\""
file=.cargo/config.toml
if [ -e $file ] && ! head -1 $file | grep -q 'scripts/setup.sh'; then
    die "$file is not ours: move its content to the config.toml of your cargo home"
fi
if [ "$(cat $file 2>/dev/null)" != "$config" ]; then
    mkdir -p .cargo
    echo "$config" >$file
    say "wrote $file"
fi
scripts/in-target.sh true
