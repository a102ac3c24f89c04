//! `.guest/` on a real mount with the real tools: a pretend hostagent joins each connection with a real sftp-server, so
//! that "the guest" is this machine's own file tree. Guests that hang, lie and go away are made of the same.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::common::fleet::FAKE;
use crate::common::shell::Job;
use crate::common::{Case, Failed, Fleet, Outcome, in_time, procs, secs, wait_until};
use crate::{cases, ensure, fail, same};

const SFTP_SERVER: &str = "/usr/lib/openssh/sftp-server";

pub fn cases() -> Vec<Case> {
    cases![
        files_come_and_go_with_the_usual_tools,
        what_is_written_is_what_is_read_whatever_the_size,
        errors_have_their_errno,
        owners_modes_and_times_are_set,
        ten_thousand_files_are_listed_at_once,
        a_program_that_walks_is_listed_for_ahead_and_no_other,
        three_hundred_files_are_open_at_once,
        s23_no_symlink_leads_out_of_the_guest,
        a_guest_that_hangs_holds_up_nobody_for_long,
        whoever_waits_for_a_guest_can_be_killed,
        open_files_go_on_after_the_connection_was_lost,
        root_leads_there_and_stays_out_of_the_way,
        a_guest_that_is_down_is_said_to_be,
    ]
}

/// A hostagent of which the mount learns that `foo` runs, and which joins `/v1/sftp` with an sftp-server.
pub struct Pretend {
    shared: Arc<Shared>,
    socket: PathBuf,
}

#[derive(Default)]
struct Shared {
    /// Whether new connections to files are answered.
    hangs: Mutex<bool>,
    changed: Condvar,
    servers: Mutex<Vec<Child>>,
    /// What the servers are asked for goes there.
    log: PathBuf,
    followers: Mutex<Vec<UnixStream>>,
}

impl Pretend {
    fn start(fleet: &Fleet) -> Result<Self, Failed> {
        if !Path::new(SFTP_SERVER).exists() {
            fail!("there is no {SFTP_SERVER}: contrib/setup test installs it");
        }
        fleet.create("foo", FAKE)?;
        let dir = fleet.home.join("foo");
        let socket = dir.join("ha.sock");
        let listener = UnixListener::bind(&socket)?;
        let shared = Arc::new(Shared { log: fleet.root().join("asked"), ..Shared::default() });
        let serving = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let shared = Arc::clone(&serving);
                // Who hangs up is not answered.
                std::thread::spawn(move || drop(answer(stream, &shared)));
            }
        });
        fleet.wait_state("foo", "Running", secs(5))?;
        Ok(Self { shared, socket })
    }

    fn hang(&self, hangs: bool) {
        *self.shared.hangs.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = hangs;
        self.shared.changed.notify_all();
        let signal = if hangs { Signal::STOP } else { Signal::CONT };
        self.each(|server| procs::signal(server.id(), signal));
    }

    fn lose_connections(&self) {
        self.each(|server| drop(server.kill()));
    }

    fn each(&self, act: impl FnMut(&mut Child)) {
        self.shared.servers.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).iter_mut().for_each(act);
    }

    /// The hostagent and its VM go.
    fn stop(&self) {
        let _ = fs::remove_file(&self.socket);
        for stream in self.shared.followers.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).drain(..) {
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
    }
}

impl Drop for Pretend {
    fn drop(&mut self) {
        self.hang(false);
        self.each(|server| {
            let _ = server.kill();
            let _ = server.wait();
        });
    }
}

fn answer(mut stream: UnixStream, shared: &Shared) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.extend_from_slice(&byte);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    match head.split(' ').nth(1) {
        Some("/v1/status?follow=1") => {
            let pid = std::process::id();
            let status = format!(
                "{{\"name\":\"foo\",\"state\":\"Running\",\"goal\":\"Running\",\"since\":\"2026-01-01T00:00:00Z\",\
                 \"ready\":true,\"driver\":\"fake\",\"guest\":true,\"hostagentPid\":{pid}}}\n"
            );
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n")?;
            stream.write_all(status.as_bytes())?;
            shared.followers.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push(stream);
        }
        Some("/v1/sftp") => {
            let mut hangs = shared.hangs.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            while *hangs {
                hangs = shared.changed.wait(hangs).unwrap_or_else(|poisoned| poisoned.into_inner());
            }
            drop(hangs);
            stream.write_all(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: sftp\r\n\r\n")?;
            let (input, output) = (OwnedFd::from(stream.try_clone()?), OwnedFd::from(stream));
            let log = fs::File::options().create(true).append(true).open(&shared.log)?;
            let told =
                Command::new(SFTP_SERVER).args(["-e", "-l", "INFO"]).stdin(input).stdout(output).stderr(log).spawn();
            let server = told?;
            shared.servers.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push(server);
        }
        _ => stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")?,
    }
    Ok(())
}

/// A fleet with a running guest, and a directory in it: `$G` through the mount, `$D` beside it.
pub fn guest() -> Result<(Fleet, Pretend), Failed> {
    let mut fleet = Fleet::mounted()?;
    let inside = fleet.root().join("inside");
    fs::create_dir(&inside)?;
    fleet.env.push(("D".into(), inside.display().to_string()));
    fleet.env.push(("G".into(), format!("{}/foo/root{}", fleet.mnt.display(), inside.display())));
    let pretend = Pretend::start(&fleet)?;
    Ok((fleet, pretend))
}

fn files_come_and_go_with_the_usual_tools() -> Outcome {
    let (fleet, _guest) = guest()?;
    fleet.ok("cd $G && echo one > a && cat a && test \"$(cat $D/a)\" = one")?;
    same!(fleet.ok("cd $G && echo two >> a && cat a")?, "one\ntwo");
    fleet.ok("echo three >> $D/a")?;
    wait_until("what others append is seen", secs(10), || {
        fleet.ok("tail -n 1 $G/a").is_ok_and(|line| line == "three")
    })?;
    fleet.ok("cd $G && sed -i s/two/2/ a && grep -qx 2 $D/a")?;
    fleet
        .ok("cd $G && mkdir -p d/e/f && touch d/e/f/g && mv d/e h && test -e $D/h/f/g && test -e h/f/g && rm -r h d")?;
    same!(fleet.ok("ls -A $D")?, "a");
    fleet.ok("cd $G && printf new > b.tmp && mv b.tmp a && test \"$(cat $D/a)\" = new && test ! -e b.tmp")?;
    fleet.ok("cd $G && ln -s a l && test \"$(readlink $D/l)\" = a && test \"$(cat l)\" = new && ln a hard && test hard -ef a || stat -c %h $D/a | grep -qx 2")?;
    fleet.ok("cd $G && rm -f l hard && mkdir t && (cd /usr/share && tar c doc/bash) | tar x -C t && diff -r /usr/share/doc/bash $D/t/doc/bash")?;
    fleet.ok("cd $G && tar c t | tar x -C ~ && diff -r ~/t $D/t")?;
    fleet.ok("cp -r $G/t ~/copy && diff -r ~/copy $D/t && cp -r ~/copy $G/back && diff -r ~/copy $D/back")?;
    fleet.ok("rsync -a ~/copy/ $G/synced/ && diff -r ~/copy $D/synced && rsync -a --delete $G/synced/ ~/again/ && diff -r ~/copy ~/again")?;
    let idle = fleet.ok("rsync -ain ~/copy/ $G/synced/")?;
    same!(idle, "", "the second rsync has nothing to do");
    same!(fleet.ok("find $G/t -type f | wc -l")?, fleet.ok("find $D/t -type f | wc -l")?);
    fleet.ok("rm -r $G/t $G/back $G/synced && df $G >/dev/null")?;
    same!(fleet.ok("ls -A $D")?, "a");
    Ok(())
}

fn what_is_written_is_what_is_read_whatever_the_size() -> Outcome {
    let (fleet, _guest) = guest()?;
    for size in [0, 1, 4095, 131_072, 131_073, 1_048_576, 5_000_001] {
        fleet.ok(&format!("head -c {size} /dev/urandom > ~/f && cp ~/f $G/f && cmp ~/f $D/f && cmp ~/f $G/f && cp $G/f ~/g && cmp ~/f ~/g"))?;
    }
    fleet.ok("head -c 700001 /dev/urandom > ~/f")?;
    for block in [512, 10_240, 300_000] {
        fleet.ok(&format!(
            "dd if=~/f of=$G/h bs={block} status=none && cmp ~/f $D/h && dd if=$G/h bs={block} status=none | cmp - ~/f"
        ))?;
    }
    // Holes read as zeros, and a write far out makes one.
    fleet.ok("printf end | dd of=$G/s bs=1M seek=300 status=none && stat -c %s $G/s | grep -qx 314572803 && test $(du -k $D/s | cut -f1) -lt 1000")?;
    same!(fleet.ok("tail -c 5 $G/s | od -An -c | tr -s ' '")?, " \\0 \\0 e n d");
    fleet.ok(
        "truncate -s 5 $G/s && test $(stat -c %s $D/s) = 5 && truncate -s 100 $G/s && test $(stat -c %s $G/s) = 100",
    )?;
    // A read sees what was written a moment ago, through another handle and behind the mount's back.
    fleet.ok("python3 -c \"\nimport os\np=os.environ['G']+'/rw'\nw=open(p,'wb',0); r=open(p,'rb',0)\nfor n in range(300):\n    w.write(bytes([n%256])*3000)\n    assert r.read(3000)==bytes([n%256])*3000, n\nw.seek(0); w.write(b'first'); r.seek(0); assert r.read(5)==b'first'\nos.unlink(p); assert os.fstat(w.fileno()).st_size==900000; w.write(b'more'); os.ftruncate(w.fileno(),7); assert os.fstat(r.fileno()).st_size==7\n\"")?;
    fleet.ok("python3 -c \"\nimport os\np=os.environ['G']+'/ap'\na=open(p,'ab',0); b=open(os.environ['D']+'/ap','ab',0)\nfor n in range(50):\n    a.write(b'x'); b.write(b'y')\na.close(); assert sorted(open(p,'rb').read())==sorted(b'xy'*50)\n\"")?;
    same!(fleet.ok("cat $D/../../proc/self/status > /dev/null 2>&1; head -c 5 foo/root/proc/self/status")?, "Name:");
    Ok(())
}

fn errors_have_their_errno() -> Outcome {
    let (fleet, _guest) = guest()?;
    let inside = PathBuf::from(fleet.ok("echo $G")?);
    fs::create_dir_all(inside.join("full/of"))?;
    fs::write(inside.join("file"), "x")?;
    let errno = |result: std::io::Result<()>| result.err().and_then(|error| error.raw_os_error()).unwrap_or(0);
    for (got, wanted, what) in [
        (errno(fs::read(inside.join("none")).map(drop)), libc::ENOENT, "read of nothing"),
        (errno(fs::create_dir(inside.join("full"))), libc::EEXIST, "mkdir over a directory"),
        (errno(fs::remove_dir(inside.join("full"))), libc::ENOTEMPTY, "rmdir of a full directory"),
        (errno(fs::remove_dir(inside.join("none"))), libc::ENOENT, "rmdir of nothing"),
        (errno(fs::remove_file(inside.join("none"))), libc::ENOENT, "unlink of nothing"),
        (errno(fs::File::create_new(inside.join("file")).map(drop)), libc::EEXIST, "O_EXCL"),
        (errno(fs::rename(inside.join("file"), inside.join("full"))), libc::EISDIR, "rename over a directory"),
        (errno(fs::hard_link(inside.join("none"), inside.join("new"))), libc::ENOENT, "link to nothing"),
        (errno(std::os::unix::fs::symlink("x", inside.join("file"))), libc::EEXIST, "symlink over a file"),
        (errno(fs::rename(inside.join("file"), fleet.mnt.join("file"))), libc::EXDEV, "rename out of the guest"),
        (errno(fs::write(inside.join("x".repeat(256)), "")), libc::ENAMETOOLONG, "a name of 256 bytes"),
    ] {
        same!(got, wanted, "for {what}");
    }
    fs::create_dir(inside.join("other"))?;
    same!(errno(fs::rename(inside.join("other"), inside.join("full"))), libc::ENOTEMPTY);
    ensure!(fs::write(fleet.mnt.join("foo/root/proc/version"), "x").is_err(), "what cannot be written was");
    same!(errno(fs::write(fleet.mnt.join("foo/root/dev/full"), "x")), libc::EACCES, "devices are not the host's");
    // Names that are no text.
    fleet.ok("cd $D && touch \"$(printf 'caf\\351')\" && ls $G | grep -c caf && rm $G/caf* && ! ls $D | grep caf")?;
    Ok(())
}

fn owners_modes_and_times_are_set() -> Outcome {
    let (fleet, _guest) = guest()?;
    fleet.ok("cd $G && echo x > a && chmod 640 a && test $(stat -c %a $D/a) = 640 && test $(stat -c %a a) = 640")?;
    fleet.ok("cd $G && touch -d '2001-02-03 04:05:06' a && test $(stat -c %Y $D/a) = $(stat -c %Y a) && stat -c %y $D/a | grep -q '^2001-02-03 04:05:06'")?;
    fleet.ok(
        "cd $G && touch -m -d '2002-02-03' a && stat -c %x $D/a | grep -q ^2001 && stat -c %y $D/a | grep -q ^2002",
    )?;
    let me = fs::metadata(fleet.root())?.uid();
    same!(fleet.ok("stat -c %u $G/a")?, me.to_string());
    if me == 0 {
        fleet.ok("cd $G && chown 1234:4321 a && test $(stat -c %u:%g $D/a) = 1234:4321 && test $(stat -c %u:%g a) = 1234:4321")?;
        fleet.ok("cd $G && chgrp 0 a && test $(stat -c %u:%g $D/a) = 1234:0")?;
    }
    fleet.ok("cd $G && mkdir -m 750 m && test $(stat -c %a $D/m) = 750 && mkfifo $D/p && test -p p && rm p")?;
    same!(fleet.ok("stat -c %h $G/m")?, "1", "find counts no subdirectories by it");
    Ok(())
}

fn ten_thousand_files_are_listed_at_once() -> Outcome {
    let (fleet, _guest) = guest()?;
    fleet.ok(
        "cd $D && for d in 1 2 3 4 5 6 7 8 9 10; do mkdir $d && (cd $d && seq -f f%g 1 1000 | xargs touch); done",
    )?;
    in_time("ls -lR of 10,000 files", secs(60), || {
        let start = Instant::now();
        same!(fleet.ok("ls -lR $G | grep -c ' f[0-9]*$'")?, "10000");
        Ok(start.elapsed())
    })?;
    fleet.ok("cd $D && mkdir flat && cd flat && seq -f f%g 1 10000 | xargs touch")?;
    same!(fleet.ok("ls -l $G/flat | grep -c ' f[0-9]*$'")?, "10000");
    same!(fleet.ok("find $G -type f | wc -l")?, "20000");
    fleet.ok("rm -r $G/1 && test ! -e $D/1").map(drop)
}

/// The guest answers in the order in which it is asked: what was asked for ahead of a walk is in the log before the next.
fn a_program_that_walks_is_listed_for_ahead_and_no_other() -> Outcome {
    let (fleet, _guest) = guest()?;
    fleet.ok("cd $D && mkdir 1 2 3 4 && touch 1/a 2/b 3/c 4/d && ls $G && ls $G/1 && ls $G/4")?;
    same!(fleet.ok("grep -c 'opendir .*/inside/[23]\"' ~/asked || true")?, "0", "for programs that opened one each");
    // One program: bash lists for itself. `touch` is another, through this mount.
    let walk = "echo $G/* $G/1/* > /dev/null
        for n in $(seq 500); do grep -q 'opendir .*/inside/3\"' ~/asked && break; sleep 0.01; done
        touch $G/3/new; echo $G/2/* $G/3/*";
    let seen = fleet.ok(walk)?;
    ensure!(seen.ends_with("/3/new"), "what was changed here is seen at once: {seen}");
    same!(fleet.ok("grep -c 'opendir .*/inside/3\"' ~/asked")?, "2", "once ahead and once anew");
    same!(fleet.ok("find $G -type f | wc -l")?, "5");
    fleet.ok("cd $G && find . | sort > ~/here && cd $D && find . | sort | diff - ~/here").map(drop)
}

fn three_hundred_files_are_open_at_once() -> Outcome {
    let (fleet, _guest) = guest()?;
    fleet.ok("cd $D && for n in $(seq 300); do echo $n > $n; done")?;
    let dir = PathBuf::from(fleet.ok("echo $G")?);
    let mut open = Vec::new();
    for n in 1..=300 {
        open.push((n, fs::File::open(dir.join(n.to_string()))?));
    }
    for (n, mut file) in open {
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        same!(text, format!("{n}\n"));
    }
    Ok(())
}

fn s23_no_symlink_leads_out_of_the_guest() -> Outcome {
    let (fleet, _guest) = guest()?;
    fleet.ok("cd $D && ln -s /etc/hostname abs && ln -s ../../../../../../../../../../README.md out && ln -s . s && ln -s s/../../../../../../../../list sly && ln -s a rel")?;
    // The pretend guest's /etc is this machine's; that the way leads through the mount is what matters.
    let through = fleet.ok("realpath $G/abs")?;
    let inside = fleet.mnt.join(".guest/foo").display().to_string();
    ensure!(through.starts_with(&inside), "abs leads to {through}");
    for link in ["out", "sly"] {
        let to = fleet.ok(&format!("realpath -m $G/{link}"))?;
        ensure!(to.starts_with(&inside), "{link} leads to {to}");
        ensure!(fleet.sh(&format!("cat $G/{link}"))?.code != 0, "{link} can be read");
    }
    same!(fleet.ok("readlink $G/rel")?, "a");
    Ok(())
}

fn a_guest_that_hangs_holds_up_nobody_for_long() -> Outcome {
    let (fleet, guest) = guest()?;
    fleet.ok("cd $G && touch a && seq 100000 > big")?;
    let mut reader =
        fleet.start("exec 3< $G/big; read x <&3; echo begun; while sleep 0.05; do read -r x <&3 || exit 1; done")?;
    wait_until("it reads", secs(5), || reader.out().contains("begun"))?;
    guest.hang(true);
    // All at once: each ends within the deadline of what it asks for.
    let mut waiting: Vec<_> = Vec::new();
    for line in ["ls $G/none", "cat $G/none", "mkdir $G/x", "echo y > $G/y", "rm $G/none", "mv $G/a $G/z"] {
        waiting.push((line, fleet.start(&format!("exec 2>&1; {line}"))?));
    }
    for n in 0..50 {
        in_time("reading beside it", secs(1), || {
            let ran = fleet.sh("cat foo/state list; ls foo .guest")?;
            same!(ran.code, 0, "in round {n}: {ran:?}");
            Ok(ran.took)
        })?;
    }
    for (line, job) in &mut waiting {
        let ran = job.end(secs(9))?;
        ensure!(ran.code != 0, "{line}: {ran:?}");
    }
    in_time("what is known to hang", Duration::from_millis(500), || {
        let ran = fleet.sh("ls $G/later")?;
        ensure!(ran.err.contains("Host is down"), "{ran:?}");
        Ok(ran.took)
    })?;
    guest.hang(false);
    wait_until("the guest is back", secs(15), || {
        fleet.sh("test -e $G/a || test -e $G/z").is_ok_and(|ran| ran.code == 0)
    })
}

fn whoever_waits_for_a_guest_can_be_killed() -> Outcome {
    let (fleet, guest) = guest()?;
    fleet.ok("touch $G/a")?;
    guest.hang(true);
    for signal in [Signal::KILL, Signal::INT, Signal::TERM] {
        in_time(&format!("{signal:?}"), secs(2), || {
            let job = fleet.start("exec cat $G/none$RANDOM")?;
            killed_while_it_waits(job, signal)
        })?;
    }
    Ok(())
}

/// How long whoever waits for the guest takes to end.
fn killed_while_it_waits(mut job: Job, signal: Signal) -> Result<Duration, Failed> {
    let reads = |file: &str| fs::read_to_string(format!("/proc/{}/{file}", job.pid())).unwrap_or_default();
    wait_until("it waits", secs(3), || {
        let wchan = reads("wchan");
        wchan.contains("fuse") || wchan.contains("request") || reads("stat").contains(" D ")
    })?;
    let start = Instant::now();
    job.signal(signal);
    job.end(secs(10))?;
    Ok(start.elapsed())
}

fn open_files_go_on_after_the_connection_was_lost() -> Outcome {
    let (fleet, guest) = guest()?;
    fleet.ok("seq 1000 > $D/a")?;
    let dir = PathBuf::from(fleet.ok("echo $G")?);
    let mut reader = fs::File::open(dir.join("a"))?;
    let mut writer = fs::File::create(dir.join("b"))?;
    writer.write_all(b"one\n")?;
    guest.lose_connections();
    let mut text = String::new();
    let mut first = [0; 2];
    wait_until("it can be read again", secs(10), || reader.read_exact(&mut first).is_ok())?;
    reader.read_to_string(&mut text)?;
    ensure!(text.ends_with("\n1000\n"), "read {} bytes", text.len());
    writer.write_all(b"two\n")?;
    writer.sync_all()?;
    same!(fs::read_to_string(PathBuf::from(fleet.ok("echo $D")?).join("b"))?, "one\ntwo\n");
    Ok(())
}

fn root_leads_there_and_stays_out_of_the_way() -> Outcome {
    let (fleet, guest) = guest()?;
    same!(fleet.ok("readlink foo/root")?, "../.guest/foo");
    same!(fleet.ok("ls -A .guest")?, "");
    fleet.ok("echo precious > $D/a && test -d foo/root/ && test $(stat -c %i $G/a) = $(stat -c %i .guest/foo$D/a)")?;
    same!(fleet.ok("find . -xdev -path \"*$D*\"")?, "");
    ensure!(!fleet.ok("grep -r precious foo || true")?.contains("precious"), "grep -r walked into the guest");
    fleet.sh("rm -rf foo")?;
    fleet.ok("test -e $D/a")?;
    guest.stop();
    fleet.wait_state("foo", "Stopped", secs(5))?;
    same!(fleet.ok("ls -A .guest")?, "");
    fleet.ok("rm -r foo && test -e $D/a && test ! -e foo").map(drop)
}

fn a_guest_that_is_down_is_said_to_be() -> Outcome {
    let (fleet, guest) = guest()?;
    let inside = PathBuf::from(fleet.ok("touch $G/a; echo $G")?);
    let file = fs::File::open(inside.join("a"))?;
    guest.stop();
    fleet.wait_state("foo", "Stopped", secs(5))?;
    in_time("what is known to be down", Duration::from_millis(500), || {
        let start = Instant::now();
        let listed = fs::read_dir(fleet.mnt.join("foo/root/"));
        same!(listed.err().and_then(|error| error.raw_os_error()), Some(libc::EHOSTDOWN));
        same!((&file).read(&mut [0; 10]).err().and_then(|error| error.raw_os_error()), Some(libc::EHOSTDOWN));
        Ok(start.elapsed())
    })?;
    same!(fs::metadata(fleet.mnt.join(".guest/none")).err().and_then(|error| error.raw_os_error()), Some(libc::ENOENT));
    Ok(())
}
