//! TCP through the agent.

use std::io::ErrorKind;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::agent::port;
use super::world::{LONG, Setting, World, any, ask, echo, listener};

/// What is done at once is done within this, however busy the machine; what waits for some clock of ours is not.
const BUSY: Duration = Duration::from_secs(15);

#[tokio::test]
async fn what_listens_is_forwarded_and_halves_are_closed_one_by_one() {
    let mut world = World::with_any().await;
    let (server, host) = listener().await;
    let agent = world.agent(vec![port("tcp", server.local_addr().unwrap())]);
    let guest = server.local_addr().unwrap().to_string();
    world.tasks.spawn(echo(server));
    world.forwarding(host).await;
    let forwards = world.forwards.borrow().clone();
    assert_eq!((forwards[0].proto.as_str(), &forwards[0].guest), ("tcp", &guest));
    // The server answers only when it has seen the end: the host's half was closed and the other was not.
    let data: Vec<u8> = (0..1_000_000_u32).map(|at| at as u8).collect();
    assert!(ask(host, &data).await.unwrap() == data);
    assert_eq!(ask(host, b"").await.unwrap(), b"");
    agent.listens(vec![]);
    world.until(|all| all.is_empty()).await;
    assert!(TcpStream::connect(host).await.is_err());
}

#[tokio::test]
async fn a_listener_that_comes_later_is_announced_within_the_tick() {
    let mut world = World::with_any().await;
    let (first, first_host) = listener().await;
    let agent = world.agent(vec![port("tcp", first.local_addr().unwrap())]);
    world.forwarding(first_host).await;
    let (second, second_host) = listener().await;
    let begun = Instant::now();
    agent.listens(vec![port("tcp", first.local_addr().unwrap()), port("tcp", second.local_addr().unwrap())]);
    world.forwarding(second_host).await;
    // Some 50 ms; a busy machine may need much longer.
    assert!(begun.elapsed() < BUSY, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn c55_ends_are_seen_on_the_other_side_at_once() {
    let mut world = World::with_any().await;
    let (server, host) = listener().await;
    let _agent = world.agent(vec![port("tcp", server.local_addr().unwrap())]);
    world.forwarding(host).await;
    let mut client = TcpStream::connect(host).await.unwrap();
    let (accepted, _) = timeout(LONG, server.accept()).await.unwrap().unwrap();
    let begun = Instant::now();
    drop(accepted);
    assert_eq!(timeout(LONG, client.read(&mut [0])).await.unwrap().unwrap(), 0);
    assert!(begun.elapsed() < BUSY, "server's end: {:?}", begun.elapsed());

    let client = TcpStream::connect(host).await.unwrap();
    let (mut accepted, _) = timeout(LONG, server.accept()).await.unwrap().unwrap();
    let begun = Instant::now();
    drop(client);
    assert_eq!(timeout(LONG, accepted.read(&mut [0])).await.unwrap().unwrap(), 0);
    assert!(begun.elapsed() < BUSY, "client's end: {:?}", begun.elapsed());
}

#[tokio::test]
async fn a_client_that_is_torn_away_ends_the_guests_connection() {
    let mut world = World::with_any().await;
    let (server, host) = listener().await;
    let _agent = world.agent(vec![port("tcp", server.local_addr().unwrap())]);
    world.forwarding(host).await;
    let client = TcpStream::connect(host).await.unwrap();
    let (mut accepted, _) = timeout(LONG, server.accept()).await.unwrap().unwrap();
    // The server talks on; nobody is there to hear it.
    let talking = async { while accepted.write_all(&[0; 4096]).await.is_ok() {} };
    drop(client);
    timeout(LONG, talking).await.expect("the server is told");
}

#[tokio::test]
async fn nobody_listening_in_the_guest_is_a_closed_connection() {
    let mut world = World::with_any().await;
    let (server, host) = listener().await;
    let _agent = world.agent(vec![port("tcp", server.local_addr().unwrap())]);
    world.forwarding(host).await;
    drop(server);
    let mut client = TcpStream::connect(host).await.unwrap();
    let ended = timeout(LONG, client.read(&mut [0])).await.unwrap();
    assert_eq!(ended.unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_server_that_has_said_all_is_sent_what_still_comes() {
    let mut world = World::with_any().await;
    let (server, host) = listener().await;
    let agent = world.agent(vec![port("tcp", server.local_addr().unwrap())]);
    agent.said.knows_halves.store(true, Ordering::SeqCst);
    world.forwarding(host).await;
    let mut client = TcpStream::connect(host).await.unwrap();
    let (mut accepted, _) = timeout(LONG, server.accept()).await.unwrap().unwrap();
    accepted.write_all(b"go on").await.unwrap();
    accepted.shutdown().await.unwrap();
    let mut said = Vec::new();
    timeout(LONG, client.read_to_end(&mut said)).await.unwrap().unwrap();
    assert_eq!(said, b"go on");
    let data: Vec<u8> = (0..1_000_000_u32).map(|at| at as u8).collect();
    let sending = async {
        client.write_all(&data).await.unwrap();
        client.shutdown().await.unwrap();
    };
    let mut heard = Vec::new();
    let (_, read) = timeout(LONG, async { tokio::join!(sending, accepted.read_to_end(&mut heard)) }).await.unwrap();
    read.unwrap();
    assert!(heard == data, "{} bytes of {}", heard.len(), data.len());
}

#[tokio::test]
async fn a_connection_that_broke_off_in_the_guest_does_not_end_as_if_all_had_been_said() {
    let mut world = World::with_any().await;
    let (server, host) = listener().await;
    let _agent = world.agent(vec![port("tcp", server.local_addr().unwrap())]);
    world.forwarding(host).await;
    let mut client = TcpStream::connect(host).await.unwrap();
    let (mut accepted, _) = timeout(LONG, server.accept()).await.unwrap().unwrap();
    accepted.write_all(b"half").await.unwrap();
    let mut said = [0; 4];
    timeout(LONG, client.read_exact(&mut said)).await.unwrap().unwrap();
    accepted.set_zero_linger().unwrap();
    drop(accepted);
    let ended = timeout(LONG, client.read(&mut [0])).await.unwrap();
    assert_eq!(ended.unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn ten_thousand_short_connections_leave_nothing() {
    let mut world = World::with_any().await;
    let (server, host) = listener().await;
    let _agent = world.agent(vec![port("tcp", server.local_addr().unwrap())]);
    world.tasks.spawn(echo(server));
    world.forwarding(host).await;
    let open = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let before = open();
    for round in 0..100_u32 {
        let mut clients = JoinSet::new();
        for at in 0..100_u32 {
            let word = (round * 100 + at).to_le_bytes();
            clients.spawn(async move { ask(host, &word).await.unwrap() == word });
        }
        while let Some(same) = clients.join_next().await {
            assert!(same.unwrap());
        }
    }
    // The last ends are still on their way; other tests open some of their own.
    let settled = async {
        while open() > before + 100 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(LONG, settled).await.unwrap_or_else(|_| panic!("{before} descriptors before, {} after", open()));
}

#[tokio::test]
async fn a_reader_that_stops_holds_up_its_writer_and_nobody_else() {
    let mut world = World::with_any().await;
    let ((server, host), (other, other_host)) = (listener().await, listener().await);
    let ports = vec![port("tcp", server.local_addr().unwrap()), port("tcp", other.local_addr().unwrap())];
    let _agent = world.agent(ports);
    world.tasks.spawn(echo(other));
    world.forwarding(host).await;
    world.forwarding(other_host).await;
    let idle = TcpStream::connect(host).await.unwrap();
    let (mut accepted, _) = server.accept().await.unwrap();
    let mut sent = 0;
    // Until a second passes in which nothing goes.
    while let Ok(written) = timeout(Duration::from_secs(1), accepted.write(&[0; 65536])).await {
        sent += written.unwrap();
        assert!(sent < 64 << 20, "nothing holds the writer up");
    }
    assert_eq!(ask(other_host, b"meanwhile").await.unwrap(), b"meanwhile");
    drop(idle);
}

#[tokio::test]
async fn x14_an_agent_that_dies_is_told_of_and_found_again_and_listeners_stay() {
    let patience = Some(Duration::from_millis(300));
    let mut world = World::new(Setting { rules: vec![any()], patience, ..Setting::default() }).await;
    let (server, host) = listener().await;
    let ports = vec![port("tcp", server.local_addr().unwrap())];
    world.tasks.spawn(echo(server));
    let agent = world.agent(ports.clone());
    world.forwarding(host).await;
    // It never came in time, or did; from here on it is gone.
    drop(agent);
    std::fs::remove_file(world.agent_socket()).unwrap();
    let trouble = async |world: &mut World| loop {
        if let crate::hostagent::state::Event::Trouble("guest agent", what) = world.told.recv().await.unwrap() {
            return what;
        }
    };
    let mut what = timeout(LONG, trouble(&mut world)).await.unwrap();
    while what.is_empty() {
        what = timeout(LONG, trouble(&mut world)).await.unwrap();
    }
    assert_eq!(what, ["the guest agent does not answer; port forwards will not work"]);
    assert_eq!(world.states()[&host.to_string()], "forwarding");
    assert_eq!(ask(host, b"").await.unwrap(), b"");
    let agent = world.agent(ports);
    while !timeout(LONG, trouble(&mut world)).await.unwrap().is_empty() {}
    assert_eq!(ask(host, b"again").await.unwrap(), b"again");
    assert_eq!(agent.said.connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn c52_a_port_that_is_taken_is_had_when_it_is_free() {
    let mut world = World::with_any().await;
    let (server, host) = listener().await;
    let holder = std::net::TcpListener::bind(host).unwrap();
    let _agent = world.agent(vec![port("tcp", server.local_addr().unwrap())]);
    world.tasks.spawn(echo(server));
    let failed = world.until(|all| !all.is_empty()).await;
    assert!(failed[0].state.starts_with("failed: address in use (pid "), "{:?}", failed[0]);
    let begun = Instant::now();
    drop(holder);
    world.forwarding(host).await;
    assert!(begun.elapsed() < BUSY, "{:?}", begun.elapsed());
    assert_eq!(ask(host, b"mine").await.unwrap(), b"mine");
}

#[tokio::test]
async fn the_guests_clock_is_set_when_the_vm_runs_again() {
    let mut world = World::with_any().await;
    let (server, host) = listener().await;
    let agent = world.agent(vec![port("tcp", server.local_addr().unwrap())]);
    world.forwarding(host).await;
    let syncs = || agent.said.syncs.load(std::sync::atomic::Ordering::SeqCst);
    // The task that watches has to see the pause before its end.
    let asked = async {
        while syncs() < 4 {
            world.scene.send_modify(|scene| scene.paused = !scene.paused);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    // Without a pause it is set after 5 s and every 20 s from then on: the fourth time after 65 s.
    timeout(LONG, asked).await.expect("the clock is set");
}

#[tokio::test]
async fn a_time_that_came_late_is_told_again_soon() {
    let mut world = World::with_any().await;
    let (server, host) = listener().await;
    let agent = world.agent(vec![port("tcp", server.local_addr().unwrap())]);
    agent.said.sync_takes.store(700, Ordering::SeqCst);
    world.forwarding(host).await;
    let begun = Instant::now();
    let told = async {
        while agent.said.syncs.load(Ordering::SeqCst) < 3 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(LONG, told).await.expect("the clock is set");
    // After 5 s, and every 20 s from then on where it takes no time.
    assert!(begun.elapsed() < Duration::from_secs(40), "{:?}", begun.elapsed());
}
