//! Versions as Lima compares them.

use std::fmt;

/// The release of Lima whose documents are understood.
pub const LIMA: Version = Version(2, 2, 0);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(u64, u64, u64);

impl Version {
    /// `X.Y.Z`, perhaps with a `v` before it and a pre-release or build behind it, which do not count.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.strip_prefix('v').unwrap_or(text);
        let numbers = &text[..text.find(['-', '+']).unwrap_or(text.len())];
        let mut parts = numbers.split('.').map(|part| {
            let digits = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
            part.parse().ok().filter(|_| digits)
        });
        let version = Self(parts.next()??, parts.next()??, parts.next()??);
        parts.next().is_none().then_some(version)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_version_of_lima_is_meant_everywhere() {
        assert_eq!(LIMA.to_string(), crate::store::LIMA_COMPATIBLE);
    }

    #[test]
    fn versions_compare_by_their_numbers() {
        assert!(Version::parse("1.10.0") > Version::parse("1.9.9"));
        assert_eq!(Version::parse("v2.2.0-153-gabc"), Some(LIMA));
        for text in ["", "invalid", "1", "1.2", "1.2.3.4", "1..2", "-1.2.3", "1.2.x", "+1.2.3"] {
            assert_eq!(Version::parse(text), None, "{text:?}");
        }
    }
}
