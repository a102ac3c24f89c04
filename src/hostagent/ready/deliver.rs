//! What a guest is told that has no cloud-init and no disk of ours: the same files, over ssh, once its user is known. They
//! are the guest's boot from then on, and run at each start of the VM.

use std::collections::BTreeMap;
use std::time::Duration;

use limafs_driver::{Config, Features, User};
use tokio::sync::mpsc;

use super::{Tell, finish, lines, say};
use crate::cidata::{self, Cidata, Entry};
use crate::error::{Error, Result};
use crate::hostagent::line::Line;
use crate::hostagent::ssh::Session;
use crate::hostagent::state::{Event, Step};
use crate::names::Name;

/// In the guest. Not where Lima's disk is mounted: such a guest may have one of somebody else's.
const DIR: &str = "/var/lib/limafs/cidata";
const LOG: &str = "/var/log/limafs-boot.log";
const ASK: Duration = Duration::from_secs(30);
/// For some megabytes.
const PUT: Duration = Duration::from_secs(300);

/// What is told, but for the user.
pub struct Parcel {
    pub name: Name,
    pub config: Config,
    pub features: Features,
    pub ssh_keys: Vec<String>,
    pub agent: Option<Vec<u8>>,
    pub boot_scripts: BTreeMap<String, Vec<u8>>,
    pub ca_files: Vec<String>,
    pub host_env: BTreeMap<String, String>,
}

/// Who is logged in.
struct Resident {
    uid: u32,
    home: String,
    shell: String,
}

impl Parcel {
    fn cidata(&self, name: &str, resident: Resident) -> Result<Cidata> {
        let user = User {
            name: Some(name.to_owned()),
            uid: Some(resident.uid),
            home: Some(resident.home),
            shell: Some(resident.shell),
            ..self.config.user.clone().unwrap_or_default()
        };
        let config = Config { user: Some(user), ..self.config.clone() };
        cidata::render(&cidata::Guest {
            name: &self.name,
            config: &config,
            ssh_keys: &self.ssh_keys,
            keep_host_keys: true,
            mac: "",
            networks: &[],
            dns: None,
            boot_port: "",
            virtio_port: "",
            vsock_port: 0,
            features: &self.features,
            boot_scripts: &self.boot_scripts,
            ca_files: &self.ca_files,
            agent: self.agent.as_deref(),
            archive: None,
            host_env: &self.host_env,
        })
    }
}

/// Puts the files into the guest, begins its boot scripts and waits for their end. What failed.
pub async fn run(parcel: &Parcel, line: &Line, tell: &Tell) -> Vec<String> {
    say(tell, Event::Step(Step::named("bringing the guest what it needs"))).await;
    let begun = async {
        let session = line.session().await;
        let resident = ask(&session).await?;
        // Only root can install what the guest is to have.
        let sudo = if resident.uid == 0 { "" } else { "sudo -n " };
        let cidata = parcel.cidata(&line.login().user, resident)?;
        put(&session, sudo, DIR, &cidata.entries).await?;
        begin(&session, sudo, DIR, LOG).await?;
        Ok::<_, Error>(cidata.iid)
    };
    match begun.await {
        Ok(iid) => {
            say(tell, Event::Step(Step::named("waiting for the boot scripts"))).await;
            finish(line, &mut lines::Guest::new(&iid, mpsc::channel(1).1), tell).await
        }
        Err(error) => vec![error.to_string()],
    }
}

async fn ask(session: &Session) -> Result<Resident> {
    let output = session.exec("id -u; echo \"$HOME\"; echo \"$SHELL\"", ASK).await;
    let output = output.map_err(|fault| Error::failed("asking for the guest's user", fault))?;
    let mut lines = output.stdout.lines().map(str::to_owned);
    let uid = lines.next().and_then(|uid| uid.trim().parse().ok());
    match (uid, lines.next(), lines.next()) {
        (Some(uid), Some(home), Some(shell)) if home.starts_with('/') => Ok(Resident { uid, home, shell }),
        _ => Err(Error::failed("asking for the guest's user", "the guest does not say who it is")),
    }
}

/// The files, in place of those of the last time. Root's alone: they may hold secrets.
async fn put(session: &Session, sudo: &str, dir: &str, entries: &[Entry]) -> Result<()> {
    let failed = |why: String| Error::failed("bringing the guest its files", why);
    let archive = tar(entries).map_err(|error| failed(error.to_string()))?;
    let command = format!("{sudo}sh -c 'umask 077; rm -rf {dir} && mkdir -p {dir} && tar -xof - -C {dir}'");
    let output = session.exec_with(&command, &archive, PUT).await.map_err(|fault| failed(fault.to_string()))?;
    match output.exit {
        Some(0) => Ok(()),
        _ => Err(failed(output.complaint)),
    }
}

/// In a session of its own: it goes on when ours ends.
async fn begin(session: &Session, sudo: &str, dir: &str, log: &str) -> Result<()> {
    let boot = format!("LIMA_CIDATA_MNT={dir} exec setsid {dir}/boot.sh");
    let command = format!("{sudo}sh -c '({boot}) >{log} 2>&1 </dev/null &'");
    let output = session.exec(&command, ASK).await.map_err(|fault| Error::failed("the boot scripts", fault))?;
    match output.exit {
        Some(0) => Ok(()),
        _ => Err(Error::failed("the boot scripts", output.complaint)),
    }
}

fn tar(entries: &[Entry]) -> std::io::Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    for entry in entries {
        let mut header = tar::Header::new_gnu();
        header.set_size(entry.bytes.len() as u64);
        header.set_mode(entry.mode);
        archive.append_data(&mut header, &entry.path, &entry.bytes[..])?;
    }
    archive.into_inner()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::hostagent::ssh::tests::connect;
    use crate::hostagent::ssh::tests::guest::{Guest, Manners};

    fn entry(path: &str, mode: u32, text: &str) -> Entry {
        Entry { path: path.into(), mode, bytes: text.into() }
    }

    #[tokio::test]
    async fn files_arrive_whole_in_place_of_older_ones_and_their_boot_begins() {
        let home = tempfile::tempdir().unwrap();
        let guest = Guest::start(Manners { local: Some(home.path().into()), ..Manners::default() }).await;
        let session = connect(&guest.login().await, ASK).await.unwrap();
        let resident = ask(&session).await.unwrap();
        assert_eq!(resident.uid, rustix::process::geteuid().as_raw());
        let dir = home.path().join("cidata");
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("old"), "old").unwrap();
        let long = "x".repeat(1 << 20);
        let boot = format!("#!/bin/sh\necho $LIMA_CIDATA_MNT >{}/begun\n", home.path().display());
        let entries = [entry("boot.sh", 0o700, &boot), entry("provision.user/00000000", 0o600, &long)];
        let place = dir.to_str().unwrap();
        put(&session, "", place, &entries).await.unwrap();
        assert!(!dir.join("old").exists());
        assert_eq!(std::fs::read_to_string(dir.join("provision.user/00000000")).unwrap(), long);
        assert_eq!(std::fs::metadata(dir.join("boot.sh")).unwrap().permissions().mode() & 0o777, 0o700);
        begin(&session, "", place, home.path().join("log").to_str().unwrap()).await.unwrap();
        let begun = home.path().join("begun");
        let told = async {
            while std::fs::read_to_string(&begun).unwrap_or_default() != format!("{place}\n") {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(ASK, told).await.unwrap();
    }

    #[test]
    fn who_is_logged_in_is_whom_the_guest_is_told_of() {
        let parcel = Parcel {
            name: Name::parse("foo").unwrap(),
            config: Config { os: Some("Linux".into()), ..Config::default() },
            features: Features { no_cloud_init: true, ..Features::default() },
            ssh_keys: vec!["ssh-ed25519 AAAA lima".into()],
            agent: Some(b"\x7fELF".to_vec()),
            boot_scripts: BTreeMap::new(),
            ca_files: vec![],
            host_env: BTreeMap::new(),
        };
        let resident = || Resident { uid: 1000, home: "/home/docker".into(), shell: "/bin/sh".into() };
        let cidata = parcel.cidata("docker", resident()).unwrap();
        let env = cidata.entries.iter().find(|entry| entry.path == "lima.env").unwrap();
        let env = String::from_utf8(env.bytes.clone()).unwrap();
        assert!(env.contains("LIMA_CIDATA_USER=docker\n") && env.contains("LIMA_CIDATA_UID=1000\n"), "{env}");
        assert!(cidata.entries.iter().any(|entry| entry.path == "lima-guestagent"));
        let odd = Resident { home: "/home/a\nLIMA_CIDATA_UID=0".into(), ..resident() };
        assert!(parcel.cidata("docker", odd).is_err());
    }
}
