#!/usr/bin/env python3
"""The collage of à la mode, a file of four tasks, by `provender dag run`: photographs are downloaded, transformed in two ways, joined.

It runs once; then there is nothing to do; then one task's program is another, and what depends on it runs. The files are written
by à la mode itself. Its hashes, and what runs, are checked against what they must be.
"""

import fcntl
import filecmp
import hashlib
import json
import os
import pathlib
import shutil
import struct
import subprocess
import sys

from demo_common import META, ROOT, Stage, expect, main, title

EXAMPLE = ROOT / "examples/collage"
HASHES = {
    "download_images": "6075b3951568e2f31df204a59eb92bbb17d84e6b49f1275216bc0b6deb0e223d",
    "blur": "82695e5805a9cd091e42ae94469efe77a90907c96190c793cee3c7d58dc2bbe0",
    "edge_enhance": "7a764d984ce66d23a69c87645b47fcf7be79711f40be95fb631308ee01ca2a04",
    "collage": "566a13d45eeebdefc50de118f5031278b20171ce76deb51791a4f084668e6d16",
}
# With blur's `sha` qwetr3 instead of 6f09d.
CHANGED = HASHES | {
    "blur": "4df7200d1f836f7372ce01761c9cb9e0d2bc7d1abc7ee9c1abe8dc7df9a67e5e",
    "collage": "25adad1924719ff4d5d2c3f4839f0ff1b4e21537c3c358f7d10b5e5d7c9c6de5",
}


def environment():
    """The folder of a Python with what the example needs, made once for each state of its requirements and each Python."""
    requirements = EXAMPLE / "requirements.txt"
    cache = os.environ.get("PROVENDER_CACHE") or (
        pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "provender")
    key = hashlib.sha256(requirements.read_bytes() + sys.version.encode()).hexdigest()[:16]
    folder = pathlib.Path(cache) / f"collage-{key}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(f"{folder}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "ready").exists():
            print(f"making {folder}, a Python with à la mode and Pillow, once", flush=True)
            shutil.rmtree(folder, ignore_errors=True)
            subprocess.run([sys.executable, "-m", "venv", folder], check=True)
            subprocess.run([folder / "bin/python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
                            "--no-deps", "--only-binary", ":all:", "--require-hashes", "-r", requirements], check=True)
            (folder / "ready").touch()
    return folder


class Collage(Stage):
    """A stage whose commands find a `python` with what they need."""

    def write(self, name, *sha):
        """A file as à la mode writes it now."""
        subprocess.run(["python", EXAMPLE / "make_dag.py", self.work / name, *sha], env=self.env, check=True)
        return self.work / name

    def run(self, file, hashes, ran, hits):
        """Runs a file, and checks what that was; the tasks that ran."""
        done = self.provender("--json", "dag", "run", file, "--source", EXAMPLE)
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        expect(done.returncode == 0 and lines, f"exit code {done.returncode}: {done.stdout}{done.stderr}")
        *tasks, sums = lines
        for task in tasks:
            print(f"    {task['ended']:<4} {task['task']:<16} {task['key'][:24]}…")
            expect(task["key"] == f"alamode:{hashes[task['task']]}", f"{task['task']} has another hash than it must have")
        print(f"{sums['ran']} ran, {sums['hits']} hits")
        expect((sums["ran"], sums["hits"], sums["tasks"]) == (ran, hits, 4), f"expected {ran} to run, and {hits} hits")
        return {task["task"] for task in tasks if task["ended"] == "ran"}


def play(demo):
    demo.env["PATH"] = f"{environment()}/bin:{demo.env['PATH']}"
    title(f"provenderd with its metadata in {META}, in {demo.folder}")
    demo.start_daemon()

    title("provender dag run examples/collage/collage.dag")
    demo.run(EXAMPLE / "collage.dag", HASHES, ran=4, hits=0)
    print(demo.provender("logs", "collage").stdout.strip())

    title("the same tasks in a file that à la mode writes now: nothing to do")
    demo.run(demo.write("again.dag"), HASHES, ran=0, hits=4)

    title("another version of the program that blurs: that and the collage run, on what is there")
    ran = demo.run(demo.write("changed.dag", "qwetr3"), CHANGED, ran=2, hits=2)
    expect(ran == {"blur", "collage"}, f"{ran} ran")

    title("what the two collages differ in, in the end")
    causes = demo.provender("diff", "--causes", "collage@2", "collage").stdout.strip()
    print(f"    {causes}")
    expect(causes == "blur.sha: 6f09d -> qwetr3", "that is one line, of the program that blurs")

    title("what was made, as read-only files under the mount")
    for latest in sorted(demo.mount.glob("tasks/*/latest")):
        for path in sorted((latest / "out").rglob("*")):
            print(f"    {path.relative_to(demo.mount)}  {path.stat().st_size:,} bytes")
    outs = {path.parent.parent.parent.name for path in demo.mount.glob("tasks/*/latest/out/*")}
    expect(outs == set(HASHES), f"{outs} have outputs under the mount")

    title("where the collage comes from")
    demo.show("lineage", "collage", most=40)

    title("the collage")
    mounted, kept = demo.mount / "tasks/collage/latest/out/collage.png", ROOT / "bin/collage.png"
    got = demo.provender("get", "collage", "got")
    expect(got.returncode == 0, f"provender get failed: {got.stderr}")
    expect(filecmp.cmp(mounted, demo.work / "got/collage.png", shallow=False), "the mounted picture is another one")
    head = mounted.read_bytes()[:24]
    expect(head[:8] == b"\x89PNG\r\n\x1a\n", "it is no PNG")
    width, height = struct.unpack(">II", head[16:])
    shutil.copyfile(mounted, kept)
    print(f"{width} x {height} pixels: {mounted}\na copy stays in {kept}")


TRIES = """\
provender ls                        # the names
provender show collage              # one record
ls {mount}/tasks/collage/latest/    # out, inputs, logs"""

if __name__ == "__main__":
    sys.exit(main(Collage, play, TRIES))
