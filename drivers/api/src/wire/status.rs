//! Errors of drivers on the wire: a sentence for everybody, and its parts for a host of ours.

#[cfg(feature = "client")]
use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
#[cfg(feature = "server")]
use tonic::metadata::MetadataValue;
use tonic::{Code, Status};

use crate::Error;

const KEY: &str = "limafs-error-bin";
/// Longer sentences of a driver are cut.
#[cfg(feature = "client")]
const SENTENCE_MAX: usize = 1000;

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "kind")]
enum Told {
    Invalid { field: String, why: String },
    Missing { what: String, fix: String },
    Unsupported { driver: String },
    NotRunning,
    Failed { what: String, why: String },
    Timeout { what: String, seconds: u64 },
    Io { path: PathBuf, number: Option<i32>, why: String },
}

#[cfg(feature = "server")]
pub(crate) fn of(error: Error) -> Status {
    let code = match &error {
        Error::Unsupported { .. } => Code::Unimplemented,
        // Lima's drivers know no other code for what they could not do.
        _ => Code::Unknown,
    };
    let mut status = Status::new(code, error.to_string());
    if let Ok(told) = serde_json::to_vec(&told(error)) {
        status.metadata_mut().insert_bin(KEY, MetadataValue::from_bytes(&told));
    }
    status
}

#[cfg(feature = "server")]
fn told(error: Error) -> Told {
    match error {
        Error::Invalid { field, why } => Told::Invalid { field, why },
        Error::Missing { what, fix } => Told::Missing { what, fix },
        Error::Unsupported { driver, .. } => Told::Unsupported { driver },
        Error::NotRunning => Told::NotRunning,
        Error::Failed { what, why } => Told::Failed { what, why },
        Error::Timeout { what, seconds } => Told::Timeout { what, seconds },
        Error::Io { path, source } => Told::Io { path, number: source.raw_os_error(), why: source.to_string() },
    }
}

/// The error that driver `name` answered to `operation`.
#[cfg(feature = "client")]
pub(crate) fn error(status: &Status, name: &str, operation: &'static str) -> Error {
    let told = status.metadata().get_bin(KEY).and_then(|value| value.to_bytes().ok());
    if let Some(told) = told.and_then(|bytes| serde_json::from_slice(&bytes).ok()) {
        return error_told(told, operation);
    }
    let words = sentence(status.message());
    match status.code() {
        Code::Unimplemented => Error::Unsupported { driver: name.into(), operation },
        // Lima's way to say so of snapshots.
        _ if words == "unimplemented" => Error::Unsupported { driver: name.into(), operation },
        _ if words.is_empty() => Error::failed(format!("driver {name}"), format!("{operation} failed")),
        _ => Error::failed(format!("driver {name}"), words),
    }
}

#[cfg(feature = "client")]
fn error_told(told: Told, operation: &'static str) -> Error {
    match told {
        Told::Invalid { field, why } => Error::Invalid { field: sentence(&field), why: sentence(&why) },
        Told::Missing { what, fix } => Error::Missing { what: sentence(&what), fix: sentence(&fix) },
        Told::Unsupported { driver } => Error::Unsupported { driver: sentence(&driver), operation },
        Told::NotRunning => Error::NotRunning,
        Told::Failed { what, why } => Error::Failed { what: sentence(&what), why: sentence(&why) },
        Told::Timeout { what, seconds } => Error::Timeout { what: sentence(&what), seconds },
        Told::Io { path, number: Some(number), .. } => Error::Io { path, source: io::Error::from_raw_os_error(number) },
        Told::Io { path, number: None, why } => Error::Io { path, source: io::Error::other(sentence(&why)) },
    }
}

/// Text of a driver as one line of bounded length.
#[cfg(feature = "client")]
pub(crate) fn sentence(text: &str) -> String {
    let line: String = text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).take(SENTENCE_MAX).collect();
    line.trim_end_matches('.').to_owned()
}

#[cfg(all(test, feature = "server", feature = "client"))]
mod tests {
    use super::*;

    fn through(error: Error) -> Error {
        super::error(&of(error), "x", "sing")
    }

    #[test]
    fn an_error_is_the_same_on_the_other_side() {
        let errors: [fn() -> Error; 7] = [
            || Error::invalid("vmOpts.x", "must be a \u{e4}"),
            || Error::Missing { what: "qemu".into(), fix: "install it".into() },
            || Error::Unsupported { driver: "x".into(), operation: "sing" },
            || Error::NotRunning,
            || Error::failed("start", "no"),
            || Error::Timeout { what: "start".into(), seconds: 3 },
            || Error::Io { path: "/x".into(), source: io::Error::from_raw_os_error(2) },
        ];
        for error in errors {
            assert_eq!(format!("{:?}", through(error())), format!("{:?}", error()));
        }
    }

    #[test]
    fn words_of_strangers_are_one_bounded_line() {
        let status = Status::unknown(format!("a\nb\x1b[1m{}", "c".repeat(5000)));
        let Error::Failed { what, why } = super::error(&status, "x", "sing") else { panic!("of the wrong kind") };
        assert_eq!(what, "driver x");
        assert!(why.starts_with("a b [1mccc") && why.len() == SENTENCE_MAX, "{why}");
    }

    #[test]
    fn what_a_driver_does_not_know_is_unsupported() {
        for status in [Status::unimplemented(""), Status::unknown("unimplemented")] {
            assert!(matches!(super::error(&status, "x", "sing"), Error::Unsupported { operation: "sing", .. }));
        }
    }
}
