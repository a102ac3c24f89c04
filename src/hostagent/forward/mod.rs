//! Port forwards.

mod rules;
