//! The generated code is checked in, so that no build needs a generator; this holds it to the definition.
//! `LIMAFS_PROTO=write cargo test -p limafs-guestagent --test proto` writes it anew.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::fs;
use std::path::Path;

#[test]
fn the_generated_code_is_what_the_definition_makes() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let definition = protox::compile(["guestservice.proto"], [root.join("proto")]).unwrap();
    let out = tempfile::tempdir().unwrap();
    tonic_prost_build::configure().out_dir(out.path()).compile_fds(definition).unwrap();
    let made = fs::read_to_string(out.path().join("_.rs")).unwrap();
    let kept = root.join("src/proto.rs");
    if std::env::var("LIMAFS_PROTO").as_deref() == Ok("write") {
        fs::write(&kept, &made).unwrap();
    }
    assert_eq!(fs::read_to_string(&kept).unwrap(), made, "LIMAFS_PROTO=write writes it anew");
}
