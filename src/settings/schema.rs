//! The JSON Schema of `rcluster.toml`, made from the command line's definition.

use clap::Arg;
use serde_json::{Map, Value, json};

use super::known;

/// The schema (draft 07, which editors for TOML understand).
pub fn schema() -> Value {
    let mut properties: Map<String, Value> = known::options()
        .iter()
        .map(|arg| (known::key(arg).to_owned(), property(arg)))
        .collect();
    let strings = json!({ "type": "array", "items": { "type": "string" } });
    let mut extra = |key: &str, mut value: Value, text: &str| {
        value["description"] = text.into();
        properties.insert(key.to_owned(), value);
    };
    extra(
        "script",
        json!({ "type": "string" }),
        "The app; relative to cwd, which is the file's folder unless it is set.",
    );
    extra("args", strings, "Arguments for the app.");
    extra(
        "env",
        json!({ "type": "object", "additionalProperties": { "type": ["string", "number", "boolean"] } }),
        "Variables for the workers; those of env-file count more.",
    );
    json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "rcluster.toml",
        "type": "object",
        "additionalProperties": false,
        "dependencies": { "args": ["script"] },
        "properties": properties,
    })
}

fn property(arg: &Arg) -> Value {
    let one = one(arg);
    let mut value = if known::is_list(arg) {
        json!({ "anyOf": [one, { "type": "array", "items": one }] })
    } else {
        one
    };
    let help = arg.get_long_help().or(arg.get_help());
    if let Some(help) = help {
        value["description"] = help.to_string().into();
    }
    let defaults = arg.get_default_values();
    if let [default] = defaults
        && !known::is_switch(arg)
        && let Some(default) = default.to_str()
    {
        value["default"] = default.into();
    }
    value
}

fn one(arg: &Arg) -> Value {
    if known::is_switch(arg) {
        return json!({ "type": "boolean", "default": false });
    }
    let names: Vec<_> = arg
        .get_possible_values()
        .iter()
        .map(|value| value.get_name().to_owned())
        .collect();
    if names.is_empty() {
        json!({ "type": ["string", "number"] })
    } else {
        json!({ "enum": names })
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn every_option_of_the_master_is_in_it() {
        let schema = schema();
        for arg in crate::cli::Cli::command().get_arguments() {
            let Some(long) = arg.get_long() else { continue };
            let there = schema["properties"][long]["description"].is_string();
            assert!(
                there || ["help", "version", "config"].contains(&long),
                "--{long}"
            );
        }
        assert_eq!(schema["properties"]["ready"]["enum"][0], "listening");
        assert_eq!(schema["properties"]["no-shim"]["type"], "boolean");
    }
}
