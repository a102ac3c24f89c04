//! Which image an instance is made of, and fetching it with its kernel and initrd. First boot only.

use std::fs;
use std::io;
use std::path::Path;

use limafs_driver::{Config, File, Image};
use tokio::sync::mpsc;

use super::format;
use crate::error::{Error, Result};
use crate::hostagent::state::{Event, Step};
use crate::images::{self, Progress};
use crate::names;
use crate::store;

/// Fetches the first image that can be had of those that fit, in one of the driver's formats; no formats are all. What
/// is there already is kept.
pub async fn fetch(config: &Config, formats: &[String], dir: &Path, tell: &mpsc::Sender<Event>) -> Result<()> {
    let path = dir.join(names::IMAGE);
    if dir.join(names::DISK).exists() {
        return Ok(());
    }
    if path.exists() {
        return format::suit(&path, formats).await;
    }
    let candidates = candidates(config, formats);
    if candidates.is_empty() {
        let arch = config.arch.as_deref().unwrap_or_default();
        return Err(Error::invalid("images", format!("there is none for arch {arch}")));
    }
    let mut failures = Vec::new();
    for image in candidates {
        let fetched = fetch_one(image, dir, tell).await;
        let suited = if fetched.is_ok() { format::suit(&path, formats).await } else { fetched };
        match suited {
            Ok(()) => return Ok(()),
            Err(error) => {
                remove(&path)?;
                tracing::warn!("{error}");
                failures.push(error);
            }
        }
    }
    match failures.len() {
        1 => Err(failures.remove(0)),
        _ => {
            let sentences: Vec<String> = failures.iter().map(Error::to_string).collect();
            Err(Error::failed("none of the images can be had", sentences.join("\n")))
        }
    }
}

/// Images of the instance's architecture and of the same variant as the first of them; last those that are in a format
/// which the driver does not take, as far as their names say so.
fn candidates<'a>(config: &'a Config, formats: &[String]) -> Vec<&'a Image> {
    let images = config.images.as_deref().unwrap_or_default();
    let fits = |image: &&Image| image.arch.is_none() || image.arch == config.arch;
    let Some(first) = images.iter().find(fits) else { return vec![] };
    let kind = |image: &Image| (image.variant.clone(), image.arch_variant.clone());
    let mut images: Vec<&Image> = images.iter().filter(fits).filter(|image| kind(image) == kind(first)).collect();
    let format = |image: &Image| image.location.as_deref().and_then(format::named);
    images.sort_by_key(|image| {
        !formats.is_empty() && format(image).is_some_and(|format| formats.iter().all(|known| known != format))
    });
    images
}

/// The image comes last: where it is, all is.
async fn fetch_one(image: &Image, dir: &Path, tell: &mpsc::Sender<Event>) -> Result<()> {
    for stale in [names::KERNEL, names::KERNEL_CMDLINE, names::INITRD] {
        remove(&dir.join(stale))?;
    }
    if let Some(kernel) = &image.kernel {
        let file = File { location: kernel.location.clone(), arch: kernel.arch.clone(), digest: kernel.digest.clone() };
        images::fetch(&file, &dir.join(names::KERNEL), &told("kernel", tell)).await?;
        if let Some(cmdline) = &kernel.cmdline {
            store::replace(&dir.join(names::KERNEL_CMDLINE), cmdline.as_bytes(), 0o644)?;
        }
    }
    if let Some(initrd) = &image.initrd {
        images::fetch_as_is(initrd, &dir.join(names::INITRD), &told("initrd", tell)).await?;
    }
    let file = File { location: image.location.clone(), arch: image.arch.clone(), digest: image.digest.clone() };
    images::fetch(&file, &dir.join(names::IMAGE), &told("image", tell)).await
}

pub fn told(what: &str, tell: &mpsc::Sender<Event>) -> impl Fn(Progress) {
    move |progress: Progress| {
        let step = Step { name: format!("{} {what}", progress.step), detail: detail(&progress) };
        // Progress that nobody has time for is not missed.
        let _ = tell.try_send(Event::Step(step));
    }
}

/// `34 % 12.3 MiB/s`, or how much there is where the total is not known.
fn detail(progress: &Progress) -> String {
    const MIB: f64 = (1 << 20) as f64;
    let rate = progress.rate / MIB;
    match progress.total {
        Some(total) if total > 0 => format!("{} % {rate:.1} MiB/s", progress.done.min(total) * 100 / total),
        _ => format!("{:.1} MiB {rate:.1} MiB/s", progress.done as f64 / MIB),
    }
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(Error::io(path)(source)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use limafs_driver::Kernel;

    fn image(location: &str, arch: &str, variant: Option<&str>) -> Image {
        Image {
            location: Some(location.into()),
            arch: Some(arch.into()),
            variant: variant.map(str::to_owned),
            ..Image::default()
        }
    }

    #[test]
    fn the_first_image_of_the_architecture_decides_the_variant() {
        let images = vec![
            image("a", "aarch64", Some("server")),
            image("b", "x86_64", Some("minimal")),
            image("c", "x86_64", Some("server")),
            image("d", "x86_64", Some("minimal")),
        ];
        let config = Config { arch: Some("x86_64".into()), images: Some(images), ..Config::default() };
        let locations: Vec<_> = candidates(&config, &[]).iter().filter_map(|image| image.location.as_deref()).collect();
        assert_eq!(locations, ["b", "d"]);
    }

    #[tokio::test]
    async fn an_image_that_the_driver_takes_is_chosen_before_one_that_it_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name).display().to_string();
        fs::write(at("a.vmdk"), b"KDMV").unwrap();
        fs::write(at("b.raw"), "b").unwrap();
        let images = vec![image(&at("a.vmdk"), "x86_64", None), image(&at("b.raw"), "x86_64", None)];
        let config = Config { arch: Some("x86_64".into()), images: Some(images), ..Config::default() };
        let formats = ["raw".to_owned()];
        fetch(&config, &formats, dir.path(), &mpsc::channel(64).0).await.unwrap();
        assert_eq!(fs::read_to_string(dir.path().join(names::IMAGE)).unwrap(), "b");
        fs::remove_file(dir.path().join(names::IMAGE)).unwrap();
        fs::remove_file(at("b.raw")).unwrap();
        let error = fetch(&config, &formats, dir.path(), &mpsc::channel(64).0).await.unwrap_err().to_string();
        assert!(error.contains("in the format vmdk") && error.contains("b.raw does not exist"), "{error}");
        assert!(!dir.path().join(names::IMAGE).exists(), "what nobody takes stays");
    }

    async fn fetched(images: Vec<Image>, dir: &Path) -> Result<()> {
        let config = Config { arch: Some("x86_64".into()), images: Some(images), ..Config::default() };
        fetch(&config, &[], dir, &mpsc::channel(64).0).await
    }

    #[tokio::test]
    async fn an_image_that_cannot_be_had_is_followed_by_the_next_of_its_kind() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name).display().to_string();
        for name in ["minimal", "good", "kernel-of-none"] {
            fs::write(at(name), name).unwrap();
        }
        // The kernel of the first is there, its image is not.
        let mut first = image(&at("gone"), "x86_64", Some("server"));
        first.kernel = Some(Kernel { location: Some(at("kernel-of-none")), ..Kernel::default() });
        let images = vec![
            image(&at("other"), "aarch64", Some("server")),
            first,
            image(&at("minimal"), "x86_64", Some("minimal")),
            image(&at("good"), "x86_64", Some("server")),
        ];
        fetched(images, dir.path()).await.unwrap();
        assert_eq!(fs::read_to_string(dir.path().join(names::IMAGE)).unwrap(), "good");
        assert!(!dir.path().join(names::KERNEL).exists());
    }

    #[tokio::test]
    async fn each_failure_has_its_sentence() {
        let dir = tempfile::tempdir().unwrap();
        let images = ["/nonexistent/a", "/nonexistent/b"].map(|path| image(path, "x86_64", None));
        let error = fetched(images.to_vec(), dir.path()).await.unwrap_err().to_string();
        assert_eq!(
            error,
            "none of the images can be had: /nonexistent/a does not exist\n/nonexistent/b does not exist"
        );
        let error = fetched(images[..1].to_vec(), dir.path()).await.unwrap_err().to_string();
        assert_eq!(error, "/nonexistent/a does not exist");
        let foreign = vec![image("/nonexistent/a", "riscv64", None)];
        assert_eq!(
            fetched(foreign, dir.path()).await.unwrap_err().to_string(),
            "images: there is none for arch x86_64"
        );
    }

    #[test]
    fn progress_is_short() {
        let progress = Progress { step: "downloading", done: 34, total: Some(100), rate: 12.34 * 1048576.0 };
        assert_eq!(detail(&progress), "34 % 12.3 MiB/s");
        assert_eq!(detail(&Progress { total: None, ..progress }), "0.0 MiB 12.3 MiB/s");
    }
}
