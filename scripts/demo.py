#!/usr/bin/env python3
"""The main job on real input: zstd's C library, compiled by `provender run`, one key a file, and then again.

Everything lives in a private folder and is stopped at the end, or left running with KEEP=1. META=postgres keeps the
metadata in a PostgreSQL server of the demo's own. Any expectation that does not hold ends the demo with exit code 1.
How many commands ran is counted by the compiler's own wrapper, not taken from provender.
"""

import filecmp
import hashlib
import json
import os
import pathlib
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor

ROOT = pathlib.Path(__file__).resolve().parent.parent
PROVENDER, PROVENDERD = ROOT / "bin/provender", ROOT / "bin/provenderd"
FLAGS = ["-O3", "-DZSTD_MULTITHREAD", "-DZSTD_LEGACY_SUPPORT=1", "-DZSTD_DISABLE_ASM", "-Ilib"]
KEEP = os.environ.get("KEEP", "") not in ("", "0")
META = os.environ.get("META") or "rocksdb"


class Failed(Exception):
    """An expectation that does not hold."""


def expect(holds, what):
    if not holds:
        raise Failed(what)


def title(text):
    print(f"\n== {text}", flush=True)


class Demo:
    """One private folder, the processes that were started in it, and how to call `provender` against them."""

    def __init__(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="provender-demo.")).resolve()
        self.folder.chmod(0o711)  # the user that PostgreSQL runs as passes through
        self.work, self.mount = self.folder / "work", self.folder / "mount"
        self.counted = self.folder / "commands-run"
        self.processes = []
        self.env = {name: value for name, value in os.environ.items() if not name.startswith("PROVENDER_")}
        self.env["PROVENDER_REMOTE"] = f"unix:{self.folder}/data/provender.sock"
        self.env["XDG_CACHE_HOME"], self.env["XDG_CONFIG_HOME"] = str(self.folder / "cache"), str(self.folder / "config")
        self.env["DEMO_COUNTED"] = str(self.counted)
        self.env["PATH"] = f"{self.folder}/tools:{self.env['PATH']}"

    # --- processes ---

    def start(self, name, argv):
        """Starts a server that ends with the demo (even if that is killed), or outlives it with KEEP=1."""
        argv = argv if KEEP else ["setpriv", "--pdeathsig", "TERM", *argv]
        log = open(self.folder / f"{name}.log", "ab")
        process = subprocess.Popen(argv, env=self.env, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log,
                                   stderr=log, start_new_session=True)
        self.processes.append((name, process))

    def wait_for(self, ready, what):
        """Waits until the server started last is ready."""
        name, process = self.processes[-1]
        for _ in range(600):
            if ready():
                return
            if process.poll() is not None:
                break
            time.sleep(0.1)
        raise Failed(f"{name} {what}:\n{(self.folder / f'{name}.log').read_text()}")

    def start_postgres(self):
        programs = sorted(pathlib.Path("/usr/lib/postgresql").glob("*/bin/initdb"))
        initdb = str(programs[-1]) if programs else shutil.which("initdb")
        expect(initdb, "PostgreSQL's initdb is not installed")
        home = self.folder / "postgres"
        home.mkdir()
        user = []
        if os.geteuid() == 0:  # which PostgreSQL refuses to run as
            shutil.chown(home, "postgres", "postgres")
            user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
        made = subprocess.run([*user, initdb, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "-D", "data"],
                              cwd=home, capture_output=True, text=True)
        expect(made.returncode == 0, f"initdb failed:\n{made.stdout}{made.stderr}")
        self.start("postgres", [*user, initdb.replace("initdb", "postgres"), "-D", str(home / "data"),
                                "-c", "listen_addresses=", "-c", f"unix_socket_directories={home}"])
        pid = home / "data/postmaster.pid"
        self.wait_for(lambda: pid.exists() and pid.read_text().rstrip().endswith("ready"), "did not start")
        config = self.folder / "provenderd.toml"
        config.write_text(f'[meta]\nengine = "postgres"\nurl = "host={home} user=postgres dbname=postgres"\n')
        return ["--config", str(config)]

    def start_daemon(self):
        config = {"rocksdb": list, "postgres": self.start_postgres}.get(META)
        expect(config, f"META={META}: it takes rocksdb or postgres")
        flags = config()
        self.start("provenderd", [str(PROVENDERD), *flags, "--data", str(self.folder / "data"), "--mount", str(self.mount)])
        self.wait_for(lambda: self.provender("ls").returncode == 0, "did not come to serve")

    def stop(self):
        for name, process in reversed(self.processes):
            process.send_signal(signal.SIGINT if name == "postgres" else signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                print(f"{name} had to be killed", file=sys.stderr)
        if os.path.ismount(self.mount):
            print(f"{self.mount} is still mounted: umount -l {self.mount}", file=sys.stderr)
            return False
        shutil.rmtree(self.folder)
        return True

    # --- the work ---

    def provender(self, *args):
        return subprocess.run([str(PROVENDER), *map(str, args)], env=self.env, cwd=self.work, text=True,
                              errors="replace", capture_output=True, stdin=subprocess.DEVNULL)

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


def indented(text, most=12):
    lines = text.splitlines()
    return "\n".join("    " + line for line in lines[:most] + (["…"] if len(lines) > most else []))


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


def left_running(demo):
    pids = " ".join(str(process.pid) for _, process in reversed(demo.processes))
    stop = demo.folder / "stop"
    stop.write_text(f"""#!/bin/sh
for pid in {pids}; do
    kill -INT "$pid"
    while grep -qs "^State:.[^Z]" "/proc/$pid/status"; do sleep 0.1; done
done
! grep -q " {demo.mount} " /proc/mounts && rm -rf {shlex.quote(str(demo.folder))}
""")
    stop.chmod(0o755)
    title("left running")
    print(f"""export PROVENDER_REMOTE={demo.env['PROVENDER_REMOTE']} PATH={ROOT}/bin:$PATH
provender ls zstd                # the names
provender show zstd/roundtrip    # one record
ls {demo.mount}/tasks/zstd
{stop}    # stops it and removes everything""")


def main():
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    demo, ended_well = Demo(), False
    try:
        demo.work.mkdir()
        crate = demo.make_work()
        sources = demo.scan()
        title(f"provenderd with its metadata in {META}, in {demo.folder}; zstd's sources from {crate}")
        demo.start_daemon()
        twice(demo, sources)
        broken(demo, sources)
        mounted(demo, sources)
        ended_well = True
    except (Failed, KeyError, OSError, subprocess.CalledProcessError) as error:
        print(f"\ndemo: FAILED: {error}", file=sys.stderr)
        log = demo.folder / "provenderd.log"
        notable = [line for line in log.read_text().splitlines() if " INFO " not in line] if log.exists() else []
        if notable:
            print("what the daemon had to say:\n" + indented("\n".join(notable[-12:])), file=sys.stderr)
    finally:
        if ended_well and KEEP:
            left_running(demo)
        else:
            ended_well = demo.stop() and ended_well
            if ended_well:
                print("\nstopped, and all of it removed")
    return 0 if ended_well else 1


if __name__ == "__main__":
    sys.exit(main())
