//! Decompression: gzip, bzip2, xz and zstd, told from the first bytes. A name that promises one of them is held to it.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use async_compression::tokio::bufread::{BzDecoder, GzipDecoder, XzDecoder, ZstdDecoder};
use rustix::fs::fstatvfs;
use tempfile::NamedTempFile;
use tokio::io::{AsyncRead, AsyncReadExt, BufReader};

use super::{Meter, Report};
use crate::error::{Error, Result};

/// What is larger, unpacked, is a bomb.
const LIMIT: u64 = 64 << 30;
const BUFFER: usize = 1 << 20;
/// Zeros of this length become a hole.
const BLOCK: usize = 64 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Gzip,
    Bzip2,
    Xz,
    Zstd,
}

/// Ending and first bytes. As long as the formats allow: a raw disk that begins with two such bytes stays as it is.
const FORMATS: [(Format, &[&str], &[u8]); 4] = [
    (Format::Gzip, &[".gz"], b"\x1f\x8b\x08"),
    (Format::Bzip2, &[".bz2"], b"BZh"),
    (Format::Xz, &[".xz"], b"\xfd7zXZ\0"),
    (Format::Zstd, &[".zst", ".zstd"], b"\x28\xb5\x2f\xfd"),
];
/// What follows `BZh` and the level: the first block, or the end of an empty file.
const BZIP2_BLOCKS: [&[u8]; 2] = [b"\x31\x41\x59\x26\x53\x59", b"\x17\x72\x45\x38\x50\x90"];
const START: usize = 10;

/// How `data` is compressed, if it is.
pub fn format(location: &str, data: &File) -> Result<Option<Format>> {
    let mut start = [0; START];
    let count = data.read_at(&mut start, 0).map_err(Error::io(location))?;
    let found = recognise(&start[..count]);
    let path = location.split(['?', '#']).next().unwrap_or_default();
    let promised = FORMATS.iter().find(|(_, endings, _)| endings.iter().any(|ending| path.ends_with(ending)));
    match promised {
        Some((format, endings, _)) if found.is_none() => {
            let why = format!("is named {}, but is not compressed with {format:?}", endings[0]);
            Err(Error::failed(location, why.to_lowercase()))
        }
        _ => Ok(found),
    }
}

fn recognise(start: &[u8]) -> Option<Format> {
    let (format, _, _) = FORMATS.iter().find(|(_, _, magic)| start.starts_with(magic))?;
    let fits = match format {
        Format::Bzip2 => {
            let level = start.get(3).is_some_and(|level| (b'1'..=b'9').contains(level));
            level && BZIP2_BLOCKS.iter().any(|block| start[4..].starts_with(block))
        }
        _ => true,
    };
    fits.then_some(*format)
}

/// Unpacks all of `data` into `temp`; `location` names it in errors.
pub async fn unpack(
    data: File,
    format: Format,
    location: &str,
    temp: NamedTempFile,
    progress: &Report<'_>,
) -> Result<NamedTempFile> {
    let limit = limit(&temp)?;
    let meter = Meter::new("unpacking", None);
    let work = write_sparse(decoder(data, format), location, temp, limit, &meter);
    meter.report(progress, work).await
}

fn limit(temp: &NamedTempFile) -> Result<u64> {
    let disk = fstatvfs(temp).map_err(|error| Error::io(temp.path())(error.into()))?;
    Ok(LIMIT.min(disk.f_bavail.saturating_mul(disk.f_frsize) / 10 * 9))
}

pub(super) fn decoder(data: File, format: Format) -> Box<dyn AsyncRead + Send + Unpin> {
    // Files may be several compressed ones in a row; the rest would be lost silently without `multiple_members`.
    macro_rules! all_members {
        ($decoder:ident) => {{
            let mut decoder = $decoder::new(BufReader::with_capacity(BUFFER, tokio::fs::File::from_std(data)));
            decoder.multiple_members(true);
            Box::new(decoder)
        }};
    }
    match format {
        Format::Gzip => all_members!(GzipDecoder),
        Format::Bzip2 => all_members!(BzDecoder),
        Format::Xz => all_members!(XzDecoder),
        Format::Zstd => all_members!(ZstdDecoder),
    }
}

pub(super) async fn write_sparse(
    mut decoder: Box<dyn AsyncRead + Send + Unpin>,
    location: &str,
    mut temp: NamedTempFile,
    limit: u64,
    meter: &Meter,
) -> Result<NamedTempFile> {
    let mut buffer = vec![0; BUFFER];
    let mut size = 0;
    loop {
        let (mut filled, mut is_last) = (0, false);
        while filled < buffer.len() && !is_last {
            let count = decoder.read(&mut buffer[filled..]).await.map_err(|error| broken(location, &error))?;
            filled += count;
            is_last = count == 0;
        }
        size += filled as u64;
        if size > limit {
            let why = format!("unpacks to more than {} MiB, which is more than may be used here", limit >> 20);
            return Err(Error::failed(location, why));
        }
        // The page cache takes a megabyte at once; a thread for each would cost more.
        write_blocks(temp.as_file_mut(), &buffer[..filled]).map_err(Error::io(Path::new(location)))?;
        meter.add(filled as u64)?;
        if is_last {
            temp.as_file().set_len(size).map_err(Error::io(temp.path()))?;
            return Ok(temp);
        }
    }
}

fn write_blocks(file: &mut File, bytes: &[u8]) -> io::Result<()> {
    for block in bytes.chunks(BLOCK) {
        if block.iter().all(|byte| *byte == 0) {
            io::Seek::seek(file, io::SeekFrom::Current(block.len() as i64))?;
        } else {
            file.write_all(block)?;
        }
    }
    Ok(())
}

fn broken(location: &str, error: &io::Error) -> Error {
    Error::failed(location, format!("cannot be unpacked: {}", error.to_string().to_lowercase()))
}
