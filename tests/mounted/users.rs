//! An ordinary user, through fusermount3; and what others may not.

use std::os::unix::fs::{MetadataExt, chown};

use crate::common::fleet::{FAKE, LIMAFS};
use crate::common::suite::{is_root, lacks_program};
use crate::common::{Case, Failed, Fleet, Outcome, secs};
use crate::{cases, ensure, same};

pub fn cases() -> Vec<Case> {
    cases![needing(lacks_users):
        an_ordinary_user_mounts_through_fusermount3,
        an_ordinary_user_starts_and_stops_an_instance,
        s02_others_see_nothing,
        s02_with_allow_other_others_still_cannot_write,
        s02_with_allow_other_others_read_the_public_key_and_no_document,
    ]
}

/// Two users of the system that no process of ours runs as: `nobody`, and one by number only.
const USER: (u32, u32) = (65534, 65534);
const STRANGER: u32 = 65533;

fn lacks_users() -> Option<String> {
    if !is_root() {
        return Some("only root can act as other users".into());
    }
    let mode = std::fs::metadata("/dev/fuse").map_or(0, |meta| meta.mode());
    if mode & 0o006 != 0o006 {
        return Some(format!("/dev/fuse has mode {:o}, so that ordinary users cannot mount", mode & 0o777));
    }
    lacks_program("fusermount3").or_else(|| lacks_program("setpriv"))
}

fn users_fleet() -> Result<Fleet, Failed> {
    let mut fleet = Fleet::unmounted()?;
    chown(fleet.root(), Some(USER.0), Some(USER.1))?;
    chown(&fleet.mnt, Some(USER.0), Some(USER.1))?;
    // The directory that this was built in may be closed to others.
    fleet.exe = fleet.root().join("limafs");
    // By another process: one that other threads fork from meanwhile would keep it open for writing, and so busy.
    let copied = std::process::Command::new("cp").args([LIMAFS.as_ref(), fleet.exe.as_os_str()]).status()?;
    ensure!(copied.success(), "cp {LIMAFS}: {copied}");
    fleet.user = Some(USER);
    fleet.mount()?;
    Ok(fleet)
}

fn an_ordinary_user_mounts_through_fusermount3() -> Outcome {
    let fleet = users_fleet()?;
    same!(fleet.mounts(), 1);
    same!(fleet.ok("stat -c %u .")?, USER.0.to_string());
    same!(fleet.ok("ls")?, "README.md\nevents\nlist");
    same!(fleet.limafs(&["unmount", &fleet.mnt.display().to_string()])?.code, 0);
    same!(fleet.mounts(), 0);
    fleet.mount()?;
    fleet.kill_daemon()?;
    fleet.mount()?;
    same!(fleet.mounts(), 1);
    Ok(())
}

fn an_ordinary_user_starts_and_stops_an_instance() -> Outcome {
    let fleet = users_fleet()?;
    fleet.running("foo")?;
    same!(fleet.ok("find $H ! -user 65534")?, "");
    fleet.ok("echo stop > foo/state")?;
    fleet.wait_state("foo", "Stopped", secs(15))?;
    fleet.ok("rmdir foo").map(drop)
}

fn as_stranger(line: &str) -> String {
    format!("setpriv --reuid {STRANGER} --regid {STRANGER} --clear-groups sh -c '{line}'")
}

fn s02_others_see_nothing() -> Outcome {
    let fleet = Fleet::mounted()?;
    fleet.create("foo", FAKE)?;
    for line in ["ls $M", "cat $M/foo/lima.yaml", "cat $H/foo/lima.yaml", "echo start > $M/foo/state"] {
        let ran = fleet.sh(&format!("cd /; {}", as_stranger(line)))?;
        ensure!(ran.code != 0 && ran.err.contains("ermission denied"), "{line}: {ran:?}");
    }
    Ok(())
}

fn s02_with_allow_other_others_still_cannot_write() -> Outcome {
    let fleet = Fleet::unmounted()?;
    fleet.limafs(&["mount", "--allow-other", &fleet.mnt.display().to_string()])?.text()?;
    fleet.create("foo", &format!("{FAKE}env: {{SECRET: hunter2}}\n"))?;
    for line in ["cat $M/foo/lima.yaml", "echo start > $M/foo/state", "mkdir $M/bar", "rmdir $M/foo"] {
        let ran = fleet.sh(&format!("cd /; {}", as_stranger(line)))?;
        ensure!(ran.code != 0, "{line}: {ran:?}");
    }
    same!(fleet.state("foo"), "Stopped");
    Ok(())
}

fn s02_with_allow_other_others_read_the_public_key_and_no_document() -> Outcome {
    let fleet = Fleet::unmounted()?;
    let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5 lima\n";
    std::fs::create_dir_all(fleet.home.join("_config"))?;
    std::fs::write(fleet.home.join("_config/user.pub"), key)?;
    fleet.limafs(&["mount", "--allow-other", &fleet.mnt.display().to_string()])?.text()?;
    fleet.ok("echo \"env: {SECRET: hunter2}\" > .config/default.yaml")?;
    same!(fleet.sh(&format!("cd /; {}", as_stranger("cat $M/.config/user.pub")))?.out, key);
    for line in ["cat $M/.config/default.yaml", "rm -f $M/.config/default.yaml", "echo x > $M/.config/base.yaml"] {
        let ran = fleet.sh(&format!("cd /; {}", as_stranger(line)))?;
        ensure!(ran.code != 0 && ran.out.is_empty(), "{line}: {ran:?}");
    }
    same!(fleet.read(".config/default.yaml"), "env: {SECRET: hunter2}\n");
    Ok(())
}
