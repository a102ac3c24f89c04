//! An SFTP server (draft-ietf-secsh-filexfer-02, what OpenSSH calls version 3) for one directory of the host.
//! Its client is the guest, which is hostile: no path leads out of the directory, and all that a client can make it keep
//! is bounded. Knows nothing of hostagents; never blocks the runtime.
//!
//! ```text
//! stream --frame--> wire::parse --Request--> answer --> tree (openat2) --Reply--> wire::encode --> stream
//! ```
//! Our own words for the protocol rather than a library's: those at hand take names for UTF-8, and would show, make and
//! remove other files than the ones that were meant.

mod answer;
mod open;
mod tree;
mod wire;

#[cfg(test)]
mod tests;

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};

use answer::Server;
pub use tree::Tree;

/// The longest frame that is taken: what OpenSSH takes.
const FRAME_MAX: u32 = 256 << 10;
/// Read from the stream at once; a client has many requests under way.
const BUFFER: usize = 64 << 10;

/// Serves a tree until the client hangs up, which is success, or says what is no SFTP. Requests are answered in their
/// order, as the protocol asks for those on one file. The client may have `limit` files and directories open.
pub async fn serve(tree: Tree, limit: usize, stream: impl AsyncRead + AsyncWrite) -> io::Result<()> {
    let (input, mut output) = tokio::io::split(stream);
    let mut input = std::pin::pin!(BufReader::with_capacity(BUFFER, input));
    let mut server = Server::new(tree, limit);
    while let Some(frame) = frame(&mut input).await? {
        // Cancel-safe enough: a request that is being carried out when this future is dropped is carried out.
        let (next, reply) = tokio::task::spawn_blocking(move || {
            let reply = server.answer(&frame);
            (server, reply)
        })
        .await?;
        server = next;
        let reply = reply.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "a client that speaks no SFTP"))?;
        output.write_all(&reply).await?;
        output.flush().await?;
    }
    Ok(())
}

/// The next frame without its length; `None` at the end of the stream.
async fn frame(input: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Vec<u8>>> {
    let length = match input.read_u32().await {
        Ok(length) => length,
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    };
    if length > FRAME_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a frame of {length} bytes")));
    }
    let mut frame = Vec::new();
    // Grows with what arrives, not with what was announced.
    input.take(length.into()).read_to_end(&mut frame).await?;
    Ok((frame.len() == length as usize).then_some(frame))
}
