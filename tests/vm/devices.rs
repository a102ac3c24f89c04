//! Devices that lima.yaml asks for besides: what the host finds of them, and the guest.

use std::io::Read;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::common::{Case, Fleet, Outcome};
use crate::guest::{FAST_BOOT, STOP, boot, boot_id, fast, ssh, stop};
use crate::{cases, ensure, same};

pub fn cases() -> Vec<Case> {
    cases![needing(lacks): a_guest_has_a_screen_over_vnc_and_a_tpm]
}

fn lacks() -> Option<String> {
    let there = std::process::Command::new("swtpm").arg("--version").output().is_ok();
    (!there).then(|| "there is no swtpm".into())
}

fn a_guest_has_a_screen_over_vnc_and_a_tpm() -> Outcome {
    let fleet = Fleet::mounted()?;
    let vnc = "video: {display: vnc, vnc: {display: '127.0.0.1:300,to=499'}}\n";
    fleet.create("foo", &fast(&format!("{vnc}tpm: true\n"))?)?;
    boot(&fleet, "foo", FAST_BOOT)?;

    let [display, password] = ["vncdisplay", "vncpassword"].map(|name| fleet.home.join("foo").join(name));
    let mode = |path: &Path| path.metadata().map(|meta| meta.permissions().mode() & 0o777);
    same!((mode(&display)?, mode(&password)?), (0o600, 0o600));
    same!(std::fs::read_to_string(&password)?.len(), 8);
    let address = std::fs::read_to_string(&display)?;
    let number: u16 = address.strip_prefix("127.0.0.1:").ok_or("another host")?.parse()?;
    let mut version = [0; 4];
    TcpStream::connect(("127.0.0.1", 5900 + number))?.read_exact(&mut version)?;
    same!(&version, b"RFB ");
    let logs = std::fs::read_to_string(fleet.home.join("foo/ha.stderr.log"))?;
    ensure!(!logs.contains(&std::fs::read_to_string(&password)?), "the password is in the log");

    // MSFT0101 is the ACPI name of a TPM 2.0.
    same!(ssh(&fleet, "foo", "cat /sys/bus/acpi/devices/MSFT0101:00/hid")?, "MSFT0101");

    // The guest that goes on has the devices of then.
    let id = boot_id(&fleet, "foo")?;
    fleet.ok("echo suspend > foo/state")?;
    fleet.wait_state("foo", "Suspended", STOP)?;
    fleet.ok("sed -i '/^tpm/d; /^video/d' foo/lima.yaml")?;
    boot(&fleet, "foo", FAST_BOOT)?;
    same!(boot_id(&fleet, "foo")?, id);
    same!(fleet.status("foo", "pending"), Some("[video, tpm]".to_owned()));
    let address = std::fs::read_to_string(&display)?;
    let number: u16 = address.strip_prefix("127.0.0.1:").ok_or("another host")?.parse()?;
    TcpStream::connect(("127.0.0.1", 5900 + number))?.read_exact(&mut version)?;
    stop(&fleet, "foo")?;
    ensure!(!display.exists() && !password.exists(), "the display's files are still there");
    Ok(())
}
