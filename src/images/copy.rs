//! Copies a file as cheaply as the file system can, keeping its holes.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use rustix::fs::{SeekFrom, copy_file_range, ioctl_ficlone, seek};
use rustix::io::Errno;
use tempfile::NamedTempFile;

use super::{Meter, Report, blocking};
use crate::error::{Error, Result};

/// Small enough to be cancelled soon, large enough for the kernel to work well.
const CHUNK: u64 = 16 << 20;
const BUFFER: usize = 256 * 1024;

/// Copies all of `data` into `temp`, on a thread of its own: shared blocks, else a copy in the kernel, else by hand.
pub async fn copy(data: File, temp: NamedTempFile, progress: &Report<'_>) -> Result<NamedTempFile> {
    let meter = Meter::new("copying", None);
    let counter = meter.clone();
    let work = blocking(move || {
        let path = temp.path().to_owned();
        let total = data.metadata().map_err(Error::io(&path))?.len();
        counter.expect(Some(total));
        if ioctl_ficlone(temp.as_file(), &data).is_err() {
            temp.as_file().set_len(total).map_err(Error::io(&path))?;
            copy_extents(&data, &temp, total, &counter)?;
        }
        Ok(temp)
    });
    meter.report(progress, work).await
}

fn copy_extents(from: &File, temp: &NamedTempFile, total: u64, counter: &Meter) -> Result<()> {
    let to = temp.as_file();
    let mut in_kernel = true;
    let mut at = 0;
    while let Some((start, end)) = next_extent(from, at, total).map_err(Error::io(temp.path()))? {
        counter.add(start - at)?;
        at = start;
        while at < end {
            let length = CHUNK.min(end - at);
            let copied = copy_chunk(from, to, at, length, &mut in_kernel).map_err(Error::io(temp.path()))?;
            if copied == 0 {
                return Err(Error::failed("copying", "the image became shorter meanwhile"));
            }
            at += copied;
            counter.add(copied)?;
        }
    }
    Ok(())
}

/// The next part that is no hole, at or after `at`.
fn next_extent(file: &File, at: u64, total: u64) -> io::Result<Option<(u64, u64)>> {
    if at >= total {
        return Ok(None);
    }
    let start = match seek(file, SeekFrom::Data(at)) {
        Ok(start) => start,
        Err(Errno::NXIO) => return Ok(None),
        // A file system that knows no holes.
        Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(Some((at, total))),
        Err(error) => return Err(error.into()),
    };
    let end = seek(file, SeekFrom::Hole(start))?;
    Ok(Some((start, end.min(total))))
}

fn copy_chunk(from: &File, to: &File, at: u64, length: u64, in_kernel: &mut bool) -> io::Result<u64> {
    let (mut read_at, mut write_at) = (at, at);
    if *in_kernel {
        match copy_file_range(from, Some(&mut read_at), to, Some(&mut write_at), length as usize) {
            Ok(0) => {}
            Ok(copied) => return Ok(copied as u64),
            Err(Errno::XDEV | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {}
            Err(error) => return Err(error.into()),
        }
        // Some file systems answer 0 or an error where plain reading works.
        *in_kernel = false;
    }
    let mut buffer = vec![0; BUFFER.min(length as usize)];
    let count = from.read_at(&mut buffer, at)?;
    to.write_all_at(&buffer[..count], at)?;
    Ok(count as u64)
}
