//! What is asked of the guest, and what is told of its answers.

use std::process::{Command, Stdio};

use std::sync::Arc;
use std::time::Duration;

use limafs_driver::Sshfs;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::*;
use crate::hostagent::line::Line;
use crate::hostagent::ssh::tests::connect;
use crate::hostagent::ssh::tests::guest::{Guest, Manners};
use crate::hostagent::state::Event;

const LONG: Duration = Duration::from_secs(30);

fn mount(location: &str, point: &str) -> Mount {
    Mount { location: Some(location.into()), mount_point: Some(point.into()), ..Mount::default() }
}

fn config(mounts: Vec<Mount>) -> Config {
    Config { mount_type: Some("reverse-sshfs".into()), mounts: Some(mounts), ..Config::default() }
}

/// What the command becomes in a shell whose `eval` only prints.
fn seen_by_guest(command: &str) -> String {
    let shown = command.replacen("eval \"", "printf \"%s|%s|\" \"$(echo $1 | base64 -d)\" \"$2\"; printf %s \"", 1);
    let output = Command::new("sh").args(["-c", &shown]).stdin(Stdio::null()).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn mounts_of_other_types_and_of_plain_guests_are_not_ours() {
    let ours = config(vec![mount("/a", "/b")]);
    assert!(!Mounts::of(&ours).is_empty());
    for other in [
        Config { mount_type: Some("9p".into()), ..ours.clone() },
        Config { mount_type: Some("virtiofs".into()), ..ours.clone() },
        Config { plain: Some(true), ..ours },
        Config::default(),
    ] {
        assert!(Mounts::of(&other).is_empty());
    }
}

#[test]
fn s24_a_mount_point_of_any_name_reaches_the_guest_as_it_is() {
    let nasty = "/mnt/'\"$(touch /tmp/p) \\`;&|é";
    let sshfs = Sshfs { cache: Some(false), follow_symlinks: Some(true), sftp_driver: None };
    let entry = Entry::of(&Mount { sshfs: Some(sshfs), ..mount("/a", nasty) }).unwrap();
    let seen = seen_by_guest(&entry.command());
    let expected = format!("{nasty}|allow_other,ro,cache=no,follow_symlinks|");
    assert!(seen.starts_with(&expected), "{seen}");
    assert_eq!(&seen[expected.len()..], include_str!("mount.sh").trim_end());
    let writable = Entry::of(&Mount { writable: Some(true), ..mount("/a", "/b") }).unwrap();
    assert!(writable.command().ends_with(" allow_other"), "{}", writable.command());
}

#[tokio::test]
async fn what_fails_is_named_and_what_waits_is_not_settled() {
    let mounts = Mounts::of(&config(vec![mount("/a", "/x"), mount("/b", "/y")]));
    mounts.show(0, Shown::Failed("sshfs is not installed".into()));
    let soon = Duration::from_millis(50);
    assert!(timeout(soon, mounts.settled()).await.is_err());
    assert_eq!(mounts.failures(), ["mount /x of /a: sshfs is not installed"]);
    assert_eq!(mounts.missing()[1], "mount /y of /b: is not mounted yet");
    mounts.show(1, Shown::Mounted);
    mounts.settled().await;
    assert_eq!(mounts.missing(), mounts.failures());
    mounts.begin_anew();
    assert!(timeout(soon, mounts.settled()).await.is_err());
}

/// Mounts `location` in a guest, and returns what is told first.
async fn first_word(location: &str, manners: Manners) -> Option<Event> {
    let guest = Guest::start(manners).await;
    let login = guest.login().await;
    let line = Arc::new(Line::new(login.clone()));
    line.offer(connect(&login, LONG).await.unwrap());
    let (tell, mut told) = mpsc::channel(8);
    let mounts = Arc::new(Mounts::of(&config(vec![mount(location, "/x")])));
    let mut tasks = JoinSet::new();
    tasks.spawn(keep(Arc::clone(&mounts), line, tell));
    timeout(LONG, mounts.settled()).await.unwrap();
    timeout(LONG, told.recv()).await.unwrap()
}

#[tokio::test]
async fn a_mount_that_fails_is_a_trouble_that_names_it() {
    let manners = Manners { exits: Some(("limafs-mount", 3)), ..Manners::default() };
    let expected = vec!["mount /x of /: sshfs ended with exit code 3".to_owned()];
    assert_eq!(first_word("/", manners).await, Some(Event::Trouble(WHO, expected)));
    let expected = vec!["mount /x of /etc/passwd: Not a directory (os error 20)".to_owned()];
    assert_eq!(first_word("/etc/passwd", Manners::default()).await, Some(Event::Trouble(WHO, expected)));
}

#[tokio::test]
async fn a_guest_that_speaks_no_sftp_ends_its_mount_alone() {
    // It sends back the words of the command.
    let expected = vec!["mount /x of /: sshfs ended with exit code 0".to_owned()];
    assert_eq!(first_word("/", Manners::default()).await, Some(Event::Trouble(WHO, expected)));
}

#[test]
fn the_script_passes_shellcheck() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/src/hostagent/mounts/mount.sh");
    match Command::new("shellcheck").arg(script).output() {
        Ok(output) => assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout)),
        Err(error) => eprintln!("SKIPPED: shellcheck cannot be run: {error}"),
    }
}
