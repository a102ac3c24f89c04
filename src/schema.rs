//! The JSON Schema of lima.yaml, for editors to complete and check with. Made of the schema's types alone, so that it
//! cannot say anything else; what only `config::validate` can judge is not in it.

use std::sync::LazyLock;

use limafs_driver::Config;
use schemars::Schema;
use schemars::generate::SchemaSettings;
use schemars::transform::RecursiveTransform;
use serde_json::{Value, json};

/// What it is called beside the templates.
pub const FILE: &str = "lima.schema.json";

/// The schema as JSON text. Draft 7, which every editor's language server knows.
pub fn lima_yaml() -> &'static str {
    static TEXT: LazyLock<String> = LazyLock::new(|| {
        let settings = SchemaSettings::draft07().with_transform(RecursiveTransform(take_numbers_for_text));
        let schema = settings.into_generator().into_root_schema_for::<Config>();
        format!("{:#}\n", schema.to_value())
    });
    &TEXT
}

/// Numbers pass for text (`memory: 1073741824`), and in free-form maps booleans do as well.
fn take_numbers_for_text(schema: &mut Schema) {
    if let Some(kind) = schema.get_mut("type") {
        match kind {
            Value::String(word) if word == "string" => *kind = json!(["string", "number"]),
            Value::Array(words) if words.contains(&json!("string")) && !words.contains(&json!("number")) => {
                words.push(json!("number"));
            }
            _ => {}
        }
    }
    if let Some(value) = schema.get_mut("additionalProperties").filter(|value| value.get("type").is_some()) {
        value["type"] = json!(["string", "number", "boolean", "null"]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::templates::EMBEDDED;

    struct Validator {
        schemas: boon::Schemas,
        index: boon::SchemaIndex,
    }

    fn validator() -> Validator {
        let schema: Value = serde_json::from_str(lima_yaml()).unwrap();
        let (mut schemas, mut compiler) = (boon::Schemas::new(), boon::Compiler::new());
        compiler.add_resource(FILE, schema).unwrap();
        let index = compiler.compile(FILE, &mut schemas).unwrap_or_else(|error| panic!("{error:#}"));
        Validator { schemas, index }
    }

    impl Validator {
        /// What is wrong with a document; nothing when it is valid.
        fn faults(&self, yaml: &str) -> String {
            let document: Value = serde_yaml::from_str(yaml).unwrap();
            let judged = self.schemas.validate(&document, self.index);
            judged.err().map(|error| format!("{error:#}")).unwrap_or_default()
        }
    }

    #[test]
    fn every_shipped_template_is_valid() {
        let validator = validator();
        for (name, text) in EMBEDDED {
            assert_eq!(validator.faults(text), "", "{name}");
        }
    }

    #[test]
    fn what_lima_yaml_may_say_is_valid() {
        let validator = validator();
        for text in [
            "base: template:local",
            "base: {url: a.yaml}",
            "base: [a.yaml, {url: b.yaml, digest: null}]",
            "cpus: 2\nmemory: 1073741824\ndisk: null\nimages:",
            "additionalDisks: [data, {name: more, format: false, fsType: xfs, fsArgs: [-f]}]",
            "mounts: [{location: '~', writable: true, 9p: {cache: mmap}}]",
            "portForwards: [{guestIP: 0.0.0.0, guestPortRange: [1, 9], static: true}]",
            "env: {A: b, PORT: 8080, ON: true, NONE: }\nparam: {N: 1}",
            "vmOpts: {qemu: {cpuType: {x86_64: max}}}\nssh: {loadDotSSHPubKeys: false}",
            "provision: [{mode: data, path: /x, permissions: 644, content: '', file: x.sh}]",
        ] {
            assert_eq!(validator.faults(text), "", "{text}");
        }
    }

    #[test]
    fn unknown_keys_and_wrong_types_are_reported() {
        let validator = validator();
        for (text, word) in [
            ("cpu: 2", "'cpu'"),
            ("mounts: [{location: /a, writeable: true}]", "'writeable'"),
            ("base: {uri: x}", "'uri'"),
            ("additionalDisks: [{format: true}]", "'name'"),
            ("additionalDisks: [{name: x, fstype: ext4}]", "'fstype'"),
            ("hostResolver: {enable: true}", "'enable'"),
            ("cpus: many", "/cpus"),
            ("memory: true", "/memory"),
            ("images: x", "/images"),
            ("portForwards: [{guestPortRange: [1, 2, 3]}]", "guestPortRange"),
        ] {
            let faults = validator.faults(text);
            assert!(faults.contains(word), "{text}: {faults:?}");
        }
    }

    #[test]
    fn fields_are_explained() {
        let schema: Value = serde_json::from_str(lima_yaml()).unwrap();
        let field = &schema["definitions"]["PortForward"]["properties"]["proto"];
        assert!(field["description"].as_str().unwrap().contains("`udp`"), "{field}");
    }
}
