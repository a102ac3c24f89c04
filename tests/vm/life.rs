//! What of a real guest lasts: snapshots, suspend and start, the display, and processors and memory added while it runs.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::process::Signal;

use crate::common::{Case, Failed, Fleet, Outcome, procs, secs, wait_for, wait_until};
use crate::guest::{FAST_BOOT, STOP, boot, boot_id, fast, generic, ssh, stop, up};
use crate::{cases, ensure, same};

pub fn cases() -> Vec<Case> {
    cases![
        e10_a_guest_goes_back_goes_on_and_grows,
        a_large_guest_gets_memory_and_one_with_9p_is_not_suspended,
        x5_a_suspend_survives_the_death_of_its_hostagent,
        x5_a_snapshot_survives_the_death_of_its_hostagent,
    ]
}

/// For a suspend, a start from there, or a restore, on a machine that does other things, too.
const SOON: Duration = secs(90);

/// Answers each connection with what it said. Ends when the guest does.
const ECHO: &str = "use IO::Socket::INET; $SIG{CHLD} = \"IGNORE\"; \
    $s = IO::Socket::INET->new(LocalAddr => \"127.0.0.1:PORT\", Listen => 8, ReuseAddr => 1) or die; \
    while ($c = $s->accept) { if (fork) { close $c; next } local $/; $d = <$c>; print $c $d; exit }";

fn ask(port: u16) -> Result<String, Failed> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(secs(20)))?;
    stream.write_all(b"hello")?;
    stream.shutdown(Shutdown::Write)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

fn answers(port: u16) -> Outcome {
    wait_until("the forward answers", SOON, || ask(port).is_ok_and(|answer| answer == "hello"))
}

fn count(fleet: &Fleet) -> Result<u64, Failed> {
    // A moment of a shell that replaces the file is no count.
    wait_for("a count", secs(20), || ssh(fleet, "foo", "cat /tmp/count").ok()?.trim().parse().ok())
}

fn counts_on(fleet: &Fleet, from: u64) -> Outcome {
    wait_until("the counter goes on", SOON, || count(fleet).is_ok_and(|now| now > from))
}

/// The guest's clock is within 2 s of this one's.
fn is_on_time(fleet: &Fleet) -> bool {
    let here = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |age| age.as_secs());
    let before = here();
    let there = ssh(fleet, "foo", "date +%s").ok().and_then(|text| text.trim().parse::<u64>().ok());
    there.is_some_and(|there| there + 2 >= before && there <= here() + 2)
}

/// Width and height of a PNG file.
fn size_of_png(bytes: &[u8]) -> Option<(u32, u32)> {
    let number = |at: usize| Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    bytes.starts_with(b"\x89PNG\r\n\x1a\n").then_some(())?;
    Some((number(16)?, number(20)?))
}

fn e10_a_guest_goes_back_goes_on_and_grows() -> Outcome {
    let mut fleet = Fleet::unmounted()?;
    fleet.env.push(("QEMU_SYSTEM_X86_64".into(), "qemu-system-x86_64 -device VGA".into()));
    fleet.mount()?;
    fleet.create("foo", &fast("")?)?;
    boot(&fleet, "foo", FAST_BOOT)?;
    let id = boot_id(&fleet, "foo")?;
    let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
    let echo = ECHO.replace("PORT", &port.to_string());
    ssh(&fleet, "foo", &format!("setsid perl -e '{echo}' </dev/null >/dev/null 2>&1 &"))?;
    let counter = "i=0; while :; do i=$((i+1)); echo $i > /tmp/count; sleep 0.1; done";
    ssh(&fleet, "foo", &format!("setsid sh -c '{counter}' </dev/null >/dev/null 2>&1 &"))?;
    answers(port)?;
    let shown = std::fs::read(fleet.mnt.join("foo/screen.png"))?;
    same!(size_of_png(&shown), Some((720, 400)));
    wait_until("the guest's memory", secs(30), || {
        fleet.status("foo", "memory_available").is_some_and(|size| size.ends_with("MiB"))
    })?;
    goes_back(&fleet, &id, port)?;
    goes_on(&fleet, &id, port)?;
    grows(&fleet)?;
    stop(&fleet, "foo")?;
    stands_still(&fleet)
}

fn goes_back(fleet: &Fleet, id: &str, port: u16) -> Outcome {
    ssh(fleet, "foo", "echo foo > ~/file; sync")?;
    fleet.ok("mkdir foo/snapshots/s1")?;
    same!(fleet.sh_within("timeout 60 cat foo/wait/snapshot:s1", secs(65))?.text()?, "s1");
    ensure!(fleet.read("foo/snapshots/s1/info").contains("memory: yes"), "{}", fleet.read("foo/snapshots/s1/info"));
    same!(fleet.state("foo"), "Running");
    let counted = count(fleet)?;
    counts_on(fleet, counted + 20)?;
    ssh(fleet, "foo", "echo bar > ~/file; sync")?;
    fleet.ok("echo restore s1 > foo/state")?;
    up(fleet, "foo", SOON)?;
    same!(ssh(fleet, "foo", "cat ~/file")?, "foo");
    same!(boot_id(fleet, "foo")?, id);
    counts_on(fleet, count(fleet)?)?;
    answers(port)?;
    wait_until("the guest's clock is right", SOON, || is_on_time(fleet))
}

fn goes_on(fleet: &Fleet, id: &str, port: u16) -> Outcome {
    let vm = fleet.vm("foo").ok_or("no VM")?;
    let counted = count(fleet)?;
    fleet.ok("echo suspend > foo/state")?;
    fleet.wait_state("foo", "Suspended", SOON)?;
    ensure!(!procs::is_alive(vm), "the VM is still there");
    ensure!(ask(port).is_err(), "the forward is still there");
    fleet.ok("echo 3 > foo/cpus")?;
    same!(fleet.status("foo", "pending"), Some("[cpus]".to_owned()));
    fleet.ok("echo 1 > foo/cpus")?;
    fleet.ok("echo start > foo/state")?;
    up(fleet, "foo", SOON)?;
    same!(boot_id(fleet, "foo")?, id);
    counts_on(fleet, counted)?;
    answers(port)?;
    wait_until("the guest's clock is right", SOON, || is_on_time(fleet))
}

fn grows(fleet: &Fleet) -> Outcome {
    same!(ssh(fleet, "foo", "nproc")?, "1");
    fleet.ok("echo 2 > foo/cpus")?;
    same!(fleet.read("foo/cpus"), "2\n");
    same!(fleet.status("foo", "pending"), None);
    wait_until("the guest uses both", SOON, || ssh(fleet, "foo", "nproc").is_ok_and(|count| count == "2"))?;
    // Memory that is saved of a machine of two is gone on with by one of two.
    fleet.ok("echo suspend > foo/state")?;
    fleet.wait_state("foo", "Suspended", SOON)?;
    fleet.ok("echo start > foo/state")?;
    up(fleet, "foo", SOON)?;
    same!(ssh(fleet, "foo", "nproc")?, "2");
    // The memory of one processor does not fit a machine of two.
    fleet.ok("echo restore s1 > foo/state")?;
    wait_until("the reason", secs(20), || fleet.read("foo/error").contains("is of another machine"))?;
    wait_until("nothing has changed", secs(20), || fleet.state("foo") == "Running")?;
    same!(ssh(fleet, "foo", "nproc")?, "2");
    Ok(())
}

/// Of a stopped instance the disk goes back.
fn stands_still(fleet: &Fleet) -> Outcome {
    fleet.ok("mkdir foo/snapshots/s2; echo restore s1 > foo/state")?;
    let check = "qemu-img check -q $H/foo/disk";
    wait_until("the disk is whole and free", secs(20), || fleet.sh(check).is_ok_and(|ran| ran.code == 0))?;
    boot(fleet, "foo", FAST_BOOT)?;
    same!(ssh(fleet, "foo", "cat ~/file")?, "foo");
    fleet.ok("rmdir foo/snapshots/s1")?;
    same!(fleet.ok("ls foo/snapshots")?, "s2");
    fleet.ok("echo kill > foo/state")?;
    fleet.wait_state("foo", "Stopped", STOP)
}

fn a_large_guest_gets_memory_and_one_with_9p_is_not_suspended() -> Outcome {
    let fleet = Fleet::mounted()?;
    let mounts = format!("mountType: 9p\nmounts: [{{location: {}}}]\n", fleet.root().display());
    fleet.create("foo", &generic(&mounts)?.replace("memory: 256MiB", "memory: 3GiB"))?;
    boot(&fleet, "foo", FAST_BOOT)?;
    let total =
        || -> Option<u64> { ssh(&fleet, "foo", "awk '/MemTotal/ {print $2}' /proc/meminfo").ok()?.trim().parse().ok() };
    let before = total().ok_or("no MemTotal")?;
    fleet.ok("echo 4GiB > foo/memory")?;
    same!(fleet.read("foo/memory"), "4GiB\n");
    same!(fleet.status("foo", "pending"), None);
    wait_until("the guest has it", SOON, || total().is_some_and(|now| now > before + 1_000_000))?;
    fleet.ok("echo 4160MiB > foo/memory")?;
    same!(fleet.status("foo", "pending"), Some("[memory]".to_owned()), "that is no multiple of what can be added");

    let vm = fleet.vm("foo");
    fleet.ok("echo suspend > foo/state")?;
    wait_until("the reason", secs(20), || fleet.read("foo/error").contains("mounted in the guest by 9p"))?;
    wait_until("nothing has changed", secs(20), || fleet.state("foo") == "Running")?;
    same!(fleet.vm("foo"), vm);
    let ran = fleet.sh("mkdir foo/snapshots/s1")?;
    ensure!(
        ran.code != 0
            && ran.err.contains("not supported")
            && fleet.read("foo/error").contains("mounted in the guest by 9p"),
        "{ran:?}"
    );
    let ran = fleet.sh("cat foo/screen.png")?;
    ensure!(ran.code != 0 && ran.err.contains("not supported"), "{ran:?}");
    fleet.ok("echo kill > foo/state")?;
    fleet.wait_state("foo", "Stopped", STOP)
}

fn x5_a_suspend_survives_the_death_of_its_hostagent() -> Outcome {
    let fleet = Fleet::mounted()?;
    fleet.create("foo", &fast("")?)?;
    boot(&fleet, "foo", FAST_BOOT)?;
    let id = boot_id(&fleet, "foo")?;
    for moment in [0, 20, 60, 150, 400] {
        let agent = wait_for("a hostagent", secs(20), || fleet.hostagent("foo"))?;
        // The moment is the test's subject: it falls before, into and after the saving.
        fleet.ok(&format!("echo suspend > foo/state; sleep 0.{moment:03}"))?;
        procs::signal(agent, Signal::KILL);
        fleet.wait_state("foo", "Suspended", SOON).map_err(|error| format!("killed after {moment} ms: {error:?}"))?;
        fleet.ok("echo start > foo/state")?;
        up(&fleet, "foo", SOON)?;
        same!(boot_id(&fleet, "foo")?, id, "killed after {moment} ms");
    }
    // A QEMU that is killed may leave a cluster that nobody uses.
    stop(&fleet, "foo")?;
    same!(fleet.ok("qemu-img check $H/foo/disk | head -1")?, "No errors were found on the image.");
    Ok(())
}

/// QEMU takes it to its end by itself, or has not begun.
fn x5_a_snapshot_survives_the_death_of_its_hostagent() -> Outcome {
    let fleet = Fleet::mounted()?;
    fleet.create("foo", &fast("")?)?;
    boot(&fleet, "foo", FAST_BOOT)?;
    let id = boot_id(&fleet, "foo")?;
    for moment in [10, 60, 150, 400] {
        let agent = wait_for("a hostagent", secs(20), || fleet.hostagent("foo"))?;
        let mut making = fleet.start(&format!("mkdir foo/snapshots/at-{moment}-ms"))?;
        // The moment is the test's subject: it falls before, into and after the saving.
        fleet.ok(&format!("sleep 0.{moment:03}"))?;
        procs::signal(agent, Signal::KILL);
        making.end(secs(20))?;
        wait_until("another hostagent", secs(30), || fleet.hostagent("foo").is_some_and(|pid| pid != agent))?;
        fleet.wait_state("foo", "Running", SOON)?;
        same!(boot_id(&fleet, "foo")?, id, "killed after {moment} ms");
    }
    fleet.ok("mkdir foo/snapshots/last")?;
    same!(fleet.sh_within("timeout 60 cat foo/wait/snapshot:last", secs(65))?.text()?, "last");
    let shown = fleet.ok("ls foo/snapshots")?;
    // A QEMU that is killed may leave a cluster that nobody uses.
    stop(&fleet, "foo")?;
    same!(fleet.ok("qemu-img info --output=json $H/foo/disk | jq -r '.snapshots[].name' | sort")?, shown);
    same!(fleet.ok("qemu-img check $H/foo/disk | head -1")?, "No errors were found on the image.");
    Ok(())
}
