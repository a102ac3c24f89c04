//! A real guest as a machine of docker-machine's: limafs's own plugin runs it in another home, and our driver `machine`
//! hosts that plugin. What goes between the two is docker-machine's protocol.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use rustix::process::Signal;

use crate::common::{Case, Failed, Fleet, Outcome, procs, secs, wait_until};
use crate::guest::{FAST_BOOT, STOP, ssh, up};
use crate::{cases, ensure, same};

pub fn cases() -> Vec<Case> {
    let mut cases = cases![needing(lacks_plugin): a_machine_of_a_plugin_is_an_instance_like_any_other];
    cases.extend(cases![optional(lacks_docker_machine): docker_machine_has_machines_of_ours]);
    cases
}

fn lacks_plugin() -> Option<String> {
    PLUGIN.is_none().then(|| "built without the feature machine".into())
}

const PLUGIN: Option<&str> = option_env!("CARGO_BIN_EXE_docker-machine-driver-limafs");

/// The plugin with limafs beside it, in a directory that nobody else may write, and the document of its machines.
fn prepare(fleet: &mut Fleet) -> Result<String, Failed> {
    let drivers = fleet.root().join("drivers");
    fs::create_dir(&drivers)?;
    fs::set_permissions(&drivers, fs::Permissions::from_mode(0o755))?;
    for program in [PLUGIN.ok_or("no plugin")?, crate::common::fleet::LIMAFS] {
        let name = std::path::Path::new(program).file_name().ok_or("no name")?;
        fs::copy(program, drivers.join(name))?;
        fs::set_permissions(drivers.join(name), fs::Permissions::from_mode(0o755))?;
    }
    fleet.env.push(("LIMA_DRIVERS_PATH".into(), drivers.display().to_string()));
    let inner = fleet.root().join("inner.yaml");
    // Nothing of ours but the plugin's: ports are forwarded once, and all else is brought over ssh.
    fs::write(&inner, crate::guest::fast("plain: true\n")?)?;
    let shared = fleet.root().join("shared");
    fs::create_dir(&shared)?;
    fs::write(shared.join("file"), "from the host")?;
    let root = fleet.root().display();
    Ok(format!(
        "vmType: limafs\ncontainerd: {{system: false, user: false}}\nmountType: reverse-sshfs\n\
         mounts:\n- location: {root}/shared\nvmOpts:\n  limafs:\n    limafs-config: {root}/inner.yaml\n    \
         limafs-home: {root}/inner\nprovision:\n- script: |\n    #!/bin/sh\n    echo yes >/provisioned\n"
    ))
}

fn a_machine_of_a_plugin_is_an_instance_like_any_other() -> Outcome {
    let mut fleet = Fleet::unmounted()?;
    let document = prepare(&mut fleet)?;
    fleet.mount()?;
    fleet.create("foo", &document)?;
    fleet.ok("echo start > foo/state")?;
    up(&fleet, "foo", FAST_BOOT * 2)?;
    same!(ssh(&fleet, "foo", "cat /provisioned")?, "yes");
    same!(ssh(&fleet, "foo", &format!("cat {}/shared/file", fleet.root().display()))?, "from the host");
    let agent = "pidof lima-guestagent >/dev/null && echo runs || echo none";
    wait_until("the guest agent runs", secs(30), || ssh(&fleet, "foo", agent).is_ok_and(|out| out == "runs"))?;
    ensure!(fleet.root().join("inner/lima-foo/lima.yaml").exists(), "the machine is elsewhere");

    let hostagent = fleet.hostagent("foo").ok_or("no hostagent")?;
    procs::signal(hostagent, Signal::KILL);
    wait_until("another hostagent", secs(30), || fleet.hostagent("foo").is_some_and(|pid| pid != hostagent))?;
    fleet.wait_state("foo", "Running", secs(30))?;
    wait_until("ssh after the hostagent's end", secs(30), || {
        ssh(&fleet, "foo", "cat /provisioned").is_ok_and(|out| out == "yes")
    })?;
    fleet.ok("echo stop > foo/state")?;
    fleet.wait_state("foo", "Stopped", STOP * 2)?;
    let removed = fleet.sh("rmdir foo")?;
    same!(removed.code, 0, "rmdir");
    ensure!(!fleet.root().join("inner/lima-foo").exists(), "the machine outlives its instance");
    Ok(())
}

fn lacks_docker_machine() -> Option<String> {
    let is_named = std::env::var_os("LIMAFS_TEST_DOCKER_MACHINE").is_some();
    lacks_plugin().or_else(|| (!is_named).then(|| "LIMAFS_TEST_DOCKER_MACHINE names no docker-machine".into()))
}

/// Up to where it would install Docker, which is docker-machine's own affair.
fn docker_machine_has_machines_of_ours() -> Outcome {
    let mut fleet = Fleet::unmounted()?;
    prepare(&mut fleet)?;
    let root = fleet.root().display().to_string();
    let path = std::env::var("PATH").unwrap_or_default();
    fleet.env.push(("PATH".into(), format!("{root}/drivers:{path}")));
    fleet.env.push(("MACHINE_STORAGE_PATH".into(), format!("{root}/store")));
    fleet.mount()?;
    let machine = "\"$LIMAFS_TEST_DOCKER_MACHINE\"";
    let create =
        format!("exec {machine} -D create -d limafs --limafs-config {root}/inner.yaml --limafs-memory 300MiB m1 2>&1");
    let mut creating = fleet.start(&create)?;
    wait_until("docker-machine finds out what the guest is", FAST_BOOT * 2, || {
        creating.out().contains("etecting operating system") || creating.out().contains("Detecting the provisioner")
    })?;
    drop(creating);
    same!(fleet.ok(&format!("{machine} status m1"))?, "Running");
    same!(fleet.ok(&format!("{machine} ip m1"))?, "127.0.0.1");
    same!(fleet.ok("grep memory m1/lima.yaml")?, "memory: 300MiB");
    let user = fleet.sh_within(&format!("{machine} ssh m1 id -un"), secs(60))?;
    same!(user.text()?, ssh(&fleet, "m1", "id -un")?);
    fleet.sh_within(&format!("{machine} stop m1"), STOP * 2)?.text()?;
    same!(fleet.ok(&format!("{machine} status m1"))?, "Stopped");
    fleet.wait_state("m1", "Stopped", secs(10))?;
    fleet.sh_within(&format!("{machine} rm -f m1"), secs(60))?.text()?;
    ensure!(!fleet.home.join("m1").exists(), "the instance outlives its machine");
    Ok(())
}
