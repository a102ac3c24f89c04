//! `limafs doctor`: what this machine lacks, and how to get it.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use limafs::drivers::{self, Known, Place};
use limafs::names::Home;
use limafs::registry::Registry;

/// Programs that are looked for: what for, and the Debian package.
const PROGRAMS: &[(&str, &str, &str, bool)] = &[
    ("vde_switch", "networks between instances (user-v2)", "vde2", false),
    ("ssh", "for you to log in; limafs itself needs none", "openssh-client", false),
    ("fusermount3", "lets ordinary users mount", "fuse3", false),
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
    let fuse = Path::new("/dev/fuse").exists();
    say(fuse, true, "/dev/fuse", if fuse { "there".into() } else { "load it with: modprobe fuse".into() });
    for (program, purpose, package, needed) in PROGRAMS {
        match find(program) {
            Some(path) => say(true, *needed, program, format!("{} ({purpose})", path.display())),
            None => say(false, *needed, program, format!("{purpose}; apt-get install {package}")),
        }
    }
    let kvm = Path::new("/dev/kvm").exists();
    let text = if kvm { "there; the drivers tried it" } else { "not there: VMs run under TCG, slowly" };
    say(kvm, false, "/dev/kvm", text.into());
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
