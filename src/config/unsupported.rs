//! What a document may ask for and does not get yet; silence would be taken for a yes.

use limafs_driver::Config;

use super::remarks::Remarks;

pub fn warn(filled: &Config, warnings: &mut Remarks) {
    let inotify = filled.mount_inotify == Some(true) && has_any(&filled.mounts);
    for (field, is_asked, why) in
        [("mountInotify", inotify, "changes on the host are not announced in the guest yet by limafs")]
    {
        if is_asked {
            warnings.add(field, why);
        }
    }
}

fn has_any<T>(list: &Option<Vec<T>>) -> bool {
    list.as_ref().is_some_and(|list| !list.is_empty())
}
