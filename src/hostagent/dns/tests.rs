//! Queries over real sockets; the upstream server is one of the tests' own.

use std::sync::atomic::{AtomicUsize, Ordering};

use hickory_proto::rr::Name;
use tempfile::TempDir;

use super::*;

const LONG: Duration = Duration::from_secs(60);

struct Running {
    ports: Ports,
    dir: TempDir,
    _tasks: JoinSet<()>,
}

impl Running {
    /// With these names, and an upstream where there is one.
    async fn start(ipv6: bool, upstream: Option<SocketAddr>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let resolv_conf = dir.path().join("resolv.conf");
        std::fs::write(&resolv_conf, upstream.map(|at| format!("nameserver {at}\n")).unwrap_or_default()).unwrap();
        let hosts =
            Hosts::new([("host.lima.internal", "192.168.5.2"), ("six.test", "fd00::1"), ("me.test", "localhost")]);
        let names = Names { hosts, home: Home::at(dir.path()), ipv6, resolv_conf };
        let server = Server::bind(Ports { udp: 0, tcp: 0 }, Arc::new(names)).await.unwrap();
        let ports = server.ports();
        let mut tasks = JoinSet::new();
        tasks.spawn(server.serve());
        Self { ports, dir, _tasks: tasks }
    }

    async fn over_udp(&self, query: &[u8]) -> Vec<u8> {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.send_to(query, ("127.0.0.1", self.ports.udp)).await.unwrap();
        let mut reply = vec![0; 65536];
        let length = timeout(LONG, socket.recv(&mut reply)).await.unwrap().unwrap();
        reply[..length].to_vec()
    }

    async fn over_tcp(&self, query: &[u8]) -> Vec<u8> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.ports.tcp)).await.unwrap();
        stream.write_u16(query.len() as u16).await.unwrap();
        stream.write_all(query).await.unwrap();
        let mut reply = vec![0; timeout(LONG, stream.read_u16()).await.unwrap().unwrap().into()];
        timeout(LONG, stream.read_exact(&mut reply)).await.unwrap().unwrap();
        reply
    }

    /// The reply's code and addresses.
    async fn ask(&self, name: &str, kind: RecordType) -> (ResponseCode, Vec<String>) {
        let reply = Message::from_vec(&self.over_udp(&query(name, kind)).await).unwrap();
        assert_eq!((reply.metadata.id, reply.metadata.message_type), (7, MessageType::Response));
        (reply.metadata.response_code, reply.answers.iter().map(|record| record.data.to_string()).collect())
    }
}

fn query(name: &str, kind: RecordType) -> Vec<u8> {
    let mut message = Message::new(7, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message.to_vec().unwrap()
}

/// A server that says that a name does not exist, whatever is asked, and counts.
async fn upstream(asked: Arc<AtomicUsize>, tasks: &mut JoinSet<()>) -> SocketAddr {
    let (udp, tcp) = loop {
        let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        // Somebody may have the same number over TCP.
        if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()).await {
            break (udp, tcp);
        }
    };
    let address = udp.local_addr().unwrap();
    let reply = |query: &[u8]| refusal(&Message::from_vec(query).unwrap(), ResponseCode::NXDomain).to_vec().unwrap();
    let count = Arc::clone(&asked);
    tasks.spawn(async move {
        let mut buffer = [0; 512];
        loop {
            let (length, from) = udp.recv_from(&mut buffer).await.unwrap();
            count.fetch_add(1, Ordering::SeqCst);
            // A stranger's reply first: another id.
            udp.send_to(&[0xff; 12], from).await.unwrap();
            udp.send_to(&reply(&buffer[..length]), from).await.unwrap();
        }
    });
    tasks.spawn(async move {
        loop {
            let (mut stream, _) = tcp.accept().await.unwrap();
            let mut query = vec![0; stream.read_u16().await.unwrap().into()];
            stream.read_exact(&mut query).await.unwrap();
            asked.fetch_add(1, Ordering::SeqCst);
            let reply = reply(&query);
            stream.write_u16(reply.len() as u16).await.unwrap();
            stream.write_all(&reply).await.unwrap();
        }
    });
    address
}

#[tokio::test]
async fn names_of_lima_yaml_come_first() {
    let server = Running::start(false, None).await;
    assert_eq!(
        server.ask("Host.lima.internal.", RecordType::A).await,
        (ResponseCode::NoError, vec!["192.168.5.2".into()])
    );
    assert_eq!(server.ask("host.lima.internal.", RecordType::AAAA).await, (ResponseCode::NoError, vec![]));
}

/// A resolver that hears that a name does not exist asks for no addresses of it, either.
#[tokio::test]
async fn names_of_lima_yaml_exist_whatever_is_asked_of_them() {
    let asked = Arc::new(AtomicUsize::new(0));
    let mut tasks = JoinSet::new();
    let server = Running::start(false, Some(upstream(Arc::clone(&asked), &mut tasks).await)).await;
    for name in ["host.lima.internal.", "Me.test."] {
        for kind in [RecordType::HTTPS, RecordType::TXT, RecordType::MX] {
            assert_eq!(server.ask(name, kind).await, (ResponseCode::NoError, vec![]), "{name} {kind}");
        }
    }
    assert_eq!(asked.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn other_instances_are_found_by_their_names() {
    let server = Running::start(false, None).await;
    let dir = server.dir.path().join("_networks/user-v2");
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("limafs.addresses.json"), r#"{"lima-foo": "192.168.104.5"}"#).unwrap();
    let found = server.ask("lima-foo.internal.", RecordType::A).await;
    assert_eq!(found, (ResponseCode::NoError, vec!["192.168.104.5".into()]));
}

#[tokio::test]
async fn what_the_host_resolves_the_guest_resolves() {
    let server = Running::start(false, None).await;
    for name in ["localhost.", "me.test."] {
        assert_eq!(server.ask(name, RecordType::A).await, (ResponseCode::NoError, vec!["127.0.0.1".into()]), "{name}");
    }
}

#[tokio::test]
async fn addresses_of_ipv6_are_told_where_they_are_wanted() {
    let found = Running::start(true, None).await.ask("six.test.", RecordType::AAAA).await;
    assert_eq!(found, (ResponseCode::NoError, vec!["fd00::1".into()]));
    let found = Running::start(false, None).await.ask("six.test.", RecordType::AAAA).await;
    assert_eq!(found, (ResponseCode::NoError, vec![]));
}

#[tokio::test]
async fn everything_else_is_asked_of_the_hosts_servers_by_the_same_way() {
    let asked = Arc::new(AtomicUsize::new(0));
    let mut tasks = JoinSet::new();
    let server = Running::start(false, Some(upstream(Arc::clone(&asked), &mut tasks).await)).await;
    assert_eq!(server.ask("example.test.", RecordType::MX).await, (ResponseCode::NXDomain, vec![]));
    assert_eq!(server.ask("no-such-name.invalid.", RecordType::A).await, (ResponseCode::NXDomain, vec![]));
    let reply = Message::from_vec(&server.over_tcp(&query("example.test.", RecordType::TXT)).await).unwrap();
    assert_eq!(reply.metadata.response_code, ResponseCode::NXDomain);
    assert_eq!(asked.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn without_servers_the_failure_is_said() {
    let server = Running::start(false, None).await;
    assert_eq!(server.ask("example.test.", RecordType::MX).await, (ResponseCode::ServFail, vec![]));
}

#[tokio::test]
async fn s27_rubbish_is_not_answered_and_stops_nobody() {
    let server = Running::start(false, None).await;
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let reply = refusal(&Message::from_vec(&query("a.", RecordType::A)).unwrap(), ResponseCode::NoError);
    for rubbish in [&b""[..], b"x", &[0xff; 600], &[0; 12], &reply.to_vec().unwrap()] {
        socket.send_to(rubbish, ("127.0.0.1", server.ports.udp)).await.unwrap();
    }
    let mut stream = TcpStream::connect(("127.0.0.1", server.ports.tcp)).await.unwrap();
    stream.write_all(&[0, 3, 1, 2, 3]).await.unwrap();
    assert_eq!(timeout(LONG, stream.read(&mut [0; 9])).await.unwrap().unwrap(), 0, "answered");
    assert_eq!(server.ask("host.lima.internal.", RecordType::A).await.0, ResponseCode::NoError);
}

#[test]
fn ports_stay_where_they_can() {
    // Others may be given one of them in between, but not always.
    let kept = (0..20).find_map(|_| {
        let first = choose(None).unwrap();
        (choose(Some(first)).unwrap() == first).then_some(first)
    });
    let first = kept.expect("ports that stay");
    // By us or by others.
    let _taken = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, first.udp));
    assert_ne!(choose(Some(first)).unwrap().udp, first.udp);
}
