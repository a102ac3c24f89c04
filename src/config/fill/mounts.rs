//! Mount entries: host directories shown in the guest.

use std::collections::BTreeMap;

use limafs_driver::{Config, Mount, NineP, Sshfs, Virtiofs};

use super::default;
use crate::config::expand::Expander;
use crate::config::layers::Sources;
use crate::config::remarks::Remarks;
use crate::config::{Context, expand_path};

/// Combines and fills the mount entries; returns of which entries each was made.
pub fn fill(config: &mut Config, context: &Context, expand: &Expander, warnings: &mut Remarks) -> Sources {
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
    let (mut mounts, sources) = combine(config.mounts.take().unwrap_or_default(), context, expand);
    for (index, mount) in mounts.iter_mut().enumerate() {
        places(mount, index, context, expand, warnings);
        options(mount, queued);
    }
    config.mounts = Some(mounts);
    sources
}

/// One entry for each place in the guest: what a later one (of higher priority) sets, counts.
fn combine(entries: Vec<Mount>, context: &Context, expand: &Expander) -> (Vec<Mount>, Sources) {
    let (mut mounts, mut sources): (Vec<Mount>, Sources) = Default::default();
    let mut known: BTreeMap<String, usize> = BTreeMap::new();
    for (index, entry) in entries.into_iter().enumerate() {
        // The place as it will be. What cannot be expanded is warned of when the result is.
        let mut placed = entry.clone();
        places(&mut placed, index, context, expand, &mut Remarks::default());
        let same = placed.mount_point.as_ref().and_then(|point| known.get(point).copied());
        match same {
            Some(at) => {
                update(&mut mounts[at], entry);
                sources[at].push(index);
            }
            None => {
                known.extend(placed.mount_point.map(|point| (point, mounts.len())));
                mounts.push(entry);
                sources.push(vec![index]);
            }
        }
    }
    (mounts, sources)
}

fn update(mount: &mut Mount, higher: Mount) {
    let Mount { location, mount_point, writable, sshfs, nine_p, virtiofs } = higher;
    // The same place, though perhaps in other words; one that is not named is that of the new location.
    mount.mount_point = mount_point;
    mount.location = location.or(mount.location.take());
    mount.writable = writable.or(mount.writable);
    if let Some(Sshfs { cache, follow_symlinks, sftp_driver }) = sshfs {
        let sshfs = mount.sshfs.get_or_insert_default();
        sshfs.cache = cache.or(sshfs.cache);
        sshfs.follow_symlinks = follow_symlinks.or(sshfs.follow_symlinks);
        sshfs.sftp_driver = sftp_driver.or(sshfs.sftp_driver.take());
    }
    if let Some(NineP { security_model, protocol_version, msize, cache }) = nine_p {
        let nine_p = mount.nine_p.get_or_insert_default();
        nine_p.security_model = security_model.or(nine_p.security_model.take());
        nine_p.protocol_version = protocol_version.or(nine_p.protocol_version.take());
        nine_p.msize = msize.or(nine_p.msize.take());
        nine_p.cache = cache.or(nine_p.cache.take());
    }
    if let Some(Virtiofs { queue_size }) = virtiofs {
        let virtiofs = mount.virtiofs.get_or_insert_default();
        virtiofs.queue_size = queue_size.or(virtiofs.queue_size);
    }
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
