//! Files to download or to copy: images with kernel and initrd, firmware, archives.

use std::path::Path;

use limafs_driver::{Config, Image};

use super::machine::ARCHS;
use super::{one_line, one_of, text};
use crate::config::expand_path;
use crate::config::remarks::Remarks;

/// Digest algorithms and how many hexadecimal digits theirs have.
const ALGORITHMS: [(&str, usize); 3] = [("sha256", 64), ("sha384", 96), ("sha512", 128)];

pub fn check(config: &Config, faults: &mut Remarks) {
    let images = config.images.as_deref().unwrap_or_default();
    // Other drivers may have images of their own, and say so when they have not.
    let needs_image = ["", "qemu", "vz", "wsl2"].contains(&text(&config.vm_type));
    if images.is_empty() && needs_image {
        faults.must_be_set("images");
    }
    for (index, image) in images.iter().enumerate() {
        check_image(&format!("images[{index}]"), image, faults);
    }
    for (index, image) in config.firmware.iter().flat_map(|it| it.images.iter().flatten()).enumerate() {
        file(&format!("firmware.images[{index}]"), [&image.location, &image.arch, &image.digest], faults);
    }
    for (index, it) in config.containerd.iter().flat_map(|it| it.archives.iter().flatten()).enumerate() {
        file(&format!("containerd.archives[{index}]"), [&it.location, &it.arch, &it.digest], faults);
    }
}

fn check_image(field: &str, image: &Image, faults: &mut Remarks) {
    file(field, [&image.location, &image.arch, &image.digest], faults);
    let kernel = image.kernel.as_ref().map(|it| ("kernel", [&it.location, &it.arch, &it.digest]));
    let initrd = image.initrd.as_ref().map(|it| ("initrd", [&it.location, &it.arch, &it.digest]));
    for (name, parts) in [kernel, initrd].into_iter().flatten() {
        let field = format!("{field}.{name}");
        file(&field, parts, faults);
        if parts[1] != &image.arch {
            let (wanted, got) = (text(&image.arch), text(parts[1]));
            faults.add(format!("{field}.arch"), format!("unexpected architecture {got:?}, the image has {wanted:?}"));
        }
    }
}

fn file(field: &str, [location, arch, digest]: [&Option<String>; 3], faults: &mut Remarks) {
    let location = text(location);
    if location.is_empty() {
        faults.must_be_set(format!("{field}.location"));
    } else if !location.contains("://") && expand_path(location, Path::new("/")).is_none() {
        // Lima takes a relative path as its caller's; a file tree has no caller's directory.
        let why = format!("invalid local file path {location:?} (absolute or ~/, or a URL)");
        faults.add(format!("{field}.location"), why);
    }
    one_line(faults, &format!("{field}.location"), location);
    one_of(faults, &format!("{field}.arch"), arch.as_deref(), ARCHS);
    if let Some(why) = digest.as_deref().and_then(digest_fault) {
        faults.add(format!("{field}.digest"), why);
    }
}

fn digest_fault(digest: &str) -> Option<String> {
    let Some((algorithm, digits)) = digest.split_once(':') else {
        return Some(format!("invalid checksum digest format {digest:?} (such as sha256:0123...)"));
    };
    let Some((_, count)) = ALGORITHMS.into_iter().find(|(known, _)| *known == algorithm) else {
        return Some(format!("unsupported digest algorithm {algorithm:?} (sha256, sha384, sha512)"));
    };
    // Lower case as in OCI's digests, so that texts can be compared.
    let hex = digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    (digits.len() != count || !hex)
        .then(|| format!("invalid checksum digest length or digits, {algorithm} has {count} in lower case"))
}
