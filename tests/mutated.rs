//! Real templates, spoilt: whatever is made of them, reading and expanding them ends soon, takes little memory and does
//! not panic. A binary of its own, because it counts what is allocated. `fuzz/` asks the same without an end.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::path::Path;
use std::sync::LazyLock;
use std::time::Duration;

use limafs::config::embed::{self, Library};
use limafs::config::{self, Context, Layers};
use limafs::error::Error;
use limafs::host::{Host, HostUser};
use limafs::names::Name;
use limafs::templates::EMBEDDED;
use proptest::prelude::*;

/// Far above what is needed, for slow machines.
const LONGEST: Duration = Duration::from_secs(20);
/// What a document of [`MOST_TEXT`] and a template may need at once.
const MOST_MEMORY: isize = 16 << 20;
/// Texts grow to this by repeating parts of them.
const MOST_TEXT: usize = 128 << 10;

/// Counts what each thread holds.
struct Counting;

thread_local! {
    static HELD: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

fn count(bytes: isize) {
    HELD.set(HELD.get() + bytes);
    PEAK.set(PEAK.get().max(HELD.get()));
}

// SAFETY: all work is the system allocator's; counting allocates nothing, for both cells are const and need no drop.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: as above; the block came from `System`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The most bytes that this thread held at once for `work`, beyond what it held before.
fn peak(work: impl FnOnce()) -> isize {
    let before = HELD.get();
    PEAK.set(before);
    work();
    PEAK.get() - before
}

/// How long this thread has worked: what else a machine does is not counted.
fn worked() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn within_bounds(work: impl FnOnce()) -> Result<(), TestCaseError> {
    let start = worked();
    let memory = peak(work);
    let took = worked() - start;
    prop_assert!(took < LONGEST, "{took:?}");
    prop_assert!(memory < MOST_MEMORY, "{memory} bytes at once");
    Ok(())
}

static HOST: LazyLock<Host> = LazyLock::new(|| {
    let user = HostUser { name: "jane".into(), uid: 501, home: "/home/jane".into(), comment: "Jane Roe".into() };
    let (os, arch, timezone) = ("Linux".into(), "x86_64".into(), "Europe/Berlin".into());
    Host {
        user,
        os,
        arch,
        cpus: 8,
        memory: 16 << 30,
        timezone,
        machine_id: "0123456789abcdef".into(),
        drivers: Default::default(),
    }
});
static NAME: LazyLock<Name> = LazyLock::new(|| Name::parse("foo").unwrap());

fn context(layers: Layers) -> Context<'static> {
    Context { name: &NAME, dir: "/h/foo".into(), host: &HOST, layers }
}

/// Pieces that mean something to YAML or to templates.
const WORDS: &[&str] = &[
    "{{",
    "}}",
    "{{.",
    "{{range .Param}}",
    "{{end}}",
    "{{if ",
    "{{- ",
    "{{$x := ",
    "| printf \"%9999d\"",
    "{{`",
    "\"",
    "'",
    "&a ",
    "*a",
    "<<: *a",
    "- ",
    ": ",
    "\n",
    "\n  ",
    "? ",
    "[",
    "]",
    "{",
    "}",
    "|\n",
    ">-\n",
    "!!binary ",
    "---\n",
    "#",
    "\t",
    "\u{feff}",
    "\u{0}",
    "\u{2028}",
    "~",
    "0x",
    "1e999",
    "-1",
    "param:\n  a: b\n",
    "base: x\n",
    "images: [{location: /i}]\n",
];

/// One way to spoil a text. Places are parts of 65536 of its length.
#[derive(Debug, Clone)]
enum Edit {
    Insert(u16, &'static str),
    Replace(u16, u8),
    Delete(u16, u16),
    Repeat(u16, u16, u8),
    Truncate(u16),
    Append(usize),
}

fn edits() -> impl Strategy<Value = Vec<Edit>> {
    let edit = prop_oneof![
        4 => (any::<u16>(), prop::sample::select(WORDS)).prop_map(|(at, word)| Edit::Insert(at, word)),
        2 => any::<(u16, u8)>().prop_map(|(at, byte)| Edit::Replace(at, byte)),
        2 => any::<(u16, u16)>().prop_map(|(at, to)| Edit::Delete(at, to)),
        2 => any::<(u16, u16, u8)>().prop_map(|(at, to, times)| Edit::Repeat(at, to, times)),
        1 => any::<u16>().prop_map(Edit::Truncate),
        1 => (0..EMBEDDED.len()).prop_map(Edit::Append),
    ];
    prop::collection::vec(edit, 1..8)
}

fn spoil(text: &mut Vec<u8>, edit: &Edit) {
    let length = text.len();
    let place = |at: u16| length * usize::from(at) / 65536;
    let range = |at: u16, to: u16| place(at.min(to))..place(at.max(to));
    match *edit {
        Edit::Insert(at, word) => drop(text.splice(place(at)..place(at), word.bytes())),
        Edit::Replace(at, byte) if length > 0 => text[place(at)] = byte,
        Edit::Replace(..) => {}
        // A part of a part, so that most of the text stays.
        Edit::Delete(at, to) => drop(text.drain(range(at, at.saturating_add(to / 16)))),
        Edit::Repeat(at, to, times) => {
            let part = text[range(at, to)].to_vec();
            let times = usize::from(times).min(MOST_TEXT.saturating_sub(length) / part.len().max(1));
            drop(text.splice(place(at)..place(at), part.repeat(times)));
        }
        Edit::Truncate(at) => text.truncate(place(at)),
        Edit::Append(index) => text.extend(EMBEDDED[index].1.bytes()),
    }
}

fn spoilt(index: usize, edits: &[Edit]) -> Vec<u8> {
    // Parts have no image of their own; the others would be refused for having none before they are expanded.
    let mut text = format!("images: [{{location: /i}}]\n{}", EMBEDDED[index].1).into_bytes();
    edits.iter().for_each(|edit| spoil(&mut text, edit));
    text
}

#[test]
fn what_is_allocated_is_counted() {
    let bytes = peak(|| drop(vec![0_u8; 3 << 20]));
    assert!((3 << 20..4 << 20).contains(&bytes), "{bytes}");
}

#[test]
fn a_document_of_the_greatest_length_is_expanded_in_little_memory() {
    let head = "images: [{location: /i}]\nprovision:\n- script: |\n";
    let most = 8 * MOST_MEMORY;
    for line in [
        "    echo {{.Name}}\n",
        "    {{1}}{{1}}{{1}}{{1}}{{1}}{{1}}{{1}}{{1}}\n",
        "    {{1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1}}\n",
    ] {
        let text = format!("{head}{}", line.repeat(1_000_000 / line.len()));
        assert!(text.len() > 900_000 && text.len() < embed::MOST_BYTES);
        let memory = peak(|| drop(config::load(text.as_bytes(), &context(Layers::default())).unwrap()));
        assert!(memory > text.len() as isize && memory < most, "{memory}: {line}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn a_spoilt_document_is_loaded_or_refused(index in 0..EMBEDDED.len(), edits in edits()) {
        let text = spoilt(index, &edits);
        within_bounds(|| match config::load(&text, &context(Layers::default())) {
            Ok(loaded) => drop(config::to_yaml(&loaded.filled).unwrap()),
            Err(error) => assert!(error.errno() == libc::EINVAL || matches!(error, Error::TooBig { .. }), "{error}"),
        })?;
        within_bounds(|| drop(embed::embed(&text, None, Path::new("/home/jane"), &Library::new())))?;
    }

    #[test]
    fn a_spoilt_default_never_spoils_more_than_the_answer(index in 0..EMBEDDED.len(), edits in edits()) {
        let defaults = Some(spoilt(index, &edits).into());
        let context = context(Layers { defaults, overrides: None });
        within_bounds(|| drop(config::load(b"images: [{location: /i}]\n", &context)))?;
    }

    #[test]
    fn a_spoilt_template_is_expanded_or_says_why(index in 0..EMBEDDED.len(), edits in edits()) {
        let context = context(Layers::default());
        let document = b"images: [{location: /i}]\nparam: {a: b}\nprovision: [{script: $PARAM_a}]\nnetworks: [{lima: x}]\n";
        let mut filled = config::load(document, &context).unwrap().filled;
        filled.message = Some(String::from_utf8_lossy(&spoilt(index, &edits)).into_owned());
        within_bounds(|| match config::message(&filled, &context, 60022) {
            Ok(text) => assert!(text.len() <= 2 << 20, "{} bytes", text.len()),
            Err(error) => assert!(error.to_string().len() < 10_000, "{error}"),
        })?;
    }
}
