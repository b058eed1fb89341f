#!/usr/bin/env python3
"""zstd's C library, compiled by `provender run`, one key a file, and then again.

How many commands ran is counted by the compiler's own wrapper, not taken from provender.
"""

import filecmp
import hashlib
import json
import os
import pathlib
import shlex
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from demo_common import META, ROOT, Failed, Stage, expect, indented, main, title

FLAGS = ["-O3", "-DZSTD_MULTITHREAD", "-DZSTD_LEGACY_SUPPORT=1", "-DZSTD_DISABLE_ASM", "-Ilib"]


class Compile(Stage):
    """A stage with zstd's sources, and a compiler that counts."""

    def __init__(self):
        super().__init__()
        self.counted = self.folder / "commands-run"
        self.env["DEMO_COUNTED"] = str(self.counted)
        self.env["PATH"] = f"{self.folder}/tools:{self.env['PATH']}"

    def make_work(self):
        """The work folder: zstd's sources as the locked crate ships them, read-only, and the compiler's version."""
        metadata = subprocess.run(["cargo", "metadata", "--format-version", "1", "--locked"], cwd=ROOT, check=True,
                                  capture_output=True, text=True)
        crate = next(p for p in json.loads(metadata.stdout)["packages"] if p["name"] == "zstd-sys")
        shutil.copytree(pathlib.Path(crate["manifest_path"]).parent / "zstd/lib", self.work / "lib")
        shutil.copy(ROOT / "examples/compile/roundtrip.c", self.work)
        version = subprocess.run(["cc", "--version"], check=True, capture_output=True).stdout
        (self.work / "compiler.txt").write_bytes(version)
        for file in self.work.rglob("*.*"):
            if file.is_file():
                file.chmod(0o444)
        # What the compiler and the archiver run through: it counts them, and they stay what they are.
        (self.folder / "tools").mkdir()
        for tool in ["cc", "ar"]:
            wrapper = self.folder / "tools" / tool
            wrapper.write_text(f'#!/bin/sh\necho {tool} >>"$DEMO_COUNTED"\nexec {shlex.quote(shutil.which(tool))} "$@"\n')
            wrapper.chmod(0o755)
        return f"{crate['name']} {crate['version']}"

    def scan(self):
        """Each C source with the headers that it includes, as the compiler tells them."""
        sources = sorted(str(path.relative_to(self.work)) for path in self.work.glob("lib/*/*.c") if "deprecated" not in path.parts)
        rules = subprocess.run(["cc", "-MM", *FLAGS, *sources], cwd=self.work, check=True, capture_output=True, text=True)
        rules = [rule.split(":", 1)[1].split() for rule in rules.stdout.replace("\\\n", " ").splitlines()]
        return {rule[0]: sorted({os.path.normpath(header) for header in rule[1:]}) for rule in rules}

    def run(self, name, inputs, output, command):
        """One `provender run`; gives its exit code and what its last line says: hit, ran or failed."""
        inputs = [word for path in [*inputs, "compiler.txt"] for word in ("--in", path)]
        done = self.provender("run", "--name", name, *inputs, "--out", output, "--", *command)
        said = [line.split()[1] for line in done.stderr.splitlines() if line.startswith("provender: ") and len(line.split()) > 1]
        said = [word for word in said if word in ("hit", "ran", "failed")]
        return done.returncode, said[-1] if said else "", done.stderr

    def compile(self, source, headers):
        target = f"build/{pathlib.Path(source).stem}.o"
        return self.run(object_name(source), [source, *headers], target, ["cc", *FLAGS, "-c", source, "-o", target])

    def build(self, sources):
        """Compiles, archives and links everything; gives (commands that ran, hits, seconds)."""
        shutil.rmtree(self.work / "build", ignore_errors=True)
        (self.work / "build").mkdir()
        self.counted.write_text("")
        began = time.monotonic()
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            results = list(pool.map(lambda item: self.compile(*item), sources.items()))
        objects = sorted(f"build/{pathlib.Path(source).stem}.o" for source in sources)
        library, program = "build/libzstd.a", "build/roundtrip"
        if all(code == 0 for code, _, _ in results):
            results.append(self.run("zstd/libzstd.a", objects, library, ["ar", "rcsD", library, *objects]))
            inputs = ["roundtrip.c", "lib/zstd.h", "lib/zstd_errors.h", library]
            command = ["cc", "-O2", "-Ilib", "roundtrip.c", library, "-pthread", "-o", program]
            results.append(self.run("zstd/roundtrip", inputs, program, command))
        seconds = time.monotonic() - began
        for code, _, said in results:
            expect(code == 0, f"a command failed:\n{said}")
        ran, said = len(self.counted.read_text().splitlines()), [word for _, word, _ in results]
        expect(said.count("ran") == ran, f"provender says that {said.count('ran')} commands ran, and {ran} did")
        return ran, said.count("hit"), seconds

    def built(self):
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted((self.work / "build").iterdir())}

    def roundtrip(self, program):
        done = subprocess.run([str(program), "build/libzstd.a"], cwd=self.work, capture_output=True, text=True)
        expect(done.returncode == 0, f"{program} failed: {done.stderr}")
        return done.stdout.strip()


def object_name(source):
    return "zstd/" + str(pathlib.PurePath(source).relative_to("lib").with_suffix(".o"))


def twice(demo, sources):
    title(f"compile {len(sources)} files, archive and link them")
    tasks = len(sources) + 2
    ran, hits, first = demo.build(sources)
    print(f"{ran} commands run, {hits} hits, {first:.1f} s")
    expect((ran, hits) == (tasks, 0), f"expected {tasks} commands run and no hit")
    made = demo.built()
    print(demo.roundtrip("build/roundtrip"))

    title("empty the output folder, and do it all again")
    ran, hits, second = demo.build(sources)
    print(f"{ran} commands run, {hits} hits, {second:.1f} s instead of {first:.1f} s")
    expect((ran, hits) == (0, tasks), f"expected {tasks} hits and no command run")
    expect(demo.built() == made, "what came back differs from what was made")
    print(demo.roundtrip("build/roundtrip"))


def broken(demo, sources):
    source = "lib/common/entropy_common.c"
    name = object_name(source)
    title(f"break {source}")
    path = demo.work / source
    good = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(good + b"this is no C;\n")
    code, said, _ = demo.compile(source, sources[source])
    expect(code != 0 and said == "failed", f"a broken file gave exit code {code} and {said!r}")
    history = demo.provender("history", name, "--failed", "--json")
    expect(history.returncode == 0 and history.stdout, f"the failure is not in the history: {history.stderr}")
    attempt = json.loads(history.stdout.splitlines()[0])
    status = demo.provender("status", attempt["key"])
    expect(status.returncode == 1 and "FAILED" in status.stdout, f"status says {status.stdout!r} ({status.returncode})")
    logs = demo.provender("logs", f"exec:{attempt['execution']}")
    expect("this is no C" in logs.stdout + logs.stderr, f"the log does not tell why: {logs.stdout}{logs.stderr}")
    print(f"exit code {code}\n$ provender status {attempt['key'][:20]}…\n{indented(status.stdout)}")
    print(f"$ provender logs exec:{attempt['execution']}\n{indented(logs.stdout + logs.stderr)}")
    path.write_bytes(good)
    code, said, why = demo.compile(source, sources[source])
    expect((code, said) == (0, "hit"), f"mended, it is no hit: {why}")
    print("mended: a hit again")


def mounted(demo, sources):
    title("the same as files, read-only, under the mount")
    outs = sorted(demo.mount.glob("tasks/zstd/**/latest/out/build/*"))
    for path in outs[:4]:
        print(f"    {path.relative_to(demo.mount)}  {path.stat().st_size:,} bytes")
    print(f"    … and {len(outs) - 4} more")
    expect(len(outs) == len(sources) + 2, f"{len(outs)} outputs are mounted, not {len(sources) + 2}")
    for path in outs:
        expect(filecmp.cmp(path, demo.work / "build" / path.name, shallow=False), f"{path} differs from what was built")
    print(f"all {len(outs)} equal what was built; the program runs from there:")
    print(demo.roundtrip(demo.mount / "tasks/zstd/roundtrip/latest/out/build/roundtrip"))
    try:
        (outs[0].parent / "new").touch()
    except OSError as error:
        print(f"writing there: {error.strerror}")
    else:
        raise Failed("the mount could be written to")


def play(demo):
    crate = demo.make_work()
    sources = demo.scan()
    title(f"provenderd with its metadata in {META}, in {demo.folder}; zstd's sources from {crate}")
    demo.start_daemon()
    twice(demo, sources)
    broken(demo, sources)
    mounted(demo, sources)


TRIES = """\
provender ls zstd                # the names
provender show zstd/roundtrip    # one record
ls {mount}/tasks/zstd"""

if __name__ == "__main__":
    sys.exit(main(Compile, play, TRIES))
