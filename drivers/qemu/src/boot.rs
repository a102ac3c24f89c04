//! The boot channel: lines that the guest writes to its virtio-serial port. Everything here is untrusted: bounded,
//! limited in rate, and made printable; what is too much is dropped, never waited for.

use std::path::Path;
use std::time::Duration;

use limafs_driver::VmEvent;
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use crate::qmp::Lines;

const LONGEST_LINE: usize = 1024;
/// Lines that may come at once, and how fast that allowance grows again.
const BURST: u32 = 50;
const PER_SECOND: u32 = 20;
const RETRY_FIRST: Duration = Duration::from_millis(20);
const RETRY_LAST: Duration = Duration::from_secs(2);

/// Reads the channel for as long as it is polled; connects again when QEMU drops the connection.
pub(crate) async fn listen(socket: &Path, events: mpsc::Sender<VmEvent>) {
    let mut pause = RETRY_FIRST;
    let mut allowance = Allowance { lines: BURST, since: Instant::now() };
    loop {
        if let Ok(stream) = UnixStream::connect(socket).await {
            pause = RETRY_FIRST;
            let mut lines = Lines::bounded(stream, LONGEST_LINE);
            while let Ok(line) = lines.next().await {
                if let Some(text) = printable(&line).filter(|_| allowance.take(Instant::now())) {
                    // Full: dropped, as the contract of `Vm` says.
                    let _ = events.try_send(VmEvent::Boot(text));
                }
            }
        }
        sleep(pause).await;
        pause = pause.mul_f32(1.5).min(RETRY_LAST);
    }
}

struct Allowance {
    lines: u32,
    since: Instant,
}

impl Allowance {
    fn take(&mut self, now: Instant) -> bool {
        let earned = (now - self.since).as_millis() * u128::from(PER_SECOND) / 1000;
        if earned > 0 {
            self.since = now;
            self.lines = self.lines.saturating_add(u32::try_from(earned).unwrap_or(BURST)).min(BURST);
        }
        let allowed = self.lines > 0;
        self.lines -= u32::from(allowed);
        allowed
    }
}

/// The line as text, or `None` when there is nothing to read in it.
fn printable(line: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(line);
    let text: String = text.chars().filter(|c| !c.is_control()).collect();
    let end = (0..=LONGEST_LINE.min(text.len())).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0);
    let text = text[..end].trim();
    (!text.is_empty()).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_made_printable_and_short() {
        assert_eq!(printable(b"\x1b[31mready\r"), Some("[31mready".into()));
        assert_eq!(printable(b"\x00\x07 "), None);
        assert!(printable(&[0xff; 1024]).unwrap().len() <= LONGEST_LINE);
    }

    #[test]
    fn a_flood_passes_in_part() {
        let start = Instant::now();
        let mut allowance = Allowance { lines: BURST, since: start };
        let passed = |allowance: &mut Allowance, now| (0..1000).filter(|_| allowance.take(now)).count();
        assert_eq!(passed(&mut allowance, start), 50);
        assert_eq!(passed(&mut allowance, start + Duration::from_secs(1)), 20);
        assert_eq!(passed(&mut allowance, start + Duration::from_secs(60)), 50);
    }
}
