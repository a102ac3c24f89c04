//! Lima's guest agent: its service, for the guest's side (feature `agent`) and for the host's (feature `client`). Knows
//! nothing else of ours.

#[cfg(feature = "client")]
pub mod client;
#[cfg(feature = "agent")]
pub mod clock;
#[cfg(any(feature = "agent", feature = "client"))]
pub mod memory;
#[cfg(feature = "agent")]
pub mod ports;
#[cfg(feature = "agent")]
pub mod server;
#[cfg(feature = "agent")]
pub mod service;
#[cfg(feature = "agent")]
mod tunnel;
#[cfg(feature = "agent")]
pub mod yq;

/// Generated from `proto/guestservice.proto`; `tests/proto.rs` tells when it is behind.
#[rustfmt::skip]
#[allow(clippy::all, missing_docs, reason = "generated")]
pub mod proto;

/// What a host of ours says of a tunnel beside Lima's words: that it understands an answer without data whose protocol is
/// [`END`]. Lima's protocol has no word for a guest that has said all and still listens, and Lima's hosts never say this.
const HALVES: &str = "limafs-halves";
const END: &str = "end";
