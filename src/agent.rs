use crate::error::Result;
use crate::names::{Home, Name};
use crate::status::{Status, Verb};
use std::path::Path;
pub enum Heard {
    Status(Box<Status>),
    Foreign { ssh_local_port: u16 },
    Gone,
}
pub fn spawn(_: &Home, _: &Name, _: bool) -> Result<u32> {
    todo!()
}
pub async fn follow(_: &Path, _: tokio::sync::mpsc::Sender<Heard>) {}
pub async fn command(_: &Path, _: Verb) -> Result<()> {
    todo!()
}
pub fn interrupt(_: &Path) -> Result<()> {
    todo!()
}
pub fn last_words(_: &Path) -> String {
    todo!()
}
