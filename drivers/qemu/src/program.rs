//! The QEMU program: which one, its version, whether it can lock itself up.

use std::env;
use std::ffi::OsString;
use std::fmt;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use limafs_driver::{Error, Result};
use tokio::process::Command;
use tokio::time::timeout;

use crate::command_line::SANDBOX;
use crate::machine::Machine;

/// Lima's hard limit.
const OLDEST: Version = Version(4, 0, 0);
const PROBE_DEADLINE: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version(pub u32, pub u32, pub u32);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Program {
    /// The program and the arguments that always come first.
    pub words: Vec<OsString>,
    pub version: Version,
    pub sandbox: bool,
}

impl Version {
    /// Reads the first `N.N[.N]` of a text.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        text.split(|c: char| !c.is_ascii_digit() && c != '.').find_map(|word| {
            let mut parts = word.split('.').map(|part| part.parse().ok());
            Some(Self(parts.next()??, parts.next()??, parts.next().flatten().unwrap_or(0)))
        })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

impl Program {
    /// Refuses an accelerator that was not built in.
    pub(crate) async fn check_accelerator(&self, name: &str) -> Result<()> {
        let known = ask(&self.words, &["-M", "none", "-accel", "help"]).await?;
        match known.lines().any(|line| line.trim() == name) {
            true => Ok(()),
            false => Err(Error::failed(self.words[0].to_string_lossy(), format!("has no accelerator {name}"))),
        }
    }
}

/// Finds the program of an architecture and asks it for its version. Two short runs of it at most.
pub(crate) async fn find(machine: &Machine) -> Result<Program> {
    let words = words(machine)?;
    // QEMU reads its options in order, so that a build without -sandbox fails before it prints a version.
    if let Ok(text) = ask(&words, &["-sandbox", SANDBOX, "-version"]).await {
        return Ok(Program { version: version_of(&words, &text)?, words, sandbox: true });
    }
    let text = ask(&words, &["-version"]).await?;
    Ok(Program { version: version_of(&words, &text)?, words, sandbox: false })
}

/// Where a program is in `$PATH`.
pub(crate) fn in_path(name: &str) -> Option<PathBuf> {
    let is_program =
        |path: &PathBuf| path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0);
    env::split_paths(&env::var_os("PATH")?).map(|dir| dir.join(name)).find(is_program)
}

fn words(machine: &Machine) -> Result<Vec<OsString>> {
    let variable = machine.program_variable;
    let missing = |what: &str, fix: String| Error::Missing { what: what.into(), fix };
    if let Some(text) = env::var(variable).ok().filter(|text| !text.trim().is_empty()) {
        let words = split(&text).ok_or_else(|| Error::invalid(variable, "a quotation is not closed"))?;
        let program = words.first().cloned().unwrap_or_default();
        let path = match program.contains('/') {
            true => Some(PathBuf::from(&program)).filter(|path| path.exists()),
            false => in_path(&program),
        };
        let path = path.ok_or_else(|| missing(&program, format!("correct {variable} or unset it")))?;
        let arguments = words.into_iter().skip(1).map(OsString::from);
        return Ok(std::iter::once(path.into()).chain(arguments).collect());
    }
    match in_path(machine.program) {
        Some(path) => Ok(vec![path.into()]),
        None => Err(missing(machine.program, format!("apt-get install {}", machine.package))),
    }
}

pub(crate) async fn ask(words: &[OsString], arguments: &[&str]) -> Result<String> {
    let what = || words[0].to_string_lossy().into_owned();
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    let output = timeout(PROBE_DEADLINE, command.output())
        .await
        .map_err(|_| Error::Timeout { what: what(), seconds: PROBE_DEADLINE.as_secs() })?
        .map_err(Error::io(&words[0]))?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        return Err(Error::failed(what(), text.lines().last().unwrap_or("failed without a word")));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn version_of(words: &[OsString], text: &str) -> Result<Version> {
    let program = words[0].to_string_lossy();
    let version = Version::parse(text)
        .ok_or_else(|| Error::failed(program.clone(), format!("tells no version: {:?}", text.lines().next())))?;
    if version < OLDEST {
        return Err(Error::failed(program, format!("is QEMU {version}, at least {OLDEST} is needed")));
    }
    Ok(version)
}

/// Splits words as a shell does: quotes and backslashes, nothing expanded. `None` when a quotation stays open.
fn split(text: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (Some(open), c) if c == open => quote = None,
            (None | Some('"'), '\\') => word.get_or_insert_default().push(chars.next()?),
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    quote.is_none().then_some(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_the_first_line() {
        let debian = "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3)";
        assert_eq!(Version::parse(debian), Some(Version(7, 2, 22)));
        assert_eq!(Version::parse("QEMU emulator version 10.0"), Some(Version(10, 0, 0)));
        assert_eq!(Version::parse("v9.1.0-rc2"), Some(Version(9, 1, 0)));
        assert_eq!(Version::parse("no version"), None);
    }

    #[test]
    fn words_are_split_as_a_shell_does() {
        assert_eq!(split(r#"/a\ b "c 'd" 'e "f' '' g"#).unwrap(), ["/a b", "c 'd", "e \"f", "", "g"]);
        assert_eq!(split("  "), Some(vec![]));
        assert_eq!(split("a 'b"), None);
    }
}
