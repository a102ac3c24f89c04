//! What both sides of a driver's socket share: messages, names, errors, texts. Opens nothing.

pub(crate) mod names;
pub mod proto;
pub(crate) mod snapshots;
pub(crate) mod status;
pub(crate) mod tree;

/// Lima's default for what a driver takes in.
#[cfg(feature = "server")]
pub(crate) const REQUEST_MAX: usize = 4 << 20;
/// What Lima's host takes in.
#[cfg(feature = "client")]
pub(crate) const ANSWER_MAX: usize = 16 << 20;

/// In the JSON of `Info`, with the version of the service Extra.
pub(crate) const EXTRA_KEY: &str = "limafs";
pub(crate) const EXTRA_VERSION: u64 = 1;
