//! Lima's guest agent: its service, for the guest's side (feature `agent`) and for the host's (feature `client`). Knows
//! nothing else of ours.

#[cfg(feature = "client")]
pub mod client;
#[cfg(feature = "agent")]
pub mod clock;
#[cfg(feature = "agent")]
pub mod ports;
#[cfg(feature = "agent")]
pub mod server;
#[cfg(feature = "agent")]
pub mod service;
#[cfg(feature = "agent")]
mod tunnel;

/// Generated from `proto/guestservice.proto`; `tests/proto.rs` tells when it is behind.
#[rustfmt::skip]
#[allow(clippy::all, missing_docs, reason = "generated")]
pub mod proto;
