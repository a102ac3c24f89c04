//! A real guest's files below `.guest`, with the real tools.

use rustix::process::Signal;

use crate::common::{Case, Fleet, Outcome, in_time, procs, secs, wait_until};
use crate::guest::{FAST_BOOT, boot, fast, ssh, stop};
use crate::{cases, ensure, same};

pub fn cases() -> Vec<Case> {
    cases![a_guests_files_are_read_and_written, a_guest_that_is_paused_or_hangs_is_down_at_once]
}

fn a_guests_files_are_read_and_written() -> Outcome {
    let mut fleet = Fleet::mounted()?;
    fleet.create("foo", &fast("")?)?;
    boot(&fleet, "foo", FAST_BOOT)?;
    let home = ssh(&fleet, "foo", "pwd")?;
    fleet.env.push(("G".into(), format!("{}/foo/root{home}", fleet.mnt.display())));
    same!(fleet.ok("cat foo/root/etc/hostname")?, "lima-foo");
    same!(fleet.ok("stat -c %u $G")?, fleet.ok("id -u")?, "the guest's user is shown as the mount's");

    fleet.ok("head -c 20000003 /dev/urandom > ~/f && cp ~/f $G/f && cp $G/f ~/g && cmp ~/f ~/g")?;
    same!(ssh(&fleet, "foo", "sha256sum < f")?, fleet.ok("sha256sum < ~/f")?);
    fleet
        .ok("mkdir ~/t && cd ~/t && for n in $(seq 40); do echo $n > $n; done; rsync -a ~/t $G/ && diff -r ~/t $G/t")?;
    same!(fleet.ok("rsync -ain ~/t $G/")?, "");
    fleet.ok("cd $G/t && sed -i s/7/seven/ 7 && mv 7 8 && test \"$(cat 8)\" = seven && rm 1 && mkdir d && mv 2 d/")?;
    same!(ssh(&fleet, "foo", "cat t/8; cat t/d/2; ls t | wc -l")?, "seven\n2\n38");
    fleet.ok("printf end | dd of=$G/sparse bs=1M seek=3000 status=none")?;
    same!(
        ssh(&fleet, "foo", "stat -c %s sparse; test $(du -k sparse | cut -f1) -lt 1000 && echo holes")?,
        "3145728003\nholes"
    );
    same!(fleet.ok("tail -c 3 $G/sparse")?, "end");
    let denied = fleet.sh("cat foo/root/etc/shadow")?;
    ensure!(denied.err.contains("Permission denied"), "{denied:?}");
    ssh(&fleet, "foo", "ln -s /etc/hostname link")?;
    same!(fleet.ok("cat $G/link")?, "lima-foo", "the guest's file, not this machine's");
    fleet.ok("rm -r $G/t $G/sparse && df $G | grep -q /")?;
    same!(ssh(&fleet, "foo", "ls")?, "f\nlink");
    ssh(&fleet, "foo", "mkdir many && cd many && seq -f f%g 10000 | xargs touch")?;
    let listed = fleet.sh("ls -l $G/many | grep -c ' f[0-9]*$'")?;
    same!(listed.out.trim(), "10000");
    fleet.ok("echo stop > foo/state")?;
    fleet.wait_state("foo", "Stopped", secs(60))?;
    ensure!(fleet.sh("ls $G")?.err.contains("Host is down"), "a stopped guest has files");
    Ok(())
}

fn a_guest_that_is_paused_or_hangs_is_down_at_once() -> Outcome {
    let fleet = Fleet::mounted()?;
    fleet.create("foo", &fast("")?)?;
    boot(&fleet, "foo", FAST_BOOT)?;
    fleet.ok("ls foo/root/etc > /dev/null && echo pause > foo/state")?;
    fleet.wait_state("foo", "Paused", secs(10))?;
    let is_down_at_once = |line: &str| {
        in_time(line, secs(1), || {
            let ran = fleet.sh(line)?;
            ensure!(ran.err.contains("Host is down"), "{line}: {ran:?}");
            Ok(ran.took)
        })
    };
    is_down_at_once("ls foo/root/etc")?;
    fleet.ok("echo resume > foo/state")?;
    fleet.wait_state("foo", "Running", secs(10))?;
    wait_until("its files are back", secs(30), || fleet.sh("ls foo/root/etc").is_ok_and(|ran| ran.code == 0))?;

    // The VM's process stands still, and nobody has noticed yet.
    let vm = fleet.vm("foo").ok_or("no VM")?;
    procs::signal(vm, Signal::STOP);
    let first = fleet.sh("cat foo/root/etc/nothing")?;
    ensure!(first.code != 0 && first.took < secs(20), "{first:?}");
    for line in ["ls foo/root/etc", "cat foo/root/etc/passwd", "touch foo/root/tmp/x"] {
        is_down_at_once(line)?;
    }
    procs::signal(vm, Signal::CONT);
    wait_until("the guest answers again", secs(60), || fleet.sh("ls foo/root/etc").is_ok_and(|ran| ran.code == 0))?;
    stop(&fleet, "foo")
}
