//! A stream that is always read, so that it never holds up those beside it, with what was read and not yet taken kept
//! within bounds: HTTP/2 has windows of its own, and a peer that goes far beyond them is cut off.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::{Bytes, BytesMut};
use futures_util::stream;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadHalf};
use tokio::sync::mpsc;
use tokio_util::io::StreamReader;

/// Far beyond what comes while a write waits.
const KEPT: usize = 16 << 20;
const READ: usize = 32 << 10;

/// The stream to use instead, and the work of reading the given one, which ends with it.
pub fn drained<S>(stream: S) -> (impl AsyncRead + AsyncWrite + Unpin + Send, impl Future<Output = ()> + Send)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (read, write) = tokio::io::split(stream);
    let (sender, receiver) = mpsc::unbounded_channel::<Bytes>();
    let kept = Arc::new(AtomicUsize::new(0));
    let reading = drain(read, sender, Arc::clone(&kept));
    let chunks = stream::unfold((receiver, kept), |(mut receiver, kept)| async move {
        let chunk: Bytes = receiver.recv().await?;
        kept.fetch_sub(chunk.len(), Ordering::Relaxed);
        Some((io::Result::Ok(chunk), (receiver, kept)))
    });
    (tokio::io::join(StreamReader::new(Box::pin(chunks)), write), reading)
}

async fn drain<S: AsyncRead>(mut read: ReadHalf<S>, sender: mpsc::UnboundedSender<Bytes>, kept: Arc<AtomicUsize>) {
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(READ);
        match read.read_buf(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let chunk = buffer.split().freeze();
        if kept.fetch_add(chunk.len(), Ordering::Relaxed) > KEPT {
            tracing::warn!("the guest agent sends more than it may");
            return;
        }
        if sender.send(chunk).is_err() {
            return;
        }
    }
}
