//! Additional disks: `.disks/` and what instances of the pretend driver do with them.

use std::fs;

use rustix::process::Signal;

use crate::common::fleet::FAKE;
use crate::common::suite::lacks_program;
use crate::common::{Case, Fleet, Outcome, procs, secs, wait_for, wait_until};
use crate::{cases, ensure, same};

pub fn cases() -> Vec<Case> {
    let mut all = cases![
        a_disk_is_made_grown_and_removed,
        a_refused_change_is_told_in_the_roots_error,
        rm_r_removes_a_disk,
        disks_that_limactl_makes_appear_and_vanish,
        e24_a_disk_belongs_to_one_instance_at_a_time,
        e24_a_claim_dies_with_its_instance,
        e24_a_suspended_instance_keeps_its_disk_whatever_lima_yaml_says_by_now,
        a_disk_that_is_missing_or_a_draft_stops_the_start,
    ];
    all.extend(cases![needing(|| lacks_program("qemu-img")): a_disk_is_what_qemu_img_says]);
    all
}

/// A fleet with the disk `data` and, for each name, a stopped instance that has it.
fn with_disk(instances: &[&str]) -> Result<Fleet, crate::common::Failed> {
    let fleet = Fleet::mounted()?;
    fleet.ok("mkdir .disks/data && echo 64MiB > .disks/data/size")?;
    for name in instances {
        fleet.create(name, &format!("{FAKE}additionalDisks: [data]\n"))?;
    }
    Ok(fleet)
}

fn start(fleet: &Fleet, name: &str) -> Outcome {
    fleet.ok(&format!("echo start > {name}/state"))?;
    fleet.wait_state(name, "Running", secs(20))
}

fn stop(fleet: &Fleet, name: &str) -> Outcome {
    fleet.ok(&format!("echo stop > {name}/state"))?;
    fleet.wait_state(name, "Stopped", secs(20))
}

/// The errno name in what a refused line of shell prints, and `.error`.
fn refused(fleet: &Fleet, line: &str) -> Result<(String, String), crate::common::Failed> {
    let ran = fleet.sh(line)?;
    ensure!(ran.code != 0, "{line} is accepted");
    Ok((ran.err.rsplit(": ").next().unwrap_or_default().trim().to_owned(), fleet.read(".error").trim().to_owned()))
}

fn a_disk_is_made_grown_and_removed() -> Outcome {
    let fleet = Fleet::mounted()?;
    same!(fleet.ok("ls -A .disks")?, "");
    fleet.ok("mkdir .disks/data")?;
    same!(fleet.ok("ls -A .disks; ls .disks/data; cat .disks/data/*")?, "data\nformat\nin_use_by\nsize");
    let disk = fleet.home.join("_disks/data/datadisk");
    ensure!(!disk.exists(), "a draft has bytes");
    for size in ["64MiB", "64MiB", "1.5GiB"] {
        fleet.ok(&format!("echo {size} > .disks/data/size"))?;
        same!(fleet.ok("cat .disks/data/size")?, size);
    }
    ensure!(["raw", "qcow2"].contains(&fleet.ok("cat .disks/data/format")?.as_str()), "another format");
    same!(fleet.ok("cat .disks/data/in_use_by")?, "");
    ensure!(fleet.ok("du -sm $H/_disks | cut -f1")?.parse::<u32>()? < 4, "the disk is not sparse");
    same!(fleet.ok("find $H/_disks -perm /077 -type f")?, "");
    fleet.ok("rmdir .disks/data")?;
    same!(fleet.ok("ls -A .disks $H/_disks | grep data || true")?, "");
    fleet.ok("mkdir .disks/data").map(drop)
}

fn a_disk_is_what_qemu_img_says() -> Outcome {
    let fleet = with_disk(&[])?;
    fleet.ok("echo 96MiB > .disks/data/size")?;
    let info: serde_json::Value =
        serde_json::from_str(&fleet.ok("qemu-img info --output=json $H/_disks/data/datadisk")?)?;
    same!(info["virtual-size"], 96 << 20);
    same!(info["format"].as_str().map(str::to_owned), Some(fleet.ok("cat .disks/data/format")?));
    Ok(())
}

fn a_refused_change_is_told_in_the_roots_error() -> Outcome {
    let fleet = with_disk(&[])?;
    for (line, errno, sentence) in [
        ("echo 32MiB > .disks/data/size", "Invalid argument", "size of disk data: shrinking from 64MiB to 32MiB"),
        ("echo lots > .disks/data/size", "Invalid argument", "size: takes a size such as 20GiB, not \"lots\""),
        ("echo x > .disks/data/format", "Permission denied", ""),
        ("mkdir .disks/.hidden", "Invalid argument", "name \".hidden\""),
        ("mkdir .disks/data/x", "Operation not permitted", "x: no directories can be made here"),
        ("rmdir .disks", "Operation not permitted", ".disks: is limafs's own"),
        ("mkdir .disks/data", "File exists", ""),
    ] {
        let (found, error) = refused(&fleet, line)?;
        same!(found, errno, "for {line}");
        ensure!(sentence.is_empty() || error.starts_with(sentence), "{line}: .error is {error:?}");
    }
    ensure!(fleet.sh("touch .disks/x")?.code != 0, "a file is made among the disks");
    same!(fleet.ok("cat .disks/data/size")?, "64MiB");
    Ok(())
}

fn rm_r_removes_a_disk() -> Outcome {
    let fleet = with_disk(&[])?;
    fleet.ok("rm -r .disks/data")?;
    ensure!(!fleet.home.join("_disks/data").exists(), "it is still there");
    Ok(())
}

fn disks_that_limactl_makes_appear_and_vanish() -> Outcome {
    let fleet = Fleet::mounted()?;
    fleet.ok("mkdir -p $H/_disks/ext && truncate -s 10M $H/_disks/ext/datadisk")?;
    wait_until("its size is shown", secs(5), || fleet.read(".disks/ext/size") == "10MiB\n")?;
    same!(fleet.ok("cat .disks/ext/format")?, "raw");
    fleet.ok("rm -r $H/_disks/ext")?;
    wait_until("it is gone", secs(5), || !fleet.mnt.join(".disks/ext").exists())
}

fn e24_a_disk_belongs_to_one_instance_at_a_time() -> Outcome {
    let fleet = with_disk(&["a", "b"])?;
    start(&fleet, "a")?;
    same!(fleet.read(".disks/data/in_use_by"), "a\n");
    same!(fs::read_link(fleet.home.join("_disks/data/in_use_by"))?, fleet.home.join("a"));
    fleet.ok("echo start > b/state")?;
    fleet.wait_state("b", "Broken", secs(20))?;
    same!(fleet.read("b/error"), "disk data: in use by a\n");
    for line in ["rmdir .disks/data", "rm -r .disks/data", "echo 1GiB > .disks/data/size"] {
        let (errno, error) = refused(&fleet, line)?;
        same!((errno.as_str(), error.as_str()), ("Device or resource busy", "disk data: in use by a"), "for {line}");
    }
    same!(fleet.read(".disks/data/in_use_by"), "a\n");
    stop(&fleet, "a")?;
    same!(fleet.read(".disks/data/in_use_by"), "");
    wait_until("the claim is given back", secs(5), || {
        fs::symlink_metadata(fleet.home.join("_disks/data/in_use_by")).is_err()
    })?;
    start(&fleet, "b")?;
    same!(fleet.read(".disks/data/in_use_by"), "b\n");
    stop(&fleet, "b")
}

fn e24_a_claim_dies_with_its_instance() -> Outcome {
    let fleet = with_disk(&["a", "b"])?;
    start(&fleet, "a")?;
    let vm = wait_for("a VM", secs(5), || fleet.vm("a"))?;
    let hostagent = fleet.hostagent("a").ok_or("no hostagent")?;
    fleet.kill_daemon()?;
    for pid in [hostagent, vm] {
        procs::signal(pid, Signal::KILL);
        wait_until("its end", secs(5), || !procs::is_alive(pid))?;
    }
    ensure!(fs::symlink_metadata(fleet.home.join("_disks/data/in_use_by")).is_ok(), "nobody gave the claim back");
    fleet.mount()?;
    wait_until("a rests", secs(20), || ["Stopped", "Broken"].contains(&fleet.state("a").as_str()))?;
    same!(fleet.read(".disks/data/in_use_by"), "");
    start(&fleet, "b")?;
    same!(fleet.read(".disks/data/in_use_by"), "b\n");
    stop(&fleet, "b")?;
    start(&fleet, "a")?;
    stop(&fleet, "a")
}

fn e24_a_suspended_instance_keeps_its_disk_whatever_lima_yaml_says_by_now() -> Outcome {
    let fleet = with_disk(&["a", "b"])?;
    let suspend = || fleet.ok("echo suspend > a/state && timeout 20 cat a/wait/Suspended");
    start(&fleet, "a")?;
    suspend()?;
    same!(fleet.read(".disks/data/in_use_by"), "a\n");
    let (errno, error) = refused(&fleet, "rmdir .disks/data")?;
    same!(errno, "Device or resource busy");
    same!(error, "disk data: in use by a, which is suspended");
    fleet.ok("echo start > b/state")?;
    fleet.wait_state("b", "Broken", secs(20))?;
    same!(fleet.read("b/error"), "disk data: in use by a, which is suspended\n");

    // The VM that goes on has the disk, although it is not to have it after the next stop.
    fleet.ok("sed -i /additionalDisks/d a/lima.yaml")?;
    same!(fleet.status("a", "pending"), Some("[additionalDisks]".to_owned()));
    start(&fleet, "a")?;
    same!(fleet.read(".disks/data/in_use_by"), "a\n");
    same!(fleet.status("a", "pending"), Some("[additionalDisks]".to_owned()));
    suspend()?;
    fleet.ok("echo kill > a/state")?;
    fleet.wait_state("a", "Stopped", secs(20))?;
    same!(fleet.read(".disks/data/in_use_by"), "");
    same!(fleet.status("a", "pending"), None);
    ensure!(!fleet.home.join("a/limafs.started.yaml").exists(), "what it was started with is kept");
    start(&fleet, "b")?;
    stop(&fleet, "b")
}

fn a_disk_that_is_missing_or_a_draft_stops_the_start() -> Outcome {
    let fleet = Fleet::mounted()?;
    fleet.create("foo", &format!("{FAKE}additionalDisks: [data]\n"))?;
    for (line, sentence) in [
        ("true", "additionalDisks: disk data does not exist\n"),
        ("mkdir .disks/data", "disk data: has no size yet; write one to its file size\n"),
    ] {
        fleet.ok(line)?;
        fleet.ok("echo start > foo/state")?;
        wait_until("the reason", secs(20), || fleet.state("foo") == "Broken" && fleet.read("foo/error") == sentence)?;
    }
    fleet.ok("echo 1MiB > .disks/data/size")?;
    start(&fleet, "foo")?;
    stop(&fleet, "foo")
}
