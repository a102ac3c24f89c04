//! Scripts of other files.

use proptest::prelude::*;

use super::*;

#[test]
fn a_file_takes_its_entrys_own_place() {
    let text = "provision:\n# first\n- file: /a.sh\n  mode: user\n- mode: data\n  path: /x\n  file: {url: /b}\n- {mode: yq, path: /y, file: /c}\nprobes:\n  - hint: h\n    file:\n      url: /a.sh\n";
    let files = [("/a.sh", "#!/bin/sh\necho hi\n"), ("/b", "b"), ("/c", ".a = 1\n")];
    assert_eq!(
        embedded(text, &files),
        "provision:\n# first\n- script: |\n    #!/bin/sh\n    echo hi\n  mode: user\n- mode: data\n  path: /x\n  content: b\n- mode: yq\n  path: /y\n  expression: |\n    .a = 1\nprobes:\n  - hint: h\n    script: |\n      #!/bin/sh\n      echo hi\n"
    );
}

#[test]
fn files_of_a_base_are_beside_it() {
    let files = [("/d/b", "provision: [{file: x.sh}]"), ("/d/x.sh", "a\n"), ("/e", "b\n")];
    let config = config(&embedded("base: /d/b\nprovision: [{file: /e}]", &files));
    let scripts: Vec<_> = config.provision.unwrap().into_iter().filter_map(|it| it.script).collect();
    assert_eq!(scripts, ["a\n", "b\n"]);
}

#[test]
fn a_file_and_a_script_exclude_each_other() {
    let why = refused("provision: [{script: x, file: /a}]", &[("/a", "y")]);
    assert_eq!(why, "provision.script: cannot be set beside file");
    assert_eq!(value(&embedded("probes: [{script: ~, file: /a}]", &[("/a", "y")])), value("probes: [{script: y}]"));
}

#[test]
fn d17_what_cannot_be_printed_is_binary() {
    let script = format!("#!/bin/sh\r\nprintf '\x1b[1m\0'\n{}", "x".repeat(100));
    let text = embedded("provision:\n- file: /a\n", &[("/a", &script)]);
    assert!(text.starts_with("provision:\n- script: !!binary |\n    "), "{text}");
    assert!(text.lines().all(|line| line.len() <= 80 && !line.contains('\r')), "{text}");
    assert_eq!(config(&text).provision.unwrap()[0].script, Some(script.as_str().into()));
    let long = "y".repeat(65_001);
    let text = embedded("provision: [{file: /a}]", &[("/a", &long)]);
    assert!(text.contains("!!binary"));
    assert_eq!(config(&text).provision.unwrap()[0].script, Some(long.as_str().into()));
}

#[test]
fn d17_bytes_that_are_no_text_are_binary() {
    let bytes: Vec<u8> = (0..=255).cycle().take(1000).collect();
    let text = "# kept\nprovision:\n- mode: data # why\n  file: /a\n  path: /x\nprobes:\n- file: /b\n";
    let files = [("/a", &bytes[..]), ("/b", b"#!/bin/sh\n\xff")];
    let text = embedded_as(None, text, &files).unwrap();
    assert!(text.contains("  content: !!binary |\n    AAECAwQF") && text.starts_with("# kept\n"), "{text}");
    assert!(text.lines().all(|line| line.len() <= 80), "{text}");
    let config = config(&text);
    assert_eq!(config.provision.unwrap()[0].content, Some(bytes.into()));
    assert_eq!(config.probes.unwrap()[0].script, Some(b"#!/bin/sh\n\xff".to_vec().into()));
}

#[test]
fn d17_binary_of_a_base_stays_what_it_is() {
    let base = "provision: [{mode: data, path: /x, content: !!binary gID/}]";
    let text = embedded("base: /b\ncpus: 1\n", &[("/b", base)]);
    assert!(text.contains("!!binary |\n    gID/\n"), "{text}");
    assert_eq!(config(&text).provision.unwrap()[0].content, Some(vec![0x80, 0x80, 0xff].into()));
}

proptest! {
    #[test]
    fn d17_any_text_is_embedded_as_it_is(script in prop_oneof![".*", "[ \n\ta#|>:'\"-]{0,40}", "([ \t]*[a-c]{0,3}\n){0,6}"], deep in any::<bool>()) {
        let document = if deep { "env: {A: b}\nprobes:\n    - hint: x # why\n      file: /a\n# end\n" } else { "probes:\n- file: /a" };
        let text = embedded(document, &[("/a", &script)]);
        let probes = config(&text).probes.unwrap();
        prop_assert_eq!(&probes[0].script, &Some(script.as_str().into()), "{}", text);
        prop_assert!(!deep || text.starts_with("env: {A: b}\nprobes:\n    - hint: x # why\n") && text.ends_with("# end\n"), "{}", text);
    }
}
