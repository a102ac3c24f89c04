//! What a running VM shows: its display, and what its guest says of its memory.

use std::fs;
use std::path::Path;
use std::time::Duration;

use limafs_driver::{Error, Memory, Result};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::names;
use crate::vm::Running;

const BALLOON: &str = "/machine/peripheral/balloon0";
/// How long a guest may take to answer.
const GUEST: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_millis(20);
/// A 16K display, uncompressed.
const PICTURE_MAX: u64 = 512 << 20;

/// The display as a PNG file. QEMU writes it to a file of its owner alone, which is gone when this returns.
pub(crate) async fn shot(running: &Running, dir: &Path) -> Result<Vec<u8>> {
    let path = dir.join(names::SCREEN);
    let text = path.to_str().ok_or_else(|| Error::failed("screenshot", "the instance's path is not UTF-8"))?;
    let asked = running.qmp.execute("screendump", Some(json!({ "filename": text, "format": "png" }))).await;
    let picture = match asked {
        Ok(_) => read(&path),
        Err(Error::Failed { why, .. }) if why.contains("no console") => Err(Error::Unsupported {
            driver: "qemu".into(),
            operation: "take a picture of a VM without a display; video.display gives it one",
        }),
        Err(error) => Err(error),
    };
    // There is none where QEMU has failed.
    let _ = fs::remove_file(&path);
    picture
}

fn read(path: &Path) -> Result<Vec<u8>> {
    match fs::metadata(path).map_err(Error::io(path))?.len() {
        0 => Err(Error::failed("screenshot", "QEMU wrote nothing")),
        length if length > PICTURE_MAX => Err(Error::failed("screenshot", "the picture is too large")),
        _ => fs::read(path).map_err(Error::io(path)),
    }
}

/// Asks the guest, once: a guest that is asked all the time never sleeps.
pub(crate) async fn memory(running: &Running) -> Result<Memory> {
    let before = property(running, "guest-stats").await?["last-update"].clone();
    set_polling(running, 1).await?;
    let answer = answered(running, &before).await;
    set_polling(running, 0).await?;
    let stats = &answer?["stats"];
    let summary = running.qmp.execute("query-memory-size-summary", None).await?;
    let total = summary["base-memory"].as_u64().map(|base| base + summary["plugged-memory"].as_u64().unwrap_or(0));
    Ok(Memory {
        total,
        available: known(stats, "stat-available-memory"),
        free: known(stats, "stat-free-memory"),
        caches: known(stats, "stat-disk-caches"),
    })
}

/// Waits for words of the guest that are newer than those of `before`. They have a time in seconds; what came within the
/// same second is new enough.
async fn answered(running: &Running, before: &Value) -> Result<Value> {
    let begun = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |age| age.as_secs());
    let deadline = Instant::now() + GUEST;
    loop {
        let stats = property(running, "guest-stats").await?;
        let at = stats["last-update"].as_u64().unwrap_or(0);
        if at > 0 && (stats["last-update"] != *before || at >= begun) {
            return Ok(stats);
        }
        if Instant::now() > deadline {
            return Err(Error::Timeout { what: "the guest's memory balloon".into(), seconds: GUEST.as_secs() });
        }
        sleep(LOOK).await;
    }
}

async fn property(running: &Running, name: &str) -> Result<Value> {
    running.qmp.execute("qom-get", Some(json!({ "path": BALLOON, "property": name }))).await
}

async fn set_polling(running: &Running, seconds: u32) -> Result<()> {
    let asked = json!({ "path": BALLOON, "property": "guest-stats-polling-interval", "value": seconds });
    running.qmp.execute("qom-set", Some(asked)).await.map(drop)
}

/// All ones where the guest has not said.
fn known(stats: &Value, name: &str) -> Option<u64> {
    stats[name].as_u64().filter(|bytes| *bytes != u64::MAX)
}
