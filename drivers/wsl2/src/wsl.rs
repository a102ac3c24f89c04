//! wsl.exe as a program: found, started with a deadline, its words decoded. Knows no instance.

use std::env;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use limafs_driver::{Error, Health, Result};
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::decode::decode;
use crate::list::{self, Found, State};

/// A service that has to be started first takes its time.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);
const WSL: &str = "wsl.exe";
/// Where it is for a distribution that was told not to have Windows' programs in its `$PATH`.
const INSIDE: &str = "/mnt/c/Windows/System32/wsl.exe";
const FIX: &str = "run limafs in a WSL2 distribution on Windows";
const DOC: &str = "https://learn.microsoft.com/windows/wsl/install";

/// The programs; `None` where they are not.
#[derive(Debug, Clone, Default)]
pub(crate) struct Wsl {
    program: Option<PathBuf>,
    /// Absent on Windows, where nothing has to be converted.
    wslpath: Option<PathBuf>,
}

#[derive(Debug)]
pub(crate) struct Output {
    pub status: ExitStatus,
    /// What it printed, its errors last.
    pub text: String,
}

impl Wsl {
    pub(crate) fn find() -> Self {
        let inside = Some(PathBuf::from(INSIDE)).filter(|path| path.is_file());
        Self { program: in_path(WSL).or(inside), wslpath: in_path("wslpath") }
    }

    pub(crate) fn at(program: PathBuf, wslpath: PathBuf) -> Self {
        Self { program: Some(program), wslpath: Some(wslpath) }
    }

    /// Runs it and returns what it prints, whether or not it succeeds.
    pub(crate) async fn ask(&self, words: &[&OsStr], input: &[u8], deadline: Duration) -> Result<Output> {
        run(self.program()?, words, input, deadline).await
    }

    /// Runs it; its failure is an error with its own words.
    pub(crate) async fn tell(&self, words: &[&str], deadline: Duration) -> Result<String> {
        let words: Vec<&OsStr> = words.iter().map(OsStr::new).collect();
        self.tell_os(&words, &[], deadline).await
    }

    pub(crate) async fn tell_os(&self, words: &[&OsStr], input: &[u8], deadline: Duration) -> Result<String> {
        let output = self.ask(words, input, deadline).await?;
        succeeded(WSL, words, output)
    }

    /// Starts it and leaves it to run on when we end; what it prints goes to `log`.
    pub(crate) fn spawn(&self, words: &[&str], log: Stdio, errors: Stdio) -> Result<Child> {
        let program = self.program()?;
        let mut command = Command::new(program);
        command.args(words).stdin(Stdio::null()).stdout(log).stderr(errors);
        #[cfg(unix)]
        command.process_group(0);
        command.spawn().map_err(Error::io(program))
    }

    /// A distribution's state.
    pub(crate) async fn state(&self, distribution: &str) -> Result<State> {
        let words = ["--list", "--verbose"].map(OsStr::new);
        let output = self.ask(&words, &[], DEADLINE).await?;
        if !output.status.success() && list::is_empty(&output.text) {
            return Ok(State::Uninitialized);
        }
        let text = succeeded(WSL, &words, output)?;
        match list::find(&text, distribution) {
            Found::State(state) => Ok(state),
            Found::Unknown(word) => {
                tracing::debug!("wsl.exe has a word for states that is not known: {word:?}");
                Ok(if self.is_running(distribution).await? { State::Running } else { State::Stopped })
            }
        }
    }

    /// Whether it is among those that run, whatever the language.
    pub(crate) async fn is_running(&self, distribution: &str) -> Result<bool> {
        // It fails, in words of the language, when none runs.
        let output = self.ask(&["--list", "--running", "--quiet"].map(OsStr::new), &[], DEADLINE).await?;
        Ok(output.status.success() && list::has_name(&output.text, distribution))
    }

    /// A path as Windows has it. `None` for one that is on no drive of Windows'.
    pub(crate) async fn on_a_drive(&self, path: &Path) -> Result<Option<String>> {
        let path = self.windows_path(path).await?;
        Ok(Some(path).filter(|path| !path.starts_with(r"\\")))
    }

    pub(crate) async fn windows_path(&self, path: &Path) -> Result<String> {
        let Some(program) = &self.wslpath else { return Ok(path.to_string_lossy().into_owned()) };
        let words = ["-w".as_ref(), path.as_os_str()];
        let output = run(program, &words, &[], DEADLINE).await?;
        Ok(succeeded("wslpath", &words, output)?.trim().to_owned())
    }

    pub(crate) async fn health(&self) -> Health {
        let mut health = match self.program() {
            Err(error) => Health::failing(false, "not-found", error, FIX),
            Ok(_) => match self.tell(&["--status"], DEADLINE).await {
                Err(error) => Health::failing(true, "not-working", error, "wsl.exe --update"),
                // Older ones know no --version.
                Ok(_) => Health::working(version(&self.tell(&["--version"], DEADLINE).await.unwrap_or_default())),
            },
        };
        health.doc = DOC.into();
        health
    }

    pub(crate) fn program(&self) -> Result<&PathBuf> {
        self.program.as_ref().ok_or_else(|| Error::Missing { what: WSL.into(), fix: FIX.into() })
    }
}

/// The first number in the first line, in which the words are of some language.
fn version(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    let is_version = |word: &&str| word.contains('.') && word.starts_with(|c: char| c.is_ascii_digit());
    line.split_whitespace().find(is_version).unwrap_or_default().to_owned()
}

async fn run(program: &Path, words: &[&OsStr], input: &[u8], deadline: Duration) -> Result<Output> {
    let mut command = Command::new(program);
    command.args(words).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command.stdin(if input.is_empty() { Stdio::null() } else { Stdio::piped() });
    let exchange = async {
        let mut child = command.spawn()?;
        let stdin = child.stdin.take();
        let feed = async {
            if let Some(mut stdin) = stdin {
                // One that does not want it all says so by how it ends.
                let _ = stdin.write_all(input).await;
            }
        };
        tokio::join!(feed, child.wait_with_output()).1
    };
    let name = || program.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let late = |_| Error::Timeout { what: described(&name(), words), seconds: deadline.as_secs() };
    let output = timeout(deadline, exchange).await.map_err(late)?.map_err(Error::io(program))?;
    Ok(Output { status: output.status, text: decode(&output.stdout) + &decode(&output.stderr) })
}

fn succeeded(program: &str, words: &[&OsStr], output: Output) -> Result<String> {
    if output.status.success() {
        return Ok(output.text);
    }
    let lines: Vec<&str> = output.text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let why = if lines.is_empty() { format!("failed without a word ({})", output.status) } else { lines.join(" ") };
    Err(Error::failed(described(program, words), why))
}

/// The program with what it was to do, which is the first of its words.
fn described(program: &str, words: &[&OsStr]) -> String {
    format!("{program} {}", words.first().copied().unwrap_or_default().to_string_lossy())
}

fn in_path(name: &str) -> Option<PathBuf> {
    let path: OsString = env::var_os("PATH")?;
    env::split_paths(&path).map(|dir| dir.join(name)).find(|path| path.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_found_in_any_language() {
        assert_eq!(version("WSL version: 2.3.26.0\nKernel version: 5.15.167.4-1\n"), "2.3.26.0");
        assert_eq!(version("WSL 版本： 2.0.9.0\n"), "2.0.9.0");
        assert_eq!(version(""), "");
    }

    #[tokio::test]
    async fn without_wsl_the_reason_is_clear() {
        let health = Wsl::default().health().await;
        assert_eq!((health.installed, health.reason.as_str(), health.fix.as_str()), (false, "not-found", FIX));
    }
}
