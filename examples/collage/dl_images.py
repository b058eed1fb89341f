"""Downloads two photographs into output/: those that scikit-learn ships, from the package index, by a pinned hash."""

import pathlib
import subprocess
import sys
import tempfile
import zipfile

PHOTOS = "sklearn/datasets/images/"
# One wheel whatever this machine is: nothing in it is run.
WHEEL = ["--python-version", "3.11", "--implementation", "cp", "--abi", "cp311", "--platform", "manylinux2014_x86_64"]

with tempfile.TemporaryDirectory() as folder:
    subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
                    "--only-binary", ":all:", *WHEEL, "--require-hashes", "-r", "photos.txt", "--dest", folder], check=True)
    (wheel,) = pathlib.Path(folder).glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        for name in sorted(archive.namelist()):
            if name.startswith(PHOTOS) and name.endswith((".jpg", ".txt")):
                data = archive.read(name)
                (pathlib.Path("output") / pathlib.PurePath(name).name).write_bytes(data)
                print(f"{name}: {len(data):,} bytes")
