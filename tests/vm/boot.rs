//! A guest's life from its first boot to its removal.

use rustix::process::Signal;

use crate::common::{Case, Failed, Fleet, Outcome, procs, secs, wait_for, wait_until};
use crate::guest::{FAST_BOOT, FULL_BOOT, STOP, boot, boot_id, fast, full, ssh, stop, up};
use crate::{cases, ensure, same};

pub fn cases() -> Vec<Case> {
    cases![
        a_fast_guest_from_first_boot_to_removal,
        a_full_guest_boots_with_cloud_init,
        pause_and_resume_keep_the_guest,
        restart_and_reset_boot_again,
        e17_a_guest_that_powers_off_is_stopped,
        a_guest_without_a_kernel_of_its_own_boots_by_its_firmware,
        e19_an_image_that_is_none_is_broken_with_the_reason,
        x11_a_hypervisor_that_hangs_is_said_to_and_can_be_killed,
    ]
}

fn a_fast_guest_from_first_boot_to_removal() -> Outcome {
    let fleet = Fleet::mounted()?;
    let hosts = "hostResolver: {hosts: {db.test: 10.1.2.3, alias.test: host.lima.internal}}\n";
    let copies = "copyToHost:\n- {guest: /etc/shadow, host: '{{.Dir}}/copied/shadow', deleteOnStop: true}\n\
                  - {guest: /none, host: '{{.Dir}}/copied/none', skipIfMissing: true}\n";
    fleet.create("foo", &fast(&format!("message: hello {{{{.Name}}}}\n{hosts}{copies}"))?)?;
    let mut tail = fleet.start("exec tail -F foo/serial.log")?;
    boot(&fleet, "foo", FAST_BOOT)?;

    same!(ssh(&fleet, "foo", "hostname")?, "lima-foo");
    same!(ssh(&fleet, "foo", "sudo id -u")?, "0");
    same!(names(&fleet)?, "10.1.2.3 192.168.5.2");
    ensure!(ssh(&fleet, "foo", "uname -a")?.contains("Linux"), "no uname");
    wait_until("tail -F shows the console", secs(5), || tail.out().len() > 50)?;
    let accelerator = fleet.read("foo/status");
    ensure!(accelerator.contains("tcg") || accelerator.contains("kvm"), "status has no accelerator: {accelerator}");
    let port = fleet.ok("awk '$1 == \"tcp\" && $3 == \"127.0.0.1:22\" {print $2, $4}' foo/ports")?;
    ensure!(port.starts_with("127.0.0.1:") && port.ends_with(" forwarding"), "ports: {}", fleet.read("foo/ports"));
    let foreign =
        fleet.ok(&format!("ss -Hltn | grep {} | awk '{{print $4}}'", port.split([':', ' ']).nth(1).unwrap_or("?")))?;
    ensure!(foreign.lines().all(|line| line.starts_with("127.0.0.1:")), "listens on {foreign}");

    let effective = fleet.ok("ssh -G -F foo/ssh.config lima-foo")?;
    for wanted in ["hostname 127.0.0.1", "batchmode yes", "identitiesonly yes"] {
        ensure!(effective.lines().any(|line| line == wanted), "no {wanted:?} in {effective}");
    }
    let key = fleet.home.join("_config/user").display().to_string();
    ensure!(effective.contains(&key), "another key: {effective}");

    let copied = fleet.home.join("foo/copied");
    same!(std::fs::read_dir(&copied).map(Iterator::count).ok(), Some(1));
    let shadow = fleet.ok(&format!("stat -c %a {0}; cut -d: -f1 {0} | head -1", copied.join("shadow").display()))?;
    same!(shadow, "600\nroot");

    let key = ssh(&fleet, "foo", "cat /etc/ssh/ssh_host_ed25519_key.pub")?;
    let first = boot_id(&fleet, "foo")?;
    let hostagent = wait_for("a hostagent", secs(5), || fleet.hostagent("foo"))?;
    procs::signal(hostagent, Signal::KILL);
    wait_until("another hostagent", secs(20), || fleet.hostagent("foo").is_some_and(|pid| pid != hostagent))?;
    wait_until("names after the hostagent's end", secs(20), || {
        names(&fleet).is_ok_and(|found| found == "10.1.2.3 192.168.5.2")
    })?;
    ssh(&fleet, "foo", "echo kept > ~/kept; sync")?;
    stop(&fleet, "foo")?;
    ensure!(fleet.vm("foo").is_none(), "a stopped instance has a VM");
    ensure!(!copied.join("shadow").exists(), "the copy is still there");

    boot(&fleet, "foo", FAST_BOOT)?;
    same!(ssh(&fleet, "foo", "cat ~/kept")?, "kept");
    same!(ssh(&fleet, "foo", "cat /etc/ssh/ssh_host_ed25519_key.pub")?, key);
    ensure!(boot_id(&fleet, "foo")? != first, "the same boot");
    stop(&fleet, "foo")?;
    fleet.ok("rmdir foo")?;
    ensure!(!fleet.home.join("foo").exists(), "foo is still on disk");
    Ok(())
}

/// What the guest finds for two names of `hostResolver.hosts`.
fn names(fleet: &Fleet) -> Result<String, Failed> {
    ssh(
        fleet,
        "foo",
        "for name in db.test alias.test; do getent ahostsv4 $name; done | awk '/STREAM/ {print $1}' | xargs",
    )
}

fn a_full_guest_boots_with_cloud_init() -> Outcome {
    let fleet = Fleet::mounted()?;
    fleet.create(
        "foo",
        &full("hostResolver: {hosts: {db.test: 10.1.2.3, alias.test: host.lima.internal}}\nprovision:\n- script: echo system > /var/tmp/ran\n- mode: user\n  script: whoami >> ~/ran\n")?,
    )?;
    boot(&fleet, "foo", FULL_BOOT)?;
    same!(names(&fleet)?, "10.1.2.3 192.168.5.2");
    let status = ssh(&fleet, "foo", "cloud-init status --long")?;
    ensure!(status.contains("status: done"), "{status}");
    same!(ssh(&fleet, "foo", "cat /var/tmp/ran; test \"$(cat ~/ran)\" = \"$(whoami)\" && echo user")?, "system\nuser");
    same!(ssh(&fleet, "foo", "hostname")?, "lima-foo");
    let size = ssh(&fleet, "foo", "df -BM --output=size / | tail -1")?;
    ensure!(size.trim().trim_end_matches('M').parse::<u32>().is_ok_and(|mib| mib > 3000), "the root has {size}");
    same!(fleet.read("foo/error"), "");
    stop(&fleet, "foo")?;
    boot(&fleet, "foo", FULL_BOOT)?;
    stop(&fleet, "foo")
}

fn pause_and_resume_keep_the_guest() -> Outcome {
    let fleet = Fleet::mounted()?;
    fleet.create("foo", &fast("")?)?;
    boot(&fleet, "foo", FAST_BOOT)?;
    let first = boot_id(&fleet, "foo")?;
    fleet.ok("echo pause > foo/state")?;
    fleet.wait_state("foo", "Paused", secs(10))?;
    fleet.ok("echo resume > foo/state")?;
    fleet.wait_state("foo", "Running", secs(10))?;
    same!(boot_id(&fleet, "foo")?, first);
    fleet.ok("echo kill > foo/state")?;
    fleet.wait_state("foo", "Stopped", secs(5))
}

fn restart_and_reset_boot_again() -> Outcome {
    let fleet = Fleet::mounted()?;
    fleet.create("foo", &fast("")?)?;
    boot(&fleet, "foo", FAST_BOOT)?;
    let first = boot_id(&fleet, "foo")?;
    let vm = fleet.vm("foo");
    fleet.ok("echo restart > foo/state")?;
    wait_until("another VM", FAST_BOOT, || fleet.vm("foo").is_some_and(|pid| Some(pid) != vm))?;
    up(&fleet, "foo", FAST_BOOT)?;
    let second = boot_id(&fleet, "foo")?;
    ensure!(first != second, "restart kept the boot");
    let vm = fleet.vm("foo");
    fleet.ok("echo reset > foo/state")?;
    wait_until("another boot", FAST_BOOT, || boot_id(&fleet, "foo").is_ok_and(|id| id != second))?;
    same!(fleet.vm("foo"), vm);
    stop(&fleet, "foo")
}

fn e17_a_guest_that_powers_off_is_stopped() -> Outcome {
    let fleet = Fleet::mounted()?;
    fleet.create("foo", &fast("")?)?;
    boot(&fleet, "foo", FAST_BOOT)?;
    let _ = ssh(&fleet, "foo", "sudo sh -c 'poweroff || busybox poweroff'");
    fleet.wait_state("foo", "Stopped", STOP)?;
    same!(fleet.read("foo/error"), "");
    boot(&fleet, "foo", FAST_BOOT)?;
    stop(&fleet, "foo")
}

fn a_guest_without_a_kernel_of_its_own_boots_by_its_firmware() -> Outcome {
    let fleet = Fleet::mounted()?;
    let dir = crate::common::suite::guest_dir().ok_or("no guest")?;
    let head = format!(
        "vmType: qemu\nmemory: 256MiB\ncpus: 1\ndisk: 4GiB\nmounts: []\ncontainerd: {{user: false}}\nimages: [{{location: {}/fast.qcow2}}]\n",
        dir.display()
    );
    fleet.create("uefi", &head)?;
    fleet.create("bios", &format!("{head}firmware: {{legacyBIOS: true}}\n"))?;
    for (name, firmware) in [("uefi", true), ("bios", false)] {
        boot(&fleet, name, FAST_BOOT)?;
        same!(ssh(&fleet, name, "[ -d /sys/firmware/efi ] && echo true || echo false")?, firmware.to_string());
        stop(&fleet, name)?;
    }
    Ok(())
}

fn e19_an_image_that_is_none_is_broken_with_the_reason() -> Outcome {
    let fleet = Fleet::mounted()?;
    fleet.create("foo", "vmType: qemu\nimages:\n- location: /nowhere/image.qcow2\n")?;
    fleet.ok("echo start > foo/state")?;
    fleet.wait_state("foo", "Broken", secs(20))?;
    ensure!(fleet.read("foo/error").contains("/nowhere/image.qcow2"), "error: {}", fleet.read("foo/error"));
    fleet.create_over("foo", &fast("")?)?;
    boot(&fleet, "foo", FAST_BOOT)?;
    fleet.ok("echo kill > foo/state")?;
    fleet.wait_state("foo", "Stopped", secs(5))?;
    fleet.ok("rm -r foo").map(drop)
}

fn x11_a_hypervisor_that_hangs_is_said_to_and_can_be_killed() -> Outcome {
    let fleet = Fleet::mounted()?;
    fleet.create("foo", &fast("")?)?;
    boot(&fleet, "foo", FAST_BOOT)?;
    let vm = fleet.vm("foo").ok_or("no VM")?;
    procs::signal(vm, rustix::process::Signal::STOP);
    wait_until("status says that it does not answer", secs(20), || {
        let said = format!("{}{}", fleet.read("foo/status"), fleet.read("foo/error"));
        said.contains("answer") || said.contains("respons")
    })?;
    procs::signal(vm, rustix::process::Signal::CONT);
    wait_until("it heals", secs(30), || fleet.state("foo") == "Running" && fleet.read("foo/error").is_empty())?;
    procs::signal(vm, rustix::process::Signal::STOP);
    fleet.ok("echo kill > foo/state")?;
    fleet.wait_state("foo", "Stopped", secs(10))?;
    ensure!(!procs::is_alive(vm), "the VM is still there");
    Ok(())
}
