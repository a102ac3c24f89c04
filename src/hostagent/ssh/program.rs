//! A program of the guest that runs for long: its input and output as a stream, its complaints line by line.

use std::time::Duration;

use russh::client::Msg;
use russh::{ChannelMsg, ChannelReadHalf, ChannelWriteHalf};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, BufReader, copy_buf};
use tokio::time::timeout;

use super::{Fault, Session, unreachable};

/// The longest line of standard error that is passed on; the rest of it is not.
const LINE_MAX: usize = 1024;
/// Read from our side at once: the data of one message of SFTP.
const BUFFER: usize = 64 << 10;

pub struct Program {
    read: ChannelReadHalf,
    write: ChannelWriteHalf<Msg>,
}

impl Session {
    /// Starts a command of the guest's shell, within `limit`.
    pub async fn start(&self, command: &str, limit: Duration) -> Result<Program, Fault> {
        let starting = async {
            let channel = self.handle.channel_open_session().await?;
            channel.exec(true, command).await?;
            Ok::<_, russh::Error>(channel.split())
        };
        match timeout(limit, starting).await {
            Ok(Ok((read, write))) => Ok(Program { read, write }),
            Ok(Err(error)) => Err(unreachable(error)),
            Err(_) => Err(Fault::Slow(limit)),
        }
    }
}

impl Program {
    /// Joins its input and output to a stream until it ends; `hear` gets its lines of standard error. Returns its exit
    /// code, or nothing where a signal or the session's end was its end.
    pub async fn join(&mut self, stream: impl AsyncRead + AsyncWrite, mut hear: impl FnMut(&str)) -> Option<u32> {
        let (from, mut to) = tokio::io::split(stream);
        let mut writer = self.write.make_writer();
        let outward = async {
            let mut from = std::pin::pin!(BufReader::with_capacity(BUFFER, from));
            // The program may be gone; that is seen on the other way.
            let _ = copy_buf(&mut from, &mut writer).await;
            let _ = writer.shutdown().await;
            std::future::pending::<()>().await;
        };
        let inward = async {
            let (mut exit, mut line) = (None, Vec::new());
            while let Some(message) = self.read.wait().await {
                match message {
                    ChannelMsg::Data { data } => {
                        // Nobody reads any more: whoever served has ended, and the program is about to.
                        let _ = to.write_all(&data).await;
                    }
                    ChannelMsg::ExtendedData { data, ext: 1 } => collect(&mut line, &data, &mut hear),
                    ChannelMsg::Eof => {
                        let _ = to.shutdown().await;
                    }
                    ChannelMsg::ExitStatus { exit_status } => exit = Some(exit_status),
                    _ => {}
                }
            }
            collect(&mut line, b"\n", &mut hear);
            exit
        };
        tokio::select! {        // nothing is lost: `outward` never ends
            exit = inward => exit,
            () = outward => None,
        }
    }

    /// Hangs up on a program that has not ended.
    pub async fn close(self) {
        // The session may be gone, and the program with it.
        let _ = self.write.close().await;
    }
}

/// Adds to a line that has begun, and passes on those that have ended.
fn collect(line: &mut Vec<u8>, bytes: &[u8], hear: &mut impl FnMut(&str)) {
    for byte in bytes {
        match byte {
            b'\n' if line.is_empty() => {}
            b'\n' => {
                hear(&String::from_utf8_lossy(line));
                line.clear();
            }
            byte if line.len() < LINE_MAX => line.push(*byte),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_passed_on_whole_and_bounded() {
        let (mut line, mut heard) = (Vec::new(), Vec::new());
        for bytes in [&b"one\n\ntw"[..], b"o\n", &[b'x'; 5000], b"\nthree", b"\n"] {
            collect(&mut line, bytes, &mut |text| heard.push(text.to_owned()));
        }
        assert_eq!(heard, ["one", "two", &"x".repeat(LINE_MAX), "three"]);
    }
}
