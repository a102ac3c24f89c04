//! The same files in `$LIMA_HOME/_config`.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::time::UNIX_EPOCH;

use super::ConfigFile;
use crate::error::{Error, Result};
use crate::names::Home;
use crate::store;
use crate::view::tree::Rendered;

/// Those that there are. What cannot be read is not shown, and neither is a private key, whatever it is called.
pub fn read(home: &Home) -> BTreeMap<ConfigFile, Rendered> {
    let shown = |file: ConfigFile| {
        let path = home.config(file.name());
        let bytes = store::read_small(&path).ok()??;
        let may_be_shown = if file.takes_writes() { !holds_private_key(&bytes) } else { is_public_key(&bytes) };
        let written = fs::metadata(&path).and_then(|meta| meta.modified()).unwrap_or(UNIX_EPOCH);
        may_be_shown.then(|| (file, Rendered { bytes: bytes.into(), mtime: written, version: 0 }))
    };
    ConfigFile::ALL.into_iter().filter_map(shown).collect()
}

/// Makes or replaces one; durable when it returns.
pub fn define(home: &Home, file: ConfigFile, text: &[u8]) -> Result<()> {
    let dir = home.config("");
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(Error::io(&dir))?;
    store::replace(&home.config(file.name()), text, 0o600)
}

pub fn remove(home: &Home, file: ConfigFile) -> Result<()> {
    let path = home.config(file.name());
    fs::remove_file(&path).map_err(Error::io(&path))?;
    store::sync_dir(&home.config(""))
}

/// Makes one another one, if it may be that one.
pub fn rename(home: &Home, from: ConfigFile, to: ConfigFile) -> Result<()> {
    let (old, new) = (home.config(from.name()), home.config(to.name()));
    let bytes = store::read_small(&old)?.ok_or_else(|| Error::Missing { what: from.name().into() })?;
    to.check(&bytes)?;
    fs::rename(&old, &new).map_err(Error::io(&old))?;
    store::sync_dir(&home.config(""))
}

/// A document has such a line only deeper in, as a part of a script.
fn holds_private_key(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes);
    text.lines().any(|line| line.starts_with("-----BEGIN ") && line.contains("PRIVATE KEY"))
}

/// Lines of a type and a key, as `ssh-keygen` writes them.
fn is_public_key(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    let is_key = |line: &str| {
        let mut words = line.split_whitespace();
        let kind = words.next().unwrap_or_default();
        ["ssh-", "ecdsa-", "sk-"].iter().any(|prefix| kind.starts_with(prefix)) && words.next().is_some()
    };
    let mut lines = text.lines().filter(|line| !line.trim().is_empty()).peekable();
    lines.peek().is_some() && lines.all(is_key)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    const PRIVATE: &str = "-----BEGIN OPENSSH PRIVATE KEY-----\nc2VjcmV0\n-----END OPENSSH PRIVATE KEY-----\n";
    const PUBLIC: &str = "ssh-ed25519 AAAAC3Nza lima\n";

    fn home() -> (tempfile::TempDir, Home) {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::at(dir.path());
        (dir, home)
    }

    #[test]
    fn documents_are_made_private_replaced_renamed_and_removed() {
        let (_dir, home) = home();
        define(&home, ConfigFile::Default, b"cpus: 1\n").unwrap();
        define(&home, ConfigFile::Default, b"cpus: 2\n").unwrap();
        let mode = |path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(home.config("")), mode(home.config("default.yaml"))), (0o700, 0o600));
        assert_eq!(&*read(&home)[&ConfigFile::Default].bytes, b"cpus: 2\n");
        rename(&home, ConfigFile::Default, ConfigFile::Override).unwrap();
        assert_eq!(read(&home).into_keys().collect::<Vec<_>>(), [ConfigFile::Override]);
        let refused = rename(&home, ConfigFile::Override, ConfigFile::PublicKey).unwrap_err();
        assert_eq!(refused.errno(), libc::EPERM);
        remove(&home, ConfigFile::Override).unwrap();
        assert!(read(&home).is_empty());
        assert_eq!(fs::read_dir(home.config("")).unwrap().count(), 0);
    }

    #[test]
    fn a_document_becomes_no_other_that_it_is_not() {
        let (_dir, home) = home();
        define(&home, ConfigFile::Base, b"networks: []\n").unwrap();
        assert_eq!(rename(&home, ConfigFile::Base, ConfigFile::Networks).unwrap_err().errno(), libc::EINVAL);
        assert_eq!(read(&home).into_keys().collect::<Vec<_>>(), [ConfigFile::Base]);
    }

    #[test]
    fn a_private_key_is_shown_by_no_name() {
        let (_dir, home) = home();
        fs::create_dir(home.config("")).unwrap();
        fs::write(home.config("user"), PRIVATE).unwrap();
        for file in ConfigFile::ALL {
            symlink("user", home.config(file.name())).unwrap();
        }
        assert!(read(&home).is_empty());
        for file in ConfigFile::ALL {
            fs::remove_file(home.config(file.name())).unwrap();
            fs::write(home.config(file.name()), format!("# mine\n{PRIVATE}")).unwrap();
        }
        assert!(read(&home).is_empty());
        fs::write(home.config("user.pub"), format!("{PUBLIC}\n{PRIVATE}")).unwrap();
        assert!(read(&home).is_empty());
        fs::write(home.config("user.pub"), PUBLIC).unwrap();
        let script = "provision:\n- script: |\n    cat <<E\n    -----BEGIN RSA PRIVATE KEY-----\n    E\n";
        fs::write(home.config("base.yaml"), script).unwrap();
        assert_eq!(read(&home).into_keys().collect::<Vec<_>>(), [ConfigFile::Base, ConfigFile::PublicKey]);
    }
}
