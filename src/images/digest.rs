//! Digests as lima.yaml writes them: `sha256:HEX`, `sha384:HEX`, `sha512:HEX`.

use std::fs::File;
use std::io::Read;

use sha2::{Digest, Sha256, Sha384, Sha512};

use super::{Meter, Report, blocking};
use crate::error::{Error, Result};

/// A digest that data must have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    algorithm: Algorithm,
    /// Lower case.
    hex: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    Sha256,
    Sha384,
    Sha512,
}

impl Algorithm {
    pub const ALL: [Self; 3] = [Self::Sha256, Self::Sha384, Self::Sha512];

    pub fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha384 => "sha384",
            Self::Sha512 => "sha512",
        }
    }

    fn hex_digits(self) -> usize {
        match self {
            Self::Sha256 => 64,
            Self::Sha384 => 96,
            Self::Sha512 => 128,
        }
    }
}

impl Expected {
    pub fn parse(text: &str) -> Result<Self> {
        let fault = |why: String| Error::invalid(format!("digest {text:?}"), why);
        let (name, hex) = text.split_once(':').ok_or_else(|| fault("must be ALGORITHM:HEX".into()))?;
        let algorithm = Algorithm::ALL.into_iter().find(|algorithm| algorithm.name() == name);
        let algorithm = algorithm.ok_or_else(|| fault("algorithm must be sha256, sha384 or sha512".into()))?;
        if hex.len() != algorithm.hex_digits() || !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(fault(format!("{name} has {} hexadecimal digits", algorithm.hex_digits())));
        }
        Ok(Self { algorithm, hex: hex.to_ascii_lowercase() })
    }

    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Compares with what was found. `what` names the data.
    pub fn check(&self, what: &str, hasher: Hasher) -> Result<()> {
        let found = hasher.hex();
        if found == self.hex {
            return Ok(());
        }
        let name = self.algorithm.name();
        Err(Error::failed(what, format!("digest is {name}:{found}, expected {name}:{}", self.hex)))
    }
}

impl std::fmt::Display for Expected {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "{}:{}", self.algorithm.name(), self.hex)
    }
}

/// A hash that is being computed.
pub enum Hasher {
    Sha256(Sha256),
    Sha384(Sha384),
    Sha512(Sha512),
}

impl Hasher {
    pub fn new(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::Sha256 => Self::Sha256(Sha256::new()),
            Algorithm::Sha384 => Self::Sha384(Sha384::new()),
            Algorithm::Sha512 => Self::Sha512(Sha512::new()),
        }
    }

    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hasher) => hasher.update(bytes),
            Self::Sha384(hasher) => hasher.update(bytes),
            Self::Sha512(hasher) => hasher.update(bytes),
        }
    }

    pub fn hex(self) -> String {
        let bytes = match self {
            Self::Sha256(hasher) => hasher.finalize().to_vec(),
            Self::Sha384(hasher) => hasher.finalize().to_vec(),
            Self::Sha512(hasher) => hasher.finalize().to_vec(),
        };
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// Reads all of `data` and compares its digest; hands it back, at its start.
pub async fn verify(data: File, what: &str, expected: &Expected, progress: &Report<'_>) -> Result<File> {
    let total = data.metadata().map_err(Error::io(what))?.len();
    let meter = Meter::new("verifying", Some(total));
    let (counter, expected, name) = (meter.clone(), expected.clone(), what.to_owned());
    let work = blocking(move || {
        expected.check(&name, hash(&data, expected.algorithm, &name, &counter)?)?;
        std::io::Seek::rewind(&mut &data).map_err(Error::io(&name))?;
        Ok(data)
    });
    meter.report(progress, work).await
}

fn hash(mut data: &File, algorithm: Algorithm, what: &str, counter: &Meter) -> Result<Hasher> {
    let mut hasher = Hasher::new(algorithm);
    let mut buffer = vec![0; 256 * 1024];
    loop {
        let length = data.read(&mut buffer).map_err(Error::io(what))?;
        if length == 0 {
            return Ok(hasher);
        }
        hasher.update(&buffer[..length]);
        counter.add(length as u64)?;
    }
}
