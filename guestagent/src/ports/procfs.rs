//! Which sockets listen, from /proc/net: for kernels without sock_diag. Has every connection in it, hence slower.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{PORTS_MAX, Port, Ports};

/// `file`: `tcp`, `tcp6`, `udp` or `udp6`; `state`: as the kernel numbers it.
pub fn listening(file: &str, protocol: &str, state: u32, ports: &mut Ports) -> io::Result<()> {
    for line in BufReader::new(File::open(format!("/proc/net/{file}"))?).lines() {
        if ports.len() < PORTS_MAX {
            ports.extend(port(&line?, protocol, state));
        }
    }
    Ok(())
}

/// An entry of a line such as `0: 0100007F:0016 00000000:0000 0A ...`; the first line has words instead.
fn port(line: &str, protocol: &str, state: u32) -> Option<Port> {
    let mut fields = line.split_ascii_whitespace();
    let (address, number) = fields.nth(1)?.split_once(':')?;
    let is_wanted = u32::from_str_radix(fields.nth(1)?, 16) == Ok(state);
    let number = u16::from_str_radix(number, 16).ok().filter(|number| is_wanted && *number != 0)?;
    Some(Port::new(protocol, ip(address)?, number))
}

/// Words of four bytes, each as a number of this machine's byte order.
fn ip(hex: &str) -> Option<IpAddr> {
    let word = |at: usize| Some(u32::from_str_radix(hex.get(at..at + 8)?, 16).ok()?.to_ne_bytes());
    match hex.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let bytes = [word(0)?, word(8)?, word(16)?, word(24)?].concat();
            Some(Ipv6Addr::from(*bytes.first_chunk::<16>()?).into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::diag;

    #[test]
    fn lines_that_are_none_are_no_ports() {
        for line in
            ["", "a b c d", "0: 0100007F 0 0A", "0: 0100007F:0016 0 0X", "0: 0100007G:0016 0 0A", "0: \u{e9}:1 0 0A"]
        {
            assert_eq!(port(line, "tcp", 10), None, "{line}");
        }
        let expected = Port::new("tcp", Ipv4Addr::from(0x0102_0304_u32.to_be_bytes()).into(), 22);
        let address = u32::from_ne_bytes([1, 2, 3, 4]);
        assert_eq!(port(&format!(" 0: {address:08X}:0016 00000000:0000 0A 00"), "tcp", 10), Some(expected));
    }

    #[test]
    fn both_ways_find_the_same() {
        let sockets = ["127.0.0.1:0", "[::1]:0"].map(|address| std::net::TcpListener::bind(address).ok());
        let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut found = Ports::new();
        for (file, protocol, state) in [("tcp", "tcp", 10), ("tcp6", "tcp", 10), ("udp", "udp", 7)] {
            listening(file, protocol, state, &mut found).ok();
        }
        let known = diag::listening().unwrap();
        for address in sockets.iter().flatten().map(|socket| socket.local_addr().unwrap()) {
            let port = Port::new("tcp", address.ip(), address.port());
            assert!(found.contains(&port) && known.contains(&port), "{port:?}");
        }
        let address = udp.local_addr().unwrap();
        assert!(found.contains(&Port::new("udp", address.ip(), address.port())));
    }
}
