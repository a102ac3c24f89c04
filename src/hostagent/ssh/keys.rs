//! The key pair of the home, `_config/user`: Lima's, shared by all instances. Made once, never replaced.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::os::unix::fs::DirBuilderExt;
use std::sync::Arc;
use std::time::Duration;

use russh::keys::ssh_key::LineEnding;
use russh::keys::{Algorithm, PrivateKey, PublicKey, key::safe_rng};

use crate::error::{Error, Result};
use crate::names::{self, Home};
use crate::store;

const COMMENT: &str = "lima";

/// The user's key and its line of `authorized_keys`.
#[derive(Debug, Clone)]
pub struct Identity {
    pub key: Arc<PrivateKey>,
    pub line: String,
}

/// Reads the key pair, or makes it. Lima makes it under the same lock.
pub async fn ensure(home: &Home) -> Result<Identity> {
    let dir = home.config("");
    DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(Error::io(&dir))?;
    let _lock = lock(&File::open(&dir).map_err(Error::io(&dir))?).await?;
    let path = home.config(names::USER_KEY);
    let key = match store::read_small(&path)? {
        Some(text) => {
            PrivateKey::from_openssh(&text).map_err(|error| Error::failed(path.display().to_string(), error))?
        }
        None => make(home)?,
    };
    let line = public_line(home, key.public_key())?;
    Ok(Identity { key: Arc::new(key), line })
}

/// Waits for the lock at most 10 s; it is held while the returned file lives.
async fn lock(dir: &File) -> Result<File> {
    let file = dir.try_clone().map_err(Error::io("_config"))?;
    for _ in 0..200 {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::Error(source)) => return Err(Error::io("_config")(source)),
            Err(TryLockError::WouldBlock) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
    Err(Error::Timeout { what: "the lock on _config".into(), seconds: 10 })
}

fn make(home: &Home) -> Result<PrivateKey> {
    let failed = |error| Error::failed("making an ssh key", error);
    let mut key = PrivateKey::random(&mut safe_rng(), Algorithm::Ed25519).map_err(failed)?;
    key.set_comment(COMMENT);
    let text = key.to_openssh(LineEnding::LF).map_err(failed)?;
    // The public half of an older key must not be taken for this one's.
    store::replace(&home.config(names::USER_PUB), public_text(key.public_key())?.as_bytes(), 0o644)?;
    store::replace(&home.config(names::USER_KEY), text.as_bytes(), 0o600)?;
    Ok(key)
}

/// The line in `user.pub`, written anew when it is missing.
fn public_line(home: &Home, key: &PublicKey) -> Result<String> {
    let path = home.config(names::USER_PUB);
    let line = match fs::read_to_string(&path) {
        Ok(text) if !text.trim().is_empty() => text,
        _ => {
            let text = public_text(key)?;
            store::replace(&path, text.as_bytes(), 0o644)?;
            text
        }
    };
    Ok(line.trim().to_owned())
}

fn public_text(key: &PublicKey) -> Result<String> {
    let line = key.to_openssh().map_err(|error| Error::failed("user.pub", error))?;
    Ok(format!("{}\n", line.trim_end()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[tokio::test]
    async fn a_key_is_made_once_and_readable_by_its_owner_only() {
        let temp = tempfile::tempdir().unwrap();
        let home = Home::at(temp.path());
        let first = ensure(&home).await.unwrap();
        let second = ensure(&home).await.unwrap();
        assert_eq!(first.line, second.line);
        assert!(first.line.starts_with("ssh-ed25519 AAAA") && first.line.ends_with(" lima"));
        let mode = |name: &str| fs::metadata(home.config(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode("user"), mode("user.pub")), (0o600, 0o644));
    }

    #[tokio::test]
    async fn a_missing_public_key_is_written_anew() {
        let temp = tempfile::tempdir().unwrap();
        let home = Home::at(temp.path());
        let first = ensure(&home).await.unwrap();
        fs::remove_file(home.config("user.pub")).unwrap();
        assert_eq!(ensure(&home).await.unwrap().line, first.line);
    }
}
