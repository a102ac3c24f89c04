//! The guest agent's program, where Lima looks for its own: `PREFIX/share/lima/lima-guestagent.OS-ARCH[.gz]`, PREFIX
//! being where our executable's directory is. An instance without one works, too.

use std::env;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use async_compression::tokio::bufread::GzipDecoder;
use limafs_driver::Config;
use tokio::io::AsyncReadExt;

/// Names the file itself, where it is none of the usual ones.
const VARIABLE: &str = "LIMAFS_GUESTAGENT";
const DIRS: [&str; 2] = ["share/lima", "libexec/lima"];
/// Lima's own has 30 MB, ours a tenth.
const BYTES_MAX: u64 = 64 << 20;

/// The program for such a guest, or `None`: said in the log, since no port of the guest is forwarded then.
pub async fn program(config: &Config) -> Option<Vec<u8>> {
    if config.plain == Some(true) {
        return None;
    }
    let arch = config.arch.as_deref().unwrap_or(env::consts::ARCH);
    let Some(file) = file(arch) else {
        tracing::warn!(
            "there is no lima-guestagent.Linux-{arch}: contrib/build-agent makes it; no ports are forwarded"
        );
        return None;
    };
    match read(&file).await {
        Ok(program) => Some(program),
        Err(error) => {
            tracing::warn!("guest agent {}: {error}; no ports are forwarded", file.display());
            None
        }
    }
}

/// Where it is, for guests of that architecture. One that is named need not be there.
pub fn file(arch: &str) -> Option<PathBuf> {
    let named = env::var_os(VARIABLE).filter(|file| !file.is_empty()).map(PathBuf::from);
    named.or_else(|| find(&env::current_exe().ok()?, arch))
}

fn find(executable: &Path, arch: &str) -> Option<PathBuf> {
    let prefix = executable.parent()?.parent()?;
    let name = format!("lima-guestagent.Linux-{arch}");
    let files = DIRS.iter().flat_map(|dir| ["", ".gz"].map(|ending| prefix.join(dir).join(format!("{name}{ending}"))));
    files.into_iter().find(|file| file.is_file())
}

async fn read(file: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    std::fs::File::open(file)?.take(BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if file.extension().is_some_and(|extension| extension == "gz") {
        let packed = std::mem::take(&mut bytes);
        GzipDecoder::new(&packed[..]).take(BYTES_MAX + 1).read_to_end(&mut bytes).await?;
    }
    if !bytes.starts_with(b"\x7fELF") {
        return Err(io::Error::other("is no program for Linux"));
    }
    if bytes.len() as u64 > BYTES_MAX { Err(io::Error::other("is too large")) } else { Ok(bytes) }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use async_compression::tokio::write::GzipEncoder;
    use tokio::io::AsyncWriteExt;

    use super::*;

    #[tokio::test]
    async fn it_is_found_beside_the_executable_s_directory_packed_or_not() {
        let prefix = tempfile::tempdir().unwrap();
        let executable = prefix.path().join("bin/limafs");
        let share = prefix.path().join("share/lima");
        fs::create_dir_all(&share).unwrap();
        assert_eq!(find(&executable, "x86_64"), None);

        let mut packed = GzipEncoder::new(Vec::new());
        packed.write_all(b"\x7fELF packed").await.unwrap();
        packed.shutdown().await.unwrap();
        fs::write(share.join("lima-guestagent.Linux-x86_64.gz"), packed.into_inner()).unwrap();
        let found = find(&executable, "x86_64").unwrap();
        assert_eq!(read(&found).await.unwrap(), b"\x7fELF packed");
        assert_eq!(find(&executable, "aarch64"), None);

        fs::write(share.join("lima-guestagent.Linux-x86_64"), b"\x7fELF").unwrap();
        assert_eq!(read(&find(&executable, "x86_64").unwrap()).await.unwrap(), b"\x7fELF");
    }

    #[tokio::test]
    async fn what_is_no_program_is_not_put_into_a_guest() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("agent");
        fs::write(&file, "version https://git-lfs").unwrap();
        assert!(read(&file).await.unwrap_err().to_string().contains("no program"));
        assert!(read(dir.path()).await.is_err());
    }
}
