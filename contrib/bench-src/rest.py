"""Times of what a real guest is put through whole: suspended and gone on with, kept in a snapshot, looked at. No targets:
they go with the guest's memory and the disk under it."""

import statistics
import time

from common import Fleet, run, say

ROUNDS = 3


def seconds(action):
    begun = time.perf_counter()
    action()
    return time.perf_counter() - begun


def wait(one, what):
    run("timeout", "120", "cat", one.path("foo", "wait", what))


def rest(guest):
    one = Fleet()
    # A guest without a screen of its own says so; this is QEMU's plainest.
    one.env["QEMU_SYSTEM_X86_64"] = "qemu-system-x86_64 -device VGA"
    one.mount()
    one.create("foo", f"""vmType: qemu
containerd: {{user: false}}
cpus: 1
memory: 256MiB
disk: 4GiB
mounts: []
images:
- location: {guest}/fast.qcow2
  kernel: {{location: {guest}/vmlinuz-cloud, cmdline: root=/dev/vda1 rw console=ttyS0 quiet}}
  initrd: {{location: {guest}/initrd-cloud}}
""")
    one.verb("foo", "start")
    wait(one, "Running")
    try:
        pictures(one)
        snapshots(one)
        suspensions(one)
    finally:
        one.close()


def pictures(one):
    def look():
        with open(one.path("foo", "screen.png"), "rb") as file:
            assert file.read().startswith(b"\x89PNG")

    told("screen.png, a whole picture", [seconds(look) for _ in range(10)])


def snapshots(one):
    def take(tag):
        run("mkdir", one.path("foo", "snapshots", tag))
        wait(one, f"snapshot:{tag}")

    told("mkdir snapshots/TAG of a running VM, until it is taken", [seconds(lambda: take(f"s{n}")) for n in range(ROUNDS)])
    told("rmdir snapshots/TAG", [seconds(lambda: run("rmdir", one.path("foo", "snapshots", f"s{n}"))) for n in range(ROUNDS)])


def suspensions(one):
    saved, running, answered = [], [], []
    for _ in range(ROUNDS):
        begun = time.perf_counter()
        one.verb("foo", "suspend")
        wait(one, "Suspended")
        saved.append(time.perf_counter() - begun)
        begun = time.perf_counter()
        one.verb("foo", "start")
        wait(one, "Running")
        running.append(time.perf_counter() - begun)
        run("ssh", "-F", one.path("foo", "ssh.config"), "lima-foo", "true")
        answered.append(time.perf_counter() - begun)
    told("suspend of 256 MiB, until Suspended", saved)
    told("start from there, until Running", running)
    told("start from there, until a command over ssh has run", answered)


def told(figure, times):
    say(figure, f"{min(times):.2f} s", f"(median {statistics.median(times):.2f})")
