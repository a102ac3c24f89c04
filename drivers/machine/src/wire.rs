//! net/rpc over gob: the types that go over the wire, and a connection as messages.

use tokio::io::{AsyncRead, AsyncReadExt};

use crate::gob::{self, Decoder, MESSAGE_MAX, Prefix, Shape, Value, prefix};

pub const CONNECT: &[u8] = b"CONNECT /_goRPC_ HTTP/1.0\n\n";
pub const CONNECTED: &[u8] = b"HTTP/1.0 200 Connected to Go RPC\n\n";
/// The service's name and the one that it had before docker-machine 0.5.1.
pub const SERVICE: &str = "RPCServerDriver";
pub const OLD_SERVICE: &str = "RpcServerDriver";
pub const VERSION: i64 = 1;

pub static REQUEST: Shape = Shape::Struct("Request", &[("ServiceMethod", &Shape::Text), ("Seq", &Shape::Uint)]);
pub static RESPONSE: Shape =
    Shape::Struct("Response", &[("ServiceMethod", &Shape::Text), ("Seq", &Shape::Uint), ("Error", &Shape::Text)]);
pub static EMPTY: Shape = Shape::Struct("", &[]);
pub static INT: Shape = Shape::Int;
pub static TEXT: Shape = Shape::Text;
pub static BYTES: Shape = Shape::Bytes;

static TEXTS: Shape = Shape::List(&TEXT);
/// What a flag's value can be.
static ANY: Shape = Shape::Interface(&[("string", &TEXT), ("int", &INT), ("bool", &Shape::Bool), ("[]string", &TEXTS)]);
static VALUES: Shape = Shape::Map("map[string]interface {}", &TEXT, &ANY);
static RPC_FLAGS: Shape = Shape::Struct("RPCFlags", &[("Values", &VALUES)]);
pub const RPC_FLAGS_NAME: &str = "*rpcdriver.RPCFlags";
pub static OPTIONS: Shape = Shape::Interface(&[(RPC_FLAGS_NAME, &RPC_FLAGS)]);

static STRING_FLAG: Shape =
    Shape::Struct("StringFlag", &[("Name", &TEXT), ("Usage", &TEXT), ("EnvVar", &TEXT), ("Value", &TEXT)]);
static LIST_FLAG: Shape =
    Shape::Struct("StringSliceFlag", &[("Name", &TEXT), ("Usage", &TEXT), ("EnvVar", &TEXT), ("Value", &TEXTS)]);
static INT_FLAG: Shape =
    Shape::Struct("IntFlag", &[("Name", &TEXT), ("Usage", &TEXT), ("EnvVar", &TEXT), ("Value", &INT)]);
static BOOL_FLAG: Shape = Shape::Struct("BoolFlag", &[("Name", &TEXT), ("Usage", &TEXT), ("EnvVar", &TEXT)]);
static FLAG: Shape = Shape::Interface(&[
    ("*mcnflag.StringFlag", &STRING_FLAG),
    ("*mcnflag.StringSliceFlag", &LIST_FLAG),
    ("*mcnflag.IntFlag", &INT_FLAG),
    ("*mcnflag.BoolFlag", &BOOL_FLAG),
]);
pub static FLAGS: Shape = Shape::List(&FLAG);

/// Why nothing more comes.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    #[error("the connection is closed")]
    Closed,
    #[error("{0}")]
    Gob(#[from] gob::Error),
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("it does not speak Go's rpc")]
    NoRpc,
}

/// What arrives, as values.
pub struct Incoming<R> {
    reader: R,
    decoder: Decoder,
    buffer: Vec<u8>,
}

impl<R: AsyncRead + Unpin> Incoming<R> {
    pub fn new(reader: R) -> Self {
        Self { reader, decoder: Decoder::default(), buffer: Vec::new() }
    }

    /// Reads the line and the empty line with which the connection begins. Cancel-safe.
    pub async fn greeting(&mut self) -> Result<Vec<u8>, Broken> {
        const LONGEST: usize = 1024;
        loop {
            let end = self.buffer.windows(2).position(|two| two == b"\n\n");
            let end = end
                .map(|at| at + 2)
                .or_else(|| self.buffer.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4));
            if let Some(end) = end {
                return Ok(self.buffer.drain(..end).collect());
            }
            if self.buffer.len() > LONGEST {
                return Err(Broken::NoRpc);
            }
            self.fill().await?;
        }
    }

    /// The next value. Cancel-safe: what was read so far is kept.
    pub async fn next(&mut self) -> Result<Value, Broken> {
        loop {
            if let Prefix::Whole { width, length } = prefix(&self.buffer)? {
                let length = usize::try_from(length).ok().filter(|length| *length <= MESSAGE_MAX);
                let end = width + length.ok_or(gob::Error::Excess("bytes"))?;
                if self.buffer.len() >= end {
                    let pushed = self.decoder.push(&self.buffer[width..end]);
                    self.buffer.drain(..end);
                    match pushed? {
                        Some(value) => return Ok(value),
                        None => continue,
                    }
                }
            }
            self.fill().await?;
        }
    }

    async fn fill(&mut self) -> Result<(), Broken> {
        match self.reader.read_buf(&mut self.buffer).await? {
            0 => Err(Broken::Closed),
            _ => Ok(()),
        }
    }
}

/// The name of a call's method and its number, from the value before its arguments.
pub fn head(value: &Value) -> (String, u64) {
    let method = value.field("ServiceMethod").and_then(Value::text).unwrap_or_default().to_owned();
    let seq = match value.field("Seq") {
        Some(Value::Uint(seq)) => *seq,
        _ => 0,
    };
    (method, seq)
}

pub fn request(method: &str, seq: u64) -> Value {
    fields([("ServiceMethod", Value::Text(method.into())), ("Seq", Value::Uint(seq))])
}

pub fn response(method: &str, seq: u64, error: &str) -> Value {
    let method = ("ServiceMethod", Value::Text(method.into()));
    fields([method, ("Seq", Value::Uint(seq)), ("Error", Value::Text(error.into()))])
}

pub fn fields<const N: usize>(fields: [(&str, Value); N]) -> Value {
    Value::Struct(fields.map(|(name, value)| (name.to_owned(), value)).into())
}

pub fn empty() -> Value {
    Value::Struct(Vec::new())
}
