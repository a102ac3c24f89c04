//! The `probes` of lima.yaml: scripts that the guest runs, as the user, until they succeed.
//! A script comes to the guest on standard input and never as an argument, which others in the guest could read.

use std::time::Duration;

use limafs_driver::Config;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

use super::{say, tried};
use crate::cidata;
use crate::error::Result;
use crate::hostagent::line::Line;
use crate::hostagent::ssh::Output;
use crate::hostagent::state::{Event, Step};

/// Reads the interpreter's line, then `KEY=VALUE` lines up to an empty one; the rest is the interpreter's. Shells read
/// their input byte by byte, so that nothing of the script is lost.
const COMMAND: &str = "sh -c 'set -f; IFS= read -r program; \
     while IFS= read -r line && [ -n \"$line\" ]; do export \"$line\"; done; exec $program'";
/// Of one run.
const RUN: Duration = Duration::from_secs(120);
/// How long an attempt waits for a line that was lost.
const ANSWER: Duration = Duration::from_secs(60);

/// How long and how often a probe is tried; Lima's.
pub const LIMITS: Limits = Limits { patience: Duration::from_secs(600), pause: Duration::from_secs(3) };

#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub patience: Duration,
    pub pause: Duration,
}

/// One entry of `probes`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserProbe {
    description: String,
    hint: String,
    /// What [`COMMAND`] reads.
    input: Vec<u8>,
}

/// The probes of a filled configuration.
pub fn of(config: &Config) -> Result<Vec<UserProbe>> {
    let params = cidata::params(config)?;
    let probe = |probe: &limafs_driver::Probe| {
        let script = probe.script.clone().unwrap_or_default();
        let first = script.lines().next().unwrap_or_default();
        let program = first.strip_prefix("#!").unwrap_or("/bin/sh").trim();
        let head: String = params.iter().map(|line| format!("{line}\n")).collect();
        UserProbe {
            description: probe.description.clone().unwrap_or_default(),
            hint: probe.hint.as_deref().unwrap_or_default().trim().to_owned(),
            input: format!("{program}\n{head}\n{script}").into_bytes(),
        }
    };
    Ok(config.probes.iter().flatten().map(probe).collect())
}

/// Waits for one probe after the other; a sentence for each that does not succeed in time.
pub async fn run(probes: &[UserProbe], line: &Line, limits: Limits, tell: &mpsc::Sender<Event>) -> Vec<String> {
    let mut failures = Vec::new();
    for probe in probes {
        failures.extend(probe.wait(line, limits, tell).await);
    }
    failures
}

impl UserProbe {
    /// `None` once the script has succeeded; else why it did not.
    async fn wait(&self, line: &Line, limits: Limits, tell: &mpsc::Sender<Event>) -> Option<String> {
        let deadline = Instant::now() + limits.patience;
        let mut tries = 0;
        let mut step = Step::named(format!("waiting for probe {}", self.description));
        loop {
            say(tell, Event::Step(step.clone())).await;
            let why = match self.attempt(line).await {
                Ok(None) => return None,
                Ok(Some(why)) | Err(why) => why,
            };
            tries += 1;
            tracing::info!("probe {}: {why}", self.description);
            if Instant::now() + limits.pause > deadline {
                return Some(self.sentence(&why));
            }
            step.detail = tried(tries, &why);
            sleep(limits.pause).await;
        }
    }

    /// What is wrong, if anything.
    async fn attempt(&self, line: &Line) -> std::result::Result<Option<String>, String> {
        let session = timeout(ANSWER, line.session()).await.map_err(|_| "ssh does not answer")?;
        match session.exec_with(COMMAND, &self.input, RUN).await {
            Ok(Output { exit: Some(0), .. }) => Ok(None),
            Ok(Output { exit: None, .. }) => Ok(Some("was ended by a signal".into())),
            Ok(Output { exit: Some(code), complaint, .. }) => {
                let complaint = if complaint.is_empty() { complaint } else { format!(": {complaint}") };
                Ok(Some(format!("failed with exit code {code}{complaint}")))
            }
            Err(fault) => Err(fault.to_string()),
        }
    }

    fn sentence(&self, why: &str) -> String {
        let hint = if self.hint.is_empty() { String::new() } else { format!("; {}", self.hint) };
        format!("probe {}: {why}{hint}", self.description)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::process::{Command, Stdio};

    use limafs_driver::Probe;

    use super::*;

    fn probe(script: &str) -> UserProbe {
        let probe = Probe {
            description: Some("it works".into()),
            script: Some(script.into()),
            hint: Some("look at /var/log/x\n".into()),
            ..Probe::default()
        };
        let param = [("word".to_owned(), "two $words '\"".to_owned())].into();
        let config = Config { probes: Some(vec![probe]), param: Some(param), ..Config::default() };
        of(&config).unwrap().remove(0)
    }

    /// As sshd does it: a shell, and the input in a pipe.
    fn run(probe: &UserProbe) -> (Option<i32>, String) {
        let mut child =
            Command::new("sh").args(["-c", COMMAND]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(&probe.input).unwrap();
        let output = child.wait_with_output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    }

    #[test]
    fn a_script_runs_in_its_interpreter_with_the_params() {
        let script = "#!/usr/bin/env bash\nset -eu\nprintf '%s\\n' \"$PARAM_word\" \"${BASH_VERSION:+bash}\"\nexit 3\n";
        assert_eq!(run(&probe(script)), (Some(3), "two $words '\"\nbash\n".into()));
    }

    #[test]
    fn a_script_of_another_system_s_line_ends_still_finds_its_interpreter() {
        assert_eq!(run(&probe("#!/bin/sh\r\nexit 0\n")).0, Some(0));
    }

    #[test]
    fn a_failure_is_told_with_the_hint() {
        let sentence = probe("#!/bin/sh\n").sentence("failed with exit code 1");
        assert_eq!(sentence, "probe it works: failed with exit code 1; look at /var/log/x");
    }
}
