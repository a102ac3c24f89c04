//! What a driver's program answers without serving: one document in, one out.

use std::io::{self, Read, Write};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::Serialize;
use serde_json::{Value, json};

use crate::wire::{REQUEST_MAX, tree};
use crate::{Config, Driver, Error, Instance, Report, Result};

/// Lima's envelope: a JSON string with base64 of the JSON of an instance, and the same back.
pub(super) async fn inspect_status(driver: &dyn Driver) -> Result<()> {
    let envelope: String = from_json(&input()?)?;
    let text = BASE64_STANDARD.decode(envelope).map_err(|error| Error::failed("the instance", error))?;
    let (theirs, instance) = instance(&text)?;
    let known = to_value(&instance)?;
    let mut answer = to_value(&driver.inspect_status(instance).await?)?;
    tree::keep_unknown(&mut answer, &theirs, &known);
    output(&json!(BASE64_STANDARD.encode(answer.to_string())))
}

/// Fills a configuration as `configure` would.
pub(super) async fn pre_driver_action(driver: &dyn Driver) -> Result<()> {
    let theirs: Value = from_json(&input()?)?;
    let config: Config = serde_json::from_value(theirs["config"].clone()).map_err(|e| Error::failed("config", e))?;
    let known = to_value(&config)?;
    let arch = config.arch.clone().unwrap_or_else(|| std::env::consts::ARCH.into());
    let name = driver.info().name;
    let instance = Instance { config, arch, vm_type: name.clone(), ..Instance::default() };
    let mut config = driver.configure(instance).await?.config;
    config.vm_type.get_or_insert(name);
    let mut answer = to_value(&config)?;
    tree::keep_unknown(&mut answer, &theirs["config"], &known);
    output(&answer)
}

pub(super) async fn report(driver: &dyn Driver) -> Result<()> {
    output(&Report { info: driver.info(), about: driver.about(), health: driver.health().await })
}

/// An instance as it came, and what we understand of it.
pub(super) fn instance(text: &[u8]) -> Result<(Value, Instance)> {
    let value: Value = from_json(text)?;
    let instance = serde_json::from_value(value.clone()).map_err(|error| Error::failed("the instance", error))?;
    Ok((value, instance))
}

pub(super) fn to_value(value: &impl Serialize) -> Result<Value> {
    serde_json::to_value(value).map_err(|error| Error::failed("JSON", error))
}

fn from_json<T: serde::de::DeserializeOwned>(text: &[u8]) -> Result<T> {
    serde_json::from_slice(text).map_err(|error| Error::failed("the input is no such JSON", error))
}

fn input() -> Result<Vec<u8>> {
    let mut text = Vec::new();
    io::stdin().take(REQUEST_MAX as u64).read_to_end(&mut text).map_err(Error::io("standard input"))?;
    Ok(text)
}

fn output(value: &impl Serialize) -> Result<()> {
    let text = to_value(value)?.to_string();
    writeln!(io::stdout(), "{text}").map_err(Error::io("standard output"))
}
