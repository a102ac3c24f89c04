//! A list of named tests that may turn out not to be runnable on this machine: then they are listed as ignored and the
//! reason is said aloud, or they fail where `LIMAFS_REQUIRE` names their group.

use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};

use super::Outcome;

pub struct Case {
    pub name: &'static str,
    pub run: fn() -> Outcome,
    /// Why this machine cannot run it; `None` when it can.
    pub lacks: fn() -> Option<String>,
    /// Skipped, and no failure, even where its group is required: the distribution has not what it needs.
    pub optional: bool,
}

/// `cases![module::test, ...]`, or `cases![needing(reason_fn): module::test, ...]` for tests with needs of their own, or
/// `optional(...)` where the set-up cannot install what they need.
#[macro_export]
macro_rules! cases {
    (needing($lacks:expr): $($test:path),* $(,)?) => {
        vec![$($crate::common::Case { name: stringify!($test), run: $test, lacks: $lacks, optional: false }),*]
    };
    (optional($lacks:expr): $($test:path),* $(,)?) => {
        vec![$($crate::common::Case { name: stringify!($test), run: $test, lacks: $lacks, optional: true }),*]
    };
    ($($test:path),* $(,)?) => { $crate::cases![needing(|| None): $($test),*] };
}

/// Runs the cases as libtest would, at most `threads` at once. `group` is the word in `LIMAFS_REQUIRE`; `lacks` says
/// why the whole group cannot run.
pub fn run(group: &str, lacks: Option<String>, threads: usize, cases: Vec<Case>) -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = arguments.test_threads.or(Some(threads));
    let required = std::env::var("LIMAFS_REQUIRE").is_ok_and(|groups| groups.split(',').any(|word| word == group));
    let trials = cases.into_iter().map(|case| trial(group, required, lacks.clone(), case)).collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn trial(group: &str, required: bool, lacks: Option<String>, case: Case) -> Trial {
    let Case { name, run, lacks: own, optional } = case;
    match lacks.or_else(own) {
        None => Trial::test(name, run),
        Some(why) if required && !optional => {
            let why = format!("cannot run here: {why} (LIMAFS_REQUIRE asks for {group})");
            Trial::test(name, move || Err(why.into()))
        }
        Some(why) => {
            eprintln!("SKIPPED: {group} {name}: {why}");
            Trial::test(name, run).with_ignored_flag(true)
        }
    }
}

/// Why nothing can be mounted here.
pub fn lacks_fuse() -> Option<String> {
    if !std::path::Path::new("/dev/fuse").exists() {
        return Some("no /dev/fuse".into());
    }
    if is_root() {
        return lacks_mount_right();
    }
    lacks_program("fusermount3")
}

/// Why no real guest can be run here.
pub fn lacks_guest() -> Option<String> {
    lacks_fuse().or_else(|| lacks_program("qemu-system-x86_64")).or_else(|| lacks_program("ssh")).or_else(|| {
        match guest_dir() {
            Some(dir) if dir.join("fast.qcow2").exists() => None,
            Some(dir) => Some(format!("no fast.qcow2 in {}", dir.display())),
            None => Some("LIMAFS_TEST_GUEST is not set (contrib/check makes the image and sets it)".into()),
        }
    })
}

/// Where the guest images of the tests are.
pub fn guest_dir() -> Option<std::path::PathBuf> {
    std::env::var_os("LIMAFS_TEST_GUEST").map(Into::into)
}

pub fn lacks_program(name: &str) -> Option<String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut dirs = std::env::split_paths(&path);
    if dirs.any(|dir| dir.join(name).is_file()) { None } else { Some(format!("no {name}")) }
}

pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A container's root may have /dev/fuse and yet not be allowed to mount.
fn lacks_mount_right() -> Option<String> {
    const CAP_SYS_ADMIN: u64 = 1 << 21;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let capabilities = effective.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0);
    (capabilities & CAP_SYS_ADMIN == 0).then(|| "root without CAP_SYS_ADMIN cannot mount".into())
}
