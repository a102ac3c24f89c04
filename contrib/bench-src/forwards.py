"""Figures of port forwards with a real guest: throughput and latency beside `ssh -L` and QEMU's own, how soon a listener is there
and an end is seen, a thousand connections at once, and what idle ones cost."""

import contextlib
import json
import os
import resource
import select
import socket
import statistics
import struct
import subprocess
import time

from common import Fleet, row, run, until

MIB = 1 << 20
ZEROS = """use IO::Socket::INET; $SIG{CHLD} = $SIG{PIPE} = "IGNORE"; $b = "\\0" x 65536;
$s = IO::Socket::INET->new(LocalAddr => "ADDRESS:PORT", Listen => 64, ReuseAddr => 1) or die;
while ($c = $s->accept) { 1 while syswrite($c, $b); close $c }"""
ECHO = """use IO::Socket::INET;
$s = IO::Socket::INET->new(LocalAddr => "127.0.0.1:PORT", Listen => 64, ReuseAddr => 1) or die;
while ($c = $s->accept) { sysread($c, $b, 1); syswrite($c, $b, 1); close $c }"""
MANY = """use IO::Socket::INET; for $p (split " ", "PORT") {
push @s, IO::Socket::INET->new(LocalAddr => "127.0.0.1:$p", Listen => 1, ReuseAddr => 1) } sleep 3600"""

# Listens where it is told to, and says so at once.
OPENER = """use IO::Socket::INET;
$s = IO::Socket::INET->new(LocalAddr => "127.0.0.1:PORT", Listen => 64, ReuseAddr => 1) or die;
while ($c = $s->accept) { $p = <$c>; chomp $p;
push @l, IO::Socket::INET->new(LocalAddr => "127.0.0.1:$p", Listen => 4, ReuseAddr => 1); print $c "ok\\n"; close $c }"""

# Takes connections by two: on the second it says what became of the first, or is told what to do with it.
PAIRS = """use IO::Socket::INET; use IO::Select; use Socket; $SIG{CHLD} = $SIG{PIPE} = "IGNORE";
$s = IO::Socket::INET->new(LocalAddr => "127.0.0.1:PORT", Listen => 64, ReuseAddr => 1) or die;
while ($c = $s->accept) { $d = $s->accept; if (fork) { close $c; close $d; next }
syswrite $d, "2"; $l = IO::Select->new($c, $d);
while (1) { for $h ($l->can_read) { $n = sysread $h, $x, 1;
if ($h == $c) { syswrite $d, "e"; $l->remove($c) } elsif (!$n) { exit } elsif ($x eq "k") { kill 9, $$ }
else { setsockopt $c, SOL_SOCKET, SO_LINGER, pack("ii", 1, 0); $l->remove($c); close $c } } } }"""
# One process answers all.
ANSWERS = """use IO::Socket::INET; use IO::Select; $SIG{PIPE} = "IGNORE";
$s = IO::Socket::INET->new(LocalAddr => "127.0.0.1:PORT", Listen => 4096, ReuseAddr => 1) or die; $l = IO::Select->new($s);
while (1) { for $h ($l->can_read) { if ($h == $s) { $c = $s->accept and $l->add($c); next }
if (sysread $h, $x, 1) { syswrite $h, $x } else { $l->remove($h); close $h } } }"""


def free_ports(count):
    with contextlib.ExitStack() as all_of_them:
        sockets = [all_of_them.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def listen(one, program, ports, address="127.0.0.1"):
    """Leaves a program of Perl running in the guest and waits until its ports are forwarded."""
    text = program.replace("PORT", " ".join(map(str, ports))).replace("ADDRESS", address)
    run("ssh", "-F", one.path("foo", "ssh.config"), "lima-foo", f"setsid perl -e '{text}' </dev/null >/dev/null 2>&1 &")
    for port in ports:
        run("timeout", "60", "cat", one.path("foo", "wait", f"port:{port}"))


def mebibytes_a_second(port, seconds=4):
    with socket.create_connection(("127.0.0.1", port)) as peer:
        peer.settimeout(60)
        peer.recv(MIB)
        total, begun = 0, time.perf_counter()
        while time.perf_counter() - begun < seconds:
            total += len(peer.recv(MIB))
        return total / MIB / (time.perf_counter() - begun)


def answers(port):
    with socket.create_connection(("127.0.0.1", port)) as peer:
        peer.settimeout(60)
        peer.send(b"x")
        return len(peer.recv(1)) == 1


def milliseconds(port, times=50):
    """Median from connect to the answer to one byte."""
    taken = []
    for _ in range(times):
        begun = time.perf_counter()
        with socket.create_connection(("127.0.0.1", port)) as peer:
            peer.settimeout(60)
            peer.send(b"x")
            assert peer.recv(1) == b"x"
        taken.append((time.perf_counter() - begun) * 1000)
    return statistics.median(taken)


def appearances(opener, ports):
    """Milliseconds from a listen(2) in the guest to the first connect(2) on the host that succeeds, for each port."""
    taken = []
    for port in ports:
        with socket.create_connection(("127.0.0.1", opener)) as peer:
            peer.settimeout(60)
            peer.sendall(f"{port}\n".encode())
            assert peer.recv(16) == b"ok\n"
        begun = time.perf_counter()
        until("the new listener", 60, lambda port=port: socket.socket().connect_ex(("127.0.0.1", port)) == 0)
        taken.append((time.perf_counter() - begun) * 1000)
        # As a person would: not in one burst.
        time.sleep(0.5)
    return sorted(taken)


def tear(peer):
    """Closes without an orderly end."""
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()


def disconnects(port, act, times=20):
    """Milliseconds until the other side sees what `act` does to a connection, or has done by way of a second one."""
    taken = []
    for _ in range(times):
        with contextlib.ExitStack() as both:
            pair = [both.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(2)]
            for peer in pair:
                peer.settimeout(60)
            (second,) = select.select(pair, [], [], 60)[0]
            assert second.recv(1) == b"2"
            (first,) = [peer for peer in pair if peer is not second]
            begun = time.perf_counter()
            act(first, second)
            taken.append((time.perf_counter() - begun) * 1000)
    return sorted(taken)


def in_guest(end):
    """The client ends the connection so; the server says when it saw it."""

    def act(first, second):
        end(first)
        assert second.recv(1) == b"e"

    return act


def on_host(word):
    """The server does as it is told; the client sees an end, of whichever kind."""

    def act(first, second):
        second.sendall(word)
        try:
            assert first.recv(1) == b""
        except ConnectionResetError:
            pass

    return act


DISCONNECTS = (
    ("client closes, seen in the guest", in_guest(socket.socket.close)),
    ("client breaks off, seen in the guest", in_guest(tear)),
    ("guest's server killed, seen here", on_host(b"k")),
    ("guest's server breaks off, seen here", on_host(b"t")),
)


def at_once(port, count):
    """How many connections that are open together are answered, and seconds until the last is."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


    def is_answered(peer):
        try:
            return peer.recv(1) == b"x"
        except OSError:
            return False

    begun = time.perf_counter()
    with contextlib.ExitStack() as all_of_them:
        peers = [all_of_them.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(count)]
        for peer in peers:
            peer.settimeout(60)
            peer.sendall(b"x")
        answered = sum(map(is_answered, peers))
        return answered, time.perf_counter() - begun


@contextlib.contextmanager
def by_ssh(one, pairs):
    """`ssh -L` of its own for (host port, guest port)."""
    words = [word for host, guest in pairs for word in ("-L", f"127.0.0.1:{host}:127.0.0.1:{guest}")]
    ssh = subprocess.Popen(
        ["ssh", "-F", one.path("foo", "ssh.config"), "-N", "-o", "ControlPath=none", "-o", "ControlMaster=no", *words, "lima-foo"]
    )
    for host, _ in pairs:
        until("ssh -L listens", 60, lambda host=host: socket.socket().connect_ex(("127.0.0.1", host)) == 0)
    yield
    ssh.terminate()
    ssh.wait()


def by_qemu(one, host, guest):
    """Has QEMU itself forward a port, as the user of its monitor can."""
    with socket.socket(socket.AF_UNIX) as monitor, monitor.makefile("rw") as lines:
        monitor.connect(f"{one.home}/foo/qmp.sock")
        lines.readline()
        for request in (
            {"execute": "qmp_capabilities"},
            {"execute": "human-monitor-command", "arguments": {"command-line": f"hostfwd_add net0 tcp:127.0.0.1:{host}-:{guest}"}},
        ):
            lines.write(json.dumps(request) + "\n")
            lines.flush()
            while "return" not in (answer := json.loads(lines.readline())):
                assert "error" not in answer, answer


def throughput(ports, rounds=5):
    """MiB/s of each, in turns."""
    return zip(*([mebibytes_a_second(port) for port in ports] for _ in range(rounds)))


def compared(figure, ours, theirs, least):
    """A row of what is the median of the rounds' ratios."""
    ratio = statistics.median(mine / other for mine, other in zip(ours, theirs))
    speeds = f"{statistics.median(ours):.1f} : {statistics.median(theirs):.1f} MiB/s"
    row(figure, f"{ratio:.2f} ({speeds})", f">= {least:.2f}", ratio >= least)


def forwards(guest, private_kib, cpu_seconds, window=20):
    ports = free_ports(131)
    zeros, echo, zeros_static, echo_static, zeros_by_ssh, echo_by_ssh, zeros_by_qemu, outside, opener, pairs, thousand, *others = ports
    new, many = others[:20], others[20:]
    one = Fleet()
    os.mkdir(f"{one.dir}/shared")
    one.mount()
    one.create("foo", f"""vmType: qemu
containerd: {{user: false}}
cpus: 1
memory: 256MiB
disk: 4GiB
mountType: reverse-sshfs
mounts: [{{location: {one.dir}/shared, writable: true}}]
images:
- location: {guest}/fast.qcow2
  kernel: {{location: {guest}/vmlinuz-cloud, cmdline: root=/dev/vda1 rw console=ttyS0 quiet}}
  initrd: {{location: {guest}/initrd-cloud}}
portForwards:
- {{guestPort: {zeros_static}, static: true}}
- {{guestPort: {echo_static}, static: true}}
""")
    one.verb("foo", "start")
    run("timeout", "300", "cat", one.path("foo", "wait", "Running"))
    agent = one.pid("hostagent", "foo")
    for port in (zeros_static, zeros):
        listen(one, ZEROS, [port])
    for port in (echo_static, echo):
        listen(one, ECHO, [port])
    listen(one, ZEROS, [outside], "0.0.0.0")
    by_qemu(one, zeros_by_qemu, outside)
    with by_ssh(one, [(zeros_by_ssh, zeros), (echo_by_ssh, echo)]):
        until("the servers answer", 60, lambda: answers(zeros_static) and answers(echo_static))
        ours, fixed, theirs, qemus = throughput((zeros, zeros_static, zeros_by_ssh, zeros_by_qemu))
        compared("TCP through a forward : ssh -L", ours, theirs, 1)
        compared("TCP through a forward : QEMU's hostfwd", ours, qemus, 0.8)
        compared("TCP through a static forward : ssh -L", fixed, theirs, 0.8)
        quick, fixed, slow = [
            statistics.median(times) for times in zip(*([milliseconds(port) for port in (echo, echo_static, echo_by_ssh)] for _ in range(3)))
        ]
        for what, mine, most in (("a forward", quick, 2), ("a static forward", fixed, 1.25)):
            text = f"{mine / slow:.2f} ({mine:.1f} : {slow:.1f} ms)"
            row(f"connect and one byte through {what} : ssh -L", text, f"<= {most}", mine / slow <= most)
    listen(one, OPENER, [opener])
    taken = appearances(opener, new)
    text = f"{statistics.median(taken):.0f} / {taken[-1]:.0f} ms"
    row("a new listener of the guest on the host, median / slowest of 20", text, "<= 300 ms", taken[-1] <= 300)
    listen(one, PAIRS, [pairs])
    for what, act in DISCONNECTS:
        taken = disconnects(pairs, act)
        row(f"{what}: median / slowest of 20", f"{statistics.median(taken):.0f} / {taken[-1]:.0f} ms", "<= 100 ms", taken[-1] <= 100)
    listen(one, ANSWERS, [thousand])
    answered, seconds = at_once(thousand, 1000)
    row("1,000 connections at once: answered, and when the last", f"{answered} in {seconds:.1f} s", "1000", answered == 1000)
    time.sleep(5)
    before = private_kib(agent)
    row("hostagent: private memory 5 s after them", f"{before / 1024:.1f} MiB", "<= 16 MiB", before <= 16 << 10)
    listen(one, MANY, many)
    time.sleep(2)
    more, cpu = private_kib(agent) - before, cpu_seconds(agent)
    time.sleep(window)
    percent = (cpu_seconds(agent) - cpu) / window * 100
    whole = (before + more) / 1024
    row("100 idle forwards: hostagent's memory for them", f"{more / 1024:.1f} MiB", "<= 2 MiB", more <= 2048)
    row("100 idle forwards, a mount, names: hostagent's memory", f"{whole:.1f} MiB", "<= 16 MiB", whole <= 16)
    row(f"100 idle forwards, a mount, names: CPU over {window} s", f"{percent:.2f} %", "0 %", percent < 0.15)
    one.close()
