//! `rcluster config`: what is in force, and who said so.

use comfy_table::{ContentArrangement, Table, presets};
use serde_json::{Map, json};

use super::line::{Loaded, Origin, Setting};

/// The settings for people, or as JSON. Values of `[env]` are secrets and not shown.
pub fn show(loaded: &Loaded, as_json: bool) -> String {
    if as_json {
        document(loaded)
    } else {
        table(loaded)
    }
}

fn text(setting: &Setting) -> String {
    let values = setting.values.iter().map(|value| value.to_string_lossy());
    values.collect::<Vec<_>>().join(" ")
}

fn table(loaded: &Loaded) -> String {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(["KEY", "VALUE", "FROM"]);
    for setting in &loaded.settings {
        let value = if setting.values.is_empty() {
            "-".to_owned()
        } else {
            text(setting)
        };
        table.add_row([setting.key.clone(), value, setting.origin.to_string()]);
    }
    let file = loaded.file.as_ref();
    for (name, _) in file.into_iter().flat_map(|file| &file.env) {
        let key = format!("env.{}", name.display());
        table.add_row([key, "(set)".to_owned(), super::known::FILE.to_owned()]);
    }
    let head = file.map_or("no configuration file".to_owned(), |file| {
        format!("configuration file: {}", file.path.display())
    });
    format!("{head}\n{}\n", table.trim_fmt())
}

fn document(loaded: &Loaded) -> String {
    let settings: Map<_, _> = loaded
        .settings
        .iter()
        .map(|setting| {
            let values: Vec<_> = setting.values.iter().map(|v| v.to_string_lossy()).collect();
            let (from, line) = match &setting.origin {
                Origin::Flag => ("flag", None),
                Origin::Variable(_) => ("variable", None),
                Origin::File(line) => ("file", Some(line)),
                Origin::Default => ("default", None),
            };
            let value = json!({ "values": values, "from": from, "line": line });
            (setting.key.clone(), value)
        })
        .collect();
    let file = loaded.file.as_ref();
    let env: Vec<_> = file
        .into_iter()
        .flat_map(|file| &file.env)
        .map(|(name, _)| name.to_string_lossy())
        .collect();
    let document = json!({
        "file": file.map(|file| file.path.to_string_lossy()),
        "settings": settings,
        "env": env,
    });
    format!("{document:#}\n")
}
