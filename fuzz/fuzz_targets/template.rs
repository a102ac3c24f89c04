//! Any text as the message of an instance, which has all variables that there are: expanded or refused, never a panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use limafs::config::{self, Context, Layers};
use limafs::host::{Host, HostUser};
use limafs::names::Name;

/// Every kind of value has a name here.
const DOCUMENT: &[u8] = b"images: [{location: /i}]\n\
    additionalDisks: [a, b]\n\
    networks: [{lima: x}, {socket: /s}]\n\
    param: {a: b, c: ''}\n\
    provision: [{script: '$PARAM_a $PARAM_c'}]\n";

fn host() -> Host {
    let user = HostUser { name: "jane".into(), uid: 501, home: "/home/jane".into(), comment: "Jane Roe".into() };
    let (os, arch, timezone) = ("Linux".into(), "x86_64".into(), "Europe/Berlin".into());
    Host {
        user,
        os,
        arch,
        cpus: 8,
        memory: 16 << 30,
        timezone,
        machine_id: "0123456789abcdef".into(),
        drivers: Default::default(),
    }
}

fuzz_target!(|text: &str| {
    let (name, host) = (Name::parse("foo").expect("is a name"), host());
    let context = Context { name: &name, dir: "/h/foo".into(), host: &host, layers: Layers::default() };
    let mut filled = config::load(DOCUMENT, &context).expect("is a good document").filled;
    // As it is, and as one action, so that the first braces need not be found by chance.
    for message in [text.to_owned(), format!("{{{{{text}}}}}")] {
        filled.message = Some(message);
        if let Ok(expanded) = config::message(&filled, &context, 60022) {
            assert!(expanded.len() <= 2 << 20, "{} bytes", expanded.len());
        }
    }
});
