//! TOML, in which one table comes and goes.

use toml_edit::{DocumentMut, Item, Table, TableLike, Value};

use super::EditError;

/// A text that is TOML.
#[derive(Clone, Debug)]
pub(crate) struct Tables(DocumentMut);

impl Tables {
    pub(crate) fn parse(text: &str) -> Result<Self, EditError> {
        text.parse().map(Self).map_err(|error: toml_edit::TomlError| {
            let at = error.span().map_or(0, |span| span.start);
            let before = text.get(..at).unwrap_or_default();
            let line = before.matches('\n').count() + 1;
            // Without the excerpt, which may be anything.
            EditError::Syntax { line, what: error.message().to_owned() }
        })
    }

    pub(crate) fn text(&self) -> String {
        self.0.to_string()
    }

    /// A value of a table of a table.
    pub(crate) fn value(&self, above: &str, name: &str, key: &str) -> Option<Value> {
        self.0
            .get(above)?
            .as_table_like()?
            .get(name)?
            .as_table_like()?
            .get(key)?
            .as_value()
            .cloned()
    }

    pub(crate) fn has(&self, above: &str, name: &str) -> bool {
        self.0
            .get(above)
            .and_then(Item::as_table_like)
            .is_some_and(|above| above.contains_key(name))
    }

    /// Gives a table of a table these values; what else is in it stays.
    pub(crate) fn set(
        &mut self,
        above: &str,
        name: &str,
        values: &[(&str, Value)],
    ) -> Result<(), EditError> {
        let outer = self.0.entry(above).or_insert_with(|| {
            let mut table = Table::new();
            table.set_implicit(true);
            Item::Table(table)
        });
        let other = |at: String| EditError::Other { at, expected: "a table" };
        let outer = outer.as_table_like_mut().ok_or_else(|| other(above.to_owned()))?;
        let inner = outer.entry(name).or_insert_with(|| Item::Table(Table::new()));
        let inner = inner.as_table_like_mut().ok_or_else(|| other(format!("{above}.{name}")))?;
        for (key, value) in values {
            if inner.get(key).and_then(Item::as_value).is_none_or(|old| !is_same(old, value)) {
                put(inner, key, value);
            }
        }
        Ok(())
    }

    pub(crate) fn has_table(&self, name: &str) -> bool {
        self.0.get(name).is_some_and(Item::is_table_like)
    }

    /// Takes a table away from another one, and that one where nothing else was in it, unless it is kept.
    pub(crate) fn remove(&mut self, above: &str, name: &str, is_kept: bool) {
        let Some(outer) = self.0.get_mut(above).and_then(Item::as_table_like_mut) else { return };
        outer.remove(name);
        if outer.is_empty() && !is_kept {
            self.0.remove(above);
        }
    }
}

fn put(table: &mut dyn TableLike, key: &str, value: &Value) {
    match table.get_mut(key).and_then(Item::as_value_mut) {
        Some(old) => {
            let decor = old.decor().clone();
            *old = value.clone();
            *old.decor_mut() = decor;
        }
        None => drop(table.insert(key, Item::Value(value.clone()))),
    }
}

/// Whether two values mean the same, however they are written.
pub(crate) fn is_same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::String(a), Value::String(b)) => a.value() == b.value(),
        (Value::Integer(a), Value::Integer(b)) => a.value() == b.value(),
        (Value::Boolean(a), Value::Boolean(b)) => a.value() == b.value(),
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b.iter()).all(|(a, b)| is_same(a, b))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: &str = "# mine\nmodel = \"x\" # the good one\n\n[mcp_servers.other]\ncommand = 'o' # theirs\n\n[profiles.a]\nz = 1\na = 2\n";

    fn values() -> [(&'static str, Value); 2] {
        [("command", Value::from("/b")), ("args", Value::from_iter(["mcp"]))]
    }

    #[test]
    fn a_table_comes_and_goes_and_the_rest_stays_as_it_is() {
        let mut tables = Tables::parse(OWN).unwrap();
        assert!(!tables.has("mcp_servers", "baton"));
        tables.set("mcp_servers", "baton", &values()).unwrap();
        let text = tables.text();
        assert!(
            text.contains("[mcp_servers.baton]\ncommand = \"/b\"\nargs = [\"mcp\"]\n"),
            "{text}"
        );
        for line in OWN.lines() {
            assert!(text.contains(line), "{line}");
        }
        let mut again = Tables::parse(&text).unwrap();
        again.set("mcp_servers", "baton", &values()).unwrap();
        assert_eq!(again.text(), text);
        again.remove("mcp_servers", "baton", false);
        assert_eq!(again.text(), OWN);

        let mut alone = Tables::parse("").unwrap();
        alone.set("mcp_servers", "baton", &values()).unwrap();
        alone.remove("mcp_servers", "baton", false);
        assert_eq!(alone.text(), "");
    }

    #[test]
    fn what_else_is_in_the_table_stays() {
        let text = "[mcp_servers.baton]\n# slow\ncommand = \"/old\" # here\ntool_timeout_sec = 9\n\n[mcp_servers.baton.tools.pull]\napproval_mode = \"approve\"\n";
        let mut tables = Tables::parse(text).unwrap();
        tables.set("mcp_servers", "baton", &values()).unwrap();
        let new = tables.text();
        assert!(new.contains("command = \"/b\" # here\ntool_timeout_sec = 9\n"), "{new}");
        assert!(new.contains("[mcp_servers.baton.tools.pull]"), "{new}");
        tables.remove("mcp_servers", "baton", false);
        assert_eq!(tables.text().trim(), "");
    }

    #[test]
    fn what_is_no_toml_and_no_table_is_an_error() {
        for text in ["a = ", "[a", "a = 1\na = 2", "\u{0}"] {
            assert!(matches!(Tables::parse(text), Err(EditError::Syntax { .. })), "{text}");
        }
        let mut tables = Tables::parse("mcp_servers = 1\n").unwrap();
        assert!(tables.set("mcp_servers", "baton", &values()).is_err());
        let mut tables = Tables::parse("mcp_servers = { o = { command = \"o\" } }\n").unwrap();
        tables.set("mcp_servers", "baton", &values()).unwrap();
        assert!(
            Tables::parse(&tables.text()).unwrap().has("mcp_servers", "baton"),
            "{}",
            tables.text()
        );
    }
}
