//! limafs: Lima virtual machines as a mounted file system.

pub mod agent;
pub mod cidata;
pub mod config;
pub mod disks;
pub mod drivers;
pub mod error;
pub mod fuse;
pub mod host;
pub mod hostagent;
pub mod images;
pub mod jobs;
pub mod names;
pub mod networks;
#[cfg(feature = "machine")]
pub mod plugin;
pub mod registry;
pub mod schema;
pub mod sftp;
pub mod started;
pub mod status;
pub mod store;
pub mod templates;
pub mod usernet;
pub mod view;
