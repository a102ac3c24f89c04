//! Mount entries.

use std::path::Path;

use limafs_driver::{Config, Mount};

use super::{one_line, one_of, text};
use crate::config::remarks::Remarks;
use crate::config::size;
use crate::config::size::clean;

pub const TYPES: &[&str] = &["reverse-sshfs", "9p", "virtiofs", "wsl2"];

/// Where a mount would hide the guest's own system.
const SYSTEM_PATHS: [&str; 10] = ["/", "/bin", "/dev", "/etc", "/home", "/opt", "/sbin", "/tmp", "/usr", "/var"];

pub fn check(config: &Config, faults: &mut Remarks) {
    let mount_type = config.mount_type.as_deref();
    let unsupported = config.mount_types_unsupported.as_deref().unwrap_or_default();
    one_of(faults, "mountType", mount_type, TYPES);
    if mount_type.is_some_and(|word| unsupported.iter().any(|other| other == word)) {
        let list = unsupported.join(", ");
        faults.add("mountType", format!("must not be one of {list} (mountTypesUnsupported)"));
    }
    let home = config.user.as_ref().map_or("", |user| text(&user.home));
    for (index, mount) in config.mounts.iter().flatten().enumerate() {
        check_mount(&format!("mounts[{index}]"), mount, home, faults);
    }
}

fn check_mount(field: &str, mount: &Mount, home: &str, faults: &mut Remarks) {
    let location = text(&mount.location);
    match location {
        "" => faults.must_be_set(format!("{field}.location")),
        _ if location.starts_with('~') => {
            faults.add(format!("{field}.location"), format!("unexpandable path {location:?} (no other user's home)"));
        }
        _ if !location.starts_with('/') => {
            faults.add(format!("{field}.location"), format!("must be an absolute path, not {location:?}"));
        }
        _ => {}
    }
    // A mount point that is only the location's copy is judged for what it names, but not for being relative.
    let point = text(&mount.mount_point);
    let at = format!("{field}.mountPoint");
    if point.starts_with('/') {
        let point = clean(Path::new(point));
        if SYSTEM_PATHS.iter().any(|path| point == Path::new(path)) {
            faults.add(at, format!("must not be a system path such as /etc or /usr, not {:?}", point.display()));
        } else if !home.is_empty() && point == clean(Path::new(home)) {
            faults.add(at, format!("{:?} is the reserved internal home directory", point.display()));
        }
    } else if point.starts_with('~') && point != location {
        faults.add(at, "must not start with ~");
    } else if point != location {
        faults.add(at, format!("must be an absolute path, not {point:?}"));
    }
    one_line(faults, &format!("{field}.location"), location);
    one_line(faults, &format!("{field}.mountPoint"), point);
    let msize = mount.nine_p.as_ref().and_then(|nine_p| nine_p.msize.as_deref());
    if msize.is_some_and(|msize| size(msize).is_none()) {
        faults
            .add(format!("{field}.9p.msize"), format!("invalid size {:?} (such as 128KiB)", msize.unwrap_or_default()));
    }
}
