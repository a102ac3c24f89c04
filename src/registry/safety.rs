//! Whether a program may be run as a driver: nobody but its user and root could have put it there or change it.
//!
//! Each step of the path counts, and each step of what its symlinks lead to: every directory from the root on, and the
//! program itself, belong to the user or to root and cannot be written by others. A directory of root's with the sticky
//! bit (`/tmp`) will do as a step: in it nobody can replace what belongs to somebody else.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

/// As many as the kernel follows.
const MOST_LINKS: usize = 40;
const WRITABLE_BY_OTHERS: u32 = 0o022;
const STICKY: u32 = 0o1000;

/// Why the program at an absolute path is not to be run; `None` when it may be.
pub fn fault(path: &Path) -> Option<String> {
    walk(path, rustix::process::geteuid().as_raw()).err()
}

fn walk(path: &Path, user: u32) -> Result<(), String> {
    let mut at = PathBuf::from("/");
    let mut left: VecDeque<OsString> = steps(path);
    let mut links = 0;
    check(&at, &look(&at)?, user)?;
    while let Some(step) = left.pop_front() {
        if step == ".." {
            at.pop();
            continue;
        }
        let next = at.join(&step);
        let meta = look(&next)?;
        if meta.is_symlink() {
            check_owner(&next, &meta, user)?;
            links += 1;
            if links > MOST_LINKS {
                return Err(format!("{} leads through too many symlinks", path.display()));
            }
            let target = fs::read_link(&next).map_err(|error| format!("{}: {error}", next.display()))?;
            if target.is_absolute() {
                at = PathBuf::from("/");
            }
            for step in steps(&target).into_iter().rev() {
                left.push_front(step);
            }
            continue;
        }
        check(&next, &meta, user)?;
        if left.is_empty() && !meta.is_file() {
            return Err(format!("{} is not a regular file", next.display()));
        }
        if left.is_empty() && meta.mode() & 0o111 == 0 {
            return Err(format!("{} is not executable", next.display()));
        }
        at = next;
    }
    Ok(())
}

/// The names of a path; `..` stays one of them.
fn steps(path: &Path) -> VecDeque<OsString> {
    let step = |component: Component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        _ => None,
    };
    path.components().filter_map(step).collect()
}

fn look(path: &Path) -> Result<Metadata, String> {
    fs::symlink_metadata(path).map_err(|error| format!("{}: {error}", path.display()))
}

fn check(path: &Path, meta: &Metadata, user: u32) -> Result<(), String> {
    check_owner(path, meta, user)?;
    let mode = meta.mode();
    let is_shared = meta.is_dir() && mode & STICKY != 0 && meta.uid() == 0;
    if mode & WRITABLE_BY_OTHERS != 0 && !is_shared {
        return Err(format!("{} can be written by others (mode {:04o})", path.display(), mode & 0o7777));
    }
    Ok(())
}

fn check_owner(path: &Path, meta: &Metadata, user: u32) -> Result<(), String> {
    match meta.uid() {
        uid if uid == user || uid == 0 => Ok(()),
        uid => Err(format!("{} belongs to uid {uid}, neither to you nor to root", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn program(dir: &Path) -> PathBuf {
        let path = dir.join("lima-driver-x");
        fs::write(&path, "#!/bin/sh\n").unwrap();
        set_mode(&path, 0o755);
        path
    }

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn s25_a_program_of_ones_own_below_a_sticky_directory_is_safe() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(fault(&program(dir.path())), None);
    }

    #[test]
    fn s25_what_others_may_write_is_refused_anywhere_along_the_path() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("a/b");
        fs::create_dir_all(&inner).unwrap();
        let program = program(&inner);
        for (path, mode, good) in
            [(&program, 0o775, 0o755), (&inner, 0o777, 0o700), (&dir.path().join("a"), 0o770, 0o700)]
        {
            set_mode(path, mode);
            let why = fault(&program).unwrap();
            assert_eq!(why, format!("{} can be written by others (mode {mode:04o})", path.display()));
            set_mode(path, good);
        }
        assert_eq!(fault(&program), None);
        set_mode(&inner, 0o1777);
        // Sticky is enough for root's directories alone.
        assert_eq!(fault(&program).is_none(), rustix::process::geteuid().is_root());
    }

    #[test]
    fn s25_symlinks_are_followed_with_the_same_eyes() {
        let dir = tempfile::tempdir().unwrap();
        let (safe, open) = (dir.path().join("safe"), dir.path().join("open"));
        fs::create_dir(&safe).unwrap();
        fs::create_dir(&open).unwrap();
        let real = program(&open);
        symlink("../open/lima-driver-x", safe.join("lima-driver-x")).unwrap();
        assert_eq!(fault(&safe.join("lima-driver-x")), None);
        set_mode(&open, 0o777);
        let why = fault(&safe.join("lima-driver-x")).unwrap();
        assert!(why.starts_with(&open.display().to_string()), "{why}");
        set_mode(&open, 0o755);
        fs::remove_file(&real).unwrap();
        assert!(fault(&safe.join("lima-driver-x")).unwrap().contains("No such file"));
        symlink("loop", safe.join("loop")).unwrap();
        assert!(fault(&safe.join("loop")).unwrap().contains("too many symlinks"));
    }

    #[test]
    fn s25_only_a_regular_file_is_a_program() {
        let dir = tempfile::tempdir().unwrap();
        assert!(fault(dir.path()).unwrap().ends_with("is not a regular file"));
        let path = program(dir.path());
        set_mode(&path, 0o644);
        assert!(fault(&path).unwrap().ends_with("is not executable"));
    }

    #[test]
    fn s25_another_users_program_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = program(dir.path());
        let (mine, stranger) = (rustix::process::geteuid().as_raw(), 4_000_000);
        assert_eq!(walk(&path, mine), Ok(()));
        if mine != 0 {
            assert!(walk(&path, stranger).unwrap_err().contains(&format!("belongs to uid {mine}")));
            return;
        }
        std::os::unix::fs::chown(&path, Some(stranger), None).unwrap();
        assert!(walk(&path, mine).unwrap_err().contains("belongs to uid 4000000, neither to you nor to root"));
    }
}
