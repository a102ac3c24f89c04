//! `lima-guestagent yq` as a boot calls it.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output};

fn yq(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_lima-guestagent")).arg("yq").args(arguments).output().unwrap()
}

#[test]
fn a_file_is_printed_or_replaced_with_an_expression_from_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    fs::write(path("expression"), ".a-b.c = \"x\" |\n.count += 1\n").unwrap();
    fs::write(path("doc"), "count: 1\n").unwrap();
    let arguments =
        ["--from-file", &path("expression"), "--input-format", "yaml", "--output-format", "yaml", &path("doc")];
    let printed = yq(&arguments);
    assert_eq!(String::from_utf8(printed.stdout).unwrap(), "count: 2\na-b:\n  c: x\n");
    assert_eq!(fs::read_to_string(path("doc")).unwrap(), "count: 1\n");
    assert!(yq(&[&["--inplace"], &arguments[..]].concat()).status.success());
    assert_eq!(fs::read_to_string(path("doc")).unwrap(), "count: 2\na-b:\n  c: x\n");
    let created = yq(&["--null-input", "--from-file", &path("expression"), "--output-format", "json"]);
    assert_eq!(
        String::from_utf8(created.stdout).unwrap(),
        "{\n  \"a-b\": {\n    \"c\": \"x\"\n  },\n  \"count\": 1\n}\n"
    );
}

#[test]
fn i8_an_expression_without_end_is_ended_and_the_file_stays() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("doc.json");
    fs::write(&file, "{}").unwrap();
    let ended = yq(&["--inplace", "def f: f; f", file.to_str().unwrap()]);
    assert_eq!(ended.status.signal(), Some(rustix::process::Signal::XCPU.as_raw()), "{ended:?}");
    let full = yq(&["--inplace", "[range(1e12)]", file.to_str().unwrap()]);
    assert!(!full.status.success());
    assert_eq!(fs::read_to_string(&file).unwrap(), "{}");
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 1);
}

#[test]
fn errors_quote_neither_expression_nor_file() {
    const CANARY: &str = "S3CR3T";
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("doc");
    for (text, expression) in [
        (format!("a: {CANARY}\n"), ".a.b = 1".to_owned()),
        (format!("a: [{CANARY}\nb"), ".".to_owned()),
        ("{}".to_owned(), format!(".a = \"{CANARY}")),
        ("{}".to_owned(), format!(".a = error(\"{CANARY}\")")),
    ] {
        fs::write(&file, &text).unwrap();
        let failed = yq(&[&expression, file.to_str().unwrap()]);
        assert!(!failed.status.success(), "{text} {expression}");
        let said = String::from_utf8(failed.stderr).unwrap();
        assert!(!said.is_empty() && !said.contains(CANARY), "{said}");
    }
}
