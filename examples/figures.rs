//! Figures that cannot be taken from outside a process: what a document and a cidata disk cost. One JSON object on
//! standard output, for contrib/bench. Measures what the mount and the hostagent call, and nothing of its own.

use std::collections::BTreeMap;
use std::error::Error;
use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, Instant};

use limafs::cidata::{self, Guest};
use limafs::config::embed::{self, Library, Place, Step};
use limafs::config::{self, Context, Layers, Loaded};
use limafs::host::Host;
use limafs::names::{Home, Name};
use limafs::templates::{self, EMBEDDED};

type Outcome<T> = Result<T, Box<dyn Error>>;

/// The smallest of so many runs counts: what else the machine does only adds.
const RUNS: u32 = 200;
/// What most homes have there, so that there is something to merge.
const DEFAULTS: &str = "cpus: 2\nmounts: [{location: '~', writable: true}]\nenv: {A: b}\n";
const OVERRIDES: &str = "memory: 2GiB\nprovision: [{script: 'echo {{.Name}}'}]\n";

fn main() -> Outcome<()> {
    let (host, name) = (Host::detect()?, Name::parse("foo")?);
    let layers = Layers { overrides: Some(OVERRIDES.as_bytes().into()), defaults: Some(DEFAULTS.as_bytes().into()) };
    let dir = host.user.home.join(".lima/foo");
    let context = Context { name: &name, dir, host: &host, layers };
    let (template, text) = biggest(&host.user.home)?;
    let document = fastest(|| config::load(&text, &context).map(drop))?;
    let loaded = config::load(&whole("default", &host.user.home)?, &context)?;
    let (cidata, bytes) = cidata_disk(&loaded, &name)?;
    let figures = serde_json::json!({
        "template": template,
        "templateBytes": text.len(),
        "documentSeconds": document.as_secs_f64(),
        "cidataSeconds": cidata.as_secs_f64(),
        "cidataBytes": bytes,
    });
    println!("{figures}");
    Ok(())
}

/// The time of the fastest run.
fn fastest<E: Into<Box<dyn Error>>>(mut work: impl FnMut() -> Result<(), E>) -> Outcome<Duration> {
    let mut best = Duration::MAX;
    for _ in 0..RUNS {
        let start = Instant::now();
        work().map_err(Into::into)?;
        best = best.min(start.elapsed());
    }
    Ok(best)
}

/// The template that is longest with all that it is built upon.
fn biggest(user_home: &Path) -> Outcome<(&'static str, Vec<u8>)> {
    let mut longest = ("", Vec::new());
    for (name, _) in EMBEDDED.iter().filter(|(name, _)| !name.starts_with('_')) {
        let text = whole(name, user_home)?;
        if text.len() > longest.1.len() {
            longest = (name, text);
        }
    }
    Ok(longest)
}

/// A template as a document that stands alone.
fn whole(name: &str, user_home: &Path) -> Outcome<Vec<u8>> {
    // Only what is part of the program counts.
    let home = Home::at("/nonexistent");
    let text = templates::read(&home, name)?;
    let mut library = Library::new();
    loop {
        match embed::embed(text.as_bytes(), None, user_home, &library)? {
            Step::Done(text) => return Ok(text),
            Step::Fetch(request) => {
                let Place::Template(part) = &request.place else {
                    return Err(format!("{name} is built upon more than templates").into());
                };
                let bytes = templates::part(&home, part)?;
                library.insert(request, bytes);
            }
        }
    }
}

/// Time and size of an instance's first disk.
fn cidata_disk(loaded: &Loaded, name: &Name) -> Outcome<(Duration, usize)> {
    let keys = [format!("ssh-ed25519 {} lima", "A".repeat(68))];
    let agent = std::env::var_os("LIMAFS_GUESTAGENT").map(std::fs::read).transpose()?;
    let guest = Guest {
        name,
        config: &loaded.filled,
        ssh_keys: &keys,
        keep_host_keys: false,
        mac: "52:55:55:01:02:03",
        networks: &[],
        dns: Some((5300, 5301)),
        boot_port: "io.limafs.boot.0",
        virtio_port: "",
        vsock_port: 0,
        features: &limafs_driver::Features::default(),
        boot_scripts: &BTreeMap::new(),
        ca_files: &[],
        agent: agent.as_deref(),
        archive: None,
        host_env: &BTreeMap::new(),
    };
    let mut bytes = 0;
    let time = fastest(|| -> limafs::error::Result<()> {
        bytes = black_box(cidata::iso(&cidata::render(&guest)?.entries, None)?).len();
        Ok(())
    })?;
    Ok((time, bytes))
}
