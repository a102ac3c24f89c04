//! UDP through the agent.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::time::timeout;

use super::super::datagrams::{LIMITS, Limits};
use super::agent::port;
use super::world::{LONG, Setting, World, any};

async fn server() -> (UdpSocket, SocketAddr) {
    let socket = UdpSocket::bind("127.0.0.2:0").await.unwrap();
    let host = SocketAddr::from(([127, 0, 0, 1], socket.local_addr().unwrap().port()));
    (socket, host)
}

async fn echo(socket: UdpSocket) {
    let mut buffer = vec![0; 65535];
    while let Ok((length, peer)) = socket.recv_from(&mut buffer).await {
        let _ = socket.send_to(&buffer[..length], peer).await;
    }
}

/// A datagram as it is sent again until it is answered: any may be lost.
async fn answered(client: &UdpSocket, datagram: &[u8]) -> Vec<u8> {
    let mut buffer = vec![0; 65535];
    let asking = async {
        loop {
            client.send(datagram).await.unwrap();
            if let Ok(length) = timeout(Duration::from_millis(500), client.recv(&mut buffer)).await {
                return length.unwrap();
            }
        }
    };
    let length = timeout(LONG, asking).await.expect("an answer");
    buffer[..length].to_vec()
}

#[tokio::test]
async fn c56_datagrams_of_every_size_come_back_to_whoever_sent_them() {
    let mut world = World::with_any().await;
    let (socket, host) = server().await;
    let agent = world.agent(vec![port("udp", socket.local_addr().unwrap())]);
    world.tasks.spawn(echo(socket));
    world.forwarding(host).await;
    let mut clients = Vec::new();
    for _ in 0..4_u8 {
        let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        client.connect(host).await.unwrap();
        clients.push(client);
    }
    let mut buffer = vec![0; 65535];
    let mut back = 0;
    for number in 0..1000_usize {
        let (at, length) = (number % clients.len(), 1 + number * 1471 / 999);
        let datagram = vec![at as u8; length];
        clients[at].send(&datagram).await.unwrap();
        // One that was given up may come yet; each has a length of its own, or its neighbour's.
        let answer = async {
            loop {
                let received = clients[at].recv(&mut buffer).await.unwrap();
                assert!(received <= length && buffer[..received].iter().all(|byte| *byte == at as u8), "another's");
                if received == length {
                    break;
                }
            }
        };
        back += usize::from(timeout(Duration::from_secs(5), answer).await.is_ok());
    }
    assert!(back >= 990, "{back} of 1000");
    assert_eq!(agent.said.tunnels.load(std::sync::atomic::Ordering::SeqCst), clients.len());
}

#[tokio::test]
async fn of_too_many_peers_the_longest_silent_is_forgotten_and_every_new_one_is_heard() {
    let udp = Some(Limits { idle: LONG, peers: 8 });
    let mut world = World::new(Setting { rules: vec![any()], udp, ..Setting::default() }).await;
    let (socket, host) = server().await;
    let agent = world.agent(vec![port("udp", socket.local_addr().unwrap())]);
    world.tasks.spawn(echo(socket));
    world.forwarding(host).await;
    let first = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    first.connect(host).await.unwrap();
    // Each from a port of its own, and gone after its answer, as whoever asks a name server is.
    for number in 0..40_u32 {
        let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        client.connect(host).await.unwrap();
        let asked = number.to_le_bytes();
        assert_eq!(answered(&client, &asked).await, asked);
        // Whoever goes on talking is not forgotten.
        if number % 4 == 0 {
            assert_eq!(answered(&first, b"still here").await, b"still here");
        }
    }
    let ended = || agent.said.udp_ended.load(Ordering::SeqCst);
    let forgotten = async {
        while ended() == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(LONG, forgotten).await.expect("tunnels of forgotten peers end");
    // One each: whoever had been forgotten while it talked would have had a second.
    assert!(agent.said.tunnels.load(Ordering::SeqCst) <= 41);
}

#[tokio::test]
async fn large_datagrams_are_one_message_each() {
    let mut world = World::with_any().await;
    let (socket, host) = server().await;
    let _agent = world.agent(vec![port("udp", socket.local_addr().unwrap())]);
    world.tasks.spawn(echo(socket));
    world.forwarding(host).await;
    let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    client.connect(host).await.unwrap();
    let datagram = vec![7; 30_000];
    assert_eq!(answered(&client, &datagram).await, datagram);
}

#[tokio::test]
async fn c56_a_peer_that_is_silent_is_forgotten_and_heard_again() {
    let udp = Some(Limits { idle: Duration::from_millis(300), ..LIMITS });
    let mut world = World::new(Setting { rules: vec![any()], udp, ..Setting::default() }).await;
    let (socket, host) = server().await;
    let agent = world.agent(vec![port("udp", socket.local_addr().unwrap())]);
    world.tasks.spawn(echo(socket));
    world.forwarding(host).await;
    let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    client.connect(host).await.unwrap();
    assert_eq!(answered(&client, b"one").await, b"one");
    let count = |of: &AtomicUsize| of.load(Ordering::SeqCst);
    let forgotten = async {
        while count(&agent.said.udp_ended) == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(LONG, forgotten).await.expect("the tunnel ends");
    let before = count(&agent.said.tunnels);
    assert_eq!(answered(&client, b"two").await, b"two");
    assert!(count(&agent.said.tunnels) > before);
}
