//! agent-figures AGENT: what the agent costs and how soon it tells of a listener. Runs it on this machine, which takes root.
//! One JSON object on standard output, for contrib/bench.

use std::error::Error;
use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use limafs_guestagent::client::{self, Client};
use limafs_guestagent::proto::{Event, TunnelMessage};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::time::{interval, sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

type Outcome<T> = Result<T, Box<dyn Error>>;

const IDLE: Duration = Duration::from_secs(10);
const BINDS: u32 = 1000;
const BIND_EVERY: Duration = Duration::from_millis(10);
const LISTENERS: usize = 200;
const TUNNELS: usize = 1000;
const LIMIT: Duration = Duration::from_secs(10);

/// Ends the agent with the measurement.
struct Agent(Child);

impl Drop for Agent {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome<()> {
    let program = std::env::args().nth(1).ok_or("usage: agent-figures AGENT")?;
    let dir = std::env::temp_dir().join(format!("limafs-agent-{}", std::process::id()));
    fs::create_dir(&dir)?;
    let measured = measure(&program, &dir).await;
    fs::remove_dir_all(&dir)?;
    println!("{}", measured?);
    Ok(())
}

async fn measure(program: &str, dir: &Path) -> Outcome<String> {
    let socket = dir.join("ga.sock");
    let mut command = Command::new(program);
    command.arg("daemon").arg("--runtime-dir").arg(dir).arg("--socket").arg(&socket);
    let agent = Agent(command.spawn()?);
    let pid = agent.0.id();
    let mut client = timeout(LIMIT, connect(&socket)).await??;
    client.info().await?;
    let mut events = client.events().await?;

    let before = cpu_time(pid)?;
    sleep(IDLE).await;
    let idle = share(cpu_time(pid)? - before, IDLE);
    let resident = resident_kib(pid)?;

    let (before, start) = (cpu_time(pid)?, Instant::now());
    let mut clock = interval(BIND_EVERY);
    for _ in 0..BINDS {
        clock.tick().await;
        drop(TcpListener::bind("127.0.0.1:0")?);
        while let Ok(event) = timeout(Duration::ZERO, events.message()).await {
            event?.ok_or("the events ended")?;
        }
    }
    let busy = share(cpu_time(pid)? - before, start.elapsed());

    let mut delays = Vec::new();
    for _ in 0..LISTENERS {
        delays.push(delay(&mut events).await?);
    }
    delays.sort_unstable();
    let millis = |share: usize| delays[(delays.len() - 1) * share / 100].as_secs_f64() * 1e3;
    let (crowded, after) = tunnels(&client, pid).await?;
    let bytes = fs::metadata(program)?.len();
    Ok(format!(
        "{{\"bytes\": {bytes}, \"residentKib\": {resident}, \"tunnelsKib\": {crowded}, \"afterTunnelsKib\": {after}, \"idleShare\": {idle:.6}, \"bindShare\": {busy:.6}, \
         \"listenerP50Ms\": {:.1}, \"listenerP99Ms\": {:.1}}}",
        millis(50),
        millis(99)
    ))
}

/// Memory while so many tunnels that have carried data are open, and when they have ended.
async fn tunnels(client: &Client, pid: u32) -> Outcome<(u64, u64)> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?.to_string();
    let server = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut from, mut to) = stream.split();
                tokio::io::copy(&mut from, &mut to).await
            });
        }
    });
    let mut open = Vec::new();
    for _ in 0..TUNNELS {
        let (say, said) = mpsc::channel(2);
        say.send(client::dial("figures", "tcp", &address)).await?;
        say.send(TunnelMessage { data: vec![1; 20_000], ..Default::default() }).await?;
        let mut answers = client.clone().tunnel(ReceiverStream::new(said)).await?;
        let mut heard = 0;
        while heard < 20_000 {
            heard += timeout(LIMIT, answers.message()).await??.ok_or("a tunnel ended")?.data.len();
        }
        open.push((say, answers));
    }
    let crowded = resident_kib(pid)?;
    drop(open);
    server.abort();
    sleep(IDLE / 2).await;
    Ok((crowded, resident_kib(pid)?))
}

async fn connect(socket: &Path) -> Outcome<Client> {
    loop {
        if let Ok(stream) = UnixStream::connect(socket).await {
            let (client, connection) = client::connect(stream).await?;
            tokio::spawn(connection);
            return Ok(client);
        }
        sleep(Duration::from_millis(5)).await;
    }
}

/// From listen(2) to the event that has the port.
async fn delay(events: &mut Streaming<Event>) -> Outcome<Duration> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let start = Instant::now();
    let port = i32::from(listener.local_addr()?.port());
    loop {
        let event = timeout(LIMIT, events.message()).await??.ok_or("the events ended")?;
        if event.added_local_ports.iter().any(|added| added.port == port) {
            return Ok(start.elapsed());
        }
    }
}

fn share(used: Duration, of: Duration) -> f64 {
    used.as_secs_f64() / of.as_secs_f64()
}

/// Of all its threads.
fn cpu_time(pid: u32) -> Outcome<Duration> {
    let mut total = Duration::ZERO;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let text = fs::read_to_string(task?.path().join("schedstat"))?;
        total += Duration::from_nanos(text.split(' ').next().unwrap_or_default().parse()?);
    }
    Ok(total)
}

fn resident_kib(pid: u32) -> Outcome<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}
