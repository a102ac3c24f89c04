//! The real limactl on the same home, in turn with the tree. Runs only where `LIMAFS_TEST_LIMACTL` names one (with
//! `share/lima` where it looks for it), and not as root, which limactl refuses.

#[path = "common/mod.rs"]
mod common;
#[path = "peer/drivers.rs"]
mod drivers;

use std::process::ExitCode;

use serde_json::{Map, Value};

use common::suite;
use common::{Failed, Fleet, Outcome, secs, wait_until};

/// Not run, only read: any file will do as its image.
const STOPPED: &str = "vmType: qemu\narch: x86_64\ncpus: 1\nmemory: 512MiB\ndisk: 2GiB\nmessage: |\n  hello {{.Name}}\n\
                       mounts: []\ncontainerd: {system: false, user: false}\nssh: {localPort: 60099}\n\
                       images:\n- location: /etc/profile\n  arch: x86_64\n";

fn main() -> ExitCode {
    let mut cases = cases![
        status_json_is_what_limactl_prints,
        list_is_what_limactl_prints,
        what_one_protects_the_other_shows_and_keeps,
        what_limactl_clones_renames_and_deletes_is_seen,
        disks_are_the_same,
    ];
    cases.extend(cases![needing(suite::lacks_guest): limactl_finds_enters_and_stops_what_runs_here]);
    cases.extend(cases![optional(drivers::lacks_external_limactl): drivers::limactl_boots_a_guest_with_our_driver]);
    cases.extend(cases![optional(drivers::lacks_limas_driver): drivers::limas_own_driver_boots_a_guest_for_us]);
    common::run("peer", lacks_limactl(), 2, cases)
}

fn lacks_limactl() -> Option<String> {
    match std::env::var_os("LIMAFS_TEST_LIMACTL") {
        None => Some("LIMAFS_TEST_LIMACTL names no limactl".into()),
        Some(_) if suite::is_root() => Some("limactl does not run as root".into()),
        Some(_) => suite::lacks_fuse().or_else(|| suite::lacks_program("qemu-img")),
    }
}

fn limactl(fleet: &Fleet, arguments: &str) -> Result<String, Failed> {
    fleet.ok(&format!("cd / && \"$LIMAFS_TEST_LIMACTL\" --tty=false {arguments}"))
}

fn with_instance() -> Result<Fleet, Failed> {
    let fleet = Fleet::mounted()?;
    fleet.create("foo", STOPPED)?;
    Ok(fleet)
}

fn parse(text: &str) -> Result<Map<String, Value>, Failed> {
    Ok(serde_json::from_str(text)?)
}

fn status_json_is_what_limactl_prints() -> Outcome {
    let fleet = with_instance()?;
    let ours = parse(&fleet.read("foo/status.json"))?;
    let mut theirs = parse(&limactl(&fleet, "list --json foo")?)?;
    let config = theirs.remove("config").unwrap_or_default();
    for (key, value) in &theirs {
        same!(ours.get(key), Some(value), "for {key}");
    }
    let own = ["config", "goal", "state", "since", "pending", "ready"];
    let more: Vec<_> = ours.keys().filter(|key| !theirs.contains_key(*key) && !own.contains(&key.as_str())).collect();
    ensure!(more.is_empty(), "limactl prints no {more:?}");
    for (key, value) in config.as_object().into_iter().flatten() {
        // limactl fills in archives that this machine's instances never use.
        if key != "containerd" && key != "video" {
            same!(ours["config"].get(key), Some(value), "for config.{key}");
        }
    }
    Ok(())
}

fn list_is_what_limactl_prints() -> Outcome {
    let fleet = with_instance()?;
    same!(fleet.ok("cat list")?, limactl(&fleet, "list")?);
    Ok(())
}

fn what_one_protects_the_other_shows_and_keeps() -> Outcome {
    let fleet = with_instance()?;
    limactl(&fleet, "protect foo")?;
    wait_until("it is protected", secs(5), || fleet.read("foo/protected") == "1\n")?;
    ensure!(fleet.sh("rmdir foo")?.code != 0, "it was removed");
    limactl(&fleet, "unprotect foo")?;
    wait_until("it is not protected", secs(5), || fleet.read("foo/protected") == "0\n")?;
    fleet.ok("echo 1 > foo/protected")?;
    same!(limactl(&fleet, "list --format '{{.Protected}}' foo")?, "true");
    ensure!(limactl(&fleet, "delete foo").is_err(), "limactl deleted it");
    ensure!(fleet.home.join("foo/lima.yaml").exists(), "it is gone");
    Ok(())
}

fn what_limactl_clones_renames_and_deletes_is_seen() -> Outcome {
    let fleet = with_instance()?;
    limactl(&fleet, "clone foo bar")?;
    fleet.wait_state("bar", "Stopped", secs(5))?;
    same!(fleet.read("bar/lima.yaml"), fleet.read("foo/lima.yaml"));
    limactl(&fleet, "rename bar baz")?;
    fleet.wait_state("baz", "Stopped", secs(5))?;
    ensure!(!fleet.mnt.join("bar").exists(), "bar is still there");
    limactl(&fleet, "delete baz")?;
    wait_until("baz is gone", secs(5), || !fleet.mnt.join("baz").exists())
}

fn disks_are_the_same() -> Outcome {
    let fleet = Fleet::mounted()?;
    limactl(&fleet, "disk create theirs --size 1GiB")?;
    wait_until("the disk is shown", secs(5), || fleet.read(".disks/theirs/size") == "1GiB\n")?;
    fleet.ok("mkdir .disks/ours; echo 512MiB > .disks/ours/size")?;
    let listed = limactl(&fleet, "disk list --json | jq -r '[.name, .size, .format] | join(\" \")' | sort")?;
    same!(listed, "ours 536870912 qcow2\ntheirs 1073741824 qcow2");
    limactl(&fleet, "disk delete ours")?;
    wait_until("the disk is gone", secs(5), || !fleet.mnt.join(".disks/ours").exists())
}

fn limactl_finds_enters_and_stops_what_runs_here() -> Outcome {
    let fleet = Fleet::mounted()?;
    let guest = suite::guest_dir().ok_or("LIMAFS_TEST_GUEST is not set")?.display().to_string();
    let images = format!(
        "images:\n- location: {guest}/fast.qcow2\n  kernel:\n    location: {guest}/vmlinuz-cloud\n    \
         cmdline: root=/dev/vda1 rw console=ttyS0 quiet\n  initrd:\n    location: {guest}/initrd-cloud\n"
    );
    fleet.create(
        "foo",
        &format!("cpus: 1\nmemory: 256MiB\nmounts: []\ncontainerd: {{system: false, user: false}}\n{images}"),
    )?;
    fleet.ok("echo start > foo/state")?;
    fleet.wait_state("foo", "Running", secs(120))?;
    let (ours, theirs) = (parse(&fleet.read("foo/status.json"))?, parse(&limactl(&fleet, "list --json foo")?)?);
    for key in ["status", "hostAgentPID", "driverPID", "sshLocalPort"] {
        same!(ours.get(key), theirs.get(key), "for {key}");
    }
    same!(theirs["status"], "Running");
    same!(limactl(&fleet, "shell --workdir / foo hostname")?, "lima-foo");
    ensure!(limactl(&fleet, "delete foo").is_err(), "limactl deleted what runs");
    limactl(&fleet, "stop foo")?;
    fleet.wait_state("foo", "Stopped", secs(5))?;
    same!(fleet.read("foo/error"), "");
    same!(limactl(&fleet, "list --format '{{.Status}}' foo")?, "Stopped");
    Ok(())
}
