//! The guest's name server: names of lima.yaml first, then what this host itself resolves, then this host's own
//! name servers. Listens on loopback; the guest's boot scripts lead its queries here. Asks no server that the host
//! would not ask.

mod hosts;
mod relay;

#[cfg(test)]
mod tests;

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, RData, Record, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinSet;
use tokio::time::timeout;

pub use hosts::Hosts;

use crate::names::Home;
pub use crate::store::Ports;
use crate::usernet;

/// Of answers that we make, seconds: hosts files and VPNs change without a word.
const TTL: u32 = 5;
/// Queries and connections at once; more are dropped, and asked again by whoever asked.
const QUERIES_MAX: usize = 128;
const CONNECTIONS_MAX: usize = 64;
/// A connection that says nothing is closed.
const IDLE: Duration = Duration::from_secs(30);
const LOOKUP: Duration = Duration::from_secs(5);
/// What an answer over UDP may have without EDNS.
const UDP_MAX: usize = 512;

pub struct Server {
    udp: UdpSocket,
    tcp: TcpListener,
    names: Arc<Names>,
}

/// What answers are made from.
pub struct Names {
    pub hosts: Hosts,
    /// Where other instances have addresses, by `lima-NAME.internal`.
    pub home: Home,
    /// Whether the guest is told of IPv6 addresses.
    pub ipv6: bool,
    pub resolv_conf: PathBuf,
}

impl Names {
    pub fn new(hosts: Hosts, home: Home, ipv6: bool) -> Self {
        Self { hosts, home, ipv6, resolv_conf: "/etc/resolv.conf".into() }
    }
}

/// Finds ports that are free now: the last ones where they are, so that a guest is told the same at each boot.
pub fn choose(last: Option<Ports>) -> io::Result<Ports> {
    let udp = |port| std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, port))?.local_addr();
    let tcp = |port| std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port))?.local_addr();
    if let Some(last) = last
        && udp(last.udp).is_ok()
        && tcp(last.tcp).is_ok()
    {
        return Ok(last);
    }
    Ok(Ports { udp: udp(0)?.port(), tcp: tcp(0)?.port() })
}

impl Server {
    pub async fn bind(ports: Ports, names: Arc<Names>) -> io::Result<Self> {
        let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, ports.udp)).await?;
        let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, ports.tcp)).await?;
        Ok(Self { udp, tcp, names })
    }

    #[cfg(test)]
    fn ports(&self) -> Ports {
        Ports { udp: self.udp.local_addr().unwrap().port(), tcp: self.tcp.local_addr().unwrap().port() }
    }

    /// Serves for as long as it is polled.
    pub async fn serve(self) {
        let Self { udp, tcp, names } = self;
        let udp = Arc::new(udp);
        let mut queries = JoinSet::new();
        let mut connections = JoinSet::new();
        let mut buffer = vec![0; 4096];
        loop {
            // Every arm is cancel-safe: sockets and JoinSets.
            tokio::select! {
                received = udp.recv_from(&mut buffer), if queries.len() < QUERIES_MAX => match received {
                    Ok((length, from)) => {
                        let query = buffer[..length].to_vec();
                        queries.spawn(answer_datagram(Arc::clone(&udp), Arc::clone(&names), query, from));
                    }
                    Err(error) => pause(&error).await,
                },
                accepted = tcp.accept(), if connections.len() < CONNECTIONS_MAX => match accepted {
                    Ok((stream, _)) => {
                        connections.spawn(converse(stream, Arc::clone(&names)));
                    }
                    Err(error) => pause(&error).await,
                },
                Some(_) = queries.join_next() => {}
                Some(_) = connections.join_next() => {}
            }
        }
    }
}

/// Out of descriptors, most likely: others must close some first.
async fn pause(error: &io::Error) {
    tracing::debug!("dns: {error}");
    tokio::time::sleep(Duration::from_millis(100)).await;
}

async fn answer_datagram(socket: Arc<UdpSocket>, names: Arc<Names>, query: Vec<u8>, from: SocketAddr) {
    let Some(reply) = names.answer(&query, false).await else { return };
    // Whoever asked may be gone.
    let _ = socket.send_to(&reply, from).await;
}

/// One query after the other, each with its length before it.
async fn converse(mut stream: TcpStream, names: Arc<Names>) {
    while let Ok(Ok(length)) = timeout(IDLE, stream.read_u16()).await {
        let mut query = vec![0; length.into()];
        if !matches!(timeout(IDLE, stream.read_exact(&mut query)).await, Ok(Ok(_))) {
            return;
        }
        let Some(reply) = names.answer(&query, true).await else { return };
        let Ok(length) = u16::try_from(reply.len()) else { return };
        let framed = [&length.to_be_bytes()[..], &reply].concat();
        if !matches!(timeout(IDLE, stream.write_all(&framed)).await, Ok(Ok(()))) {
            return;
        }
    }
}

impl Names {
    /// The reply to a query; `None` to what is none, or cannot be answered at all.
    async fn answer(&self, query: &[u8], tcp: bool) -> Option<Vec<u8>> {
        let asked = Message::from_vec(query).ok()?;
        if asked.metadata.message_type != MessageType::Query {
            return None;
        }
        let reply = match &asked.queries[..] {
            [one] if asked.metadata.op_code == OpCode::Query && one.query_class == DNSClass::IN => {
                match self.addresses(one).await {
                    Some(found) => with_addresses(&asked, one, &found),
                    None => match relay::relay(query, tcp, &self.resolv_conf).await {
                        Some(reply) => return Some(reply),
                        None => refusal(&asked, ResponseCode::ServFail),
                    },
                }
            }
            _ => refusal(&asked, ResponseCode::NotImp),
        };
        let bytes = reply.to_vec().ok()?;
        let most = usize::from(asked.max_payload()).max(UDP_MAX);
        if tcp || bytes.len() <= most { Some(bytes) } else { reply.truncate().to_vec().ok() }
    }

    /// The addresses of the wanted family that lima.yaml or this host knows for a name; `None` when neither knows the
    /// name, or something else is asked for of one that is not ours.
    async fn addresses(&self, query: &Query) -> Option<Vec<IpAddr>> {
        let wants_v6 = match query.query_type {
            RecordType::A => Some(false),
            RecordType::AAAA => Some(true),
            _ => None,
        };
        let name = query.name.to_ascii();
        let name = name.trim_end_matches('.');
        let found = match self.ours(name) {
            Ok(address) => vec![address],
            // No server of the world has ours: whoever were told so would not ask for addresses any more.
            Err(other) if wants_v6.is_none() => return (!other.eq_ignore_ascii_case(name)).then(Vec::new),
            Err(name) => lookup(&name).await?,
        };
        let fits = |address: &IpAddr| wants_v6 == Some(address.is_ipv6()) && (self.ipv6 || address.is_ipv4());
        Some(found.into_iter().filter(fits).collect())
    }

    /// The address of a name that lima.yaml or an instance has; otherwise the name that it stands for.
    fn ours(&self, name: &str) -> Result<IpAddr, String> {
        self.hosts.resolve(name).or_else(|name| self.instance(&name).ok_or(name))
    }

    fn instance(&self, name: &str) -> Option<IpAddr> {
        usernet::find(&self.home, name.strip_suffix(".internal")?).map(IpAddr::V4)
    }
}

/// What programs of this host would find: hosts files, mDNS and VPNs included.
async fn lookup(name: &str) -> Option<Vec<IpAddr>> {
    if name.is_empty() {
        return None;
    }
    let found = timeout(LOOKUP, tokio::net::lookup_host((name, 0))).await.ok()?.ok()?;
    let mut addresses: Vec<_> = found.map(|found| found.ip()).collect();
    addresses.dedup();
    (!addresses.is_empty()).then_some(addresses)
}

fn with_addresses(asked: &Message, query: &Query, addresses: &[IpAddr]) -> Message {
    let mut reply = refusal(asked, ResponseCode::NoError);
    reply.add_answers(addresses.iter().map(|address| {
        let data = match address {
            IpAddr::V4(address) => RData::A((*address).into()),
            IpAddr::V6(address) => RData::AAAA((*address).into()),
        };
        Record::from_rdata(query.name.clone(), TTL, data)
    }));
    reply
}

/// A reply without answers.
fn refusal(asked: &Message, code: ResponseCode) -> Message {
    let mut reply = Message::error_msg(asked.metadata.id, asked.metadata.op_code, code);
    reply.metadata.recursion_desired = asked.metadata.recursion_desired;
    reply.metadata.recursion_available = true;
    reply.add_queries(asked.queries.iter().cloned());
    reply
}
