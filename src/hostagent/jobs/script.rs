//! What is said to the guest's shell, on its standard input: nothing of it is in anybody's argument list. Pure.
//!
//! In the guest each job has a directory `~/.limafs/jobs/ID`: its command line, its streams, the ids of its processes
//! and its end. It survives the hostagent, the mount and, but for what ran, a boot.

/// Where jobs are, below the user's home.
pub const JOBS: &str = ".limafs/jobs";

/// Keeps one job: runs its command line in the user's login shell and a session of its own, and notes how it ended. It is
/// waited for, not put in the background: what a shell without job control starts there ignores SIGINT and SIGQUIT, for
/// good.
const KEEPER: &str = r#"d="$1"
cd "$HOME" || exit 1
read -r boot < /proc/sys/kernel/random/boot_id
echo "$boot" > "$d/boot"
echo $$ > "$d/keeper"
trap : INT QUIT
setsid sh -c 'echo $$ > "$1/pid.new" && mv "$1/pid.new" "$1/pid"
exec "${SHELL:-/bin/sh}" -l "$1/cmd"' sh "$d" < /dev/null > "$d/stdout" 2> "$d/stderr"
echo $? > "$d/exit.new"
mv "$d/exit.new" "$d/exit"
"#;

/// Leaves a keeper behind: beside it in a pipeline, for the same reason, is the end of the shell that would wait for both.
const LEAVE: &str = r#"exec 2> /dev/null
setsid sh "$1" "$2" < /dev/null > /dev/null | kill -9 $$
"#;

const HEAD: &str = "umask 077\njobs=\"$HOME/.limafs/jobs\"\n";

/// Starts jobs that were not started yet; prints the ids of those that cannot be.
pub fn start(jobs: &[(String, String)]) -> String {
    let mut text = format!(
        "{HEAD}mkdir -p \"$jobs\"\ncat > \"$jobs/keep.$$\" <<'KEEPER-END'\n{KEEPER}KEEPER-END\n\
         mv \"$jobs/keep.$$\" \"$jobs/keep\"\nleave='{LEAVE}'\n"
    );
    for (id, line) in jobs {
        let line = line.trim_end_matches('\n');
        text.push_str(&format!(
            "d=\"$jobs/{id}\"\nif [ ! -d \"$d\" ]; then\nrm -rf \"$d.new\"\nmkdir \"$d.new\" && \
             cat > \"$d.new/cmd\" <<'{id}-END' && mv \"$d.new\" \"$d\" && \
             sh -c \"$leave\" sh \"$jobs/keep\" \"$d\"\n{line}\n{id}-END\nfi\n\
             [ -d \"$d\" ] || echo {id}\n"
        ));
    }
    text
}

/// Sends signals to the process group of each job that still runs.
pub fn signal(signals: &[(String, u8)]) -> String {
    let mut text = HEAD.to_owned();
    for (id, signal) in signals {
        text.push_str(&format!(
            "d=\"$jobs/{id}\"\n[ -e \"$d/exit\" ] || {{ read -r p < \"$d/pid\" && kill -{signal} \"-$p\"; }}\n"
        ));
    }
    text
}

/// Ends jobs and removes all there is of them.
pub fn remove(ids: &[String]) -> String {
    let mut text = HEAD.to_owned();
    for id in ids {
        text.push_str(&format!(
            "d=\"$jobs/{id}\"\nif [ ! -e \"$d/exit\" ] && read -r p < \"$d/pid\"; then kill -9 \"-$p\"; fi\n\
             rm -rf \"$d\" \"$d.new\"\n"
        ));
    }
    text
}

/// Prints the ids of jobs that have not ended and have nobody who would note it: the guest was booted again meanwhile,
/// or their keeper was killed.
pub fn lost(ids: &[String]) -> String {
    let mut text = format!("{HEAD}read -r boot < /proc/sys/kernel/random/boot_id\n");
    text.push_str(
        "check() {\nd=\"$jobs/$1\"\nb=\nk=\n[ -e \"$d/exit\" ] && return\nread -r b < \"$d/boot\"\nread -r k < \
         \"$d/keeper\"\n[ -n \"$k\" ] && [ \"$b\" = \"$boot\" ] && [ -d \"/proc/$k\" ] && return\n[ -e \"$d/exit\" ] || \
         echo \"$1\"\n}\n",
    );
    for id in ids {
        text.push_str(&format!("check {id}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::path::Path;
    use std::process::{Command, Stdio};
    use std::time::{Duration, Instant};

    use super::*;

    fn sh(home: &Path, script: &str) -> String {
        let mut shell = Command::new("sh");
        shell.arg("-s").env("HOME", home).env("SHELL", "/bin/sh").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut shell = shell.stderr(Stdio::null()).spawn().unwrap();
        shell.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
        String::from_utf8(shell.wait_with_output().unwrap().stdout).unwrap()
    }

    /// The text of a file of a job, once there is one.
    fn read(home: &Path, id: &str, file: &str) -> String {
        let path = home.join(JOBS).join(id).join(file);
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            match std::fs::read_to_string(&path) {
                Ok(text) if !text.is_empty() => return text,
                _ if Instant::now() > deadline => panic!("no {}", path.display()),
                _ => std::thread::yield_now(),
            }
        }
    }

    fn job(id: &str, line: &str) -> Vec<(String, String)> {
        vec![(id.into(), line.into())]
    }

    #[test]
    fn a_job_runs_once_and_leaves_its_streams_and_its_end() {
        let home = tempfile::tempdir().unwrap();
        let home = home.path();
        let line = "echo \"it's\" $((1 + 1)) >> $HOME/ran; cat $HOME/ran\necho oops >&2\nexit 3\n";
        assert_eq!(sh(home, &start(&job("a-1", line))), "");
        assert_eq!(read(home, "a-1", "exit"), "3\n");
        assert_eq!(sh(home, &start(&job("a-1", line))), "");
        assert_eq!(read(home, "a-1", "stdout"), "it's 2\n");
        assert_eq!(read(home, "a-1", "stderr"), "oops\n");
        assert_eq!(std::fs::read_to_string(home.join("ran")).unwrap(), "it's 2\n");
        assert_eq!(sh(home, &lost(&["a-1".into()])), "");
    }

    #[test]
    fn signals_reach_the_whole_group_and_nobody_once_it_has_ended() {
        let home = tempfile::tempdir().unwrap();
        let home = home.path();
        sh(home, &start(&job("b-1", "sleep 600 & echo $! > $HOME/child; sleep 600")));
        let deadline = Instant::now() + Duration::from_secs(60);
        while std::fs::read_to_string(home.join("child")).map_or(true, |text| text.is_empty()) {
            assert!(Instant::now() < deadline);
            std::thread::yield_now();
        }
        assert_eq!(sh(home, &lost(&["b-1".into()])), "");
        read(home, "b-1", "pid");
        sh(home, &signal(&[("b-1".into(), 15)]));
        assert_eq!(read(home, "b-1", "exit"), "143\n");
        let child = std::fs::read_to_string(home.join("child")).unwrap();
        let stat = Path::new("/proc").join(child.trim()).join("stat");
        while std::fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z")) {
            assert!(Instant::now() < deadline);
        }
        // As in the foreground, where a shell leaves nothing ignored.
        for (id, number) in [("i-1", 2), ("q-1", 3)] {
            sh(home, &start(&job(id, "exec sleep 600")));
            read(home, id, "pid");
            sh(home, &signal(&[(id.into(), number)]));
            assert_eq!(read(home, id, "exit"), format!("{}\n", 128 + number));
        }
        // Its pid may be somebody else's by now.
        std::fs::write(home.join(JOBS).join("b-1/pid"), format!("{}\n", std::process::id())).unwrap();
        sh(home, &signal(&[("b-1".into(), 9)]));
        sh(home, &remove(&["b-1".into()]));
        assert!(!home.join(JOBS).join("b-1").exists());
    }

    #[test]
    fn a_removed_job_is_ended_and_one_without_a_keeper_is_lost() {
        let home = tempfile::tempdir().unwrap();
        let home = home.path();
        sh(home, &start(&[job("c-1", "sleep 600"), job("d-1", "sleep 600")].concat()));
        let pid = read(home, "c-1", "pid");
        sh(home, &remove(&["c-1".into()]));
        let stat = Path::new("/proc").join(pid.trim()).join("stat");
        let deadline = Instant::now() + Duration::from_secs(60);
        while std::fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z")) {
            assert!(Instant::now() < deadline);
        }
        read(home, "d-1", "pid");
        std::fs::write(home.join(JOBS).join("d-1/boot"), "another\n").unwrap();
        assert_eq!(sh(home, &lost(&["d-1".into()])), "d-1\n");
        sh(home, &remove(&["d-1".into()]));
    }
}
