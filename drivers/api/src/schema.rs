//! Schemas of the fields that are written in more than one way; all others are derived from the types.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use crate::config::{Disk, Locator};

impl JsonSchema for Disk {
    fn schema_name() -> Cow<'static, str> {
        "Disk".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "An additional disk; a bare string is its name.",
            "anyOf": [
                { "type": "string" },
                {
                    "type": "object",
                    "properties": {
                        "name": { "type": "string" },
                        "format": { "type": ["boolean", "null"] },
                        "fsType": { "type": ["string", "null"] },
                        "fsArgs": { "type": ["array", "null"], "items": { "type": "string" } },
                    },
                    "required": ["name"],
                    "additionalProperties": false,
                },
            ],
        })
    }
}

impl JsonSchema for Locator {
    fn schema_name() -> Cow<'static, str> {
        "Locator".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "Where another document is: a bare string is its URL.",
            "anyOf": [
                { "type": "string" },
                {
                    "type": "object",
                    "properties": { "url": { "type": "string" }, "digest": { "type": ["string", "null"] } },
                    "required": ["url"],
                    "additionalProperties": false,
                },
            ],
        })
    }
}

/// A locator or a list of them.
pub struct Locators;

impl JsonSchema for Locators {
    fn schema_name() -> Cow<'static, str> {
        "Locators".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let one = generator.subschema_for::<Locator>();
        json_schema!({ "anyOf": [one, { "type": "array", "items": one }] })
    }
}
