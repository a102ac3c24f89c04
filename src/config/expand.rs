//! The variables of lima.yaml: which there are for texts meant for the guest, for the host, and for the message.
//! A text that cannot be expanded stays as it is, with a warning, as in Lima.

use std::cell::RefCell;
use std::path::Path;

use limafs_driver::{Config, Network};

use super::remarks::Remarks;
use super::template::{self, Fuel, Value};
use super::{Context, size};
use crate::error::{Error, Result};
use crate::names::{CONFIG_DIR, SSH_CONFIG, USER_KEY};

/// Expands the texts of one document.
pub struct Expander {
    guest: Value,
    host: Value,
    fuel: RefCell<Fuel>,
}

impl Expander {
    /// `config` has its user filled already, for that is what the guest's variables tell.
    pub fn new(config: &Config, context: &Context) -> Self {
        Self { guest: guest(config, context), host: host(config, context), fuel: RefCell::default() }
    }

    pub fn guest(&self, field: &str, text: &str, warnings: &mut Remarks) -> String {
        self.expand(field, text, &self.guest, warnings)
    }

    pub fn host(&self, field: &str, text: &str, warnings: &mut Remarks) -> String {
        self.expand(field, text, &self.host, warnings)
    }

    fn expand(&self, field: &str, text: &str, variables: &Value, warnings: &mut Remarks) -> String {
        template::expand(text, variables, &mut self.fuel.borrow_mut()).unwrap_or_else(|why| {
            warnings.add(field, format!("variables stay as they are, {why}"));
            text.to_owned()
        })
    }
}

/// The template's message with its variables expanded; empty when there is none.
pub fn message(filled: &Config, context: &Context, ssh_local_port: u16) -> Result<String> {
    let text = filled.message.as_deref().unwrap_or_default();
    if !template::has_actions(text) {
        return Ok(text.to_owned());
    }
    let instance = instance(filled, context, ssh_local_port);
    let mut root = instance.clone();
    root.push(("Instance", Value::map(instance)));
    template::expand(text, &Value::map(root), &mut Fuel::default()).map_err(|why| Error::invalid("message", why))
}

fn guest(config: &Config, context: &Context) -> Value {
    let user = config.user.as_ref();
    Value::map([
        ("Name", Value::text(context.name.as_str())),
        ("Hostname", Value::text(context.name.hostname())),
        ("UID", Value::Int(user.and_then(|user| user.uid).unwrap_or_default().into())),
        ("User", optional(user.and_then(|user| user.name.as_deref()))),
        ("Home", optional(user.and_then(|user| user.home.as_deref()))),
        ("Param", param(config)),
    ])
}

fn host(config: &Config, context: &Context) -> Value {
    let user = &context.host.user;
    Value::map([
        ("Dir", path(&context.dir)),
        ("Name", Value::text(context.name.as_str())),
        ("Instance", Value::text(context.name.as_str())),
        ("LimaHome", path(home(context))),
        ("UID", Value::Int(user.uid.into())),
        ("User", Value::text(&user.name)),
        ("Home", path(&user.home)),
        ("Param", param(config)),
        ("GlobalTempDir", Value::text("/tmp")),
        ("TempDir", path(&std::env::temp_dir())),
    ])
}

/// What `limactl list --format` has, by Go's names.
fn instance(filled: &Config, context: &Context, ssh_local_port: u16) -> Vec<(&'static str, Value)> {
    let bytes = |text: &Option<String>| Value::Int(text.as_deref().and_then(size).unwrap_or_default() as i64);
    let identity = home(context).join(CONFIG_DIR).join(USER_KEY);
    vec![
        ("Name", Value::text(context.name.as_str())),
        ("Hostname", Value::text(context.name.hostname())),
        // The message is for the moment when the instance runs.
        ("Status", Value::text("Running")),
        ("Dir", path(&context.dir)),
        ("VMType", optional(filled.vm_type.as_deref())),
        ("Arch", optional(filled.arch.as_deref())),
        ("CPUs", Value::Int(filled.cpus.unwrap_or_default())),
        ("Memory", bytes(&filled.memory)),
        ("Disk", bytes(&filled.disk)),
        ("SSHAddress", Value::text("127.0.0.1")),
        ("SSHLocalPort", Value::Int(ssh_local_port.into())),
        ("SSHConfigFile", path(&context.dir.join(SSH_CONFIG))),
        ("HostOS", Value::text(context.host.os.to_lowercase())),
        ("HostArch", Value::text(&context.host.arch)),
        ("LimaHome", path(home(context))),
        ("IdentityFile", path(&identity)),
        ("AdditionalDisks", disks(filled)),
        ("Networks", networks(filled)),
        ("Param", param(filled)),
    ]
}

fn disks(config: &Config) -> Value {
    let disks = config.additional_disks.iter().flatten();
    Value::List(disks.map(|disk| Value::map([("Name", Value::text(&disk.name))])).collect())
}

fn networks(config: &Config) -> Value {
    let networks = config.networks.iter().flatten();
    let entry = |network: &Network| {
        Value::map([
            ("Lima", optional(network.lima.as_deref())),
            ("Socket", optional(network.socket.as_deref())),
            ("Interface", optional(network.interface.as_deref())),
            ("MACAddress", optional(network.mac_address.as_deref())),
        ])
    };
    Value::List(networks.map(entry).collect())
}

fn param(config: &Config) -> Value {
    Value::map(config.param.iter().flatten().map(|(name, value)| (name, Value::text(value))))
}

fn home<'a>(context: &'a Context) -> &'a Path {
    context.dir.parent().unwrap_or(Path::new("/"))
}

fn path(path: &Path) -> Value {
    Value::text(path.to_string_lossy())
}

fn optional(text: Option<&str>) -> Value {
    text.map_or(Value::Missing, Value::text)
}
