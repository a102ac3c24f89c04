pub fn run(_: crate::names::Home, _: crate::names::Name, _: bool) -> crate::error::Result<()> {
    todo!()
}
