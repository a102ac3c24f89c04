//! What goes through ssh: static forwards, sockets, and TCP where Lima's switch says so.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use limafs_driver::PortForward;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixListener, UnixStream};
use tokio::time::timeout;

use super::agent::port;
use super::world::{LONG, Setting, World, any, ask, echo, listener};

/// A rule for one socket of the guest.
fn socket_rule(guest: &str, host: &std::path::Path) -> PortForward {
    PortForward {
        guest_ip: Some("127.0.0.1".into()),
        host_ip: Some("127.0.0.1".into()),
        guest_port_range: Some([1, 65535]),
        host_port_range: Some([1, 65535]),
        guest_socket: Some(guest.into()),
        host_socket: Some(host.to_string_lossy().into_owned()),
        ..PortForward::default()
    }
}

fn static_rule(guest: SocketAddr, host: SocketAddr) -> PortForward {
    let range = |address: SocketAddr| Some([i64::from(address.port()); 2]);
    PortForward {
        guest_ip: Some(guest.ip().to_string()),
        guest_port_range: range(guest),
        host_port_range: range(host),
        is_static: Some(true),
        ..any()
    }
}

async fn serve_one(listener: UnixListener) {
    while let Ok((mut stream, _)) = listener.accept().await {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await.unwrap();
        all.reverse();
        stream.write_all(&all).await.unwrap();
    }
}

async fn reversed(path: &std::path::Path, data: &[u8]) -> Vec<u8> {
    let asking = async {
        let mut stream = UnixStream::connect(path).await.unwrap();
        stream.write_all(data).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        answer
    };
    timeout(LONG, asking).await.expect("an answer")
}

#[tokio::test]
async fn c53_a_static_forward_of_a_plain_instance_needs_no_agent() {
    let (server, host) = listener().await;
    let rules = vec![static_rule(server.local_addr().unwrap(), host), any()];
    let mut world = World::new(Setting { rules, plain: true, ..Setting::default() }).await;
    world.tasks.spawn(echo(server));
    world.forwarding(host).await;
    let data = vec![42; 3_000_000];
    assert!(ask(host, &data).await.unwrap() == data);
    assert_eq!(world.forwards.borrow().len(), 1);
}

#[tokio::test]
async fn c53_beside_an_agent_the_static_rule_alone_has_its_port() {
    let ((server, host), (other, other_host)) = (listener().await, listener().await);
    let ports = [&server, &other].map(|one| port("tcp", one.local_addr().unwrap()));
    let rules = vec![static_rule(server.local_addr().unwrap(), host), any()];
    let mut world = World::new(Setting { rules, ..Setting::default() }).await;
    let agent = world.agent(ports.to_vec());
    world.tasks.spawn(echo(server));
    world.tasks.spawn(echo(other));
    world.forwarding(other_host).await;
    assert_eq!(ask(host, b"static").await.unwrap(), b"static");
    assert_eq!(agent.said.tunnels.load(std::sync::atomic::Ordering::SeqCst), 0);
    assert_eq!(ask(other_host, b"dynamic").await.unwrap(), b"dynamic");
    assert_eq!(world.forwards.borrow().len(), 2);
}

#[tokio::test]
async fn a_socket_of_the_guest_is_one_of_the_host() {
    let sockets = tempfile::tempdir().unwrap();
    let path = sockets.path().join("sock/docker.sock");
    let rules = vec![socket_rule("/run/docker.sock", &path)];
    let mut world = World::new(Setting { rules, plain: false, ..Setting::default() }).await;
    let listener = UnixListener::bind(world.dir.path().join("docker.sock")).unwrap();
    world.tasks.spawn(serve_one(listener));
    let forwards = world.until(|all| all.iter().any(|one| one.state == "forwarding")).await;
    assert_eq!((forwards[0].proto.as_str(), forwards[0].guest.as_str()), ("unix", "/run/docker.sock"));
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(reversed(&path, b"abc").await, b"cba");
    drop(world);
    let gone = async {
        while path.exists() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(LONG, gone).await.expect("the socket goes with its forward");
}

#[tokio::test]
async fn a_socket_of_the_host_is_one_of_the_guest() {
    let sockets = tempfile::tempdir().unwrap();
    let path = sockets.path().join("host.sock");
    let rule = PortForward { reverse: Some(true), ..socket_rule("/run/guest.sock", &path) };
    let mut world = World::new(Setting { rules: vec![rule], ..Setting::default() }).await;
    world.tasks.spawn(serve_one(UnixListener::bind(&path).unwrap()));
    world.until(|all| all.iter().any(|one| one.state == "forwarding")).await;
    let in_guest = world.dir.path().join("guest.sock");
    assert_eq!(reversed(&in_guest, b"abc").await, b"cba");
    assert_eq!(reversed(&in_guest, b"xyz").await, b"zyx");
}

#[tokio::test]
async fn c46_a_port_of_the_guest_is_a_socket_of_the_host() {
    let sockets = tempfile::tempdir().unwrap();
    let path = sockets.path().join("port.sock");
    let (server, _) = listener().await;
    let rule = PortForward { host_socket: Some(path.to_string_lossy().into_owned()), ..any() };
    let mut world = World::new(Setting { rules: vec![rule], ..Setting::default() }).await;
    let _agent = world.agent(vec![port("tcp", server.local_addr().unwrap())]);
    world.tasks.spawn(echo(server));
    world.until(|all| all.iter().any(|one| one.state == "forwarding")).await;
    let mut stream = UnixStream::connect(&path).await.unwrap();
    stream.write_all(b"over a socket").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = Vec::new();
    timeout(LONG, stream.read_to_end(&mut answer)).await.unwrap().unwrap();
    assert_eq!(answer, b"over a socket");
}

#[tokio::test]
async fn limas_switch_takes_tcp_through_ssh_and_leaves_udp_out() {
    let mut world = World::new(Setting { rules: vec![any()], by_ssh: true, ..Setting::default() }).await;
    let (server, host) = listener().await;
    let address = server.local_addr().unwrap();
    let agent = world.agent(vec![port("tcp", address), port("udp", address)]);
    world.tasks.spawn(echo(server));
    world.forwarding(host).await;
    assert_eq!(ask(host, b"through ssh").await.unwrap(), b"through ssh");
    assert_eq!(agent.said.tunnels.load(std::sync::atomic::Ordering::SeqCst), 0);
    let states: Vec<_> = world.forwards.borrow().iter().map(|one| (one.proto.clone(), one.state.clone())).collect();
    assert!(states.contains(&("udp".into(), "ignored".into())), "{states:?}");
}

#[tokio::test]
async fn connections_one_after_the_other_share_two_sessions() {
    let (server, host) = listener().await;
    let rules = vec![static_rule(server.local_addr().unwrap(), host)];
    let mut world = World::new(Setting { rules, plain: true, ..Setting::default() }).await;
    world.tasks.spawn(echo(server));
    world.forwarding(host).await;
    for round in 0..20_u32 {
        assert_eq!(ask(host, &round.to_le_bytes()).await.unwrap(), round.to_le_bytes());
    }
    // One that all share, one that carries, one kept ready.
    assert!(world.guest.connections() <= 3, "{} sessions", world.guest.connections());
}

#[tokio::test]
async fn a_reader_that_stops_does_not_hold_up_the_next_connection() {
    let (server, host) = listener().await;
    let rules = vec![static_rule(server.local_addr().unwrap(), host)];
    let mut world = World::new(Setting { rules, plain: true, ..Setting::default() }).await;
    world.forwarding(host).await;
    let idle = TcpStream::connect(host).await.unwrap();
    let (mut first, _) = timeout(LONG, server.accept()).await.unwrap().unwrap();
    // While this one is there a session is made ready for the next.
    let sessions = async {
        while world.guest.connections() < 3 {
            let client = TcpStream::connect(host).await.unwrap();
            let _accepted = server.accept().await.unwrap();
            drop(client);
        }
    };
    timeout(LONG, sessions).await.expect("another session");
    let mut sent = 0;
    while let Ok(written) = timeout(Duration::from_secs(1), first.write(&[0; 65536])).await {
        sent += written.unwrap();
        assert!(sent < 64 << 20, "nothing holds the writer up");
    }
    world.tasks.spawn(echo(server));
    assert_eq!(ask(host, b"meanwhile").await.unwrap(), b"meanwhile");
    drop(idle);
}
