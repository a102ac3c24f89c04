"""Figures of a real guest's files: beside sftp and, where there is one, sshfs on the same guest."""

import errno
import os
import shutil
import statistics
import subprocess
import time

from common import Fleet, row, run

MIB = 1 << 20


def guest_files(guest, size=64, rounds=3):
    one = Fleet()
    one.mount()
    one.create("foo", f"""vmType: qemu
containerd: {{user: false}}
cpus: 1
memory: 256MiB
disk: 4GiB
images:
- location: {guest}/fast.qcow2
  kernel: {{location: {guest}/vmlinuz-cloud, cmdline: root=/dev/vda1 rw console=ttyS0 quiet}}
  initrd: {{location: {guest}/initrd-cloud}}
""")
    one.verb("foo", "start")
    run("timeout", "120", "cat", one.path("foo", "wait", "Running"))
    config = ["-F", one.path("foo", "ssh.config")]
    home = one.path("foo", "root") + run("ssh", *config, "lima-foo", "pwd").strip()
    copies(one, config, home, size, rounds)
    listing(one, config, home)
    down(one)
    one.close()


def copies(one, config, home, size, rounds):
    """The best of each, in turns. A new connection is a part of sftp's time, as it is not of the mount's: taken off."""
    here, back = f"{one.dir}/here", f"{one.dir}/back"
    with open(here, "wb") as file:
        file.write(os.urandom(size * MIB))
    connect = min(sftp(config, "pwd") for _ in range(rounds))
    for what, ours, theirs in (
        ("write", (here, f"{home}/ours"), f"put {here} theirs"),
        ("read", (f"{home}/ours", back), f"get ours {back}"),
    ):
        pairs = [(timed("cp", *ours), sftp(config, theirs) - connect) for _ in range(rounds)]
        mine, other = min(pair[0] for pair in pairs), min(pair[1] for pair in pairs)
        speeds = f"{size / mine:.1f} : {size / other:.1f} MiB/s"
        row(f"guest's files: {what} {size} MiB, time : sftp", f"{mine / other:.2f} ({speeds})", "<= 1.2", mine / other <= 1.2)
    run("cmp", here, back)


def listing(one, config, home, files=10_000, rounds=3):
    run("ssh", *config, "lima-foo", f"mkdir d; cd d; for d in $(seq {files // 1000}); do mkdir $d; (cd $d; seq 1000 | xargs touch); done")
    # The guest's own first look at its disk is nobody's merit.
    run("ssh", *config, "lima-foo", "ls -lR d > /dev/null")
    name = f"guest's files: ls -lR of {files:,} files"
    if not shutil.which("sshfs"):
        print(f"SKIPPED: {name} (there is no sshfs to compare with)")
        return
    at = f"{one.dir}/sshfs"
    os.mkdir(at)
    pairs = []
    for _ in range(rounds):
        # What was listed before is forgotten: here after a second, there with the mount.
        time.sleep(1.5)
        ours = timed("ls", "-lR", f"{home}/d")
        run("sshfs", *config, "lima-foo:", at)
        pairs.append((ours, timed("ls", "-lR", f"{at}/d")))
        run("fusermount3", "-u", at)
    ours, theirs = (statistics.median(side) for side in zip(*pairs))
    row(f"{name} : sshfs", f"{ours / theirs:.2f} ({ours:.2f} : {theirs:.2f} s)", "< 1", ours < theirs)


def down(one, times=200):
    """A guest that is known to be paused."""
    one.verb("foo", "pause")
    one.reach("foo", "Paused")
    took = []
    for _ in range(times):
        begun = time.perf_counter()
        try:
            os.listdir(one.path("foo", "root", "etc"))
            raise SystemExit("bench: a paused guest lists its files")
        except OSError as error:
            assert error.errno == errno.EHOSTDOWN, error
        took.append((time.perf_counter() - begun) * 1e3)
    took.sort()
    p50, most = took[times // 2], took[-1]
    row(f"guest's files: EHOSTDOWN when paused, p50 / slowest of {times}", f"{p50:.2f} / {most:.2f} ms", "<= 50 ms", most <= 50)
    one.verb("foo", "resume")
    one.reach("foo", "Running")


def timed(*argv):
    begun = time.perf_counter()
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begun


def sftp(config, line):
    begun = time.perf_counter()
    subprocess.run(["sftp", "-q", *config, "-b", "-", "lima-foo"], input=line, text=True, check=True, capture_output=True)
    return time.perf_counter() - begun
