//! `mode: ansible`: playbooks that this host runs against a guest whose boot is done. Only where whoever mounts has
//! allowed it (`LIMAFS_ALLOW_ANSIBLE=true`): a playbook may do here whatever that user may do.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use limafs_driver::Config;
use serde_json::json;
use tokio::process::Command;
use tokio::time::timeout;

use super::{Tell, say};
use crate::cidata;
use crate::error::{Error, Result};
use crate::host;
use crate::hostagent::state::{Event, Step};
use crate::names;
use crate::store;

/// Of one playbook.
const LIMIT: Duration = Duration::from_secs(1800);
const PROGRAM: &str = "ansible-playbook";

/// Refuses a start that would run a playbook where that is not allowed, or that is not there.
pub fn check(config: &Config) -> Result<()> {
    for (field, playbook) in playbooks(config) {
        if !host::allows_ansible() {
            return Err(Error::unsupported(field, host::NO_ANSIBLE));
        }
        if !Path::new(playbook).is_file() {
            return Err(Error::Missing { what: format!("{field}: {playbook}") });
        }
    }
    Ok(())
}

/// Runs the playbooks, one after the other; a sentence for each that fails.
pub async fn run(config: &Config, dir: &Path, alias: &str, tell: &Tell) -> Vec<String> {
    with(Path::new(PROGRAM), config, dir, alias, tell).await
}

async fn with(program: &Path, config: &Config, dir: &Path, alias: &str, tell: &Tell) -> Vec<String> {
    let mut failures = Vec::new();
    for (field, playbook) in playbooks(config) {
        say(tell, Event::Step(Step::named(format!("running playbook {playbook}")))).await;
        let result = match host::allows_ansible() {
            true => play(program, config, dir, alias, playbook).await,
            false => Err(Error::unsupported("ansible", host::NO_ANSIBLE)),
        };
        failures.extend(result.err().map(|error| format!("{field}: {playbook}: {error}")));
    }
    failures
}

async fn play(program: &Path, config: &Config, dir: &Path, alias: &str, playbook: &str) -> Result<()> {
    let inventory = dir.join(names::ANSIBLE_INVENTORY);
    let options = format!("-F '{}'", dir.join(names::SSH_CONFIG).display().to_string().replace('\'', "'\\''"));
    let host = json!({ "ansible_connection": "ssh", "ansible_host": alias, "ansible_ssh_common_args": options });
    // JSON is YAML, too.
    let text = json!({ "all": { "hosts": { alias: host } } }).to_string();
    store::replace(&inventory, text.as_bytes(), 0o600)?;
    let params = cidata::params(config)?;
    let mut command = Command::new(program);
    command.arg("-i").arg(&inventory).arg(playbook).envs(params.iter().filter_map(|line| line.split_once('=')));
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = match timeout(LIMIT, command.output()).await {
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(Error::Missing { what: format!("{PROGRAM} (apt-get install ansible-core)") });
        }
        Ok(output) => output.map_err(|error| Error::failed(PROGRAM, error))?,
        Err(_) => return Err(Error::Timeout { what: PROGRAM.into(), seconds: LIMIT.as_secs() }),
    };
    match output.status.success() {
        true => Ok(()),
        false => {
            Err(Error::failed(PROGRAM, format!("{}: {}", output.status, last_line(&output.stdout, &output.stderr))))
        }
    }
}

/// Ansible complains on standard output.
fn last_line(stdout: &[u8], stderr: &[u8]) -> String {
    let text = [String::from_utf8_lossy(stdout), String::from_utf8_lossy(stderr)].concat();
    let told = text.lines().rev().map(str::trim).find(|line| line.contains("fatal:") || line.contains("ERROR"));
    told.or_else(|| text.lines().rev().map(str::trim).find(|line| !line.is_empty()))
        .unwrap_or_default()
        .chars()
        .take(300)
        .collect()
}

/// Field and path of each.
fn playbooks(config: &Config) -> impl Iterator<Item = (String, &str)> {
    let all = config.provision.iter().flatten().enumerate();
    let ansible = all.filter(|(_, item)| item.mode.as_deref() == Some("ansible"));
    ansible.map(|(index, item)| (format!("provision[{index}].playbook"), item.playbook.as_deref().unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use limafs_driver::Provision;
    use tokio::sync::mpsc;

    use super::*;

    fn config(playbook: &Path) -> Config {
        let item = Provision {
            mode: Some("ansible".into()),
            playbook: Some(playbook.display().to_string()),
            ..Provision::default()
        };
        let param = [("word".to_owned(), "x y".to_owned())].into();
        Config { provision: Some(vec![Provision::default(), item]), param: Some(param), ..Config::default() }
    }

    #[tokio::test]
    async fn s13_a_playbook_is_run_only_where_that_is_allowed() {
        let dir = tempfile::tempdir().unwrap();
        let playbook = dir.path().join("site.yml");
        fs::write(&playbook, "[]\n").unwrap();
        // A stand-in that keeps what it was told.
        let program = dir.path().join("stand-in");
        fs::write(
            &program,
            "#!/bin/sh\necho \"$1 $3 $PARAM_word\" > \"$(dirname \"$0\")/ran\"; echo 'fatal: no'; exit 4\n",
        )
        .unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o700)).unwrap();
        let config = config(&playbook);
        let (tell, _told) = mpsc::channel(8);

        assert_eq!(check(&config).unwrap_err().errno(), libc::EOPNOTSUPP);
        let failures = with(&program, &config, dir.path(), "lima-foo", &tell).await;
        assert!(failures[0].contains("LIMAFS_ALLOW_ANSIBLE=true") && !dir.path().join("ran").exists(), "{failures:?}");

        let played = play(&program, &config, dir.path(), "lima-foo", &playbook.display().to_string()).await;
        assert!(played.unwrap_err().to_string().ends_with("exit status: 4: fatal: no"));
        let ran = fs::read_to_string(dir.path().join("ran")).unwrap();
        assert_eq!(ran, format!("-i {} x y\n", playbook.display()));
        let inventory: serde_json::Value =
            serde_json::from_slice(&fs::read(dir.path().join("ansible-inventory.yaml")).unwrap()).unwrap();
        assert_eq!(inventory["all"]["hosts"]["lima-foo"]["ansible_host"], "lima-foo");
    }
}
