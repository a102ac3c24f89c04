//! docker-machine's plugins as drivers, and drivers as such a plugin: net/rpc with gob over TCP on loopback.
//!
//! [`Machine`] hosts a `docker-machine-driver-NAME`; [`serve`](server::serve) is the other end, for a program that is one.
//! A machine's state is asked for, every few seconds: plugins tell nothing by themselves.

mod client;
mod driver;
mod find;
pub mod flags;
mod gob;
mod hosted;
mod introduce;
mod log;
mod plugin;
#[cfg(test)]
mod recorded;
pub mod server;
mod state;
mod store;
mod watch;
mod wire;

pub use driver::Machine;
pub use find::find;
pub use state::State;
