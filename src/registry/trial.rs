//! Has a driver say how it is: a built-in one in a task, a program with `--health` in a process of its own, both under a
//! deadline. What a program answers is not trusted: its output has bounds, and nonsense is no answer.

use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;

use jiff::Timestamp;
use limafs_driver::{Driver, Health, Report, environment, spawn};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::safety;
use crate::drivers::{DEADLINE, SAFE, Tried, Words};

/// The option to which a program of ours answers with one JSON object; Lima's own know it not.
const OPTION: &str = "--health";
const MOST_ANSWER: u64 = 64 << 10;
const MOST_WORDS: u64 = 16 << 10;
const MOST_LINES: usize = 50;

/// Of one that is not run.
pub fn refused(why: &str) -> Tried {
    tried(Some(Health::failing(true, "unsafe-path", why, SAFE)), None, Vec::new())
}

pub async fn built_in(driver: Arc<dyn Driver>) -> Tried {
    let words = Words { about: driver.about(), info: driver.info() };
    let asked = tokio::spawn(async move { timeout(DEADLINE, driver.health()).await });
    let health = match asked.await {
        Ok(Ok(health)) => health,
        Ok(Err(_)) => late(),
        Err(error) => Health::failing(true, "died", error, ""),
    };
    tried(Some(health), Some(words), Vec::new())
}

pub async fn program(path: &Path) -> Tried {
    // It may have changed since it was found.
    if let Some(why) = safety::fault(path) {
        return refused(&why);
    }
    let mut command = Command::new(path);
    command.arg(OPTION).env_clear().envs(environment()).current_dir("/").process_group(0).kill_on_drop(true);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut group = match spawn(&mut command).await {
        Ok(child) => Group(child),
        Err(error) => return tried(Some(Health::failing(true, "not-runnable", error, "")), None, Vec::new()),
    };
    let heard = timeout(DEADLINE, hear(&mut group.0)).await;
    group.kill();
    // It ended or was killed, so that this does not last.
    let status = group.0.wait().await;
    match heard {
        Err(_) => tried(Some(late()), None, Vec::new()),
        Ok(heard) => judge(&heard, status.ok().filter(|_| heard.complete)),
    }
}

/// A program with all that it starts. Dropping it ends them: nobody waits for a trial any more.
struct Group(Child);

impl Group {
    fn kill(&self) {
        // As long as it is not reaped the number is its own.
        if let Some(group) = self.0.id().and_then(|pid| Pid::from_raw(pid.cast_signed())) {
            // None left is what is wanted.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}

struct Heard {
    answer: Vec<u8>,
    words: Vec<u8>,
    /// It ended by itself.
    complete: bool,
}

/// Reads what a program says, to its end or to the bounds.
async fn hear(child: &mut Child) -> Heard {
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let (answer, words) = tokio::join!(some_of(out, MOST_ANSWER), some_of(err, MOST_WORDS));
    let complete = (answer.len() as u64) < MOST_ANSWER && (words.len() as u64) < MOST_WORDS;
    // One that goes on without a word is waited for, under the caller's deadline.
    let complete = complete && child.wait().await.is_ok();
    Heard { answer, words, complete }
}

async fn some_of(pipe: Option<impl AsyncRead + Unpin>, most: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some(pipe) = pipe {
        // What came before an error is what there is.
        let _ = pipe.take(most).read_to_end(&mut bytes).await;
    }
    bytes
}

/// `status` is that of one that ended by itself.
fn judge(heard: &Heard, status: Option<ExitStatus>) -> Tried {
    let log = lines(&heard.words);
    let answer = status.filter(ExitStatus::success).and_then(|_| parse(&heard.answer));
    if let Some((health, words)) = answer {
        return tried(Some(health), Some(words), log);
    }
    let died = status.is_some_and(|status| status.code().is_none());
    let health = died.then(|| Health::failing(true, "died", "a signal ended it while it was tried", ""));
    tried(health, None, log)
}

fn parse(answer: &[u8]) -> Option<(Health, Words)> {
    let value: serde_json::Value = serde_json::from_slice(answer).ok()?;
    // Every field has a default, so that some other object would do as well.
    value.get("health")?.get("healthy")?;
    let Report { info, about, health } = serde_json::from_value(value).ok()?;
    Some((health, Words { about, info }))
}

/// Text of a program, on one line.
pub fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(1000).collect()
}

fn lines(bytes: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(bytes);
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(MOST_LINES)..].iter().map(|line| clean(line)).collect()
}

fn late() -> Health {
    Health::failing(true, "timeout", format!("it did not say how it is within {} s", DEADLINE.as_secs()), "")
}

fn tried(health: Option<Health>, words: Option<Words>, log: Vec<String>) -> Tried {
    Tried { when: Timestamp::now(), health, words, log, options: Vec::new() }
}
