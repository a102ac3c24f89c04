//! Makes a distribution of an archive, and removes it. Only one that was made of this instance is ever removed.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use limafs_driver::{Error, Instance, Result};

use crate::list::State;
use crate::wsl::{DEADLINE, Wsl};
use crate::{configure, names};

/// A large archive on a slow disk.
const IMPORT_DEADLINE: Duration = Duration::from_secs(900);

/// Returns the state of the instance's distribution; refuses one of somebody else's.
pub(crate) async fn state(wsl: &Wsl, instance: &Instance) -> Result<State> {
    let name = names::distribution(&instance.name);
    let state = wsl.state(&name).await?;
    if state != State::Uninitialized && !is_ours(instance) {
        let why = format!("is there, but was not made of this instance; wsl.exe --unregister {name} removes it");
        return Err(Error::failed(format!("the distribution {name}"), why));
    }
    Ok(state)
}

/// Makes the distribution where there is none. `false` when there is no archive yet.
pub(crate) async fn ensure(wsl: &Wsl, instance: &Instance) -> Result<bool> {
    if state(wsl, instance).await? != State::Uninitialized {
        return Ok(true);
    }
    let images = [names::IMAGE, names::BASE_DISK].map(|name| instance.dir.join(name));
    let Some(image) = images.into_iter().find(|image| image.exists()) else { return Ok(false) };
    let name = names::distribution(&instance.name);
    let location = location(wsl, instance).await?;
    let image = wsl.windows_path(&image).await?;
    let mark = instance.dir.join(names::DISK);
    if mark.exists() && !is_mark(&mark, instance) {
        let why = format!("is not {name}'s; neither the vmType nor the name of such an instance can be changed");
        return Err(Error::failed(names::DISK, why));
    }
    // Before, lest one be made that nobody may remove.
    fs::write(&mark, format!("{}{location}\n", head(instance))).map_err(Error::io(&mark))?;
    let words = ["--import", &name, &location, &image, "--version", "2"];
    if let Err(error) = wsl.tell(&words, IMPORT_DEADLINE).await {
        // None of ours is there, then.
        fs::remove_file(&mark).map_err(Error::io(&mark))?;
        return Err(error);
    }
    Ok(true)
}

/// Removes the distribution with its disk.
pub(crate) async fn remove(wsl: &Wsl, instance: &Instance) -> Result<()> {
    let name = names::distribution(&instance.name);
    if wsl.state(&name).await? == State::Uninitialized {
        return Ok(());
    }
    if !is_ours(instance) {
        tracing::warn!("the distribution {name} was not made of this instance, and stays");
        return Ok(());
    }
    wsl.tell(&["--unregister", &name], IMPORT_DEADLINE.max(DEADLINE)).await?;
    match fs::remove_file(instance.dir.join(names::DISK)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            tracing::warn!("{} stays: {error}", names::DISK);
        }
        _ => {}
    }
    Ok(())
}

/// Lima's import leaves no mark, but the disk in the instance directory.
fn is_ours(instance: &Instance) -> bool {
    let dir = &instance.dir;
    is_mark(&dir.join(names::DISK), instance) || dir.join(names::VHDX).exists()
}

fn is_mark(path: &Path, instance: &Instance) -> bool {
    let wanted = head(instance);
    let mut found = vec![0; wanted.len()];
    let read = fs::File::open(path).and_then(|mut file| file.read_exact(&mut found));
    read.is_ok() && found == wanted.as_bytes()
}

/// Begins the file that is in the place of a disk.
fn head(instance: &Instance) -> String {
    format!("the disk of the WSL2 distribution {} at ", names::distribution(&instance.name))
}

/// Where Windows is to keep the disk: the instance directory, or what `vmOpts` says for a home inside a distribution.
async fn location(wsl: &Wsl, instance: &Instance) -> Result<String> {
    let chosen = configure::options(&instance.config)?.location;
    let dir: PathBuf = match chosen {
        Some(location) => location.join(names::distribution(&instance.name)),
        None => instance.dir.clone(),
    };
    fs::create_dir_all(&dir).map_err(Error::io(&dir))?;
    let refuse = || {
        let why = "must name a directory on a drive of Windows', such as /mnt/c/Users/me/limafs: Windows cannot keep \
                   a distribution's disk inside another distribution";
        Error::invalid("vmOpts.wsl2.location", why)
    };
    wsl.on_a_drive(&dir).await?.ok_or_else(refuse)
}
