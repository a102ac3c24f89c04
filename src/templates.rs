use crate::names::Home;
pub fn all(_: &Home) -> Vec<(String, String)> {
    vec![]
}
