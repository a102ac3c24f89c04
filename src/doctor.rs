//! `limafs doctor`: what this machine lacks, and how to get it.

use std::fs::OpenOptions;
use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::process::ExitCode;

use limafs::drivers::{self, Known, Place};
use limafs::hostagent;
use limafs::names::Home;
use limafs::registry::Registry;

/// Programs that are looked for: what for, and the Debian package.
const PROGRAMS: &[(&str, &str, &str, bool)] = &[
    ("vde_switch", "networks between instances (user-v2)", "vde2", false),
    ("ssh", "for you to log in; limafs itself needs none", "openssh-client", false),
    ("fusermount3", "lets ordinary users mount", "fuse3", false),
    ("swtpm", "guests with tpm: true", "swtpm", false),
];

/// Prints one line a thing; fails when something is missing that nothing works without.
pub fn run(home: &Home) -> ExitCode {
    let mut complete = true;
    let mut say = |ok: bool, needed: bool, what: &str, text: String| {
        let mark = match (ok, needed) {
            (true, _) => "ok     ",
            (false, true) => "MISSING",
            (false, false) => "absent ",
        };
        complete &= ok || !needed;
        println!("{mark} {what}: {text}");
    };
    say(true, true, "home", home.path().display().to_string());
    let (fuse, text) = told_of_fuse(device("/dev/fuse"));
    say(fuse, true, "/dev/fuse", text);
    for (program, purpose, package, needed) in PROGRAMS {
        match find(program) {
            Some(path) => say(true, *needed, program, format!("{} ({purpose})", path.display())),
            None => say(false, *needed, program, format!("{purpose}; apt-get install {package}")),
        }
    }
    let (kvm, text) = told_of_kvm(device("/dev/kvm"));
    say(kvm, false, "/dev/kvm", text);
    let arch = std::env::consts::ARCH;
    match hostagent::guest_agent(arch).filter(|file| file.is_file()) {
        Some(file) => say(true, false, "guest agent", file.display().to_string()),
        None => say(
            false,
            false,
            "guest agent",
            format!("no ports of {arch} guests are forwarded; contrib/build-agent makes it"),
        ),
    }
    let drivers = surveyed();
    let choice = drivers::choose(&drivers);
    if choice.driver.is_none() {
        say(false, true, "a driver", format!("{}; install one, or name it in lima.yaml", choice.why));
    }
    for driver in &drivers {
        let is_chosen = choice.driver.as_ref() == Some(&driver.found.name);
        say(is_healthy(driver), is_chosen, &format!("driver {}", driver.found.name), told(driver));
    }
    if complete { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Opens a device for reading and writing, as who uses it has to; that alone changes nothing.
fn device(path: &str) -> io::Result<()> {
    OpenOptions::new().read(true).write(true).open(path).map(drop)
}

fn told_of_fuse(opened: io::Result<()>) -> (bool, String) {
    match opened.map_err(|error| (error.kind(), error)) {
        Ok(()) => (true, "can be opened".into()),
        Err((ErrorKind::PermissionDenied, _)) => {
            (false, "only others may open it; as root: chmod 666 /dev/fuse".into())
        }
        Err((_, error)) => (false, format!("{error}; load it with: modprobe fuse")),
    }
}

/// Whether it works is a driver's to find out.
fn told_of_kvm(opened: io::Result<()>) -> (bool, String) {
    match opened.map_err(|error| (error.kind(), error)) {
        Ok(()) => (true, "can be opened; whether it works, the drivers say".into()),
        Err((ErrorKind::PermissionDenied, _)) => {
            (false, "only others may open it: VMs run slowly; let yourself in with: usermod -aG kvm $USER".into())
        }
        Err((_, error)) => (false, format!("{error}: VMs run slowly, under TCG")),
    }
}

/// All drivers, each tried.
fn surveyed() -> Vec<Known> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_or_else(|_| Vec::new(), |runtime| runtime.block_on(Registry::of_process().survey(drivers::DEADLINE)))
}

fn is_healthy(driver: &Known) -> bool {
    driver.health().is_some_and(|health| health.installed && health.healthy)
}

/// How a driver is, and what can be done about it.
fn told(driver: &Known) -> String {
    let place = match &driver.found.place {
        Place::BuiltIn => "built in".to_owned(),
        Place::Program(path) | Place::Plugin(path) => path.display().to_string(),
    };
    let Some(health) = driver.health() else { return format!("{place}; it does not say how it is") };
    let words = [&health.version, &health.error, &health.fix].into_iter().filter(|word| !word.is_empty());
    words.fold(place, |told, word| format!("{told}; {word}"))
}

fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(program)).find(|file| file.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_may_not_be_opened_is_told_from_one_that_is_not_there() {
        let refused = || Err(ErrorKind::PermissionDenied.into());
        assert!(matches!(told_of_fuse(refused()), (false, text) if text.contains("chmod")));
        assert!(matches!(told_of_kvm(refused()), (false, text) if text.contains("usermod")));
        let absent = || device("/nowhere/fuse");
        assert!(matches!(told_of_fuse(absent()), (false, text) if text.contains("modprobe")));
        assert!(matches!(told_of_kvm(absent()), (false, text) if text.contains("No such file")));
        assert!(told_of_fuse(device("/dev/null")).0);
    }
}
