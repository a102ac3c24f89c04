//! What a driver says of itself, and what the host does with it: the pretend driver, told to be another.

use std::net::TcpListener;

use crate::common::{Case, Failed, Fleet, Outcome, secs, wait_until};
use crate::{cases, ensure, same};

pub fn cases() -> Vec<Case> {
    cases![
        a_guest_is_where_its_driver_says_when_it_runs,
        an_address_that_is_never_said_fails_the_start,
        without_cloud_init_the_guest_is_told_by_a_closed_directory,
        containerd_is_among_the_files_where_there_is_no_disk_for_it,
        a_driver_with_images_of_its_own_gets_none,
        an_image_of_another_format_is_refused,
        a_window_is_opened_where_one_is_wanted,
    ]
}

/// A document for the driver with these words in `vmOpts.fake`.
fn document(told: &str, more: &str) -> String {
    format!(
        "vmType: fake\nimages:\n- location: /etc/profile\ncontainerd: {{system: false, user: false}}\nvmOpts:\n  fake: {told}\n{more}"
    )
}

fn calls(fleet: &Fleet) -> String {
    std::fs::read_to_string(fleet.home.join("foo/fake.calls")).unwrap_or_default()
}

fn start(fleet: &Fleet, state: &str) -> Outcome {
    fleet.ok("echo start > foo/state")?;
    fleet.wait_state("foo", state, secs(20))
}

fn a_guest_is_where_its_driver_says_when_it_runs() -> Outcome {
    let fleet = Fleet::mounted()?;
    let sshd = TcpListener::bind(("127.0.0.2", 0))?;
    sshd.set_nonblocking(true)?;
    let port = sshd.local_addr()?.port();
    let features = "{dynamicSSHAddress: true, staticSSHPort: true}";
    let told = format!("{{sshAddress: 127.0.0.2, sshPort: {port}, info: {{features: {features}}}}}");
    fleet.create("foo", &document(&told, "ssh: {localPort: 60022}\n"))?;
    fleet.ok("echo start > foo/state")?;
    wait_until("somebody knocks where the guest is", secs(20), || sshd.accept().is_ok())?;
    let at = format!("127.0.0.2:{port}");
    // Whoever knocks does not wait for the tree to tell where.
    wait_until("status says where", secs(10), || fleet.status("foo", "ssh") == Some(at.clone()))?;
    wait_until("list says where", secs(10), || fleet.read("list").contains(&format!(" {at} ")))?;
    wait_until("ports say where", secs(10), || fleet.read("foo/ports").contains(&at))?;
    let effective = fleet.ok("ssh -G -F foo/ssh.config lima-foo")?;
    for wanted in ["hostname 127.0.0.2".to_owned(), format!("port {port}")] {
        ensure!(effective.lines().any(|line| line == wanted), "no {wanted:?} in {effective}");
    }
    wait_until("the driver is told that ssh is near", secs(10), || calls(&fleet) == "additional_setup_for_ssh\n")?;

    let hostagent = fleet.hostagent("foo").ok_or("no hostagent")?;
    crate::common::procs::signal(hostagent, rustix::process::Signal::KILL);
    wait_until("another hostagent", secs(10), || fleet.hostagent("foo").is_some_and(|pid| pid != hostagent))?;
    wait_until("it finds the guest where it was", secs(10), || fleet.status("foo", "ssh") == Some(at.clone()))?;
    fleet.ok("echo kill > foo/state")?;
    fleet.wait_state("foo", "Stopped", secs(10))
}

fn an_address_that_is_never_said_fails_the_start() -> Outcome {
    let fleet = Fleet::mounted()?;
    fleet.create("foo", &document("{info: {features: {dynamicSSHAddress: true}}}", ""))?;
    start(&fleet, "Broken")?;
    ensure!(fleet.read("foo/error").contains("the guest's address"), "{}", fleet.read("foo/error"));
    wait_until("its VM is gone", secs(10), || fleet.vms() == 0)
}

fn without_cloud_init_the_guest_is_told_by_a_closed_directory() -> Outcome {
    let fleet = Fleet::mounted()?;
    let told = "{info: {vsockPort: 2222, features: {noCloudInit: true}}}";
    fleet.create("foo", &document(told, "env: {SECRET: hidden}\n"))?;
    start(&fleet, "Running")?;
    let dir = fleet.home.join("foo/cidata");
    let env = std::fs::read_to_string(dir.join("lima.env"))?;
    for line in ["LIMA_CIDATA_NO_CLOUD_INIT=1", "LIMA_CIDATA_VSOCK_PORT=2222", "LIMA_CIDATA_UDP_DNS_LOCAL_PORT="] {
        ensure!(env.lines().any(|found| found == line), "no {line} in {env}");
    }
    let key = std::fs::read_to_string(fleet.home.join("_config/user.pub"))?;
    same!(std::fs::read_to_string(dir.join("ssh_authorized_keys"))?.trim(), key.trim());
    same!(fleet.ok("find $H/foo/cidata -perm /077")?, "");
    ensure!(!fleet.home.join("foo/cidata.iso").exists(), "there is a disk as well");
    fleet.ok("echo stop > foo/state")?;
    fleet.wait_state("foo", "Stopped", secs(20))?;
    fleet.create_over("foo", &document("{}", ""))?;
    start(&fleet, "Running")?;
    ensure!(!dir.exists() && fleet.home.join("foo/cidata.iso").exists(), "the directory stays");
    Ok(())
}

fn containerd_is_among_the_files_where_there_is_no_disk_for_it() -> Outcome {
    let fleet = Fleet::mounted()?;
    let containerd = "containerd:\n  user: true\n  archives:\n  - location: /etc/profile\n";
    let asking = |told: &str| document(told, "").replace("containerd: {system: false, user: false}\n", containerd);
    fleet.create("foo", &asking("{info: {features: {noCloudInit: true}}}"))?;
    start(&fleet, "Running")?;
    let packed = fleet.home.join("foo/cidata/nerdctl-full.tgz");
    same!(std::fs::read(packed)?, std::fs::read("/etc/profile")?);
    let env = std::fs::read_to_string(fleet.home.join("foo/cidata/lima.env"))?;
    ensure!(env.contains("\nLIMAFS_ARCHIVE_SIZE="), "{env}");
    fleet.create("own", &asking("{info: {features: {ownImages: true}}}"))?;
    fleet.ok("echo start > own/state")?;
    fleet.wait_state("own", "Broken", secs(20))?;
    ensure!(fleet.read("own/error").contains("containerd"), "{}", fleet.read("own/error"));
    Ok(())
}

fn a_driver_with_images_of_its_own_gets_none() -> Outcome {
    let fleet = Fleet::mounted()?;
    let told = document("{info: {features: {ownImages: true}}}", "");
    fleet.create("foo", &told.replace("/etc/profile", "/nowhere/image"))?;
    start(&fleet, "Running")?;
    same!(fleet.ok("ls $H/foo | grep -E '^(image|disk|cidata.*)$' || true")?, "");
    Ok(())
}

fn an_image_of_another_format_is_refused() -> Outcome {
    let fleet = Fleet::mounted()?;
    fleet.create("foo", &document("{info: {features: {supportedImageFormats: [vhdx]}}}", ""))?;
    start(&fleet, "Broken")?;
    let error = fleet.read("foo/error");
    ensure!(error.contains("in the format raw, the driver takes vhdx"), "{error}");
    Ok(())
}

fn a_window_is_opened_where_one_is_wanted() -> Outcome {
    let fleet = Fleet::mounted()?;
    let told = "{info: {features: {canRunGui: true}}}";
    let stop = || -> Result<(), Failed> {
        fleet.ok("echo kill > foo/state")?;
        fleet.wait_state("foo", "Stopped", secs(10))
    };
    fleet.create("foo", &document(told, "video: {display: none}\n"))?;
    start(&fleet, "Running")?;
    stop()?;
    fleet.create_over("foo", &document(told, "video: {display: default}\n"))?;
    start(&fleet, "Running")?;
    wait_until("the window is opened", secs(10), || calls(&fleet) == "run_gui\n")?;
    stop()?;
    let refusing = told.replacen('{', "{refuseWindow: no screen, ", 1);
    fleet.create_over("foo", &document(&refusing, "video: {display: default}\n"))?;
    fleet.ok("echo start > foo/state")?;
    wait_until("why there is no window", secs(20), || {
        fleet.read("foo/error").contains("no window: window: no screen")
    })?;
    same!(fleet.vms(), 1);
    stop()
}
