//! Queries passed on as they are to this host's name servers, and their replies passed back.

use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

/// Per server; guests ask again after 5 s.
const LIMIT: Duration = Duration::from_millis(2500);
const SERVERS_MAX: usize = 3;

/// The first reply that a server of `resolv_conf` gives. It is read each time: VPNs rewrite it.
pub async fn relay(query: &[u8], tcp: bool, resolv_conf: &Path) -> Option<Vec<u8>> {
    let text = fs::read_to_string(resolv_conf).unwrap_or_default();
    for server in servers(&text) {
        let asking = async {
            match tcp {
                true => over_tcp(query, server).await,
                false => over_udp(query, server).await,
            }
        };
        match timeout(LIMIT, asking).await {
            Ok(Ok(reply)) => return Some(reply),
            Ok(Err(error)) => tracing::debug!("dns server {server}: {error}"),
            Err(_) => tracing::debug!("dns server {server} does not answer"),
        }
    }
    None
}

/// `nameserver` lines. An address may have a port, which resolv.conf itself does not know.
fn servers(text: &str) -> Vec<SocketAddr> {
    let server = |line: &str| {
        let mut words = line.split_whitespace();
        let address = words.next().filter(|word| *word == "nameserver").and_then(|_| words.next())?;
        let plain = || address.parse::<IpAddr>().map(|address| SocketAddr::new(address, 53));
        address.parse::<SocketAddr>().or_else(|_| plain()).ok()
    };
    text.lines().filter_map(server).take(SERVERS_MAX).collect()
}

async fn over_udp(query: &[u8], server: SocketAddr) -> io::Result<Vec<u8>> {
    let any: IpAddr = if server.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
    let socket = UdpSocket::bind((any, 0)).await?;
    // Only what comes from that server is received then.
    socket.connect(server).await?;
    socket.send(query).await?;
    let mut reply = vec![0; 65536];
    loop {
        let length = socket.recv(&mut reply).await?;
        if is_reply(&reply[..length], query) {
            reply.truncate(length);
            return Ok(reply);
        }
    }
}

async fn over_tcp(query: &[u8], server: SocketAddr) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(query.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes()[..], query].concat()).await?;
    let length = stream.read_u16().await?;
    let mut reply = vec![0; length.into()];
    stream.read_exact(&mut reply).await?;
    if is_reply(&reply, query) { Ok(reply) } else { Err(io::Error::other("it answers something else")) }
}

/// The same id, and a reply.
fn is_reply(reply: &[u8], query: &[u8]) -> bool {
    reply.len() >= 12 && reply[..2] == query[..2] && reply[2] & 0x80 != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_read_as_the_resolver_reads_them() {
        let text = "# x\nsearch lan\nnameserver 127.0.0.53\n nameserver\t::1 \nnameserver nonsense\nnameserver fe80::1\noptions edns0\n";
        let found: Vec<_> = servers(text).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["127.0.0.53:53", "[::1]:53", "[fe80::1]:53"]);
    }
}
