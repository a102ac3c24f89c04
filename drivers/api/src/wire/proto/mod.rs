//! Generated from `proto/`; `tests/proto.rs` tells when it is behind.
#![allow(clippy::all, missing_docs, reason = "generated")]

/// Lima's service.
#[rustfmt::skip]
pub mod driver;
/// Ours beside it.
#[rustfmt::skip]
pub mod extra;
