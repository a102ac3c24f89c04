//! Snapshots as Lima's protocol has them: the table that QEMU prints, of which readers take the tags.

#[cfg(feature = "server")]
use jiff::Timestamp;
#[cfg(feature = "client")]
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use crate::Snapshot;

const DATE: &str = "%Y-%m-%d %H:%M:%S";
const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];

#[cfg(feature = "server")]
pub(crate) fn table(snapshots: &[Snapshot]) -> String {
    let mut text = String::from("ID        TAG               VM SIZE                DATE\n");
    for (number, snapshot) in snapshots.iter().enumerate() {
        let created = Timestamp::from_second(snapshot.created.try_into().unwrap_or(0)).unwrap_or_default();
        let date = created.to_zoned(TimeZone::system()).strftime(DATE).to_string();
        let (size, unit) = size(snapshot.vm_size);
        let id = number + 1;
        text.push_str(&format!("{id:<10}{tag:<16} {size:>6} {unit} {date:>19}\n", tag = snapshot.tag));
    }
    text
}

#[cfg(feature = "server")]
fn size(bytes: u64) -> (String, &'static str) {
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    (if unit == 0 { bytes.to_string() } else { format!("{value:.1}") }, UNITS[unit])
}

/// The snapshots of a table; what is no row of it is passed over.
#[cfg(feature = "client")]
pub(crate) fn parse(table: &str) -> Vec<Snapshot> {
    table.lines().filter_map(row).collect()
}

#[cfg(feature = "client")]
fn row(line: &str) -> Option<Snapshot> {
    let mut words = line.split_whitespace();
    let (id, tag) = (words.next()?, words.next()?);
    // A VM that runs has no numbers for those that all of its disks share.
    if id != "--" && !id.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let (size, unit, day, time) = (words.next()?, words.next()?, words.next()?, words.next()?);
    let exponent = UNITS.iter().position(|known| *known == unit)?;
    let vm_size = (size.parse::<f64>().ok()? * 1024f64.powi(exponent.try_into().ok()?)) as u64;
    let date = DateTime::strptime(DATE, format!("{day} {}", time.get(..8)?)).ok()?;
    let created = date.to_zoned(TimeZone::system()).ok()?.timestamp().as_second();
    Some(Snapshot { tag: tag.into(), created: created.try_into().ok()?, vm_size })
}

#[cfg(all(test, feature = "server", feature = "client"))]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_read_as_it_was_written() {
        let snapshot = |tag: &str, vm_size| Snapshot { tag: tag.into(), created: 1_700_000_000, vm_size };
        let snapshots = [snapshot("one", 0), snapshot("a-tag-longer-than-its-column", 512 << 20)];
        assert_eq!(parse(&table(&snapshots)), snapshots);
    }

    #[test]
    fn what_qemu_prints_is_read() {
        let stopped = "ID        TAG               VM SIZE                DATE     VM CLOCK     ICOUNT\n\
                       1         clean                 0 B 2026-01-02 03:04:05 00:00:00.000          0\n";
        let running = "ID        TAG               VM SIZE                DATE     VM CLOCK     ICOUNT\n\
                       --        warm              182 MiB 2026-01-02 03:04:05 00:01:02.003\n";
        let read =
            |table| parse(table).into_iter().map(|snapshot| (snapshot.tag, snapshot.vm_size)).collect::<Vec<_>>();
        assert_eq!(read(stopped), [("clean".to_owned(), 0)]);
        assert_eq!(read(running), [("warm".to_owned(), 182 << 20)]);
        assert_eq!(read("There is no snapshot available.\n"), []);
    }
}
