//! What the choice of a driver goes by: what it is by declaration, and how it is on this machine.

use serde::{Deserialize, Serialize};

use crate::Info;

/// A driver by declaration.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct About {
    /// Other names that `vmType` may call it by.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
    /// Whether it may be chosen where `vmType` is absent.
    pub default: bool,
    pub priority: Priority,
}

/// How much a driver is wished for, least first: minikube's words.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Priority {
    #[default]
    Unknown,
    Obsolete,
    /// Given to a driver that is not healthy, whatever it declares.
    Unhealthy,
    Experimental,
    Discouraged,
    Deprecated,
    Fallback,
    Default,
    Preferred,
    HighlyPreferred,
}

/// A driver on this machine, as minikube's registry words it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Health {
    /// Its programs are there.
    pub installed: bool,
    /// It can start a VM.
    pub healthy: bool,
    /// Its service, where it has one, runs.
    pub running: bool,
    /// It works, but could do better; `fix` says how.
    pub needs_improvement: bool,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub error: String,
    /// A word for programs: `not-found`, `no-kvm`, ...
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// What the user can do.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub fix: String,
    /// A URL.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub doc: String,
    /// Of the hypervisor, in its own words.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub version: String,
}

impl Health {
    /// It is there and works.
    pub fn working(version: impl Into<String>) -> Self {
        Self { installed: true, healthy: true, running: true, version: version.into(), ..Self::default() }
    }

    /// It cannot run VMs here.
    pub fn failing(installed: bool, reason: &str, error: impl ToString, fix: impl Into<String>) -> Self {
        let (reason, error) = (reason.to_string(), error.to_string());
        Self { installed, reason, error, fix: fix.into(), ..Self::default() }
    }
}

/// All that a driver says of itself without an instance: what its program writes for `--health`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Report {
    pub info: Info,
    pub about: About,
    pub health: Health,
}
