//! limafs: Lima virtual machines as a mounted file system.

pub mod cidata;
pub mod config;
pub mod error;
pub mod host;
pub mod images;
pub mod names;
pub mod status;
pub mod store;
pub mod templates;
