//! Directories of the host in a real guest.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::process::Signal;

use crate::common::{Case, Failed, Fleet, Outcome, procs, secs, wait_for, wait_until};
use crate::guest::{FAST_BOOT, FULL_BOOT, boot, boot_id, full_mounting, generic, mounting, ssh, stop, up};
use crate::{cases, ensure, same};

pub fn cases() -> Vec<Case> {
    let mut all = cases![
        nine_p_shows_directories_and_only_them,
        a_kernel_without_9p_makes_a_degraded_instance_that_names_the_mount,
        reverse_sshfs_shows_directories_and_only_them,
        reverse_sshfs_is_mounted_again_after_a_kill_and_an_sshd_that_starts_anew,
        reverse_sshfs_that_cannot_be_is_told_with_what_it_said,
        systemd_and_cloud_init_mount_at_each_boot,
    ];
    all.extend(cases![optional(lacks_virtiofsd): virtiofs_shows_directories_and_only_them]);
    all
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

/// Whoever watches in the guest hears of what the host does.
fn tells_of_changes(fleet: &Fleet) -> Outcome {
    // inotify_init and inotify_add_watch for IN_MODIFY and IN_ATTRIB; the name is behind the head of the event.
    let watcher = "$p = q(/mnt/a b); $f = syscall(253); syscall(254, $f, $p, 6); open F, q(<&=), $f; \
                   while (sysread F, $b, 4096) { syswrite STDOUT, unpack(q(x16 Z*), $b) }";
    ssh(fleet, "foo", &format!("(perl -e '{watcher}' </dev/null >/tmp/seen 2>&1 &)"))?;
    let file = fleet.root().join("a,b/watched");
    fs::write(&file, "")?;
    // The watches begin some time.
    wait_until("a word of the change", secs(60), || {
        let again = fs::File::options().write(true).open(&file).and_then(|file| file.set_modified(SystemTime::now()));
        again.is_ok() && ssh(fleet, "foo", "cat /tmp/seen").is_ok_and(|seen| seen.contains("watched"))
    })?;
    let is_whole = || {
        file.metadata()
            .and_then(|meta| meta.modified())
            .is_ok_and(|time| time.duration_since(UNIX_EPOCH).is_ok_and(|since| since.subsec_nanos() > 0))
    };
    wait_until("its time whole again", secs(20), is_whole)?;
    ssh(fleet, "foo", "pkill perl; rm '/mnt/a b/watched'").map(drop)
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
    fleet.create("foo", &generic(&format!("mountInotify: true\n{}", entries(&fleet)))?)?;
    boot(&fleet, "foo", FAST_BOOT)?;
    same!(ssh(&fleet, "foo", "awk '$3 == \"9p\" {print $2}' /proc/mounts | sort")?, "/mnt/a\\040b\n/mnt/ro");
    check(&fleet)?;
    tells_of_changes(&fleet)?;
    digest(&fleet)?;
    cannot_be_made_writable(&fleet, "9p", "trans=virtio,version=9p2000.L")?;
    stop(&fleet, "foo")
}

/// What is only read is so on the host's side: the guest's root mounts it otherwise, in vain.
fn cannot_be_made_writable(fleet: &Fleet, kind: &str, options: &str) -> Outcome {
    let again = format!(
        "tag=$(awk '$2 == \"/mnt/ro\" {{print $1}}' /proc/mounts); \
         sudo umount /mnt/ro && sudo mount -t {kind} -o rw,{options} $tag /mnt/ro && cat /mnt/ro/sub/file"
    );
    same!(ssh(fleet, "foo", &again)?, "from the host");
    let told = ssh(fleet, "foo", "sudo touch /mnt/ro/sub/new 2>&1 || true")?;
    ensure!(told.contains("cannot touch"), "{told}");
    ensure!(!fleet.root().join("ro/sub/new").exists(), "it was written to");
    Ok(())
}

const VIRTIOFSD: &str = "LIMAFS_TEST_VIRTIOFSD";

fn lacks_virtiofsd() -> Option<String> {
    let missing = std::env::var_os(VIRTIOFSD).is_none();
    missing.then(|| format!("{VIRTIOFSD} names no virtiofsd (the one in Rust, with options if need be)"))
}

/// Describes the program as a distribution's package would, in the home that the fleet has.
fn describe_virtiofsd(fleet: &Fleet) -> Outcome {
    let dir = fleet.root().join(".local/share/qemu/vhost-user");
    fs::create_dir_all(&dir)?;
    let binary = dir.join("virtiofsd");
    fs::write(&binary, format!("#!/bin/sh\nexec {} \"$@\"\n", std::env::var(VIRTIOFSD).unwrap_or_default()))?;
    fs::set_permissions(&binary, fs::Permissions::from_mode(0o755))?;
    let text = serde_json::json!({ "description": "virtiofsd", "type": "fs", "binary": binary }).to_string();
    Ok(fs::write(dir.join("50-virtiofsd.json"), text)?)
}

fn virtiofs_shows_directories_and_only_them() -> Outcome {
    let fleet = Fleet::unmounted()?;
    describe_virtiofsd(&fleet)?;
    fleet.mount()?;
    furnish(&fleet)?;
    fleet.create("foo", &generic(&format!("mountType: virtiofs\n{}", entries(&fleet)))?)?;
    boot(&fleet, "foo", FAST_BOOT)?;
    same!(ssh(&fleet, "foo", "awk '$3 == \"virtiofs\" {print $2}' /proc/mounts | sort")?, "/mnt/a\\040b\n/mnt/ro");
    check(&fleet)?;
    digest(&fleet)?;
    cannot_be_made_writable(&fleet, "virtiofs", "defaults")?;
    // The same hostagent has started another VM, and nothing of the first is left beside it.
    let first = boot_id(&fleet, "foo")?;
    fleet.ok("echo restart > foo/state")?;
    wait_until("the second boot", FAST_BOOT, || boot_id(&fleet, "foo").is_ok_and(|second| second != first))?;
    up(&fleet, "foo", FAST_BOOT)?;
    same!(ssh(&fleet, "foo", "cat /mnt/ro/sub/file")?, "from the host");
    let pid = wait_for("a hostagent to kill", secs(5), || fleet.hostagent("foo"))?;
    same!(fleet.ok(&format!("ps --ppid {pid} -o stat= | grep -c Z || true"))?, "0");
    procs::signal(pid, Signal::KILL);
    wait_until("another hostagent", secs(20), || fleet.hostagent("foo").is_some_and(|other| other != pid))?;
    same!(ssh(&fleet, "foo", "cat /mnt/ro/sub/file")?, "from the host");
    stop(&fleet, "foo")?;
    let left = || fleet.ok("pgrep -fc -- --socket-path=$H || true").is_ok_and(|count| count == "0");
    wait_until("no virtiofsd is left", secs(10), left)?;
    same!(fleet.ok("ls $H/foo | grep -c 'virtiofsd-.*sock' || true")?, "0");
    Ok(())
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
    fleet.wait_state("foo", "Stopped", secs(10))
}

fn sshfs(fleet: &Fleet) -> Result<String, Failed> {
    mounting(&format!("mountType: reverse-sshfs\nmountInotify: true\n{}", entries(fleet)))
}

/// The mount points over ssh, as the guest has them.
fn mounted(fleet: &Fleet) -> Result<String, Failed> {
    ssh(fleet, "foo", "awk '$3 == \"fuse.sshfs\" {print $2}' /proc/mounts | sort")
}

const BOTH: &str = "/mnt/a\\040b\n/mnt/ro";

fn reverse_sshfs_shows_directories_and_only_them() -> Outcome {
    let fleet = Fleet::mounted()?;
    furnish(&fleet)?;
    let root = fleet.root().display();
    let fresh = "sshfs: {cache: false, followSymlinks: true}";
    let third = format!("- {{location: {root}/ro, mountPoint: /mnt/fresh, {fresh}}}\n");
    fleet.create("foo", &format!("{}{third}", sshfs(&fleet)?))?;
    boot(&fleet, "foo", FAST_BOOT)?;
    same!(mounted(&fleet)?, BOTH.replace("/mnt/ro", "/mnt/fresh\n/mnt/ro"));
    check(&fleet)?;
    tells_of_changes(&fleet)?;
    follows_inside_alone(&fleet)?;
    digest(&fleet)?;
    // Bytes, whatever they mean.
    ssh(&fleet, "foo", "cd '/mnt/a b' && printf x > \"$(printf 'caf\\351')\"")?;
    let name = std::ffi::OsStr::from_bytes(b"caf\xe9");
    ensure!(fleet.root().join("a,b").join(name).exists(), "there is no such name");
    // The host's root serves, but nothing of the guest's may become its programs.
    ssh(&fleet, "foo", "cd '/mnt/a b' && cp /bin/true . && chmod 6755 true")?;
    same!(fleet.root().join("a,b/true").metadata()?.permissions().mode() & 0o7777, 0o755);
    let quiet = "sync; cd '/mnt/a b' && (echo last > last; sleep 1000 </dev/null >/dev/null 2>&1 &)";
    ssh(&fleet, "foo", quiet)?;
    stop(&fleet, "foo")?;
    same!(fs::read_to_string(fleet.root().join("a,b/last"))?, "last\n");
    Ok(())
}

/// Links that the host is asked to follow, and what it changes is seen soon.
fn follows_inside_alone(fleet: &Fleet) -> Outcome {
    same!(ssh(fleet, "foo", "stat -c %F /mnt/fresh/link && cat /mnt/fresh/link")?, "regular file\nfrom the host");
    same!(ssh(fleet, "foo", "cat /mnt/fresh/up /mnt/fresh/absolute 2>/dev/null || true")?, "");
    fs::write(fleet.root().join("ro/sub/file"), "from the host, later\n")?;
    let seen = || ssh(fleet, "foo", "cat /mnt/fresh/sub/file").is_ok_and(|text| text == "from the host, later");
    wait_until("a change of the host", secs(10), seen)
}

/// Waits until both are mounted and what is written there arrives.
fn works(fleet: &Fleet, word: &str) -> Outcome {
    wait_until(&format!("mounts {word}"), secs(60), || mounted(fleet).is_ok_and(|found| found == BOTH))?;
    let written = format!("echo {word} > '/mnt/a b/word' && cat /mnt/ro/sub/file");
    wait_until(word, secs(30), || ssh(fleet, "foo", &written).is_ok_and(|out| out == "from the host"))?;
    same!(fs::read_to_string(fleet.root().join("a,b/word"))?, format!("{word}\n"));
    Ok(())
}

fn reverse_sshfs_is_mounted_again_after_a_kill_and_an_sshd_that_starts_anew() -> Outcome {
    let fleet = Fleet::mounted()?;
    furnish(&fleet)?;
    fleet.create("foo", &sshfs(&fleet)?)?;
    boot(&fleet, "foo", FAST_BOOT)?;
    works(&fleet, "first")?;
    let pid = wait_for("a hostagent to kill", secs(5), || fleet.hostagent("foo"))?;
    procs::signal(pid, Signal::KILL);
    wait_until("another hostagent", secs(20), || fleet.hostagent("foo").is_some_and(|other| other != pid))?;
    works(&fleet, "after the kill")?;
    same!(fleet.state("foo"), "Running");
    // The session ends with its sshd, and the next one mounts.
    ssh(&fleet, "foo", "sudo pkill -f 'sshd: .*@notty' || true").ok();
    works(&fleet, "after a lost session")?;
    wait_until("Running", secs(30), || fleet.state("foo") == "Running")?;
    // Unmounted by somebody in the guest, it comes back by itself.
    ssh(&fleet, "foo", "fusermount3 -u /mnt/ro")?;
    works(&fleet, "after an unmount")?;
    wait_until("Running again", secs(30), || fleet.state("foo") == "Running")?;
    same!(fleet.read("foo/error"), "");
    stop(&fleet, "foo")
}

fn reverse_sshfs_that_cannot_be_is_told_with_what_it_said() -> Outcome {
    let fleet = Fleet::mounted()?;
    furnish(&fleet)?;
    let more = "provision:\n- mode: boot\n  script: mv /usr/bin/sshfs /usr/bin/sshfs.away\n\
                - {mode: dependency, script: 'true', skipDefaultDependencyResolution: true}\n";
    fleet.create("foo", &format!("{}{more}", sshfs(&fleet)?))?;
    fleet.ok("echo start > foo/state")?;
    fleet.wait_state("foo", "Degraded", FAST_BOOT)?;
    let root = fleet.root().display();
    let error = fleet.read("foo/error");
    ensure!(error.contains(&format!("mount /mnt/ro of {root}/ro: sshfs is not installed")), "{error}");
    // Once it is there, it is mounted without anybody's doing.
    ssh(&fleet, "foo", "sudo mv /usr/bin/sshfs.away /usr/bin/sshfs")?;
    fleet.wait_state("foo", "Running", secs(60))?;
    works(&fleet, "healed")?;
    fleet.ok("echo kill > foo/state")?;
    fleet.wait_state("foo", "Stopped", secs(10))
}

/// The same at the second boot, which cloud-init takes for no new instance, and another type at the third.
fn systemd_and_cloud_init_mount_at_each_boot() -> Outcome {
    let fleet = Fleet::mounted()?;
    furnish(&fleet)?;
    let document = |kind: &str| full_mounting(&format!("mountType: {kind}\n{}", entries(&fleet)));
    let types = "awk '$2 ~ \"^/mnt/(ro|a)\" {print $3}' /proc/mounts";
    for (round, (kind, shown)) in [("9p", "9p"), ("9p", "9p"), ("reverse-sshfs", "fuse.sshfs")].iter().enumerate() {
        match round {
            0 => fleet.create("foo", &document(kind)?)?,
            _ => fleet.create_over("foo", &document(kind)?)?,
        }
        boot(&fleet, "foo", FULL_BOOT)?;
        same!(fleet.read("foo/error"), "");
        same!(ssh(&fleet, "foo", types)?, format!("{shown}\n{shown}"));
        let written = format!("cat /mnt/ro/sub/file && echo {round} > '/mnt/a b/round'");
        same!(ssh(&fleet, "foo", &written)?, "from the host");
        stop(&fleet, "foo")?;
        same!(fs::read_to_string(fleet.root().join("a,b/round"))?.trim(), round.to_string());
    }
    Ok(())
}
