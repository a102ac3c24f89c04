//! The names that lima.yaml gives (`hostResolver.hosts`), and those that every guest has.

use std::collections::HashMap;
use std::net::IpAddr;

/// An alias of an alias of an alias ...: more than this is taken for a loop.
const CHAIN_MAX: usize = 16;

/// Names without case and without the final dot.
#[derive(Debug, Clone, Default)]
pub struct Hosts(HashMap<String, Target>);

#[derive(Debug, Clone)]
enum Target {
    Address(IpAddr),
    Alias(String),
}

impl Hosts {
    /// Later pairs win.
    pub fn new<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let target = |text: &str| match text.parse() {
            Ok(address) => Target::Address(address),
            Err(_) => Target::Alias(fold(text)),
        };
        Self(pairs.into_iter().map(|(name, text)| (fold(name), target(text))).collect())
    }

    /// The address that is given for a name, or the name under which to ask elsewhere: itself, or what it is an alias
    /// of. A name that is an alias of itself is asked for elsewhere as it is.
    pub fn resolve(&self, name: &str) -> Result<IpAddr, String> {
        let mut folded = fold(name);
        for _ in 0..CHAIN_MAX {
            match self.0.get(&folded) {
                Some(Target::Address(address)) => return Ok(*address),
                Some(Target::Alias(other)) => folded = other.clone(),
                None => return Err(folded),
            }
        }
        Err(fold(name))
    }
}

fn fold(name: &str) -> String {
    name.trim_end_matches('.').to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_no_case_and_aliases_lead_on() {
        let hosts =
            Hosts::new([("Host.Lima.internal", "192.168.5.2"), ("db", "HOST.lima.internal."), ("x", "example.com")]);
        let address: IpAddr = "192.168.5.2".parse().unwrap();
        assert_eq!(hosts.resolve("host.LIMA.internal"), Ok(address));
        assert_eq!(hosts.resolve("DB"), Ok(address));
        assert_eq!(hosts.resolve("x"), Err("example.com".into()));
        assert_eq!(hosts.resolve("other"), Err("other".into()));
    }

    #[test]
    fn a_loop_of_aliases_ends() {
        let hosts = Hosts::new([("a", "b"), ("b", "a"), ("self", "self")]);
        assert_eq!(hosts.resolve("a"), Err("a".into()));
        assert_eq!(hosts.resolve("self"), Err("self".into()));
    }
}
