"""What the demos share: a private folder with a daemon in it, how to call `provender` against that, and the end of it all.

Everything is stopped and removed at the end, or left running with KEEP=1. META=postgres keeps the metadata in a PostgreSQL server of
the demo's own. Any expectation that does not hold ends a demo with exit code 1.
"""

import os
import pathlib
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
PROVENDER, PROVENDERD = ROOT / "bin/provender", ROOT / "bin/provenderd"
KEEP = os.environ.get("KEEP", "") not in ("", "0")
META = os.environ.get("META") or "rocksdb"


class Failed(Exception):
    """An expectation that does not hold."""


def expect(holds, what):
    if not holds:
        raise Failed(what)


def title(text):
    print(f"\n== {text}", flush=True)


def indented(text, most=12):
    lines = text.splitlines()
    return "\n".join("    " + line for line in lines[:most] + (["…"] if len(lines) > most else []))


class Stage:
    """One private folder, the processes that were started in it, and how to call `provender` against them."""

    def __init__(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="provender-demo.")).resolve()
        self.folder.chmod(0o711)  # the user that PostgreSQL runs as passes through
        self.work, self.mount = self.folder / "work", self.folder / "mount"
        self.work.mkdir()
        self.processes = []
        self.env = {name: value for name, value in os.environ.items() if not name.startswith("PROVENDER_")}
        self.env["PROVENDER_REMOTE"] = f"unix:{self.folder}/data/provender.sock"
        self.env["XDG_CACHE_HOME"], self.env["XDG_CONFIG_HOME"] = str(self.folder / "cache"), str(self.folder / "config")

    def provender(self, *args):
        return subprocess.run([str(PROVENDER), *map(str, args)], env=self.env, cwd=self.work, text=True,
                              errors="replace", capture_output=True, stdin=subprocess.DEVNULL)

    def show(self, *args, most=12):
        """The same, printed as one would type it; it must succeed."""
        done = self.provender(*args)
        print(f"$ provender {' '.join(map(str, args))}\n{indented(done.stdout, most)}")
        expect(done.returncode == 0, f"provender {args[0]} gave exit code {done.returncode}: {done.stderr}")

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

    def left_running(self, tries):
        pids = " ".join(str(process.pid) for _, process in reversed(self.processes))
        stop = self.folder / "stop"
        stop.write_text(f"""#!/bin/sh
for pid in {pids}; do
    kill -INT "$pid"
    while grep -qs "^State:.[^Z]" "/proc/$pid/status"; do sleep 0.1; done
done
! grep -q " {self.mount} " /proc/mounts && rm -rf {shlex.quote(str(self.folder))}
""")
        stop.chmod(0o755)
        title("left running")
        print(f"""export PROVENDER_REMOTE={self.env['PROVENDER_REMOTE']} PATH={ROOT}/bin:$PATH
{tries.format(mount=self.mount)}
{stop}    # stops it and removes everything""")


def main(make_stage, play, tries):
    """Plays a demo on a stage of its own and clears up; `tries` are lines to try where it is left running."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    stage, ended_well = make_stage(), False
    try:
        play(stage)
        ended_well = True
    except (Failed, KeyError, OSError, subprocess.CalledProcessError) as error:
        print(f"\ndemo: FAILED: {error}", file=sys.stderr)
        log = stage.folder / "provenderd.log"
        notable = [line for line in log.read_text().splitlines() if " INFO " not in line] if log.exists() else []
        if notable:
            print("what the daemon had to say:\n" + indented("\n".join(notable[-12:])), file=sys.stderr)
    finally:
        if ended_well and KEEP:
            stage.left_running(tries)
        else:
            ended_well = stage.stop() and ended_well
            if ended_well:
                print("\nstopped, and all of it removed")
    return 0 if ended_well else 1
