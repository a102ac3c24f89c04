//! The table of cases C, over documents that are loaded as for a start.

use std::path::PathBuf;

use super::*;
use crate::config::{self, Context, Layers};
use crate::host::{Host as Machine, HostUser};
use crate::names::Name;

const SSH_LOCAL_PORT: u16 = 60022;

/// `H` stands for the host's own address.
const TABLE: &str = "
portForwards:
- {guestIP: 127.0.0.2, guestPortRange: [3000, 3009], ignore: true}
- {guestIP: 127.0.0.3, guestPortRange: [3000, 3009], hostPortRange: [2000, 2009]}
- {guestIP: 0.0.0.0, guestIPMustBeZero: false, guestPortRange: [3010, 3019], ignore: true}
- {guestIP: 0.0.0.0, guestIPMustBeZero: false, guestPortRange: [3000, 3029], hostPortRange: [2000, 2029]}
- {guestIP: 0.0.0.0, guestIPMustBeZero: false, guestPortRange: [3020, 3029], ignore: true}
- {guestPortRange: [3030, 3039], hostPortRange: [2030, 2039], hostIP: 203.0.113.1}
- {guestPortRange: [300, 304]}
- {guestIP: 192.168.5.15, guestPortRange: [4000, 4009], hostIP: 203.0.113.1}
- {guestIP: '::1', guestPortRange: [4010, 4019], hostIP: '::'}
- {guestIP: '::', guestPortRange: [4020, 4029], hostIP: 203.0.113.1}
- {guestIP: 0.0.0.0, guestIPMustBeZero: false, guestPortRange: [4030, 4039], hostIP: 203.0.113.1}
- {guestIPMustBeZero: true, guestPortRange: [4040, 4049], hostIP: 203.0.113.1}
- {guestPort: 5000, hostSocket: port5000.sock}
- {guestPort: 5001, hostSocket: port5001.sock}
- {guestIP: 0.0.0.0, guestIPMustBeZero: false, guestPort: 5002, hostSocket: port5002.sock}
- {guestPort: 5003, hostSocket: port5003.sock}
";

fn rules(snippet: &str) -> Rules {
    let user = HostUser { name: "jane".into(), uid: 501, home: "/home/jane".into(), comment: "Jane Roe".into() };
    let host = Machine {
        user,
        os: "Linux".into(),
        arch: "x86_64".into(),
        cpus: 8,
        memory: 16 << 30,
        timezone: "Europe/Berlin".into(),
        machine_id: "0123456789abcdef".into(),
        drivers: Default::default(),
    };
    let name = Name::parse("foo").unwrap();
    let context = Context { name: &name, dir: PathBuf::from("/h/foo"), host: &host, layers: Layers::default() };
    let text = format!("images: [{{location: /}}]\n{snippet}");
    let config = config::load(text.as_bytes(), &context).unwrap().filled;
    Rules::new(&config.port_forwards.unwrap_or_default(), SSH_LOCAL_PORT, config.plain == Some(true))
}

fn decide(rules: &Rules, proto: Proto, listener: &str) -> String {
    match rules.decide(&Listener { proto, address: listener.parse().unwrap() }) {
        Verdict::Forward { host, .. } => host.to_string(),
        Verdict::Ignored => "ignored".into(),
        Verdict::Static => "static".into(),
    }
}

/// Asserts what becomes of TCP listeners under [`TABLE`].
fn assert_table(rows: &[(&str, &str)]) {
    let rules = rules(TABLE);
    for (listener, expected) in rows {
        assert_eq!(decide(&rules, Proto::Tcp, listener), *expected, "{listener}");
    }
}

#[test]
fn c13_a_rule_that_ignores_an_address_ignores_it() {
    assert_table(&[("127.0.0.2:3000", "ignored")]);
}

#[test]
fn c14_a_rule_for_another_loopback_address() {
    assert_table(&[("127.0.0.3:3001", "127.0.0.1:2001")]);
}

#[test]
fn c15_ignoring_one_address_does_not_hide_a_listener_on_all() {
    assert_table(&[("0.0.0.0:3002", "127.0.0.1:2002")]);
}

#[test]
fn c16_and_17_ignoring_all_addresses_ignores_each() {
    assert_table(&[("0.0.0.0:3010", "ignored"), ("127.0.0.1:3011", "ignored")]);
}

#[test]
fn c18_to_22_the_first_rule_wins_over_a_later_ignore() {
    assert_table(&[
        ("127.0.0.2:3020", "127.0.0.1:2020"),
        ("127.0.0.1:3021", "127.0.0.1:2021"),
        ("0.0.0.0:3022", "127.0.0.1:2022"),
        ("[::]:3023", "127.0.0.1:2023"),
        ("[::1]:3024", "127.0.0.1:2024"),
    ]);
}

#[test]
fn c23_to_26_loopback_means_every_address_that_includes_it() {
    assert_table(&[
        ("127.0.0.1:3030", "203.0.113.1:2030"),
        ("0.0.0.0:3031", "203.0.113.1:2031"),
        ("[::]:3032", "203.0.113.1:2032"),
        ("[::1]:3033", "203.0.113.1:2033"),
    ]);
}

#[test]
fn c27_privileged_ports_match_as_others_and_other_addresses_do_not() {
    assert_table(&[
        ("127.0.0.1:300", "127.0.0.1:300"),
        ("0.0.0.0:301", "127.0.0.1:301"),
        ("[::]:302", "127.0.0.1:302"),
        ("[::1]:303", "127.0.0.1:303"),
        ("192.168.5.15:304", "ignored"),
    ]);
}

#[test]
fn c28_a_rule_for_an_address_of_a_network() {
    assert_table(&[("192.168.5.15:4000", "203.0.113.1:4000")]);
}

#[test]
fn c29_ipv6_on_both_sides() {
    assert_table(&[("[::1]:4010", "[::]:4010")]);
}

#[test]
fn c30_to_41_a_rule_for_any_address_takes_them_all() {
    for decade in [402, 403] {
        for (last, ip) in ["127.0.0.1", "127.0.0.2", "192.168.5.15", "0.0.0.0", "[::]", "[::1]"].into_iter().enumerate()
        {
            assert_table(&[(&format!("{ip}:{decade}{last}"), &format!("203.0.113.1:{decade}{last}"))]);
        }
    }
}

#[test]
fn c42_to_45_an_address_that_must_be_zero_takes_wildcards_only() {
    assert_table(&[
        ("127.0.0.1:4040", "127.0.0.1:4040"),
        ("0.0.0.0:4043", "203.0.113.1:4043"),
        ("[::]:4044", "203.0.113.1:4044"),
        ("192.168.5.15:4045", "ignored"),
    ]);
}

#[test]
fn c46_to_49_ports_of_the_guest_as_sockets_of_the_host() {
    assert_table(&[
        ("127.0.0.1:5000", "/h/foo/sock/port5000.sock"),
        ("192.168.5.15:5001", "ignored"),
        ("127.0.0.1:5002", "/h/foo/sock/port5002.sock"),
        ("192.168.5.15:5003", "ignored"),
    ]);
    assert_eq!(decide(&rules(TABLE), Proto::Udp, "127.0.0.1:5000"), "ignored");
}

#[test]
fn c51_all_of_loopback_ignored_leaves_nothing_on_it() {
    let rules = rules("portForwards: [{guestPortRange: [1, 65535], proto: any, ignore: true}]");
    for listener in ["127.0.0.1:80", "[::1]:80", "127.0.0.53:53", "192.168.5.15:80"] {
        assert_eq!(decide(&rules, Proto::Tcp, listener), "ignored", "{listener}");
    }
    assert!(rules.is_quiet(Proto::Tcp) && rules.is_quiet(Proto::Udp));
}

#[test]
fn ssh_is_never_forwarded_whichever_address_it_has() {
    let rules = rules("portForwards: [{guestIP: 0.0.0.0, guestIPMustBeZero: false, guestPortRange: [1, 65535]}]");
    for ip in ["127.0.0.1", "0.0.0.0", "[::]", "192.168.5.15"] {
        for port in [SSH, SSH_LOCAL_PORT] {
            assert_eq!(decide(&rules, Proto::Tcp, &format!("{ip}:{port}")), "ignored", "{ip}:{port}");
        }
        assert_eq!(decide(&rules, Proto::Tcp, &format!("{ip}:80")), "127.0.0.1:80");
    }
}

#[test]
fn without_rules_loopback_and_wildcards_keep_their_ports() {
    let rules = rules("");
    for proto in [Proto::Tcp, Proto::Udp] {
        for ip in ["127.0.0.1", "0.0.0.0", "[::]", "[::1]"] {
            assert_eq!(decide(&rules, proto, &format!("{ip}:8080")), "127.0.0.1:8080");
        }
        for ip in ["127.0.0.53", "192.168.5.15", "[fe80::1]"] {
            assert_eq!(decide(&rules, proto, &format!("{ip}:8080")), "ignored");
        }
    }
    assert!(!rules.is_quiet(Proto::Tcp));
}

#[test]
fn a_rule_for_one_protocol_leaves_the_other_to_the_next() {
    let rules = rules("portForwards: [{guestPort: 53, hostPort: 10053, proto: udp}]");
    assert_eq!(decide(&rules, Proto::Udp, "127.0.0.1:53"), "127.0.0.1:10053");
    assert_eq!(decide(&rules, Proto::Tcp, "127.0.0.1:53"), "127.0.0.1:53");
}

#[test]
fn c53_a_plain_instance_has_its_static_rules_only() {
    let snippet = |plain: bool| {
        format!(
            "plain: {plain}\nportForwards:\n- {{guestPort: 80, hostPort: 9090, static: true}}\n\
             - {{guestPort: 9080, hostPort: 29080}}\n"
        )
    };
    let fixed =
        Fixed::Tcp { host: HostEnd::Address(([127, 0, 0, 1], 9090).into()), guest: ([127, 0, 0, 1], 80).into() };
    let (plain, other) = (rules(&snippet(true)), rules(&snippet(false)));
    assert_eq!(plain.fixed(), std::slice::from_ref(&fixed));
    assert_eq!(other.fixed(), [fixed]);
    assert_eq!(decide(&plain, Proto::Tcp, "127.0.0.1:9080"), "ignored");
    assert_eq!(decide(&other, Proto::Tcp, "127.0.0.1:9080"), "127.0.0.1:29080");
    assert_eq!(decide(&other, Proto::Udp, "192.168.5.15:80"), "static");
}

#[test]
fn every_port_of_a_static_range_is_forwarded() {
    let rules = rules("portForwards: [{guestPortRange: [70, 72], hostPortRange: [7000, 7002], static: true}]");
    let ports: Vec<_> = rules
        .fixed()
        .iter()
        .map(|fixed| match fixed {
            Fixed::Tcp { host, guest } => format!("{host} {guest}"),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(ports, ["127.0.0.1:7000 127.0.0.1:70", "127.0.0.1:7001 127.0.0.1:71", "127.0.0.1:7002 127.0.0.1:72"]);
}

#[test]
fn sockets_of_the_guest_go_both_ways() {
    let rules = rules(
        "portForwards:\n- {guestSocket: /run/a.sock, hostSocket: a.sock}\n- {guestSocket: /run/b.sock, hostPort: 2375}\n\
         - {guestSocket: /run/c.sock, hostSocket: /h/c.sock, reverse: true}\n",
    );
    let expected = [
        Fixed::Socket { host: HostEnd::Socket("/h/foo/sock/a.sock".into()), guest: "/run/a.sock".into() },
        Fixed::Socket { host: HostEnd::Address(([127, 0, 0, 1], 2375).into()), guest: "/run/b.sock".into() },
        Fixed::Reverse { host: "/h/c.sock".into(), guest: "/run/c.sock".into() },
    ];
    assert_eq!(rules.fixed(), expected);
}

#[test]
fn no_listener_whatever_gets_a_port_that_no_rule_gives() {
    let rules = rules(TABLE);
    for port in [0, 1, 1023, 65535] {
        for ip in ["10.0.0.1", "[2001:db8::1]", "224.0.0.1", "127.0.0.53"] {
            assert_eq!(decide(&rules, Proto::Tcp, &format!("{ip}:{port}")), "ignored");
        }
    }
    assert_eq!(decide(&rules, Proto::Tcp, "127.0.0.1:0"), "ignored");
}
