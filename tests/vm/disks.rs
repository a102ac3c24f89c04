//! Additional disks in a real guest.

use std::fs;

use crate::common::{Case, Fleet, Outcome, secs};
use crate::guest::{FAST_BOOT, boot, fast, ssh, stop};
use crate::{cases, ensure, same};

pub fn cases() -> Vec<Case> {
    cases![a_disk_keeps_its_content_and_grows, a_disk_with_something_on_it_is_never_formatted]
}

/// MiB of a mounted file system.
fn size(fleet: &Fleet, dir: &str) -> Result<u64, crate::common::Failed> {
    Ok(ssh(fleet, "foo", &format!("df -BM --output=size {dir} | tail -1 | tr -d ' M'"))?.parse()?)
}

fn a_disk_keeps_its_content_and_grows() -> Outcome {
    let fleet = Fleet::mounted()?;
    fleet.ok("mkdir .disks/data .disks/swap; echo 256MiB > .disks/data/size; echo 64MiB > .disks/swap/size")?;
    fleet.create("foo", &fast("additionalDisks: [{name: swap, fsType: swap}, data]\n")?)?;
    boot(&fleet, "foo", FAST_BOOT)?;
    same!(fleet.read("foo/error"), "");
    same!(ssh(&fleet, "foo", "awk '$2 == \"/mnt/lima-data\" {print $3}' /proc/mounts")?, "ext4");
    same!(ssh(&fleet, "foo", "sudo e2label $(awk '$2 == \"/mnt/lima-data\" {print $1}' /proc/mounts)")?, "lima-data");
    same!(ssh(&fleet, "foo", "tail -n +2 /proc/swaps | wc -l")?, "1");
    let first = size(&fleet, "/mnt/lima-data")?;
    ssh(&fleet, "foo", "sudo sh -c 'echo kept > /mnt/lima-data/file' && sync")?;
    stop(&fleet, "foo")?;

    fleet.ok("echo 512MiB > .disks/data/size")?;
    boot(&fleet, "foo", FAST_BOOT)?;
    same!(fleet.read("foo/error"), "");
    same!(ssh(&fleet, "foo", "cat /mnt/lima-data/file")?, "kept");
    let second = size(&fleet, "/mnt/lima-data")?;
    ensure!(second > first + 200, "the file system has {second} MiB, after {first}");
    same!(ssh(&fleet, "foo", "tail -n +2 /proc/swaps | wc -l")?, "1");
    stop(&fleet, "foo")?;

    fleet.create_over("foo", &fast("additionalDisks: [{name: data, format: false}]\n")?)?;
    boot(&fleet, "foo", FAST_BOOT)?;
    same!(ssh(&fleet, "foo", "cat /mnt/lima-data/file")?, "kept");
    stop(&fleet, "foo")?;
    fleet.ok("rmdir .disks/data").map(drop)
}

fn a_disk_with_something_on_it_is_never_formatted() -> Outcome {
    let fleet = Fleet::mounted()?;
    fleet.ok("mkdir .disks/old .disks/raw; echo 8MiB > .disks/raw/size")?;
    let disk = fleet.home.join("_disks/old/datadisk");
    let mut bytes = vec![0; 8 << 20];
    bytes[(8 << 20) - 100..].fill(b'x');
    fs::write(&disk, &bytes)?;
    fleet.create("foo", &fast("additionalDisks: [old, {name: raw, format: false}]\n")?)?;
    fleet.ok("echo start > foo/state")?;
    fleet.wait_state("foo", "Degraded", FAST_BOOT)?;
    same!(fleet.read("foo/error"), "boot.Linux/05-lima-disks.sh failed with exit code 1\n");
    same!(ssh(&fleet, "foo", "grep -h . /sys/block/vd?/serial")?, "lima-disk-0\nlima-disk-1");
    same!(ssh(&fleet, "foo", "ls -d /mnt/lima-raw 2>/dev/null; ls /dev/vdc*")?, "/dev/vdc");
    fleet.ok("echo kill > foo/state")?;
    fleet.wait_state("foo", "Stopped", secs(10))?;
    ensure!(fs::read(&disk)? == bytes, "its bytes have changed");
    Ok(())
}
