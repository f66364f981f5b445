//! Settings as a TOML file for people: every setting with its explanation, which is the doc comment of its field. What is
//! not set is there as well, with an example: `#key = value`, where explanations are `# text`.

use std::fmt::Write as _;

use anyhow::{Context as _, Result};
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema};
use serde::Serialize;
use serde_json::{Map, Value};

/// All settings, with these values.
pub(crate) fn show<T: Serialize + JsonSchema>(settings: &T) -> Result<String> {
    let mut page = Page::default();
    let values = serde_json::to_value(settings)?;
    page.table("", schema_of::<T>().as_value(), values.as_object())?;
    Ok(page.text)
}

/// What there is to set.
pub(super) fn schema_of<T: JsonSchema>() -> Schema {
    let inlined = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    inlined.into_generator().into_root_schema_for::<T>()
}

#[derive(Default)]
struct Page {
    text: String,
}

// === impl Page ===

impl Page {
    /// The settings of a table: first its own, then the tables in it. Without values all of it is a comment.
    fn table(&mut self, path: &str, schema: &Value, values: Option<&Map<String, Value>>) -> Result<()> {
        let properties = schema["properties"].as_object().context("a table has settings")?;
        let value_of = |key: &str| values.and_then(|values| values.get(key)).filter(|value| !value.is_null());
        let (tables, settings): (Vec<_>, Vec<_>) = properties.iter().partition(|(_, property)| is_table(property));
        for (key, property) in settings {
            let value = value_of(key);
            self.explain(property);
            self.setting(key, value.or(property["examples"].get(0)).unwrap_or(&"...".into()), value.is_none())?;
        }
        for (key, property) in tables {
            let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            self.explain(property);
            match (value_of(key), &property["items"]) {
                (Some(Value::Array(values)), items) => {
                    for values in values {
                        let _ = writeln!(self.text, "[[{path}]]");
                        self.table(&path, items, values.as_object())?;
                    }
                }
                (value, _) => self.inner(&path, property, value.and_then(Value::as_object))?,
            }
        }
        Ok(())
    }

    /// A table of a fixed form, or one of names that others choose.
    fn inner(&mut self, path: &str, property: &Value, values: Option<&Map<String, Value>>) -> Result<()> {
        let comment = if values.is_none() { "#" } else { "" };
        let _ = writeln!(self.text, "{comment}[{path}]");
        if property.get("properties").is_some() {
            return self.table(path, property, values);
        }
        let chosen = values.filter(|values| !values.is_empty());
        let entries = chosen.or(property["examples"][0].as_object()).into_iter().flatten();
        entries.into_iter().try_for_each(|(key, value)| self.setting(key, value, chosen.is_none()))
    }

    fn explain(&mut self, property: &Value) {
        let text = property["description"].as_str().unwrap_or_default();
        self.text.push('\n');
        for line in text.lines() {
            let _ = writeln!(self.text, "{}", format!("# {line}").trim_end());
        }
    }

    fn setting(&mut self, key: &str, value: &Value, is_comment: bool) -> Result<()> {
        let value =
            toml::Value::try_from(value).with_context(|| format!("{key} has neither a value nor an example"))?;
        let comment = if is_comment { "#" } else { "" };
        let _ = writeln!(self.text, "{comment}{key} = {value}");
        Ok(())
    }
}

/// Whether it is a table or several, or may be one.
fn is_table(property: &Value) -> bool {
    let is_object = |form: &Value| match &form["type"] {
        Value::Array(types) => types.iter().any(|one| one == "object"),
        one => one == "object",
    };
    is_object(property) || is_object(&property["items"])
}
