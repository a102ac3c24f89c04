//! Directories of the host in a real guest.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use crate::common::{Case, Fleet, Outcome};
use crate::guest::{FAST_BOOT, boot, generic, mounting, ssh, stop};
use crate::{cases, ensure, same};

pub fn cases() -> Vec<Case> {
    cases![nine_p_shows_directories_and_only_them, a_kernel_without_9p_makes_a_degraded_instance_that_names_the_mount]
}

/// Two mount entries, the first of which is writable. What is not there is made by the first start.
fn entries(fleet: &Fleet) -> String {
    let root = fleet.root().display();
    format!(
        "mounts:\n- {{location: '{root}/a,b', mountPoint: /mnt/a b, writable: true}}\n- {{location: {root}/ro, mountPoint: /mnt/ro}}\n"
    )
}

/// What is in the read-only directory, and beside it.
fn furnish(fleet: &Fleet) -> Outcome {
    let root = fleet.root();
    fs::create_dir_all(root.join("ro/sub"))?;
    fs::create_dir(root.join("a,b"))?;
    // Where root runs the tests, the guest's user is not the owner.
    fs::set_permissions(root.join("a,b"), fs::Permissions::from_mode(0o777))?;
    fs::create_dir(root.join("ro-evil"))?;
    fs::write(root.join("ro/sub/file"), "from the host\n")?;
    fs::write(root.join("ro-evil/secret"), "secret\n")?;
    fs::write(root.join("secret"), "secret\n")?;
    symlink("sub/file", root.join("ro/link"))?;
    symlink("../secret", root.join("ro/up"))?;
    symlink(root.join("secret"), root.join("ro/absolute"))?;
    Ok(())
}

/// What every mount type must do.
fn check(fleet: &Fleet) -> Outcome {
    same!(fleet.read("foo/error"), "");
    same!(ssh(fleet, "foo", "cat /mnt/ro/sub/file /mnt/ro/link")?, "from the host\nfrom the host");
    let written = "cd '/mnt/a b' && echo hello > x && chmod 640 x && mkdir d && mv x d/y && ln -s d/y z && cat z";
    same!(ssh(fleet, "foo", written)?, "hello");
    let made = fleet.root().join("a,b/d/y");
    same!(fs::read_to_string(&made)?, "hello\n");
    same!(made.metadata()?.permissions().mode() & 0o7777, 0o640);
    fs::write(fleet.root().join("a,b/new"), "new\n")?;
    same!(ssh(fleet, "foo", "cat '/mnt/a b/new' && rm '/mnt/a b/new'")?, "new");
    ensure!(!fleet.root().join("a,b/new").exists(), "it is still there");
    refuses(fleet)
}

fn refuses(fleet: &Fleet) -> Outcome {
    for line in ["echo x > /mnt/ro/sub/file", "rm /mnt/ro/sub/file", "touch /mnt/ro/new", "mkdir /mnt/ro/d"] {
        let told = ssh(fleet, "foo", &format!("sudo sh -c '{line}' 2>&1 || true"))?;
        ensure!(told.contains("Read-only file system"), "{line}: {told}");
    }
    // Links are the guest's to follow: in the guest's own tree.
    let secrets =
        ssh(fleet, "foo", "sudo cat /mnt/ro/up /mnt/ro/absolute /mnt/ro/../ro-evil/secret 2>/dev/null || true")?;
    same!(secrets, "");
    Ok(())
}

fn digest(fleet: &Fleet) -> Outcome {
    let there = ssh(fleet, "foo", "cd '/mnt/a b' && head -c 20000000 /dev/urandom > big && sync && sha256sum < big")?;
    let here = fleet.ok("sha256sum < '../a,b/big'")?;
    same!(here, there);
    Ok(())
}

fn nine_p_shows_directories_and_only_them() -> Outcome {
    let fleet = Fleet::mounted()?;
    furnish(&fleet)?;
    fleet.create("foo", &generic(&entries(&fleet))?)?;
    boot(&fleet, "foo", FAST_BOOT)?;
    same!(ssh(&fleet, "foo", "awk '$3 == \"9p\" {print $2}' /proc/mounts")?, "/mnt/a\\040b\n/mnt/ro");
    check(&fleet)?;
    digest(&fleet)?;
    stop(&fleet, "foo")
}

fn a_kernel_without_9p_makes_a_degraded_instance_that_names_the_mount() -> Outcome {
    let fleet = Fleet::mounted()?;
    fleet.create("foo", &mounting(&entries(&fleet))?)?;
    fleet.ok("echo start > foo/state")?;
    fleet.wait_state("foo", "Degraded", FAST_BOOT)?;
    let error = fleet.read("foo/error");
    ensure!(error.contains("9p mount /mnt/ro failed with exit code"), "{error}");
    ensure!(fleet.root().join("a,b").is_dir() && fleet.root().join("ro").is_dir(), "they were not made");
    fleet.ok("echo kill > foo/state")?;
    fleet.wait_state("foo", "Stopped", crate::common::secs(10))
}
