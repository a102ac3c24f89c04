//! The host's side of mount entries before a start.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use limafs_driver::Config;

use crate::error::{Error, Result};

/// Makes the directories of mount entries that are not there, as Lima does, for a directory that is only read too.
pub async fn make_missing(config: &Config) -> Result<()> {
    let locations = config.mounts.iter().flatten().filter_map(|mount| mount.location.as_deref());
    let locations: Vec<PathBuf> = locations.map(PathBuf::from).collect();
    let make = move || {
        for (index, location) in locations.iter().enumerate() {
            make(location)
                .map_err(|why| Error::failed(format!("mounts[{index}].location {}", location.display()), why))?;
        }
        Ok(())
    };
    tokio::task::spawn_blocking(make).await.map_err(|error| Error::failed("mounts", error))?
}

fn make(location: &Path) -> std::result::Result<(), String> {
    fs::DirBuilder::new().recursive(true).mode(0o755).create(location).map_err(|error| match location.exists() {
        true => "is not a directory".to_owned(),
        false => error.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use limafs_driver::Mount;

    use super::*;

    fn mounting(location: &Path) -> Config {
        let mount = Mount { location: Some(location.display().to_string()), ..Mount::default() };
        Config { mounts: Some(vec![mount]), ..Config::default() }
    }

    #[tokio::test]
    async fn a_directory_that_is_missing_is_made() {
        let dir = tempfile::tempdir().unwrap();
        let location = dir.path().join("a/b");
        make_missing(&mounting(&location)).await.unwrap();
        assert!(location.is_dir());
        make_missing(&mounting(&location)).await.unwrap();
    }

    #[tokio::test]
    async fn what_is_no_directory_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = make_missing(&mounting(file.path())).await.unwrap_err().to_string();
        assert_eq!(error, format!("mounts[0].location {}: is not a directory", file.path().display()));
    }
}
