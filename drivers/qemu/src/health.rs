//! Whether this machine can run VMs with QEMU, found by really trying: its program is run, and KVM starts a tiny guest.

use std::env;

use limafs_driver::{Error, Health};

use crate::machine::{self, Machine};
use crate::{kvm, program};

const DOC: &str = "https://www.qemu.org/download/";
const KVM_DOC: &str = "https://www.linux-kvm.org/page/FAQ";
const QEMU_IMG: &str = "qemu-img";

/// Tries QEMU for guests of this machine's own architecture. Takes a few seconds at most.
pub(crate) async fn health() -> Health {
    let arch = own_arch();
    let Some(machine) = machine::find(arch) else {
        let error = format!("QEMU is not used on {arch} machines");
        return Health::failing(false, "unsupported-host", error, "");
    };
    let program = match program::find(machine).await {
        Ok(program) => program,
        Err(error @ Error::Missing { .. }) => return with_doc(failing(machine, false, "not-found", error), DOC),
        Err(error) => return with_doc(failing(machine, true, "not-working", error), DOC),
    };
    let works = Health::working(format!("QEMU {}", program.version));
    let why = match accelerated(&program).await {
        Ok(()) if program::in_path(QEMU_IMG).is_some() => return works,
        Ok(()) => Lacks {
            reason: "no-qemu-img",
            error: "qemu-img is missing: images in the qcow2 format cannot be grown".into(),
            fix: "apt-get install qemu-utils (Debian, Ubuntu) or dnf install qemu-img (Fedora)".into(),
            doc: DOC,
        },
        Err(why) => why,
    };
    let Lacks { reason, error, fix, doc } = why;
    with_doc(Health { needs_improvement: true, reason: reason.into(), error, fix, ..works }, doc)
}

/// What a QEMU that works could do better with.
struct Lacks {
    reason: &'static str,
    error: String,
    fix: String,
    doc: &'static str,
}

/// Whether the processor runs guests itself.
async fn accelerated(program: &program::Program) -> Result<(), Lacks> {
    let name = if cfg!(target_os = "macos") { "hvf" } else { "kvm" };
    if cfg!(target_os = "linux") {
        let proven = tokio::task::spawn_blocking(kvm::prove).await;
        let reason = match proven {
            Ok(Ok(())) => None,
            Ok(Err(refusal)) => Some(refusal.reason),
            Err(error) => Some(format!("the proof of KVM: {error}")),
        };
        if let Some(reason) = reason {
            let error = format!("VMs run slowly, without KVM: {reason}");
            return Err(Lacks { reason: "no-kvm", error, fix: kvm_fix(), doc: KVM_DOC });
        }
    }
    program.check_accelerator(name).await.map_err(|error| Lacks {
        reason: "no-accelerator",
        error: format!("VMs run slowly: {error}"),
        fix: format!("install a QEMU that was built with {name}"),
        doc: DOC,
    })
}

fn kvm_fix() -> String {
    let user = env::var("USER").unwrap_or_else(|_| "$USER".into());
    format!(
        "switch virtualization on in the firmware's setup, load the module with modprobe kvm_intel or kvm_amd, and let \
         yourself in with usermod -aG kvm {user}; in a VM, its host has to allow nested virtualization"
    )
}

fn failing(machine: &Machine, installed: bool, reason: &str, error: Error) -> Health {
    let fix = format!(
        "apt-get install {} qemu-utils (Debian, Ubuntu), dnf install qemu (Fedora), or brew install qemu (macOS)",
        machine.package
    );
    Health::failing(installed, reason, error, fix)
}

fn with_doc(health: Health, doc: &str) -> Health {
    Health { doc: doc.into(), ..health }
}

/// Lima's name of the architecture of this machine.
fn own_arch() -> &'static str {
    match env::consts::ARCH {
        "powerpc64" => "ppc64le",
        "arm" => "armv7l",
        same => same,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn health_agrees_with_what_is_there() {
        let health = health().await;
        let machine = machine::find(own_arch()).unwrap();
        assert_eq!(health.installed, program::find(machine).await.is_ok(), "{health:?}");
        assert_eq!(health.installed, health.healthy, "{health:?}");
        if health.healthy {
            assert!(health.version.starts_with("QEMU "), "{health:?}");
            assert_eq!(health.needs_improvement, !health.reason.is_empty(), "{health:?}");
        }
        assert_eq!(health.error.is_empty(), health.fix.is_empty(), "{health:?}");
        assert_eq!(health.reason == "no-kvm", health.healthy && kvm::prove().is_err(), "{health:?}");
    }

    #[test]
    fn who_lacks_qemu_is_told_how_to_get_it() {
        let machine = machine::find("x86_64").unwrap();
        let missing = Error::Missing { what: "qemu-system-x86_64".into(), fix: "apt-get install it".into() };
        let health = failing(machine, false, "not-found", missing);
        assert!(!health.installed && !health.healthy);
        for word in ["qemu-system-x86 ", "Debian", "Fedora", "brew"] {
            assert!(health.fix.contains(word), "{}", health.fix);
        }
    }
}
