//! The tables of cases B and C, and what a whole document becomes.

use std::path::PathBuf;
use std::time::Duration;

use super::layers::Layer;
use super::parse::parse;
use super::*;
use crate::drivers;
use crate::host::HostUser;

const IMAGES: &str = "images: [{location: /}]\n";

fn host() -> Host {
    let user = HostUser { name: "jane".into(), uid: 501, home: "/home/jane".into(), comment: "Jane Roe".into() };
    Host {
        user,
        os: "Linux".into(),
        arch: "x86_64".into(),
        cpus: 8,
        memory: 16 << 30,
        timezone: "Europe/Berlin".into(),
        machine_id: "0123456789abcdef".into(),
        drivers: Default::default(),
    }
}

/// How long this thread has worked: what else a machine does is not counted.
pub fn worked() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn load_text(text: &str) -> Result<Loaded> {
    load_as_foo(text.as_bytes(), &host())
}

/// Loads a document of instance foo that stands alone; remarks without the name of its file.
fn load_as_foo(text: &[u8], host: &Host) -> Result<Loaded> {
    let name = Name::parse("foo").unwrap();
    let short = |lines: Vec<String>| lines.into_iter().map(|line| line.replace("lima.yaml: ", "")).collect();
    match load(text, &context(&name, host)) {
        Ok(loaded) => Ok(Loaded { warnings: short(loaded.warnings), ..loaded }),
        Err(Error::Document(lines)) => Err(Error::Document(short(lines))),
        Err(error) => Err(error),
    }
}

fn context<'a>(name: &'a Name, host: &'a Host) -> Context<'a> {
    Context { name, dir: PathBuf::from("/h/foo"), host, layers: Layers::default() }
}

/// Asserts that origins are comments and nothing else; returns them by line without its indentation.
pub fn assert_only_comments(yaml: &str, with_origins: &str) -> Vec<(String, String)> {
    let values =
        |text: &str| -> serde_json::Value { serde_yaml::from_str(text).unwrap_or_else(|e| panic!("{text}\n{e}")) };
    assert_eq!(values(yaml), values(with_origins), "{with_origins}");
    assert_eq!(yaml.lines().count(), with_origins.lines().count());
    let comments = yaml.lines().zip(with_origins.lines()).filter_map(|(line, with_origin)| {
        let behind = with_origin.strip_prefix(line).unwrap_or_else(|| panic!("{with_origin:?} is not {line:?}"));
        let origin = behind.strip_prefix(" # ")?;
        Some((line.trim().to_owned(), origin.to_owned()))
    });
    comments.collect()
}

/// Loads a snippet beside an image.
fn accepted(snippet: &str) -> Loaded {
    load_text(&format!("{snippet}\n{IMAGES}")).unwrap_or_else(|error| panic!("{snippet}\n{error}"))
}

/// The faults of a snippet beside an image.
fn refused(snippet: &str) -> String {
    match load_text(&format!("{snippet}\n{IMAGES}")) {
        Ok(_) => panic!("accepted: {snippet}"),
        Err(error) => {
            assert_eq!(error.errno(), libc::EINVAL);
            error.to_string()
        }
    }
}

/// Asserts that a snippet is refused in one sentence that holds all of `words`.
fn assert_refused(snippet: &str, words: &[&str]) {
    let faults = refused(snippet);
    let found = faults.lines().any(|line| words.iter().all(|word| line.contains(word)));
    assert!(found, "{snippet}\nno line with {words:?} in\n{faults}");
}

#[test]
fn b01_an_empty_document_has_no_images() {
    for text in ["", "\n", "# nothing\n", "---\n", "{}"] {
        assert_eq!(load_text(text).unwrap_err().to_string(), "images must be set");
    }
}

mod cases;
mod documents;
mod filling;
mod gaps;
mod hostile;
mod layered;
mod merging;
mod origins;
