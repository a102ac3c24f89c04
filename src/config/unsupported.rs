//! What a document may ask for and does not get yet; silence would be taken for a yes.

use limafs_driver::Config;

use super::remarks::Remarks;

pub fn warn(filled: &Config, warnings: &mut Remarks) {
    let containerd = |switch: Option<bool>| switch == Some(true);
    let (system, user) = filled.containerd.as_ref().map_or((None, None), |c| (c.system, c.user));
    for (field, is_asked, why) in [
        ("containerd.system", containerd(system), "containerd is not set up yet by limafs"),
        ("containerd.user", containerd(user), "containerd is not set up yet by limafs"),
        ("mounts", has_any(&filled.mounts), "directories are not shared yet by limafs"),
    ] {
        if is_asked {
            warnings.add(field, why);
        }
    }
}

fn has_any<T>(list: &Option<Vec<T>>) -> bool {
    list.as_ref().is_some_and(|list| !list.is_empty())
}
