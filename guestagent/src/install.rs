//! Makes the agent a service: the file, then what the init system has to be told. Does nothing where nothing differs.

use std::error::Error;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::{env, fs, io};

type Done = Result<(), Box<dyn Error>>;

const UNIT: &str = "/etc/systemd/system/lima-guestagent.service";
const WANTED: &str = "/etc/systemd/system/multi-user.target.wants/lima-guestagent.service";
const SCRIPT: &str = "/etc/init.d/lima-guestagent";

pub fn systemd(options: &[String], is_updated: bool) -> Done {
    let is_changed = put(Path::new(UNIT), &unit(&program()?, options), 0o644)?;
    if is_changed {
        run("systemctl", &["daemon-reload"])?;
    }
    // Enabling makes systemd read all its units again.
    if is_changed || !Path::new(WANTED).exists() {
        run("systemctl", &["enable", "lima-guestagent.service"])?;
    }
    // Starts it where it does not run, too.
    let verb = if is_changed || is_updated { "restart" } else { "start" };
    run("systemctl", &[verb, "lima-guestagent.service"])
}

pub fn openrc(options: &[String], is_updated: bool) -> Done {
    let is_changed = put(Path::new(SCRIPT), &script(&program()?, options), 0o755)?;
    run("rc-update", &["add", "lima-guestagent", "default"])?;
    if is_changed || is_updated {
        run("rc-service", &["lima-guestagent", "restart"])
    } else {
        run("rc-service", &["--ifstopped", "lima-guestagent", "start"])
    }
}

/// What systemd or a shell would read as more than a word is in no path that this is installed to.
fn program() -> Result<String, Box<dyn Error>> {
    let path = env::current_exe()?;
    let text = path.to_str().filter(|text| text.chars().all(|c| c.is_alphanumeric() || "/._-+@".contains(c)));
    Ok(text.ok_or_else(|| format!("{}: a service cannot have this path", path.display()))?.to_owned())
}

/// Writes a file unless it is there with the same text; says whether it did.
fn put(path: &Path, text: &str, mode: u32) -> io::Result<bool> {
    if fs::read_to_string(path).is_ok_and(|old| old == text) {
        return Ok(false);
    }
    path.parent().map_or(Ok(()), fs::create_dir_all)?;
    let temporary = path.with_extension("new");
    fs::write(&temporary, text)?;
    fs::set_permissions(&temporary, fs::Permissions::from_mode(mode))?;
    fs::rename(&temporary, path)?;
    Ok(true)
}

/// On a guest that is short of memory the agent is the last to go: without it nobody could look.
fn unit(program: &str, options: &[String]) -> String {
    let command = [&[program.to_owned(), "daemon".to_owned()], options].concat().join(" ");
    format!(
        "[Unit]\nDescription=Guest agent of limafs\nStartLimitIntervalSec=0\n\n\
         [Service]\nExecStart={command} --runtime-dir=/run/lima-guestagent\nRestart=always\nRestartSec=1s\n\
         OOMPolicy=continue\nOOMScoreAdjust=-500\n\n\
         [Install]\nWantedBy=multi-user.target\n"
    )
}

fn script(program: &str, options: &[String]) -> String {
    let options = options.join(" ");
    format!(
        "#!/sbin/openrc-run\n\
         description=\"Guest agent of limafs\"\n\
         supervisor=supervise-daemon\n\
         command={program}\n\
         command_args=\"daemon {options}\"\n\
         respawn_delay=1\n\
         respawn_max=0\n\
         output_log=/var/log/lima-guestagent.log\n\
         error_log=/var/log/lima-guestagent.log\n"
    )
}

fn run(program: &str, arguments: &[&str]) -> Done {
    let line = format!("{program} {}", arguments.join(" "));
    tracing::info!("{line}");
    let status = Command::new(program).args(arguments).status().map_err(|error| format!("{line}: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("{line}: {status}").into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_start_the_daemon_with_its_options() {
        let options = ["--socket-owner=501".to_owned(), "--debug".to_owned()];
        let unit = unit("/usr/local/bin/lima-guestagent", &options);
        let line = "ExecStart=/usr/local/bin/lima-guestagent daemon --socket-owner=501 --debug --runtime-dir=/run/lima-guestagent";
        assert!(unit.lines().any(|have| have == line), "{unit}");
        let script = script("/usr/local/bin/lima-guestagent", &options);
        assert!(script.lines().any(|have| have == "command_args=\"daemon --socket-owner=501 --debug\""), "{script}");
    }

    #[test]
    fn a_file_that_is_the_same_is_not_written_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/file.service");
        assert!(put(&path, "a", 0o755).unwrap());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o755);
        assert!(!put(&path, "a", 0o755).unwrap());
        assert!(put(&path, "b", 0o755).unwrap());
    }
}
