//! The address of a distribution, asked of its own programs: one of three, whichever it has.

use std::net::IpAddr;

use crate::wsl::{DEADLINE, Wsl};

/// Debian's family, what has iproute2 or busybox, and the last resort.
const WAYS: &[&[&str]] = &[&["hostname", "-I"], &["ip", "route", "get", "1"], &["hostname", "-i"]];

/// Returns the first address that others can reach.
pub(crate) async fn ask(wsl: &Wsl, distribution: &str) -> Option<IpAddr> {
    for way in WAYS {
        let words = [&["-d", distribution, "--exec"], *way].concat();
        if let Ok(text) = wsl.tell(&words, DEADLINE).await
            && let Some(address) = parse(&text)
        {
            return Some(address);
        }
    }
    None
}

/// The word after `src` where there is one, else the first address. Many a distribution has its own name at 127.0.1.1.
fn parse(text: &str) -> Option<IpAddr> {
    let words = || text.split_whitespace();
    let after = words().skip_while(|word| *word != "src").nth(1);
    let mut addresses = after.into_iter().chain(words()).filter_map(|word| word.parse::<IpAddr>().ok());
    match after {
        Some(_) => addresses.next().filter(is_reachable),
        None => addresses.find(is_reachable),
    }
}

fn is_reachable(address: &IpAddr) -> bool {
    !address.is_loopback() && !address.is_unspecified()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_way_of_telling_is_understood() {
        let wanted = Some("172.22.1.9".parse().unwrap());
        assert_eq!(parse("172.22.1.9 fd00::1 \n"), wanted);
        assert_eq!(parse("1.0.0.0 via 172.22.0.1 dev eth0  src 172.22.1.9  uid 0\n    cache\n"), wanted);
        assert_eq!(parse("127.0.1.1 172.22.1.9\n"), wanted);
        assert_eq!(parse("127.0.1.1\n"), None);
        assert_eq!(parse("hostname: invalid option -- 'I'\n"), None);
        assert_eq!(parse("1.0.0.0 dev lo src 127.0.0.1\n"), None);
    }
}
