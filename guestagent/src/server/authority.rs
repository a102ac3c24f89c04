//! Takes empty `:authority` fields out of the requests of a client: Go's gRPC sends one when it dials no name, as Lima's
//! hostagent does, and the HTTP/2 server refuses it.
//!
//! HPACK has state, but this field needs none of it: empty, it is entry 1 of the static table, so it is sent as a
//! reference, one byte, which neither side remembers. Taking that byte out changes nothing else (RFC 7541, 6.1).

/// What a client says before its first frame (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const FRAME_HEAD: usize = 9;
const HEADERS: u8 = 1;
const PADDED: u8 = 0x08;
const PRIORITY: u8 = 0x20;
/// The largest frame that a server which asks for no more accepts; the server refuses what is larger.
const FRAME_MAX: usize = 16_384;
const EMPTY_AUTHORITY: u8 = 0x81;

/// Where in a client's stream of bytes we are.
#[derive(Debug)]
enum Place {
    /// Nothing is passed on before the preface has come: that many of its bytes have. A serial port may begin with
    /// what an earlier client left.
    Skipping(usize),
    Preface(usize),
    /// In the head of a frame, or in headers: held back until complete.
    Held {
        bytes: Vec<u8>,
        wanted: usize,
    },
    /// That many bytes of other frames are passed on as they are.
    Passing(usize),
}

/// Rewrites what a client sends. Never makes it longer.
#[derive(Debug)]
pub struct Filter {
    place: Place,
}

impl Filter {
    pub fn new() -> Self {
        Self { place: Place::Preface(PREFACE.len()) }
    }

    /// For a stream that may begin with leftovers: drops all before the preface.
    pub fn resynchronizing() -> Self {
        Self { place: Place::Skipping(0) }
    }

    /// Whether all of `count` bytes pass as they are; counts them if so.
    pub fn passes(&mut self, count: usize) -> bool {
        match &mut self.place {
            Place::Passing(left) if *left > count => {
                *left -= count;
                true
            }
            _ => false,
        }
    }

    /// Takes what has come, appends what may go on.
    pub fn push(&mut self, mut input: &[u8], out: &mut Vec<u8>) {
        while !input.is_empty() {
            let used = self.step(input, out);
            input = &input[used..];
        }
    }

    /// Does something with at least one byte, and returns with how many.
    fn step(&mut self, input: &[u8], out: &mut Vec<u8>) -> usize {
        match &mut self.place {
            Place::Skipping(seen) => {
                *seen = matched(*seen, input[0]);
                if *seen == PREFACE.len() {
                    out.extend_from_slice(PREFACE);
                    self.place = next_frame();
                }
                1
            }
            Place::Preface(left) | Place::Passing(left) => {
                let count = input.len().min(*left);
                out.extend_from_slice(&input[..count]);
                *left -= count;
                if *left == 0 {
                    self.place = next_frame();
                }
                count
            }
            Place::Held { bytes, wanted } => {
                let count = input.len().min(*wanted - bytes.len());
                bytes.extend_from_slice(&input[..count]);
                if bytes.len() == *wanted {
                    let bytes = std::mem::take(bytes);
                    self.place = complete(bytes, out);
                }
                count
            }
        }
    }
}

/// How much of the preface has been seen with one more byte: where it breaks off, the end of what was seen may be its
/// beginning anew. Only `P` is both.
fn matched(seen: usize, byte: u8) -> usize {
    match seen {
        _ if PREFACE[seen] == byte => seen + 1,
        0 => 0,
        _ => matched(usize::from(seen > 1 && PREFACE[seen - 1] == PREFACE[0]), byte),
    }
}

fn next_frame() -> Place {
    Place::Held { bytes: Vec::with_capacity(FRAME_HEAD), wanted: FRAME_HEAD }
}

/// A frame's head, or a whole frame of headers.
fn complete(mut bytes: Vec<u8>, out: &mut Vec<u8>) -> Place {
    let length = usize::from(bytes[0]) << 16 | usize::from(bytes[1]) << 8 | usize::from(bytes[2]);
    if bytes[3] == HEADERS && length <= FRAME_MAX {
        if bytes.len() < FRAME_HEAD + length {
            return Place::Held { wanted: FRAME_HEAD + length, bytes };
        }
        while let Some(at) = empty_authority(&bytes) {
            bytes.remove(at);
            let length = (bytes.len() - FRAME_HEAD) as u32;
            bytes[..3].copy_from_slice(&length.to_be_bytes()[1..]);
        }
        out.extend_from_slice(&bytes);
        return next_frame();
    }
    out.extend_from_slice(&bytes);
    if length == 0 { next_frame() } else { Place::Passing(length) }
}

/// Where in a frame of headers the field stands. It can stand only among the first ones, hence in no CONTINUATION.
fn empty_authority(frame: &[u8]) -> Option<usize> {
    let flags = frame[4];
    let mut at = FRAME_HEAD;
    let mut end = frame.len();
    if flags & PADDED != 0 {
        end = end.checked_sub(usize::from(*frame.get(at)?))?;
        at += 1;
    }
    if flags & PRIORITY != 0 {
        at += 5;
    }
    let block = frame.get(..end)?;
    while let Some(&first) = block.get(at) {
        if first == EMPTY_AUTHORITY {
            return Some(at);
        }
        at = after_field(block, at)?;
    }
    None
}

/// Where the field after the one at `at` begins (RFC 7541, 6).
fn after_field(block: &[u8], at: usize) -> Option<usize> {
    let (prefix, is_literal) = match *block.get(at)? {
        0x80.. => (7, false),
        0x40..0x80 => (6, true),
        0x20..0x40 => (5, false),
        0x00..0x20 => (4, true),
    };
    let (name, mut at) = integer(block, at, prefix)?;
    if is_literal {
        if name == 0 {
            at = after_text(block, at)?;
        }
        at = after_text(block, at)?;
    }
    Some(at)
}

fn after_text(block: &[u8], at: usize) -> Option<usize> {
    let (length, at) = integer(block, at, 7)?;
    at.checked_add(length).filter(|end| *end <= block.len())
}

/// An integer whose first `prefix` bits are in the byte at `at`, and where it ends (RFC 7541, 5.1).
fn integer(block: &[u8], mut at: usize, prefix: u32) -> Option<(usize, usize)> {
    let mask = (1_usize << prefix) - 1;
    let mut value = usize::from(*block.get(at)?) & mask;
    at += 1;
    if value < mask {
        return Some((value, at));
    }
    // No length or index here needs more than three further bytes.
    for shift in [0, 7, 14] {
        let byte = usize::from(*block.get(at)?);
        at += 1;
        value += (byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some((value, at));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn filtered(mut filter: Filter, pieces: &[&[u8]]) -> Vec<u8> {
        let mut out = Vec::new();
        pieces.iter().for_each(|piece| filter.push(piece, &mut out));
        out
    }

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = (payload.len() as u32).to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, 1], payload].concat()
    }

    fn stream(frames: &[Vec<u8>]) -> Vec<u8> {
        [PREFACE, &frames.concat()].concat()
    }

    /// POST, http, /a, then the authority, then te: trailers.
    const WITH: &[u8] = &[0x83, 0x86, 0x44, 2, b'/', b'a', 0x81, 0x40, 2, b't', b'e', 1, b'x'];
    const WITHOUT: &[u8] = &[0x83, 0x86, 0x44, 2, b'/', b'a', 0x40, 2, b't', b'e', 1, b'x'];

    #[test]
    fn only_the_empty_authority_is_taken_out() {
        for (flags, before, after) in [
            (4, &[][..], &[][..]),
            (0x24, &[0x80, 0, 0, 0x81, 9], &[]),
            (0x0c, &[3], &[0x81; 3]),
            (0x2c, &[2, 0, 0x81, 0, 0, 1], &[0x81; 2]),
        ] {
            let with = frame(HEADERS, flags, &[before, WITH, after].concat());
            let without = frame(HEADERS, flags, &[before, WITHOUT, after].concat());
            let data = frame(0, 1, &[0x81; 40]);
            let sent = stream(&[frame(4, 0, &[]), with, data.clone(), frame(8, 0, &[0x81; 4])]);
            let expected = stream(&[frame(4, 0, &[]), without, data, frame(8, 0, &[0x81; 4])]);
            assert_eq!(filtered(Filter::new(), &[&sent]), expected, "{flags:#x}");
        }
    }

    #[test]
    fn fields_that_hold_its_byte_are_left_alone() {
        let block = [0x83, 0x44, 3, b'/', 0x81, 0x81, 0x00, 1, 0x81, 1, 0x81, 0x3f, 0x81, 0x01, 0xff, 0x81, 0x00];
        let sent = stream(&[frame(HEADERS, 4, &block)]);
        assert_eq!(filtered(Filter::new(), &[&sent]), sent);
    }

    #[test]
    fn what_an_earlier_client_left_on_a_serial_port_is_dropped() {
        let sent = stream(&[frame(HEADERS, 4, WITH)]);
        let expected = stream(&[frame(HEADERS, 4, WITHOUT)]);
        for leftover in
            [&b""[..], b"\0\0\x04\0PRI * HTTP", b"PRI * HTT", b"PPRI * HTTP/2.0\r\n\r\nSM\r\n\r", b"PRI * P"]
        {
            assert_eq!(filtered(Filter::resynchronizing(), &[leftover, &sent]), expected, "{leftover:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_in_any_pieces_come_out_the_same(
            bytes in proptest::collection::vec(prop_oneof![any::<u8>(), Just(0), Just(1), Just(0x81)], 0..400),
            cuts in proptest::collection::vec(0..400_usize, 0..8),
        ) {
            let bytes = stream(&[bytes]);
            let whole = filtered(Filter::new(), &[&bytes]);
            prop_assert!(whole.len() <= bytes.len());
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).chain([0, bytes.len()]).collect();
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|cut| &bytes[cut[0]..cut[1]]).collect();
            prop_assert_eq!(filtered(Filter::new(), &pieces), whole);
        }
    }
}
