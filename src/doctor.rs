//! `limafs doctor`: what this machine lacks, and how to get it.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use limafs::names::Home;

/// Programs that are looked for: what for, and the Debian package.
const PROGRAMS: &[(&str, &str, &str, bool)] = &[
    ("qemu-system-x86_64", "runs VMs", "qemu-system-x86", true),
    ("qemu-img", "makes and grows disks", "qemu-utils", true),
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
    let text = if kvm {
        "there; whether it runs a guest is tried at each start (see status)"
    } else {
        "not there: VMs run under TCG, slowly"
    };
    say(kvm, false, "/dev/kvm", text.into());
    if complete { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(program)).find(|file| file.is_file())
}
