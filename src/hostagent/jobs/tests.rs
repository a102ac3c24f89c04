//! Jobs in a pretend guest whose commands and files are this machine's own, in a home directory of its own.

use std::fs;

use tempfile::TempDir;
use tokio::task::JoinSet;

use super::*;
use crate::hostagent::ssh::tests::connect;
use crate::hostagent::ssh::tests::guest::{Guest as Machine, Manners, SFTP_SERVER};

const LONG: Duration = Duration::from_secs(90);

struct World {
    host: TempDir,
    inside: TempDir,
    _machine: Machine,
    line: Arc<Line>,
    tasks: JoinSet<()>,
}

/// `None`, said aloud, where this machine has no sftp-server.
async fn world() -> Option<World> {
    if !Path::new(SFTP_SERVER).exists() {
        eprintln!("SKIPPED: there is no {SFTP_SERVER}");
        return None;
    }
    let (host, inside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let local = Some(inside.path().to_owned());
    let machine = Machine::start(Manners { local, ..Manners::default() }).await;
    let login = machine.login().await;
    let line = Arc::new(Line::new(login.clone()));
    line.offer(connect(&login, LONG).await.unwrap());
    let mut world = World { host, inside, _machine: machine, line, tasks: JoinSet::new() };
    world.hostagent();
    Some(world)
}

fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

impl World {
    /// Begins to tend the jobs; whoever did so before is gone.
    fn hostagent(&mut self) {
        self.tasks = JoinSet::new();
        self.tasks.spawn(keep(Arc::clone(&self.line), self.host.path().to_owned()));
    }

    fn run(&self, job: &str, line: &str) {
        jobs::create(self.host.path(), &name(job)).unwrap();
        jobs::set_command(self.host.path(), &name(job), line.as_bytes()).unwrap();
        self.line.nudged.notify_one();
    }

    fn read(&self, job: &str, file: &str) -> String {
        jobs::small(self.host.path(), &name(job), file).unwrap().unwrap_or_default()
    }

    async fn until(&self, what: &str, mut holds: impl FnMut() -> bool) {
        let waiting = async {
            while !holds() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(LONG, waiting).await.unwrap_or_else(|_| panic!("never: {what}"));
    }

    async fn end_of(&self, job: &str) -> String {
        self.until("it ends", || !self.read(job, EXIT).is_empty()).await;
        self.read(job, EXIT)
    }
}

#[tokio::test]
async fn a_job_runs_and_all_it_printed_is_there_when_it_has_ended() {
    let Some(world) = world().await else { return };
    world.run("b", "seq 200000; echo oops >&2; pwd; exit 7");
    assert_eq!(world.end_of("b").await, "7");
    let printed = fs::read_to_string(jobs::dir(world.host.path()).join("b/stdout")).unwrap();
    assert_eq!(printed.lines().count(), 200_001);
    assert!(printed.ends_with(&format!("200000\n{}\n", world.inside.path().display())));
    assert_eq!(world.read("b", STDERR), "oops");
    assert!(world.read("b", PID).parse::<u32>().is_ok());
}

#[tokio::test]
async fn a_job_is_seen_while_it_runs_and_ended_by_a_signal() {
    let Some(world) = world().await else { return };
    world.run("b", "echo begun; sleep 600 & wait");
    world.until("it prints", || world.read("b", STDOUT) == "begun").await;
    assert_eq!(world.read("b", EXIT), "");
    jobs::add_signal(world.host.path(), &name("b"), 15).unwrap();
    world.line.nudged.notify_one();
    assert_eq!(world.end_of("b").await, "signal 15");
}

#[tokio::test]
async fn jobs_outlive_the_hostagent_and_are_taken_up_by_the_next() {
    let Some(mut world) = world().await else { return };
    world.run("b", "echo begun; until [ -e go ]; do sleep 0.05; done; echo done; exit 4");
    world.until("it prints", || world.read("b", STDOUT) == "begun").await;
    world.tasks.shutdown().await;
    fs::write(world.inside.path().join("go"), "").unwrap();
    world.hostagent();
    assert_eq!(world.end_of("b").await, "4");
    assert_eq!(world.read("b", STDOUT), "begun\ndone");
    world.line.current().unwrap().shut();
}

#[tokio::test]
async fn a_removed_job_is_ended_and_leaves_nothing() {
    let Some(mut world) = world().await else { return };
    world.run("b", "echo $$ > pid; sleep 600");
    world.until("it runs", || !world.read("b", PID).is_empty()).await;
    world.run("c", "true");
    world.end_of("c").await;
    let stat = format!("/proc/{}/stat", world.read("b", PID));
    jobs::remove(world.host.path(), &name("b")).unwrap();
    world.line.nudged.notify_one();
    world.until("it is ended", || fs::read_to_string(&stat).map_or(true, |stat| stat.contains(") Z"))).await;
    let inside = world.inside.path().join(script::JOBS);
    let left = || fs::read_dir(&inside).unwrap().flatten().filter(|entry| entry.path().is_dir()).count();
    world.until("its directory is gone", || left() == 1).await;
    world.until("it is forgotten", || jobs::gone(world.host.path()).unwrap().is_empty()).await;

    // One that is removed while nobody tends it is found by the next hostagent.
    world.tasks.shutdown().await;
    fs::remove_dir_all(jobs::dir(world.host.path()).join("c")).unwrap();
    world.run("d", "true");
    world.hostagent();
    world.end_of("d").await;
    world.until("what was left of c is gone", || left() == 1).await;
}

#[tokio::test]
async fn a_job_whose_guest_was_booted_again_is_lost() {
    let Some(mut world) = world().await else { return };
    world.run("b", "sleep 600");
    world.until("it runs", || !world.read("b", PID).is_empty()).await;
    let pid = world.read("b", PID);
    world.tasks.shutdown().await;
    let id = jobs::id(world.host.path(), &name("b")).unwrap();
    fs::write(world.inside.path().join(script::JOBS).join(id).join("boot"), "another\n").unwrap();
    world.hostagent();
    assert!(world.end_of("b").await.starts_with("lost"));
    let pid = rustix::process::Pid::from_raw(pid.parse().unwrap()).unwrap();
    let _ = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
}

#[tokio::test]
async fn a_job_of_which_a_guest_has_lost_everything_is_lost_and_not_run_again() {
    let Some(mut world) = world().await else { return };
    world.run("b", "echo ran >> again; exec sleep 600");
    world.until("it runs", || !world.read("b", PID).is_empty()).await;
    let again = world.inside.path().join("again");
    world.until("it has begun", || fs::read_to_string(&again).is_ok_and(|text| text == "ran\n")).await;
    let pid = world.read("b", PID);
    world.tasks.shutdown().await;
    let id = jobs::id(world.host.path(), &name("b")).unwrap();
    fs::remove_dir_all(world.inside.path().join(script::JOBS).join(id)).unwrap();
    world.hostagent();
    assert!(world.end_of("b").await.starts_with("lost"));
    assert_eq!(fs::read_to_string(again).unwrap(), "ran\n");
    let pid = rustix::process::Pid::from_raw(pid.parse().unwrap()).unwrap();
    let _ = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
}

#[tokio::test]
async fn what_a_guest_says_of_a_jobs_end_is_not_believed_blindly() {
    let Some(world) = world().await else { return };
    world.run("b", "sleep 600");
    world.until("it runs", || !world.read("b", PID).is_empty()).await;
    let id = jobs::id(world.host.path(), &name("b")).unwrap();
    let inside = world.inside.path().join(script::JOBS).join(&id);
    fs::write(inside.join("exit"), "0\nand a lie\n".repeat(100)).unwrap();
    assert!(world.end_of("b").await.starts_with("lost"));
    let pid = rustix::process::Pid::from_raw(world.read("b", PID).parse().unwrap()).unwrap();
    let _ = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
}

#[tokio::test]
async fn a_thousand_jobs_run_side_by_side() {
    let Some(world) = world().await else { return };
    for n in 0..jobs::JOBS_MAX {
        let job = name(&format!("j{n}"));
        jobs::create(world.host.path(), &job).unwrap();
        jobs::set_command(world.host.path(), &job, format!("echo {n}").as_bytes()).unwrap();
    }
    world.line.nudged.notify_one();
    let deadline = Instant::now() + Duration::from_secs(900);
    for n in 0..jobs::JOBS_MAX {
        while world.read(&format!("j{n}"), EXIT).is_empty() {
            assert!(Instant::now() < deadline, "j{n} has not ended");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(
            (world.read(&format!("j{n}"), EXIT), world.read(&format!("j{n}"), STDOUT)),
            ("0".into(), n.to_string())
        );
    }
}
