//! The generated code is checked in, so that no build needs a generator; this holds it to the definitions.
//! `LIMAFS_PROTO=write cargo test -p limafs-driver --test proto` writes it anew.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::fs;
use std::path::Path;

#[test]
fn the_generated_code_is_what_the_definitions_make() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let definitions = protox::compile(["driver.proto", "extra.proto"], [root.join("proto")]).unwrap();
    let out = tempfile::tempdir().unwrap();
    let generator = tonic_prost_build::configure().out_dir(out.path()).build_transport(false).btree_map(".");
    let generator = generator.server_mod_attribute(".", "#[cfg(feature = \"server\")]");
    let generator = generator.client_mod_attribute(".", "#[cfg(feature = \"client\")]");
    generator.compile_fds(definitions).unwrap();
    for (made, kept) in [("_.rs", "driver.rs"), ("limafs.driver.v1.rs", "extra.rs")] {
        let made = fs::read_to_string(out.path().join(made)).unwrap();
        let kept = root.join("src/wire/proto").join(kept);
        if std::env::var("LIMAFS_PROTO").as_deref() == Ok("write") {
            fs::write(&kept, &made).unwrap();
        }
        assert_eq!(fs::read_to_string(&kept).unwrap(), made, "LIMAFS_PROTO=write writes it anew");
    }
}
