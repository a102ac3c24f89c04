//! Mount entries: host directories shown in the guest.

use limafs_driver::{Config, Mount, NineP, Sshfs};

use super::default;
use crate::config::expand::Expander;
use crate::config::remarks::Remarks;
use crate::config::{Context, expand_path};

pub fn fill(config: &mut Config, context: &Context, expand: &Expander, warnings: &mut Remarks) {
    let unsupported = config.mount_types_unsupported.get_or_insert_default();
    let mount_type = config.mount_type.take().filter(|word| !word.is_empty() && word != "default").or_else(|| {
        let word = match config.vm_type.as_deref()? {
            "qemu" if unsupported.iter().any(|word| word == "9p") => "reverse-sshfs",
            "qemu" => "9p",
            "vz" => "virtiofs",
            "wsl2" => "wsl2",
            _ => return None,
        };
        Some(word.to_owned())
    });
    default(&mut config.mount_inotify, false);
    let queued = mount_type.as_deref() == Some("virtiofs") && config.vm_type.as_deref() == Some("qemu");
    config.mount_type = mount_type;
    let mut mounts: Vec<Mount> = Vec::new();
    for (index, mut mount) in config.mounts.take().unwrap_or_default().into_iter().enumerate() {
        places(&mut mount, index, context, expand, warnings);
        options(&mut mount, queued);
        mounts.push(mount);
    }
    config.mounts = Some(mounts);
}

fn places(mount: &mut Mount, index: usize, context: &Context, expand: &Expander, warnings: &mut Remarks) {
    let Some(written) = mount.location.take() else { return };
    let location = expand.host(&format!("mounts[{index}].location"), &written, warnings);
    let path = expand_path(&location, &context.host.user.home);
    let location = path.map_or(location, |path| path.to_string_lossy().into_owned());
    let point = mount.mount_point.take().filter(|point| !point.is_empty());
    mount.mount_point = Some(match point {
        Some(point) => expand.guest(&format!("mounts[{index}].mountPoint"), &point, warnings),
        None => location.clone(),
    });
    mount.location = Some(location);
}

fn options(mount: &mut Mount, queued: bool) {
    let writable = *mount.writable.get_or_insert(false);
    let Sshfs { cache, follow_symlinks, sftp_driver } = mount.sshfs.get_or_insert_default();
    default(cache, true);
    default(follow_symlinks, false);
    default(sftp_driver, String::new());
    let NineP { security_model, protocol_version, msize, cache } = mount.nine_p.get_or_insert_default();
    default(security_model, "none".into());
    default(protocol_version, "9p2000.L".into());
    default(msize, "128KiB".into());
    default(cache, if writable { "mmap" } else { "fscache" }.into());
    if queued {
        default(&mut mount.virtiofs.get_or_insert_default().queue_size, 1024);
    }
}
