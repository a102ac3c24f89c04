//! Cases A: what may be made at the root of the tree.

use std::fs;

use crate::common::{Case, Fleet, Outcome};
use crate::{cases, ensure, fail, same};

pub fn cases() -> Vec<Case> {
    cases![
        a01_to_a08_names_that_lima_accepts_are_accepted,
        a09_a_name_of_76_bytes_is_accepted_or_too_long_for_its_sockets,
        a10_a_name_of_77_bytes_is_too_long,
        a11_to_a25_bad_names_are_refused_and_leave_nothing,
        a22_to_a24_the_reason_names_the_ending,
        a27_limas_own_directories_are_no_instances,
        a28_the_longest_names,
        a29_case_twins_are_two_instances,
        dot_names_cannot_be_made_at_the_root,
        nothing_but_directories_can_be_made_at_the_root,
    ]
}

/// The errno of making a directory of that name; 0 when it was made.
fn mkdir(fleet: &Fleet, name: &str) -> i32 {
    fs::create_dir(fleet.mnt.join(name)).err().and_then(|error| error.raw_os_error()).unwrap_or(0)
}

/// What is in the home under names that an instance could have.
fn instances_on_disk(fleet: &Fleet) -> Vec<String> {
    let entries = fs::read_dir(&fleet.home).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| !["_config", "_limafs", "_templates", "_disks", "_networks"].contains(&name.as_str())).collect()
}

fn a01_to_a08_names_that_lima_accepts_are_accepted() -> Outcome {
    let fleet = Fleet::mounted()?;
    for name in ["default", "Ubuntu-20.04", "example.com", "under_score", "1-2_3.4", "yml", "yaml", "foo.yaml.com"] {
        same!(mkdir(&fleet, name), 0, "for {name}");
        ensure!(fleet.mnt.join(name).is_dir(), "{name} is not there");
        ensure!(fleet.home.join(name).is_dir(), "{name} is not in the home");
        same!(fleet.state(name), "Uninitialized", "for {name}");
    }
    Ok(())
}

fn a09_a_name_of_76_bytes_is_accepted_or_too_long_for_its_sockets() -> Outcome {
    let fleet = Fleet::mounted()?;
    let name = "a".repeat(76);
    let longest = fleet.home.join(&name).join("ssh.sock.1234567890123456");
    let expected = if longest.as_os_str().len() < 108 { 0 } else { libc::ENAMETOOLONG };
    same!(mkdir(&fleet, &name), expected);
    let fits = "a".repeat(108 - 1 - "/ssh.sock.1234567890123456".len() - fleet.home.as_os_str().len() - 1);
    same!(mkdir(&fleet, &fits), 0, "for {} bytes", fits.len());
    same!(mkdir(&fleet, &format!("{fits}a")), libc::ENAMETOOLONG);
    same!(instances_on_disk(&fleet).len(), if expected == 0 { 2 } else { 1 });
    Ok(())
}

fn a10_a_name_of_77_bytes_is_too_long() -> Outcome {
    let fleet = Fleet::mounted()?;
    same!(mkdir(&fleet, &"a".repeat(77)), libc::ENAMETOOLONG);
    same!(instances_on_disk(&fleet), Vec::<String>::new());
    Ok(())
}

fn a11_to_a25_bad_names_are_refused_and_leave_nothing() -> Outcome {
    let fleet = Fleet::mounted()?;
    let bad = [
        "dot.",
        "dot..dot",
        "_underscore",
        "underscore_",
        "underscore__underscore",
        "-dash",
        "dash-",
        "dash--dash",
        "c:default",
        "my\\instance",
        "default.yaml",
        "MY.YAML",
        "My.YmL",
        "foo.-boo",
        "zn--e9.org",
        "but__only",
        "a b",
        "a\nb",
        "caf\u{e9}",
    ];
    for name in bad {
        same!(mkdir(&fleet, name), libc::EINVAL, "for {name:?}");
    }
    // A dot-name is never an instance: EPERM by the tree's contract, EINVAL by Lima's rule.
    ensure!([libc::EINVAL, libc::EPERM].contains(&mkdir(&fleet, ".dot")), ".dot was not refused");
    same!(instances_on_disk(&fleet), Vec::<String>::new());
    same!(fleet.ok("ls")?, "README.md\nevents\nlist");
    Ok(())
}

fn a22_to_a24_the_reason_names_the_ending() -> Outcome {
    let fleet = Fleet::mounted()?;
    same!(mkdir(&fleet, "MY.YAML"), libc::EINVAL);
    let reason = fleet.read(".error");
    ensure!(reason.contains("must not end with .y") && reason.contains("MY.YAML"), ".error says {reason:?}");
    Ok(())
}

fn a27_limas_own_directories_are_no_instances() -> Outcome {
    let fleet = Fleet::unmounted()?;
    for name in ["_config", "_disks", "_templates", "_cache", "lost+found"] {
        fs::create_dir_all(fleet.home.join(name))?;
    }
    fleet.mount()?;
    same!(fleet.ok("ls")?, "README.md\nevents\nlist");
    for name in ["_config", "_disks", "_templates", "_cache", "lost+found"] {
        let errno = mkdir(&fleet, name);
        ensure!([libc::EINVAL, libc::EPERM].contains(&errno), "mkdir {name} gave {errno}");
    }
    Ok(())
}

fn a28_the_longest_names() -> Outcome {
    let fleet = Fleet::mounted()?;
    let errno = mkdir(&fleet, &"a".repeat(255));
    ensure!([libc::EINVAL, libc::ENAMETOOLONG].contains(&errno), "255 bytes gave {errno}");
    same!(mkdir(&fleet, &"a".repeat(256)), libc::ENAMETOOLONG);
    same!(instances_on_disk(&fleet), Vec::<String>::new());
    Ok(())
}

fn a29_case_twins_are_two_instances() -> Outcome {
    let fleet = Fleet::mounted()?;
    fleet.ok("mkdir VM vm && rmdir VM")?;
    same!(fleet.ok("ls -d VM vm 2>/dev/null || true")?, "vm");
    Ok(())
}

fn dot_names_cannot_be_made_at_the_root() -> Outcome {
    let fleet = Fleet::mounted()?;
    for name in [".git", ".Trash-0", ".Trash-1000"] {
        same!(mkdir(&fleet, name), libc::EPERM, "for {name}");
    }
    same!(instances_on_disk(&fleet), Vec::<String>::new());
    Ok(())
}

fn nothing_but_directories_can_be_made_at_the_root() -> Outcome {
    let fleet = Fleet::mounted()?;
    let ran = fleet.sh("echo hello > foo")?;
    if ran.code == 0 {
        fail!("a file could be made at the root: {}", fleet.ok("ls -la")?);
    }
    same!(instances_on_disk(&fleet), Vec::<String>::new());
    Ok(())
}
