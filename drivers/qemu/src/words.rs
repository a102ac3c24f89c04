//! Words of a QEMU command line. Every value that comes from a configuration or a path goes through [`Props::set`], which
//! doubles commas, so that it stays one value.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// The words so far.
pub(crate) struct Line {
    pub words: Vec<OsString>,
    /// How virtio devices of the machine are named: `pci` or `ccw`.
    pub bus: &'static str,
}

impl Line {
    pub(crate) fn flag(&mut self, flag: &str) {
        self.words.push(flag.into());
    }

    pub(crate) fn option(&mut self, flag: &str, value: impl AsRef<OsStr>) {
        self.flag(flag);
        self.words.push(value.as_ref().into());
    }

    pub(crate) fn props(&mut self, flag: &str, props: Props) {
        self.option(flag, props.0);
    }

    pub(crate) fn virtio(&mut self, device: &str, fill: impl FnOnce(Props) -> Props) {
        let props = fill(Props::new(&format!("{device}-{}", self.bus)));
        self.props("-device", props);
    }
}

/// `first,key=value,...` as QEMU parses it.
pub(crate) struct Props(OsString);

impl Props {
    pub(crate) fn new(first: &str) -> Self {
        Self(first.into())
    }

    pub(crate) fn set(mut self, key: &str, value: impl AsRef<OsStr>) -> Self {
        self.0.push(format!(",{key}="));
        self.0.push(doubled(value.as_ref()));
        self
    }
}

pub(crate) fn doubled(value: &OsStr) -> OsString {
    let bytes = value.as_bytes().iter().flat_map(|&byte| if byte == b',' { vec![b',', b','] } else { vec![byte] });
    OsString::from_vec(bytes.collect())
}

pub(crate) fn join(words: &[&str]) -> String {
    words.iter().filter(|word| !word.is_empty()).copied().collect::<Vec<_>>().join(",")
}
