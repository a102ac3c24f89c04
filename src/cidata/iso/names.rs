//! Names of the two trees: capitals and digits for ISO 9660 itself (Rock Ridge has the real ones), UCS-2 for Joliet.

use std::collections::BTreeSet;

const ISO_STEM: usize = 20;
const ISO_EXTENSION: usize = 8;
/// In UCS-2 units.
const JOLIET: usize = 64;

/// The name in the primary tree, unlike those in `taken`, to which it is added.
pub fn iso(name: &str, is_dir: bool, taken: &mut BTreeSet<Vec<u8>>) -> Vec<u8> {
    let (stem, extension) = match name.rsplit_once('.') {
        Some((stem, extension)) if !is_dir && !stem.is_empty() => (stem, extension),
        _ => (name, ""),
    };
    let ending = if is_dir { String::new() } else { format!(".{};1", capitals(extension, ISO_EXTENSION)) };
    let stem = capitals(stem, ISO_STEM);
    unlike(taken, |suffix| {
        let kept = ISO_STEM - suffix.len();
        format!("{}{suffix}{ending}", &stem[..stem.len().min(kept)]).into_bytes()
    })
}

/// The name in the Joliet tree, cut to 64 units.
pub fn joliet(name: &str, taken: &mut BTreeSet<Vec<u8>>) -> Vec<u8> {
    let units: Vec<u16> = name.chars().map(allowed_in_joliet).collect::<String>().encode_utf16().collect();
    unlike(taken, |suffix| {
        let kept = units.len().min(JOLIET - suffix.len());
        units[..kept].iter().copied().chain(suffix.encode_utf16()).flat_map(u16::to_be_bytes).collect()
    })
}

fn capitals(text: &str, length: usize) -> String {
    let allowed = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
    text.chars().take(length).map(allowed).collect()
}

fn allowed_in_joliet(c: char) -> char {
    if c.is_control() || "*/:;?\\".contains(c) { '_' } else { c }
}

/// The first of `make("")`, `make("1")`, `make("2")`... that is not taken.
fn unlike(taken: &mut BTreeSet<Vec<u8>>, make: impl Fn(&str) -> Vec<u8>) -> Vec<u8> {
    let mut name = make("");
    for number in 1_u32.. {
        if taken.insert(name.clone()) {
            break;
        }
        name = make(&number.to_string());
    }
    name
}
