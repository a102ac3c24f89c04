//! A client's stream with what it sends put through [`Filter`].

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::authority::Filter;

#[derive(Debug)]
pub struct Filtered<S> {
    stream: S,
    filter: Filter,
    /// What came out of the filter and has not been read.
    out: Vec<u8>,
    read: usize,
}

impl<S> Filtered<S> {
    pub fn new(stream: S, filter: Filter) -> Self {
        Self { stream, filter, out: Vec::new(), read: 0 }
    }

    fn give(&mut self, buf: &mut ReadBuf<'_>) {
        let count = buf.remaining().min(self.out.len() - self.read);
        buf.put_slice(&self.out[self.read..self.read + count]);
        self.read += count;
        if self.read == self.out.len() {
            self.out.clear();
            self.read = 0;
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Filtered<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while this.out.is_empty() {
            let before = buf.filled().len();
            ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
            let came = &buf.filled()[before..];
            // Most bytes are in the middle of a frame of data and stay where they were read to.
            if came.is_empty() || this.filter.passes(came.len()) {
                return Poll::Ready(Ok(()));
            }
            this.filter.push(came, &mut this.out);
            buf.set_filled(before);
        }
        this.give(buf);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Filtered<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
