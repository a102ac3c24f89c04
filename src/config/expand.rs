//! The variables of lima.yaml: which there are for texts meant for the guest and for texts meant for the host.

use limafs_driver::Config;

use super::Context;

/// Expands the texts of one document.
pub struct Expander {}

impl Expander {
    pub fn new(_config: &Config, _context: &Context) -> Self {
        Self {}
    }

    pub fn guest(&self, _field: &str, text: &str, _warnings: &mut Vec<String>) -> String {
        text.to_owned()
    }

    pub fn host(&self, _field: &str, text: &str, _warnings: &mut Vec<String>) -> String {
        text.to_owned()
    }
}
