//! Sizes and host paths as Lima writes them.

use std::path::{Path, PathBuf};

const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];

/// Bytes of a Lima size (`4GiB`, `512m`, `1.5GB`: always 1024-based).
pub fn size(text: &str) -> Option<u64> {
    let last = text.rfind(|c: char| c.is_ascii_digit() || c == '.' || c == ' ')?;
    let number = text[..=last].strip_suffix(' ').unwrap_or(&text[..=last]);
    let plain = number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let bytes = number.parse::<f64>().ok().filter(|_| plain)? * factor(&text[last + 1..])?;
    // Lima counts in signed 64 bits.
    (bytes < i64::MAX as f64).then_some(bytes as u64)
}

/// `k`, `kb` and `kib` are the same, and so on up to peta.
fn factor(suffix: &str) -> Option<f64> {
    let suffix = suffix.to_ascii_lowercase();
    let mut letters = suffix.chars();
    let power = match letters.next() {
        None => return Some(1.0),
        Some('b') => return letters.next().is_none().then_some(1.0),
        Some(letter) => "kmgtp".find(letter)? as i32 + 1,
    };
    matches!(letters.as_str(), "" | "b" | "ib").then(|| 1024f64.powi(power))
}

/// Bytes as Lima prints them: four digits, `4GiB`, `1.5GiB`.
pub fn format_size(bytes: u64) -> String {
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let whole_digits = (value.max(1.0).log10().floor() as usize) + 1;
    let digits = format!("{value:.*}", 4usize.saturating_sub(whole_digits));
    let digits = if digits.contains('.') { digits.trim_end_matches('0').trim_end_matches('.') } else { &digits };
    format!("{digits}{}", UNITS[unit])
}

/// Host path of `~`, `~/x` or an absolute path; `None` for anything else.
pub fn expand_path(text: &str, home: &Path) -> Option<PathBuf> {
    if text == "~" {
        return Some(home.to_owned());
    }
    if let Some(rest) = text.strip_prefix("~/") {
        return Some(clean(&home.join(rest.trim_start_matches('/'))));
    }
    text.starts_with('/').then(|| clean(Path::new(text)))
}

/// The shortest spelling of an absolute path, without looking at the disk.
pub fn clean(path: &Path) -> PathBuf {
    use std::path::Component;
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => {
                clean.pop();
            }
            other => clean.push(other),
        }
    }
    clean
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_are_1024_based_whatever_the_suffix() {
        for (text, bytes) in [
            ("4GiB", 4 << 30),
            ("4GB", 4 << 30),
            ("4g", 4 << 30),
            ("512m", 512 << 20),
            ("1.5GB", 3 << 29),
            ("2", 2),
            ("2b", 2),
            ("32 kb", 32 << 10),
            ("100TiB", 100 << 40),
            ("1p", 1 << 50),
            ("0", 0),
        ] {
            assert_eq!(size(text), Some(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_none() {
        for text in ["", "lots", "-1", "4XB", "4GiBs", "4kk", "4bb", "1..2", ".", "1e3", " ", "99999999999p", "4\u{e9}"]
        {
            assert_eq!(size(text), None, "{text:?}");
        }
    }

    #[test]
    fn sizes_are_printed_with_four_digits() {
        for (bytes, text) in [
            (0, "0B"),
            (1023, "1023B"),
            (1024, "1KiB"),
            (4 << 30, "4GiB"),
            (3 << 29, "1.5GiB"),
            ((1 << 30) + (1 << 20), "1.001GiB"),
            (100 << 30, "100GiB"),
            (1023 << 20, "1023MiB"),
            (u64::MAX, "16EiB"),
        ] {
            assert_eq!(format_size(bytes), text);
        }
    }

    #[test]
    fn a_tilde_is_the_home_but_not_somebody_elses() {
        let home = Path::new("/home/me");
        assert_eq!(expand_path("~", home), Some("/home/me".into()));
        assert_eq!(expand_path("~/a/../b", home), Some("/home/me/b".into()));
        assert_eq!(expand_path("/a//b/.", home), Some("/a/b".into()));
        for text in ["~you", "a", ".", "", "./a"] {
            assert_eq!(expand_path(text, home), None, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn a_printed_size_reads_back_nearly_equal(bytes in 0u64..1 << 50) {
            let back = size(&format_size(bytes)).expect("our own words");
            prop_assert!(back.abs_diff(bytes) as f64 <= bytes as f64 * 0.0006 + 0.5);
        }

        #[test]
        fn any_text_is_a_size_or_not(text in ".*") {
            let _ = size(&text);
        }
    }
}
