//! The fake driver as a program of its own, and drivers that behave badly.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod bench;
mod hostile;
mod lima;
mod program;
mod remote;
