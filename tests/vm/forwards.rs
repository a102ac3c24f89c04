//! Port forwards of real guests: what listens there is reachable here, by TCP, UDP and sockets, and the tree shows it.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

use crate::common::{Case, Failed, Fleet, Outcome, secs, wait_for, wait_until};
use crate::guest::{FAST_BOOT, boot, fast, ssh, stop};
use crate::{cases, ensure, same};

pub fn cases() -> Vec<Case> {
    cases![
        c53_static_forwards_and_sockets_of_a_plain_guest_need_no_agent,
        what_listens_in_a_guest_is_reachable_and_shown,
    ]
}

/// Ends each connection with what it said, once it has said all. `SOCKET` is an expression of Perl.
const ECHO: &str = "use IO::Socket::INET; use IO::Socket::UNIX; $SIG{CHLD} = \"IGNORE\"; $s = SOCKET or die; \
    while ($c = $s->accept) { if (fork) { close $c; next } local $/; $d = <$c>; print $c $d; exit }";
const ECHO_UDP: &str = "use IO::Socket::INET; $s = IO::Socket::INET->new(LocalAddr => \"127.0.0.1\", \
    LocalPort => PORT, Proto => \"udp\") or die; while (defined $s->recv($b, 65535)) { $s->send($b) }";

fn free_port() -> Result<u16, Failed> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

/// Leaves a program of Perl running in the guest.
fn run(fleet: &Fleet, name: &str, program: &str) -> Outcome {
    ssh(fleet, name, &format!("setsid perl -e '{program}' </dev/null >/dev/null 2>&1 &"))?;
    Ok(())
}

fn tcp_echo(port: u16) -> String {
    let socket = format!("IO::Socket::INET->new(LocalAddr => \"127.0.0.1:{port}\", Listen => 64, ReuseAddr => 1)");
    ECHO.replace("SOCKET", &socket)
}

fn ask(mut stream: impl Read + Write, end: impl FnOnce(), data: &[u8]) -> Result<Vec<u8>, Failed> {
    stream.write_all(data)?;
    end();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(answer)
}

fn ask_tcp(port: u16, data: &[u8]) -> Result<Vec<u8>, Failed> {
    let stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(secs(60)))?;
    ask(&stream, || drop(stream.shutdown(Shutdown::Write)), data)
}

fn ask_socket(path: &std::path::Path, data: &[u8]) -> Result<Vec<u8>, Failed> {
    let stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(secs(60)))?;
    ask(&stream, || drop(stream.shutdown(Shutdown::Write)), data)
}

fn ask_udp(port: u16, data: &[u8]) -> Result<Vec<u8>, Failed> {
    let socket = UdpSocket::bind(("127.0.0.1", 0))?;
    socket.connect(("127.0.0.1", port))?;
    socket.set_read_timeout(Some(secs(2)))?;
    let mut buffer = vec![0; 65535];
    let length = wait_for("an answer by UDP", secs(60), || {
        socket.send(data).ok()?;
        socket.recv(&mut buffer).ok()
    })?;
    Ok(buffer[..length].to_vec())
}

fn c53_static_forwards_and_sockets_of_a_plain_guest_need_no_agent() -> Outcome {
    let fleet = Fleet::mounted()?;
    let (ssh_port, other) = (free_port()?, free_port()?);
    let rules = format!(
        "plain: true\nportForwards:\n- {{guestPort: 1022, hostPort: {other}}}\n\
         - {{guestPort: 8022, hostPort: {ssh_port}, static: true}}\n\
         - {{guestSocket: /tmp/echo.sock, hostSocket: echo.sock, static: true}}\n\
         - {{guestSocket: /tmp/back.sock, hostSocket: back.sock, reverse: true, static: true}}\n"
    );
    fleet.create("foo", &fast(&rules)?)?;
    boot(&fleet, "foo", FAST_BOOT)?;
    run(&fleet, "foo", &tcp_echo(8022))?;
    fleet.ok(&format!("timeout 20 cat foo/wait/port:{ssh_port}"))?;
    let data: Vec<u8> = (0..2_000_000_u32).map(|at| (at / 7) as u8).collect();
    let echoed =
        wait_for("an answer by TCP", secs(60), || ask_tcp(ssh_port, &data).ok().filter(|all| !all.is_empty()))?;
    ensure!(echoed == data, "{} bytes came back of {}", echoed.len(), data.len());
    ensure!(TcpStream::connect(("127.0.0.1", other)).is_err(), "a rule that is not static is forwarded");

    let socket = "IO::Socket::UNIX->new(Local => \"/tmp/echo.sock\", Listen => 64)";
    run(&fleet, "foo", &ECHO.replace("SOCKET", socket))?;
    let link = fleet.mnt.join("foo/sock/echo.sock");
    wait_until("a link", secs(20), || link.is_symlink())?;
    same!(fleet.ok("stat -L -c %a foo/sock/echo.sock")?, "600");
    let echoed = wait_for("an answer by a socket", secs(60), || {
        ask_socket(&link, b"over a socket").ok().filter(|all| !all.is_empty())
    })?;
    same!(String::from_utf8_lossy(&echoed), "over a socket");

    let back = UnixListener::bind(fleet.home.join("foo/sock/back.sock"))?;
    let server = std::thread::spawn(move || {
        let (mut stream, _) = back.accept()?;
        let mut line = [0; 5];
        stream.read_exact(&mut line)?;
        stream.write_all(&line)
    });
    let program = "use IO::Socket::UNIX; $s = IO::Socket::UNIX->new(Peer => \"/tmp/back.sock\") or die; \
                   print $s \"hello\"; $s->flush; shutdown($s, 1); print <$s>";
    same!(ssh(&fleet, "foo", &format!("perl -e '{program}'"))?, "hello");
    ensure!(server.join().is_ok_and(|done| done.is_ok()), "the host's end failed");
    let events = fleet.read("foo/events");
    ensure!(events.contains("\"portForward\":{\"type\":\"forwarding\""), "no event of a forward: {events}");
    stop(&fleet, "foo")?;
    ensure!(!fleet.home.join("foo/sock/echo.sock").exists(), "the socket is still there");
    same!(fleet.ok("ls foo/sock")?, "");
    Ok(())
}

fn what_listens_in_a_guest_is_reachable_and_shown() -> Outcome {
    let fleet = Fleet::mounted()?;
    fleet.create("foo", &fast("")?)?;
    boot(&fleet, "foo", FAST_BOOT)?;
    let (tcp, udp) = (free_port()?, free_port()?);
    wait_until("the agent's list", secs(60), || fleet.read("foo/ports").contains("ignored"))?;
    let begun = Instant::now();
    run(&fleet, "foo", &tcp_echo(tcp))?;
    let started = begun.elapsed();
    fleet.ok(&format!("timeout 20 cat foo/wait/port:{tcp}"))?;
    // The guest's agent looks every few seconds where its kernel tells nobody of a bind(2).
    println!("forwarded {:?} after it was started, which took {started:?}", begun.elapsed() - started);
    same!(ask_tcp(tcp, b"hello")?, b"hello");
    let data: Vec<u8> = (0..2_000_000_u32).map(|at| (at / 7) as u8).collect();
    ensure!(ask_tcp(tcp, &data)? == data, "other bytes came back");
    let line = format!("tcp 127.0.0.1:{tcp} 127.0.0.1:{tcp} forwarding\n");
    ensure!(fleet.read("foo/ports").contains(&line), "ports: {}", fleet.read("foo/ports"));
    let guest = format!(".[] | select(.host == \"127.0.0.1:{tcp}\") | .guest");
    same!(fleet.ok(&format!("jq -r '{guest}' foo/ports.json"))?, format!("127.0.0.1:{tcp}"));

    run(&fleet, "foo", &ECHO_UDP.replace("PORT", &udp.to_string()))?;
    fleet.ok(&format!("timeout 20 cat foo/wait/port:{udp}"))?;
    same!(ask_udp(udp, &[7; 1400])?, [7; 1400]);

    ssh(&fleet, "foo", "pkill -f Listen")?;
    wait_until("no more forward", secs(20), || !fleet.read("foo/ports").contains(&line))?;
    ensure!(TcpStream::connect_timeout(&([127, 0, 0, 1], tcp).into(), Duration::from_secs(1)).is_err(), "still there");
    stop(&fleet, "foo")
}
