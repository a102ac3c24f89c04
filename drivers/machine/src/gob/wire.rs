//! Integers and counted bytes.

use super::{Error, Result};

/// The length before a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prefix {
    /// More bytes are needed to know it.
    Partial,
    Whole {
        /// Of the prefix itself.
        width: usize,
        length: u64,
    },
}

/// Reads the length that `bytes` begin with.
pub fn prefix(bytes: &[u8]) -> Result<Prefix> {
    let Some(width) = width(bytes)? else { return Ok(Prefix::Partial) };
    if bytes.len() < width {
        return Ok(Prefix::Partial);
    }
    Ok(Prefix::Whole { width, length: Reader::new(bytes).uint()? })
}

fn width(bytes: &[u8]) -> Result<Option<usize>> {
    Ok(match bytes.first() {
        None => None,
        Some(..0x80) => Some(1),
        Some(count) => match usize::from(count.wrapping_neg()) {
            count @ 1..=8 => Some(count + 1),
            _ => return Err(Error::Corrupt("an integer of more than eight bytes")),
        },
    })
}

/// Below 128 the number itself; else how many bytes, negated, and then those, the highest first.
pub fn put_uint(out: &mut Vec<u8>, number: u64) {
    if number < 0x80 {
        out.push(number as u8);
        return;
    }
    let skipped = (number.leading_zeros() / 8) as usize;
    out.push((8 - skipped as u8).wrapping_neg());
    out.extend_from_slice(&number.to_be_bytes()[skipped..]);
}

/// The lowest bit says that the others are complemented.
pub fn put_int(out: &mut Vec<u8>, number: i64) {
    let folded = if number < 0 { (!number as u64) << 1 | 1 } else { (number as u64) << 1 };
    put_uint(out, folded);
}

pub fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_uint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Takes from the front of bytes.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// How much was taken.
    pub fn at(&self) -> usize {
        self.at
    }

    pub fn is_empty(&self) -> bool {
        self.at == self.bytes.len()
    }

    pub fn uint(&mut self) -> Result<u64> {
        let rest = &self.bytes[self.at..];
        let width = width(rest)?.filter(|width| *width <= rest.len()).ok_or(Error::Corrupt("an integer is cut off"))?;
        self.at += width;
        Ok(match width {
            1 => rest[0].into(),
            _ => rest[1..width].iter().fold(0, |number, byte| number << 8 | u64::from(*byte)),
        })
    }

    pub fn int(&mut self) -> Result<i64> {
        let folded = self.uint()?;
        let number = (folded >> 1) as i64;
        Ok(if folded & 1 == 1 { !number } else { number })
    }

    pub fn bytes(&mut self) -> Result<&'a [u8]> {
        let length = self.count()?;
        let taken = &self.bytes[self.at..self.at + length];
        self.at += length;
        Ok(taken)
    }

    pub fn text(&mut self) -> Result<String> {
        let bytes = self.bytes()?;
        String::from_utf8(bytes.to_vec()).map_err(|_| Error::Corrupt("a text is not UTF-8"))
    }

    /// A number of things of at least one byte each.
    pub fn count(&mut self) -> Result<usize> {
        let count = self.uint()?;
        let rest = self.bytes.len() - self.at;
        usize::try_from(count).ok().filter(|count| *count <= rest).ok_or(Error::Corrupt("more is told than there is"))
    }
}
