//! Any bytes as lima.yaml, and once more as a document to be embedded: loaded or refused, never a panic. What was loaded
//! can be written as YAML.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use limafs::config::embed::{self, Library};
use limafs::config::{self, Context, Layers};
use limafs::host::{Host, HostUser};
use limafs::names::Name;

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

fuzz_target!(|bytes: &[u8]| {
    let (name, host) = (Name::parse("foo").expect("is a name"), host());
    let context = Context { name: &name, dir: "/h/foo".into(), host: &host, layers: Layers::default() };
    if let Ok(loaded) = config::load(bytes, &context) {
        config::to_yaml(&loaded.filled).expect("what was loaded can be written");
    }
    // A refusal is as good as an answer.
    let _ = embed::embed(bytes, None, Path::new("/home/jane"), &Library::new());
});
