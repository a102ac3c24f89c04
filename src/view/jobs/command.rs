//! A job's command line as it is written: it counts as a whole. Programs write in parts, and a part of a command line is
//! another command.

use super::super::commands::blocking;
use super::super::draft::was_killed;
use super::super::handle::{Fh, Open};
use super::super::ino::Key;
use super::super::scratch::splice;
use super::super::{Caller, Outcome, View};
use crate::error::{Error, Result};
use crate::jobs::{self, CMD, CMD_MAX};
use crate::names::Name;

/// What was written so far through one handle.
pub struct CommandLine {
    pub key: Key,
    pub job: String,
    pub append: bool,
    bytes: Vec<u8>,
    /// The thread that opened it. Its close is the end of the line; those of processes that have inherited the handle
    /// are not.
    opener: u32,
    /// One of those that wrote was killed.
    is_cut: bool,
}

impl CommandLine {
    pub fn new(key: Key, job: &str, append: bool, opener: u32) -> Self {
        Self { key, job: job.to_owned(), append, bytes: Vec::new(), opener, is_cut: false }
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> Result<()> {
        if data.contains(&0) {
            return Err(Error::invalid(CMD, "takes a command line, without NUL"));
        }
        splice(&mut self.bytes, (!self.append).then_some(offset), data, CMD, CMD_MAX)
    }

    /// The whole line, when this close is its end.
    fn closed(&mut self, caller: Caller) -> Option<Result<Vec<u8>>> {
        let is_killed = !self.bytes.is_empty() && was_killed(caller.pid);
        if caller.pid != self.opener {
            self.is_cut |= is_killed;
            return None;
        }
        let bytes = std::mem::take(&mut self.bytes);
        let killed = || Err(Error::failed(CMD, "its writer was killed; nothing of it is run"));
        (!bytes.is_empty()).then(|| if is_killed { killed() } else { Ok(bytes) })
    }
}

impl View {
    /// write(2): refused at once where the job cannot be told.
    pub(in crate::view) fn write_command_line(&self, fh: Fh, offset: u64, data: &[u8]) -> Outcome<usize> {
        let written = self.with_line(fh, |line| (line.key, line.job.clone(), line.write(offset, data)));
        let Some((key, job, written)) = written else { return Err(super::super::io::stale()).into() };
        let (view, taken) = (self.clone(), data.len());
        Outcome::later(async move {
            let allowed = async {
                written?;
                let (dir, name) = (view.up(key)?, Name::parse(&job)?);
                blocking(move || jobs::takes_command(&dir, &name)).await
            };
            let done = allowed.await;
            if done.is_err() {
                // What was refused is not run by the close.
                view.with_line(fh, |line| line.bytes.clear());
            }
            view.noted_job(key, done)?;
            Ok(taken)
        })
    }

    /// close(2): the line is run where this is its end.
    pub(in crate::view) fn close_command_line(&self, caller: Caller, fh: Fh) -> Outcome<()> {
        let closed = self.with_line(fh, |line| Some((line.key, line.job.clone(), line.closed(caller)?)));
        match closed.flatten() {
            Some((key, job, Ok(bytes))) => self.run_job(key, job, bytes),
            Some((key, _, Err(error))) => self.noted_job(key, Err(error)).into(),
            None => Ok(()).into(),
        }
    }

    /// The last close: of what no close of the opener's has ended.
    pub(in crate::view) fn release_command_line(&self, line: CommandLine) -> Outcome<()> {
        if line.bytes.is_empty() || line.is_cut {
            return Ok(()).into();
        }
        self.run_job(line.key, line.job, line.bytes)
    }

    fn with_line<T>(&self, fh: Fh, act: impl FnOnce(&mut CommandLine) -> T) -> Option<T> {
        match self.0.handles.lock().get(fh).map(|handle| &mut handle.body) {
            Some(Open::CommandLine(line)) => Some(act(line)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPENER: Caller = Caller { pid: u32::MAX, uid: 0 };
    const CHILD: Caller = Caller { pid: u32::MAX - 1, uid: 0 };

    fn line() -> CommandLine {
        CommandLine::new(Key::TEMPLATES, "b", false, OPENER.pid)
    }

    #[test]
    fn parts_are_one_line_and_end_with_the_openers_close() {
        let mut line = line();
        assert!(line.closed(OPENER).is_none(), "a shell closes what it has duplicated before it writes");
        line.write(0, b"for n in 1 2\n").unwrap();
        assert!(line.closed(CHILD).is_none());
        line.write(13, b"do echo $n; done\n").unwrap();
        assert_eq!(line.closed(OPENER).unwrap().unwrap(), b"for n in 1 2\ndo echo $n; done\n");
        assert!(line.closed(OPENER).is_none());
    }

    #[test]
    fn too_much_and_what_no_shell_takes_are_refused_in_the_write() {
        let mut line = line();
        assert_eq!(line.write(0, b"a\0b").unwrap_err().errno(), libc::EINVAL);
        assert_eq!(line.write(0, &[b'x'; CMD_MAX + 1]).unwrap_err().errno(), libc::EFBIG);
        assert_eq!(line.write(CMD_MAX as u64, b"x").unwrap_err().errno(), libc::EFBIG);
        assert!(line.bytes.is_empty());
    }
}
