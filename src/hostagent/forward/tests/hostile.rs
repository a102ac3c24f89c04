//! An agent that means no good.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use limafs_guestagent::proto::IpPort;
use tokio::net::TcpListener;

use super::agent::port;
use super::world::{LONG, Setting, World, ask, echo, listener};
use crate::status::Forward;

fn said(protocol: &str, ip: &str, port: i32) -> IpPort {
    IpPort { protocol: protocol.into(), ip: ip.into(), port }
}

#[tokio::test]
async fn r11_s19_a_guest_that_listens_everywhere_gets_256_forwards_and_no_privileged_port() {
    let mut world = World::new(Setting::default()).await;
    let _agent = world.agent((1000..40_000).map(|port| said("tcp", "127.0.0.1", port)).collect());
    let is_full = |all: &[Forward]| {
        let has = |words: &str| all.iter().any(|one| one.state.contains(words));
        has("forwarding") && has("a privileged port") && has("256 forwards already")
    };
    let forwards = world.until(is_full).await;
    let forwarding: Vec<_> = forwards.iter().filter(|one| one.state == "forwarding").collect();
    assert!(forwarding.len() <= 256, "{}", forwarding.len());
    for one in forwarding {
        let host: SocketAddr = one.host.parse().unwrap();
        assert!(host.port() >= 1024 && host.ip().is_loopback(), "{one:?}");
    }
    assert!(forwards.len() <= 3 * 256, "{} lines", forwards.len());
}

#[tokio::test]
async fn s19_what_is_no_listener_is_no_forward() {
    let mut world = World::with_any().await;
    let (server, host) = listener().await;
    let mut lies: Vec<IpPort> = [0, -1, 65536, i32::MAX].map(|port| said("tcp", "127.0.0.2", port)).to_vec();
    lies.extend(["", "example.com", "127.0.0.2:80", "$(id)", "::1%lo"].map(|ip| said("tcp", ip, 8080)));
    lies.extend(["icmp", "TCP", ""].map(|protocol| said(protocol, "127.0.0.2", 8080)));
    lies.push(port("tcp", server.local_addr().unwrap()));
    let _agent = world.agent(lies);
    world.tasks.spawn(echo(server));
    world.forwarding(host).await;
    assert_eq!(world.forwards.borrow().len(), 1, "{:?}", world.forwards.borrow());
}

#[tokio::test]
async fn s19_a_guest_that_flaps_is_told_of_at_a_bounded_rate() {
    let mut world = World::with_any().await;
    let (server, host) = listener().await;
    let mine = port("tcp", server.local_addr().unwrap());
    let agent = world.agent(vec![mine.clone()]);
    world.forwarding(host).await;
    let begun = Instant::now();
    let mut seen = 0;
    for round in 0.. {
        agent.listens(vec![mine.clone(), said("tcp", "192.0.2.1", 1 + round % 1000)]);
        seen += usize::from(world.forwards.has_changed().unwrap());
        world.forwards.mark_unchanged();
        tokio::time::sleep(Duration::from_millis(1)).await;
        if begun.elapsed() > Duration::from_secs(1) && seen > 0 || begun.elapsed() > LONG {
            break;
        }
    }
    let allowed = begun.elapsed().as_millis() / 40 + 1;
    assert!(seen >= 1 && seen as u128 <= allowed, "{seen} announcements, not {allowed}");
    world.tasks.spawn(echo(server));
    assert_eq!(ask(host, b"still").await.unwrap(), b"still");
}

#[tokio::test]
async fn s20_an_address_that_the_guest_says_is_dialled_by_nobody() {
    let mut world = World::with_any().await;
    let (server, host) = listener().await;
    let third = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let _agent = world.agent(vec![
        port("tcp", server.local_addr().unwrap()),
        // Another machine, as far as the rules go: nothing is forwarded to it.
        said("tcp", "192.0.2.7", third.local_addr().unwrap().port().into()),
    ]);
    world.tasks.spawn(echo(server));
    world.forwarding(host).await;
    // Each reply names an address.
    assert_eq!(ask(host, b"hello").await.unwrap(), b"hello");
    let quiet = tokio::time::timeout(Duration::from_millis(300), third.accept()).await;
    assert!(quiet.is_err(), "somebody dialled");
    assert_eq!(world.states()["-"], "ignored");
}

#[tokio::test]
async fn s19_words_that_are_no_http_cost_a_connection_each_and_no_more() {
    let mut world = World::with_any().await;
    let rubbish = tokio::net::UnixListener::bind(world.agent_socket()).unwrap();
    let first = tokio::time::timeout(LONG, rubbish.accept()).await.unwrap().unwrap().0;
    first.try_write(&[0xff; 4096]).unwrap();
    // It is hung up on, and tried again.
    let second = tokio::time::timeout(LONG, rubbish.accept()).await.unwrap();
    assert!(second.is_ok());
    drop((first, second, rubbish));
    let (server, host) = listener().await;
    let _agent = world.agent(vec![port("tcp", server.local_addr().unwrap())]);
    world.forwarding(host).await;
}
