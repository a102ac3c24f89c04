"""What all figures share: the table, commands and times, a home with its mount, file systems to compare with."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time

LIMAFS = os.environ["LIMAFS"]
BIN = os.environ["BENCH_BIN"]
FAKE = "vmType: fake\nimages:\n- location: /etc/profile\n"
ROWS = []


def row(figure, measured, target, ok):
    """Adds a line to the table and shows it."""
    ROWS.append(ok)
    print(f"{figure:<58} {measured:>22}   {target:<14} {'ok' if ok else 'NO'}", flush=True)


def say(figure, measured, more=""):
    """Shows a line that has no target, and does not count."""
    print(f"{figure:<58} {measured:>22}   {more}", flush=True)


def run(*argv, **kwargs):
    return subprocess.run(argv, check=True, capture_output=True, text=True, **kwargs).stdout


def calls(mode, *paths):
    """Nanoseconds a call: (fastest batch, median batch)."""
    best, median = run(f"{BIN}/calls", mode, *paths).split()
    return float(best), float(median)


def until(what, seconds, condition):
    deadline = time.monotonic() + seconds
    while not (answer := condition()):
        if time.monotonic() > deadline:
            raise SystemExit(f"bench: not within {seconds} s: {what}")
        time.sleep(0.002)
    return answer


class Fleet:
    """A home and a mountpoint of its own, with a daemon."""

    def __init__(self):
        self.dir = tempfile.mkdtemp(prefix="lfb", dir="/tmp")
        self.home, self.mnt = f"{self.dir}/.lima", f"{self.dir}/lima"
        self.cache = f"{self.dir}/.cache"
        self.env = {**os.environ, "HOME": self.dir, "LIMA_HOME": self.home, "XDG_CACHE_HOME": self.cache}
        os.makedirs(self.home, 0o700)
        os.mkdir(self.mnt)

    def mount(self):
        run(LIMAFS, "mount", self.mnt, env=self.env)

    def unmount(self):
        run(LIMAFS, "unmount", self.mnt, env=self.env)

    def path(self, *parts):
        return os.path.join(self.mnt, *parts)

    def read(self, *parts):
        with open(self.path(*parts)) as file:
            return file.read().strip()

    def json(self, name):
        return json.loads(self.read(name, "status.json"))

    def create(self, name, text):
        os.mkdir(self.path(name))
        with open(self.path(name, "lima.yaml"), "w") as file:
            file.write(text)

    def verb(self, name, word):
        with open(self.path(name, "state"), "w", buffering=1) as file:
            file.write(word + "\n")

    def reach(self, name, state, seconds=60):
        until(f"{name} is {state}, not {self.read(name, 'state')}", seconds, lambda: self.read(name, "state") == state)

    def pid(self, *words):
        """The process of this home whose arguments begin so."""
        for entry in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError):
                argv = open(f"/proc/{entry}/cmdline").read().split("\0")[1:]
                environ = open(f"/proc/{entry}/environ").read()
                if argv[: len(words)] == list(words) and f"LIMA_HOME={self.home}\0" in environ + "\0":
                    return int(entry)
        raise SystemExit(f"bench: no process {words}")

    def close(self):
        for name in os.listdir(self.home):
            if os.path.isdir(self.path(name)) and self.read(name, "state") not in ("Stopped", "Uninitialized"):
                self.verb(name, "kill")
                self.reach(name, "Stopped")
        self.unmount()
        shutil.rmtree(self.dir)


@contextlib.contextmanager
def fleet():
    one = Fleet()
    one.mount()
    try:
        yield one
    finally:
        one.close()


@contextlib.contextmanager
def tmpfs():
    """A directory on tmpfs: /dev/shm is one on every Linux machine."""
    path = tempfile.mkdtemp(prefix="lfb", dir="/dev/shm")
    yield path
    shutil.rmtree(path)


@contextlib.contextmanager
def minfs():
    """The minimal C file system, mounted."""
    path = tempfile.mkdtemp(prefix="lfb", dir="/tmp")
    server = subprocess.Popen([f"{BIN}/minfs", path])
    until("minfs is mounted", 5, lambda: os.path.exists(f"{path}/state"))
    yield path
    server.send_signal(signal.SIGTERM)
    server.wait(5)
    os.rmdir(path)


def best_of(times, *argv):
    """Fastest run of a command, in seconds."""
    best = float("inf")
    for _ in range(times):
        start = time.perf_counter()
        subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)
        best = min(best, time.perf_counter() - start)
    return best
