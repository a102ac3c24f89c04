//! What a guest says over its boot port, one line each; see [`parse`]. Hostile input: of another boot, too long, too much.

use tokio::sync::mpsc;

/// More failed scripts than this are not told of.
const FAILURES_MAX: usize = 64;
const NAME_MAX: usize = 128;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line {
    /// sshd listens.
    Sshd,
    /// The user's session may be opened.
    Session,
    /// A script failed: its exit code and its name.
    Failed { exit: i32, name: String },
    /// The boot scripts ended, the worst exit code.
    Done { exit: i32 },
}

/// `sshd IID`, `session IID`, `failed IID EXIT NAME` or `done IID EXIT`; anything else, or of another boot, is nothing.
pub fn parse(text: &str, iid: &str) -> Option<Line> {
    let mut words = text.split_ascii_whitespace();
    let word = words.next()?;
    if words.next()? != iid {
        return None;
    }
    let mut exit = || words.next()?.parse().ok();
    Some(match word {
        "sshd" => Line::Sshd,
        "session" => Line::Session,
        "done" => Line::Done { exit: exit()? },
        "failed" => Line::Failed { exit: exit()?, name: clean(&words.collect::<Vec<_>>().join(" ")) },
        _ => return None,
    })
}

/// The sentences for the lines `NAME EXIT` of /run/limafs-failed.
pub fn failures_of_file(text: &str) -> Vec<String> {
    let lines = text.lines().filter_map(|line| line.trim().rsplit_once(' '));
    let parsed = lines.filter_map(|(name, exit)| Some(sentence(&clean(name), exit.parse().ok()?)));
    parsed.take(FAILURES_MAX).collect()
}

fn sentence(name: &str, exit: i32) -> String {
    format!("{name} failed with exit code {exit}")
}

fn clean(name: &str) -> String {
    let plain = |char: char| if char.is_ascii_alphanumeric() || "._/- ".contains(char) { char } else { '?' };
    name.chars().take(NAME_MAX).map(plain).collect()
}

/// What the guest of one boot has said so far.
pub struct Guest {
    iid: String,
    /// `None` once nobody sends any more.
    lines: Option<mpsc::Receiver<String>>,
    failures: Vec<String>,
    exit: Option<i32>,
}

impl Guest {
    pub fn new(iid: &str, lines: mpsc::Receiver<String>) -> Self {
        Self { iid: iid.to_owned(), lines: Some(lines), failures: Vec::new(), exit: None }
    }

    pub fn iid(&self) -> &str {
        &self.iid
    }

    pub fn failures(&self) -> Vec<String> {
        self.failures.clone()
    }

    /// The exit code of `done`, once it was said.
    pub fn exit(&self) -> Option<i32> {
        self.exit
    }

    /// Comes back when the guest says something that makes it worth while to try ssh now. Cancel-safe.
    pub async fn up(&mut self) {
        while matches!(self.next().await, Line::Failed { .. }) {}
    }

    /// Comes back when the guest has said that its boot scripts ended. Cancel-safe: it is remembered.
    pub async fn done(&mut self) {
        while self.exit.is_none() {
            self.next().await;
        }
    }

    async fn next(&mut self) -> Line {
        loop {
            let Some(text) = self.receive().await else {
                self.lines = None;
                continue;
            };
            let Some(line) = parse(&text, &self.iid) else { continue };
            tracing::info!("the guest says {line:?}");
            match &line {
                Line::Failed { exit, name } if self.failures.len() < FAILURES_MAX => {
                    self.failures.push(sentence(name, *exit));
                }
                Line::Done { exit } => self.exit = Some(*exit),
                _ => {}
            }
            return line;
        }
    }

    async fn receive(&mut self) -> Option<String> {
        match &mut self.lines {
            Some(lines) => lines.recv().await,
            None => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_this_boot_are_understood() {
        assert_eq!(parse("sshd iid-1", "iid-1"), Some(Line::Sshd));
        assert_eq!(parse("session iid-1", "iid-1"), Some(Line::Session));
        assert_eq!(parse("done iid-1 0", "iid-1"), Some(Line::Done { exit: 0 }));
        for name in ["provision.system/00000002", "session of lima"] {
            let line = Line::Failed { exit: 3, name: name.into() };
            assert_eq!(parse(&format!("failed iid-1 3 {name}"), "iid-1"), Some(line));
        }
    }

    #[test]
    fn other_lines_are_nothing() {
        for text in ["", "sshd", "sshd iid-2", "done iid-1", "done iid-1 x", "hello iid-1"] {
            assert_eq!(parse(text, "iid-1"), None, "{text:?}");
        }
    }

    #[test]
    fn a_hostile_name_is_made_harmless() {
        let Some(Line::Failed { name, .. }) = parse("failed i 1 \u{1b}[31mred", "i") else { panic!() };
        assert_eq!(name, "??31mred");
    }

    #[test]
    fn the_file_of_failures_is_read() {
        assert_eq!(failures_of_file("boot.sh 2\nrubbish\n"), ["boot.sh failed with exit code 2"]);
    }
}
