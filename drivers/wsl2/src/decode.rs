//! What wsl.exe prints as text. Pure. Its own words are UTF-16LE, with or without a byte order mark, or UTF-8 where
//! WSL_UTF8 is set; what a program in a distribution prints comes as it is.

/// Returns the text with line ends of one kind. Never fails: what is no text is U+FFFD.
pub(crate) fn decode(bytes: &[u8]) -> String {
    let text = match bytes {
        [0xff, 0xfe, rest @ ..] => utf16(rest, u16::from_le_bytes),
        [0xfe, 0xff, rest @ ..] => utf16(rest, u16::from_be_bytes),
        [0xef, 0xbb, 0xbf, rest @ ..] => String::from_utf8_lossy(rest).into_owned(),
        // No UTF-8 text has a zero byte; UTF-16 has one in each line end.
        _ if bytes.contains(&0) => utf16(bytes, u16::from_le_bytes),
        _ => String::from_utf8_lossy(bytes).into_owned(),
    };
    text.replace("\r\n", "\n").replace('\r', "\n")
}

/// An odd byte at the end was cut off.
fn utf16(bytes: &[u8], unit: fn([u8; 2]) -> u16) -> String {
    let units = bytes.chunks_exact(2).map(|pair| unit([pair[0], pair[1]]));
    char::decode_utf16(units).map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn le(text: &str) -> Vec<u8> {
        text.encode_utf16().flat_map(u16::to_le_bytes).collect()
    }

    #[test]
    fn each_encoding_gives_the_same_text() {
        let text = "NAME\r\n正在运行 ä\r\n";
        let wanted = "NAME\n正在运行 ä\n";
        assert_eq!(decode(&le(text)), wanted);
        assert_eq!(decode(&[&[0xff, 0xfe], &le(text)[..]].concat()), wanted);
        let be: Vec<u8> = text.encode_utf16().flat_map(u16::to_be_bytes).collect();
        assert_eq!(decode(&[&[0xfe, 0xff], &be[..]].concat()), wanted);
        assert_eq!(decode(text.as_bytes()), wanted);
        assert_eq!(decode(&[b"\xef\xbb\xbf", text.as_bytes()].concat()), wanted);
    }

    #[test]
    fn what_is_cut_off_or_no_text_is_no_failure() {
        assert_eq!(decode(&le("ab\r\n")[..5]), "ab");
        assert_eq!(decode(b"\xff\xfe\x00\xd8a\x00"), "\u{fffd}a");
        assert_eq!(decode(b"\x80a"), "\u{fffd}a");
        assert_eq!(decode(b""), "");
    }
}
