//! Cases F: what POSIX says of files and directories, as far as it applies.

use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt;

use crate::common::fleet::{FAKE, LIMAFS};
use crate::common::{Case, Failed, Fleet, Outcome};
use crate::{cases, ensure, same};

pub fn cases() -> Vec<Case> {
    cases![
        f01_to_f06_exact_errnos,
        f07_what_cannot_be_made_is_refused,
        f08_lima_yaml_over_lima_yaml_works,
        f12_each_open_is_one_snapshot,
        f13_sizes_are_true_for_every_reader,
        f18_an_open_log_of_a_deleted_instance_reads_to_its_end,
        f19_a_directory_stream_stays_valid_while_entries_change,
        f24_a_name_made_again_is_new_at_once,
        inode_numbers_are_stable,
        link_counts_are_posix,
        a_changed_file_has_a_new_mtime,
        an_unchanged_file_keeps_its_mtime,
        modes_say_what_can_be_done,
        df_and_statfs_answer,
        the_mount_is_nosuid_and_nodev,
        s01_the_home_is_private,
    ]
}

fn with_instance() -> Result<Fleet, Failed> {
    let fleet = Fleet::mounted()?;
    fleet.create("foo", FAKE)?;
    Ok(fleet)
}

/// Runs a line of Python that is to raise an OSError; its errno.
fn errno(fleet: &Fleet, line: &str) -> Result<i32, Failed> {
    let script = format!(
        "import os, sys, stat\ntry:\n    {line}\n    print(0)\nexcept OSError as error:\n    print(error.errno)\n"
    );
    fs::write(fleet.root().join("errno.py"), script)?;
    Ok(fleet.ok("python3 ~/errno.py")?.parse()?)
}

fn f01_to_f06_exact_errnos() -> Outcome {
    let fleet = with_instance()?;
    let table = [
        ("os.stat('n' * 256)", libc::ENAMETOOLONG),
        ("os.stat('foo/' + 'n' * 256)", libc::ENAMETOOLONG),
        ("os.stat('foo/' * 1100 + 'state')", libc::ENAMETOOLONG),
        ("os.stat('foo/state/x')", libc::ENOTDIR),
        ("os.stat('nothing')", libc::ENOENT),
        ("os.open('nothing/state', os.O_RDONLY)", libc::ENOENT),
        ("os.open('foo', os.O_WRONLY)", libc::EISDIR),
        ("os.open('foo/state', os.O_WRONLY | os.O_CREAT | os.O_EXCL)", libc::EEXIST),
        ("os.rmdir('foo/state')", libc::ENOTDIR),
        ("os.mkdir('foo')", libc::EEXIST),
        ("os.mkdir('foo/state')", libc::EEXIST),
        ("os.unlink('foo')", libc::EISDIR),
        ("os.rename('nothing', 'bar')", libc::ENOENT),
        ("os.readlink('foo/state')", libc::EINVAL),
        ("os.listdir('foo/state')", libc::ENOTDIR),
    ];
    for (line, expected) in table {
        same!(errno(&fleet, line)?, expected, "for {line}");
    }
    Ok(())
}

fn f07_what_cannot_be_made_is_refused() -> Outcome {
    let fleet = with_instance()?;
    let refused = [libc::EPERM, libc::EOPNOTSUPP, libc::ENOSYS, libc::EACCES, libc::EINVAL];
    for line in [
        "os.link('foo/state', 'foo/hard')",
        "os.mkfifo('foo/fifo')",
        "os.mknod('foo/dev', stat.S_IFCHR | 0o600, os.makedev(1, 3))",
        "os.symlink('/etc', 'link')",
        "os.setxattr('foo/state', 'user.x', b'1')",
        "os.chmod('foo/state', 0o4777)",
        "os.chown('foo/state', 12345, 12345)",
    ] {
        let errno = errno(&fleet, line)?;
        ensure!(refused.contains(&errno), "{line} gave {errno}");
    }
    let mode = fs::metadata(fleet.mnt.join("foo/state"))?.mode();
    ensure!(mode & 0o7000 == 0, "state is {mode:o}");
    Ok(())
}

fn f08_lima_yaml_over_lima_yaml_works() -> Outcome {
    let fleet = with_instance()?;
    fleet.ok("cp foo/lima.yaml foo/lima.yaml.tmp && mv foo/lima.yaml.tmp foo/lima.yaml")?;
    same!(fleet.read("foo/lima.yaml"), FAKE);
    same!(errno(&fleet, "os.rename('foo/lima.yaml', 'foo/state')")?, libc::EPERM);
    same!(fleet.read("foo/lima.yaml"), FAKE);
    Ok(())
}

fn f12_each_open_is_one_snapshot() -> Outcome {
    let fleet = with_instance()?;
    let mut file = fs::File::open(fleet.mnt.join("foo/state"))?;
    let mut word = [0; 3];
    file.read_exact(&mut word)?;
    fleet.ok("echo start > foo/state; timeout 60 cat foo/wait/Running")?;
    let mut rest = String::new();
    let mut byte = [0];
    while file.read(&mut byte)? == 1 {
        rest.push(char::from(byte[0]));
    }
    same!(format!("{}{rest}", String::from_utf8_lossy(&word)), "Stopped\n");
    same!(fleet.state("foo"), "Running");
    Ok(())
}

fn f13_sizes_are_true_for_every_reader() -> Outcome {
    let fleet = with_instance()?;
    fleet.running("bar")?;
    let files = fleet.ok("find . -name wait -prune -o -type f ! -name events ! -name log ! -name '*.log' -print")?;
    ensure!(files.lines().count() > 15, "only {files}");
    for file in files.lines() {
        let script = format!(
            "f='{file}'; n=$(stat -c %s \"$f\"); a=$(cat \"$f\" | wc -c); b=$(tail -c +1 \"$f\" | wc -c); c=$(wc -c < \"$f\"); cp \"$f\" ~/copy; d=$(stat -c %s ~/copy); e=$(dd if=\"$f\" bs=1 status=none | wc -c); g=$(python3 -c 'import os,sys; a=os.open(sys.argv[1], os.O_RDONLY); b=os.open(sys.argv[2], os.O_WRONLY|os.O_CREAT|os.O_TRUNC); print(os.sendfile(b, a, 0, 1<<20))' \"$f\" ~/sent); echo $n $a $b $c $d $e $g"
        );
        let sizes = fleet.ok(&script)?;
        let mut numbers = sizes.split(' ');
        let first = numbers.next();
        ensure!(numbers.all(|number| Some(number) == first), "{file}: {sizes}");
    }
    fleet.ok("python3 -c 'import mmap; f=open(\"foo/lima.yaml\", \"rb\"); assert mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ)[:] == f.read()'")?;
    fleet.ok("grep -q Stopped foo/state && grep -c . foo/status > /dev/null")?;
    Ok(())
}

fn f18_an_open_log_of_a_deleted_instance_reads_to_its_end() -> Outcome {
    let fleet = Fleet::mounted()?;
    fleet.running("foo")?;
    fleet.ok("echo stop > foo/state; timeout 60 cat foo/wait/Stopped")?;
    let ran = fleet.sh("exec 3< foo/log; rmdir foo; timeout 60 cat <&3 > /dev/null; echo $?")?;
    ensure!(ran.out == "0\n" || ran.out == "1\n", "{ran:?}");
    Ok(())
}

fn f19_a_directory_stream_stays_valid_while_entries_change() -> Outcome {
    let fleet = Fleet::unmounted()?;
    for number in 0..400 {
        let dir = fleet.home.join(format!("s{number:03}"));
        fs::create_dir_all(&dir)?;
        fs::write(dir.join("lima.yaml"), FAKE)?;
    }
    fleet.mount()?;
    // Read slowly, by 5 entries or so, while others come and go.
    fs::write(
        fleet.root().join("slow.py"),
        r#"
import os, subprocess
names = []
with os.scandir('.') as entries:
    for number, entry in enumerate(entries):
        names.append(entry.name)
        if number % 40 == 0:
            os.mkdir('x%d' % number)
            if number: os.rmdir('x%d' % (number - 40))
stable = [n for n in names if n.startswith('s')]
assert len(stable) == 400, len(stable)
assert len(set(names)) == len(names), 'doubles'
"#,
    )?;
    fleet.ok("python3 ~/slow.py").map(drop)
}

fn f24_a_name_made_again_is_new_at_once() -> Outcome {
    let fleet = with_instance()?;
    fleet.ok("rmdir foo; mkdir foo")?;
    same!(fleet.state("foo"), "Uninitialized");
    same!(fleet.read("foo/lima.yaml"), "");
    Ok(())
}

fn inode_numbers_are_stable() -> Outcome {
    let fleet = with_instance()?;
    // The first start makes the key.
    let inodes = || fleet.ok("find . ! -name user.pub -printf '%p %i\\n' | sort");
    let before = inodes()?;
    // Of the kernel's caches the one of names alone: that of data is the whole machine's.
    fleet.ok(
        "echo start > foo/state; timeout 60 cat foo/wait/Running; echo 2 > /proc/sys/vm/drop_caches 2>/dev/null; true",
    )?;
    same!(inodes()?, before);
    let numbers: std::collections::HashSet<&str> = before.lines().filter_map(|line| line.rsplit(' ').next()).collect();
    same!(numbers.len(), before.lines().count(), "two files have the same inode number: {before}");
    Ok(())
}

fn link_counts_are_posix() -> Outcome {
    let fleet = with_instance()?;
    for dir in [".", "foo"] {
        let directories = fleet.ok(&format!("find {dir} -mindepth 1 -maxdepth 1 -type d | wc -l"))?.parse::<u64>()?;
        same!(fs::metadata(fleet.mnt.join(dir))?.nlink(), directories + 2, "for {dir}");
    }
    same!(fs::metadata(fleet.mnt.join("foo/state"))?.nlink(), 1);
    Ok(())
}

fn a_changed_file_has_a_new_mtime() -> Outcome {
    let fleet = with_instance()?;
    let mtime = |file: &str| fs::metadata(fleet.mnt.join(file)).map(|meta| (meta.mtime(), meta.mtime_nsec()));
    let before = (mtime("foo/state")?, mtime("foo/status")?, mtime("foo/lima.yaml")?);
    fleet.ok("touch ~/then; echo start > foo/state; timeout 60 cat foo/wait/Running")?;
    ensure!(mtime("foo/state")? > before.0, "state keeps its mtime");
    ensure!(mtime("foo/status")? > before.1, "status keeps its mtime");
    same!(mtime("foo/lima.yaml")?, before.2);
    same!(fleet.ok("find foo -name state -newer ~/then")?, "foo/state");
    Ok(())
}

fn an_unchanged_file_keeps_its_mtime() -> Outcome {
    let fleet = with_instance()?;
    let list = || fleet.ok("find foo -type f -printf '%p %T@\\n' | sort");
    let before = list()?;
    fleet.ok("cat foo/state foo/status foo/lima.yaml foo/effective.yaml > /dev/null; ls -lR > /dev/null")?;
    fleet.create("bar", FAKE)?;
    same!(list()?, before);
    Ok(())
}

fn modes_say_what_can_be_done() -> Outcome {
    let fleet = with_instance()?;
    for (file, writable) in [
        ("foo/state", true),
        ("foo/lima.yaml", true),
        ("foo/protected", true),
        ("foo/status", false),
        ("foo/status.json", false),
        ("foo/ports", false),
        ("foo/error", false),
        ("foo/effective.yaml", false),
        ("foo/ssh.config", false),
        ("foo/events", false),
        ("foo/log", false),
        ("README.md", false),
        ("list", false),
    ] {
        let mode = fs::metadata(fleet.mnt.join(file)).map_err(|error| format!("{file}: {error}"))?.mode();
        same!(mode & 0o200 != 0, writable, "{file} has mode {mode:o}");
        same!(mode & 0o177, 0, "{file} has mode {mode:o}");
    }
    same!(fs::metadata(fleet.mnt.join("foo"))?.mode() & 0o7777, 0o700);
    Ok(())
}

fn df_and_statfs_answer() -> Outcome {
    let fleet = with_instance()?;
    fleet.ok("df . > /dev/null; df -i . > /dev/null; stat -f . > /dev/null; du -s . > /dev/null")?;
    ensure!(fleet.ok("findmnt -no FSTYPE -T .")?.starts_with("fuse"), "findmnt: {}", fleet.ok("findmnt -T .")?);
    Ok(())
}

fn the_mount_is_nosuid_and_nodev() -> Outcome {
    let fleet = with_instance()?;
    let options = fleet.ok("findmnt -no OPTIONS -T .")?;
    for option in ["nosuid", "nodev"] {
        ensure!(options.split(',').any(|word| word == option), "no {option} in {options}");
    }
    Ok(())
}

fn s01_the_home_is_private() -> Outcome {
    let fleet = Fleet::unmounted()?;
    let ran = fleet.sh(&format!("umask 000; cd ~ && {LIMAFS} mount $M"))?;
    ensure!(ran.code == 0, "{ran:?}");
    fleet.running("foo")?;
    same!(fleet.ok("stat -c %a $H $H/foo")?, "700\n700");
    same!(fleet.ok("find $H ! -type l -perm /022 -print")?, "");
    let sockets = fleet.ok("find $H -type s -perm /077 -print")?;
    same!(sockets, "");
    let secrets = fleet.ok("find $H -name user -perm /077 -print")?;
    same!(secrets, "");
    Ok(())
}
