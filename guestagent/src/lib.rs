//! Lima's guest agent: its service, for the guest's side and for the host's. Knows nothing else of ours.

/// Generated from `proto/guestservice.proto`; `tests/proto.rs` tells when it is behind.
#[rustfmt::skip]
#[allow(clippy::all, missing_docs, reason = "generated")]
pub mod proto;
