//! QEMU's monitor protocol: one connection. Bounded and lenient: what cannot be read is counted and skipped, since
//! a bad line says nothing about the guest. Starts and ends nothing.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::Duration;

use limafs_driver::{Error, Result};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::timeout;

const LONGEST_LINE: usize = 1 << 20;
const GREETING_DEADLINE: Duration = Duration::from_secs(5);
const WRITE_DEADLINE: Duration = Duration::from_secs(1);

/// What QEMU says.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Message {
    Greeting,
    Answer { id: Option<u64>, result: Result<Value, String> },
    Event { name: String, data: Value },
}

/// A connection past its handshake.
pub(crate) struct Connection {
    lines: Lines<OwnedReadHalf>,
    writer: OwnedWriteHalf,
    /// Read together with others on one line, not handed out yet.
    messages: std::collections::VecDeque<Message>,
    last_id: u64,
    garbage: u64,
}

impl Connection {
    /// Connects and negotiates. Answers at once when nobody listens.
    pub(crate) async fn open(path: &Path) -> Result<Self> {
        let stream = UnixStream::connect(path).await.map_err(Error::io(path))?;
        let (reader, writer) = stream.into_split();
        let mut connection =
            Self { lines: Lines::new(reader), writer, messages: Default::default(), last_id: 0, garbage: 0 };
        match timeout(GREETING_DEADLINE, connection.negotiate()).await {
            Ok(Ok(())) => Ok(connection),
            Ok(Err(source)) => Err(Error::io(path)(source)),
            Err(_) => Err(Error::Timeout { what: "the greeting of QEMU".into(), seconds: GREETING_DEADLINE.as_secs() }),
        }
    }

    async fn negotiate(&mut self) -> io::Result<()> {
        while self.next().await? != Message::Greeting {}
        let id = self.send("qmp_capabilities", None, None).await?;
        loop {
            match self.next().await? {
                Message::Answer { id: answered, result } if answered == Some(id) => {
                    return result.map(drop).map_err(io::Error::other);
                }
                _ => continue,
            }
        }
    }

    /// Sends a command, and with it a descriptor for `getfd`; returns the id that its answer will bear.
    pub(crate) async fn send(
        &mut self,
        command: &str,
        arguments: Option<&Value>,
        file: Option<BorrowedFd<'_>>,
    ) -> io::Result<u64> {
        self.last_id += 1;
        let mut request = json!({ "execute": command, "id": self.last_id });
        if let Some(arguments) = arguments {
            request["arguments"] = arguments.clone();
        }
        let line = format!("{request}\r\n");
        // A stopped QEMU reads nothing; its socket buffer takes thousands of commands before this waits.
        let writing = async {
            let sent = match file {
                Some(file) => self.pass(line.as_bytes(), file).await?,
                None => 0,
            };
            self.writer.write_all(&line.as_bytes()[sent..]).await
        };
        timeout(WRITE_DEADLINE, writing).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        Ok(self.last_id)
    }

    /// Sends the beginning of a line together with a descriptor; says how long that beginning was.
    async fn pass(&self, line: &[u8], file: BorrowedFd<'_>) -> io::Result<usize> {
        let stream: &UnixStream = self.writer.as_ref();
        let descriptors = [file];
        stream
            .async_io(Interest::WRITABLE, || {
                let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
                let mut control = SendAncillaryBuffer::new(&mut space);
                control.push(SendAncillaryMessage::ScmRights(&descriptors));
                Ok(sendmsg(stream.as_fd(), &[IoSlice::new(line)], &mut control, SendFlags::empty())?)
            })
            .await
    }

    /// Returns the next message; an error when the connection ended. Cancel-safe.
    pub(crate) async fn next(&mut self) -> io::Result<Message> {
        loop {
            if let Some(message) = self.messages.pop_front() {
                return Ok(message);
            }
            let line = self.lines.next().await?;
            self.garbage += parse(&line, &mut self.messages);
        }
    }

    /// Lines and pieces that were skipped.
    pub(crate) fn garbage(&self) -> u64 {
        self.garbage + self.lines.skipped
    }
}

/// Adds the messages of a line, which may hold several, and returns how many pieces were none.
fn parse(line: &[u8], messages: &mut impl Extend<Message>) -> u64 {
    let mut garbage = 0;
    for value in serde_json::Deserializer::from_slice(line).into_iter::<Value>() {
        match value.ok().and_then(message) {
            Some(message) => messages.extend([message]),
            None => garbage += 1,
        }
    }
    garbage
}

fn message(mut value: Value) -> Option<Message> {
    let object = value.as_object_mut()?;
    if object.contains_key("QMP") {
        return Some(Message::Greeting);
    }
    if let Some(name) = object.get("event") {
        let name = name.as_str()?.to_owned();
        return Some(Message::Event { name, data: object.remove("data").unwrap_or_default() });
    }
    let id = object.get("id").and_then(Value::as_u64);
    if let Some(result) = object.remove("return") {
        return Some(Message::Answer { id, result: Ok(result) });
    }
    let error = object.get("error")?;
    let words = error.get("desc").and_then(Value::as_str).unwrap_or("refused without a word").to_owned();
    Some(Message::Answer { id, result: Err(words) })
}

/// Lines of bounded length; longer ones are skipped and counted.
pub(crate) struct Lines<R> {
    reader: R,
    longest: usize,
    buffer: Vec<u8>,
    /// How much of `buffer` is known to hold no line end.
    searched: usize,
    /// Inside a line that is too long.
    skipping: bool,
    pub skipped: u64,
}

impl<R: AsyncRead + Unpin> Lines<R> {
    fn new(reader: R) -> Self {
        Self::bounded(reader, LONGEST_LINE)
    }

    pub(crate) fn bounded(reader: R, longest: usize) -> Self {
        Self { reader, longest, buffer: Vec::new(), searched: 0, skipping: false, skipped: 0 }
    }

    /// Returns the next line, without its end; an error at the end of the stream. Cancel-safe.
    pub(crate) async fn next(&mut self) -> io::Result<Vec<u8>> {
        loop {
            if let Some(end) = self.buffer[self.searched..].iter().position(|&byte| byte == b'\n') {
                let rest = self.buffer.split_off(self.searched + end + 1);
                let mut line = std::mem::replace(&mut self.buffer, rest);
                self.searched = 0;
                line.pop();
                if !std::mem::take(&mut self.skipping) {
                    return Ok(line);
                }
                continue;
            }
            self.searched = self.buffer.len();
            if self.searched > self.longest {
                self.skipped += u64::from(!self.skipping);
                self.skipping = true;
            }
            if self.skipping {
                self.buffer.clear();
                self.searched = 0;
            }
            self.buffer.reserve(4096);
            if self.reader.read_buf(&mut self.buffer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(line: &str) -> (Vec<Message>, u64) {
        let mut messages = Vec::new();
        let garbage = parse(line.as_bytes(), &mut messages);
        (messages, garbage)
    }

    #[test]
    fn messages_are_told_apart() {
        assert_eq!(messages(r#"{"QMP": {"version": {}, "capabilities": ["oob"]}}"#).0, [Message::Greeting]);
        let (answers, _) = messages(r#"{"return": {}, "id": 3}{"error": {"class": "G", "desc": "no"}, "id": 4}"#);
        assert_eq!(answers[0], Message::Answer { id: Some(3), result: Ok(json!({})) });
        assert_eq!(answers[1], Message::Answer { id: Some(4), result: Err("no".into()) });
        let (events, _) = messages(r#"{"event": "STOP", "timestamp": {"seconds": 1}}"#);
        assert_eq!(events, [Message::Event { name: "STOP".into(), data: Value::Null }]);
    }

    #[test]
    fn garbage_is_counted_and_skipped() {
        assert_eq!(messages("\u{1}\u{2} what?"), (vec![], 1));
        assert_eq!(messages("[1, 2]"), (vec![], 1));
        assert_eq!(messages(r#"{"event": 7}"#), (vec![], 1));
        assert_eq!(messages(""), (vec![], 0));
        let (good, garbage) = messages(r#"{"event": "RESET"} {"half": "#);
        assert_eq!((good.len(), garbage), (1, 1));
    }

    #[tokio::test]
    async fn a_line_that_is_too_long_is_skipped() {
        let text = [b"one\n".to_vec(), vec![b'x'; 100_000], b"\ntwo\nthree".to_vec()].concat();
        let mut lines = Lines::bounded(&text[..], 1000);
        assert_eq!(lines.next().await.unwrap(), b"one");
        assert_eq!(lines.next().await.unwrap(), b"two");
        assert_eq!(lines.skipped, 1);
        assert_eq!(lines.next().await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
