//! JSON, with comments and commas too many or without, changed at single places.
//!
//! **Invariant:** outside of what is put in or taken out no byte changes, but for the comma that a neighbour needs or
//! no longer needs.

use std::ops::Range;

use serde_json::{Map, Value};

use super::EditError;

/// Objects and arrays in one another. Files of people have ten.
const MAX_DEPTH: usize = 64;

/// A step from an object or array to what is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step<'a> {
    Key(&'a str),
    At(usize),
}

/// A text that is one value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Document {
    text: String,
    root: Node,
}

#[derive(Clone, Debug, PartialEq)]
struct Node {
    span: Range<usize>,
    what: What,
}

#[derive(Clone, Debug, PartialEq)]
enum What {
    Object(Vec<Member>),
    Array(Vec<Node>),
    Plain(Value),
}

#[derive(Clone, Debug, PartialEq)]
struct Member {
    key: String,
    start: usize,
    value: Node,
}

impl Node {
    fn value(&self) -> Value {
        match &self.what {
            What::Object(members) => {
                let member = |it: &Member| (it.key.clone(), it.value.value());
                Value::Object(members.iter().map(member).collect::<Map<_, _>>())
            }
            What::Array(elements) => Value::Array(elements.iter().map(Self::value).collect()),
            What::Plain(value) => value.clone(),
        }
    }

    /// Where each entry stands.
    fn entries(&self) -> Vec<Range<usize>> {
        match &self.what {
            What::Object(members) => members.iter().map(|it| it.start..it.value.span.end).collect(),
            What::Array(elements) => elements.iter().map(|it| it.span.clone()).collect(),
            What::Plain(_) => Vec::new(),
        }
    }

    /// Of a name that is there twice the last one holds, as for everybody who reads JSON.
    fn place(&self, step: Step<'_>) -> Option<usize> {
        match (&self.what, step) {
            (What::Object(members), Step::Key(key)) => members.iter().rposition(|it| it.key == key),
            (What::Array(elements), Step::At(at)) => (at < elements.len()).then_some(at),
            _ => None,
        }
    }

    fn child(&self, step: Step<'_>) -> Option<&Self> {
        let at = self.place(step)?;
        match &self.what {
            What::Object(members) => members.get(at).map(|it| &it.value),
            What::Array(elements) => elements.get(at),
            What::Plain(_) => None,
        }
    }
}

impl Document {
    /// Reads a text. An empty one is an empty object.
    pub(crate) fn parse(text: &str) -> Result<Self, EditError> {
        let blank = text.trim_start_matches('\u{feff}').trim().is_empty();
        let text = if blank { "{}\n".to_owned() } else { text.to_owned() };
        let mut reader = Reader { text: &text, at: 0, depth: 0 };
        if text.starts_with('\u{feff}') {
            reader.at = '\u{feff}'.len_utf8();
        }
        let root = reader.document()?;
        Ok(Self { text, root })
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// What it means.
    pub(crate) fn value(&self) -> Value {
        self.root.value()
    }

    /// What stands at a place.
    pub(crate) fn at(&self, path: &[Step<'_>]) -> Option<Value> {
        self.node(path).map(Node::value)
    }

    fn node(&self, path: &[Step<'_>]) -> Option<&Node> {
        path.iter().try_fold(&self.root, |node, step| node.child(*step))
    }

    /// Gives a name of objects in one another a value; those that are missing are made.
    pub(crate) fn set(&mut self, keys: &[&str], value: &Value) -> Result<(), EditError> {
        let Some((last, above)) = keys.split_last() else { return Ok(()) };
        let mut expected = self.value();
        let mut there = &mut expected;
        for (depth, key) in above.iter().enumerate() {
            let known = keys.get(..depth).unwrap_or_default();
            let object = object_mut(there, known)?;
            there = object.entry((*key).to_owned()).or_insert_with(|| Value::Object(Map::new()));
        }
        object_mut(there, above)?.insert((*last).to_owned(), value.clone());

        // What is missing is put in as one value, below what is there.
        let steps: Vec<_> = keys.iter().map(|key| Step::Key(key)).collect();
        let depth = (0..steps.len())
            .rev()
            .find(|depth| self.node(steps.get(..*depth).unwrap_or_default()).is_some())
            .unwrap_or_default();
        let (there, missing) = (keys.get(..depth), keys.get(depth + 1..));
        let (Some(there), Some(missing), Some(key)) = (there, missing, keys.get(depth)) else {
            return Ok(());
        };
        let whole = missing.iter().rev().fold(value.clone(), |value, key| {
            Value::Object(std::iter::once(((*key).to_owned(), value)).collect())
        });
        let text = if let Some(old) = self.node(&steps) {
            let indent = self.indent_at(old.span.start);
            let is_compact = old.span.len() > 2 && self.is_one_line(&old.span);
            self.with(old.span.clone(), &self.render(&whole, indent, is_compact))
        } else {
            let steps = steps.get(..there.len()).unwrap_or_default();
            let Some(object) = self.node(steps) else { return Ok(()) };
            self.with_entry(object, Some(key), &whole)
        };
        self.become_checked(&text, &expected, keys)
    }

    /// Adds a value to the end of an array; it and the objects above it are made where they are missing.
    pub(crate) fn push(&mut self, keys: &[&str], value: &Value) -> Result<(), EditError> {
        let steps: Vec<_> = keys.iter().map(|key| Step::Key(key)).collect();
        let Some(array) = self.node(&steps) else {
            return self.set(keys, &Value::Array(vec![value.clone()]));
        };
        if !matches!(array.what, What::Array(_)) {
            return Err(EditError::Other { at: keys.join("."), expected: "a list" });
        }
        let text = self.with_entry(array, None, value);
        let mut expected = self.value();
        let there = keys.iter().try_fold(&mut expected, |value, key| value.get_mut(key));
        if let Some(Value::Array(there)) = there {
            there.push(value.clone());
        }
        self.become_checked(&text, &expected, keys)
    }

    /// Takes away what stands at a place, if anything does.
    pub(crate) fn remove(&mut self, path: &[Step<'_>]) -> Result<(), EditError> {
        let Some((last, above)) = path.split_last() else { return Ok(()) };
        let Some(container) = self.node(above) else { return Ok(()) };
        let Some(at) = container.place(*last) else { return Ok(()) };
        let text = self.without_entry(container, at);
        let mut expected = self.value();
        let there = above.iter().try_fold(&mut expected, |value, step| match step {
            Step::Key(key) => value.get_mut(*key),
            Step::At(at) => value.get_mut(*at),
        });
        match (there, last) {
            (Some(Value::Object(members)), Step::Key(key)) => drop(members.remove(*key)),
            (Some(Value::Array(elements)), Step::At(at)) => drop(elements.remove(*at)),
            _ => {}
        }
        let names: Vec<_> = path
            .iter()
            .filter_map(|step| if let Step::Key(key) = step { Some(*key) } else { None })
            .collect();
        self.become_checked(&text, &expected, &names)
    }

    /// Becomes another text, if that means what it should.
    fn become_checked(
        &mut self,
        text: &str,
        expected: &Value,
        keys: &[&str],
    ) -> Result<(), EditError> {
        match Self::parse(text) {
            Ok(new) if new.value() == *expected => {
                *self = new;
                Ok(())
            }
            _ => Err(EditError::Unusual { at: keys.join(".") }),
        }
    }

    fn slice(&self, range: Range<usize>) -> &str {
        self.text.get(range).unwrap_or_default()
    }

    fn with(&self, range: Range<usize>, new: &str) -> String {
        let (before, after) = (self.slice(0..range.start), self.slice(range.end..self.text.len()));
        [before, new, after].concat()
    }

    fn is_one_line(&self, range: &Range<usize>) -> bool {
        !self.slice(range.clone()).contains('\n')
    }

    fn line_end(&self) -> &'static str {
        if self.text.contains("\r\n") { "\r\n" } else { "\n" }
    }

    /// The blanks with which the line of a place begins.
    fn indent_at(&self, at: usize) -> &str {
        let line = self.slice(0..at).rsplit('\n').next().unwrap_or_default();
        let blanks = line.len() - line.trim_start_matches([' ', '\t']).len();
        line.get(..blanks).unwrap_or_default()
    }

    /// What one level is set in by.
    fn unit(&self) -> &str {
        let first = self.root.entries().into_iter().next();
        let indent =
            first.filter(|it| self.begins_line(it.start)).map(|it| self.indent_at(it.start));
        indent.filter(|indent| !indent.is_empty()).unwrap_or("  ")
    }

    fn begins_line(&self, at: usize) -> bool {
        self.slice(0..at).trim_end_matches([' ', '\t']).ends_with('\n')
    }

    fn render(&self, value: &Value, indent: &str, is_compact: bool) -> String {
        if is_compact {
            return value.to_string();
        }
        let mut bytes = Vec::new();
        let unit = self.unit().as_bytes();
        let pretty = serde_json::ser::PrettyFormatter::with_indent(unit);
        let mut to = serde_json::Serializer::with_formatter(&mut bytes, pretty);
        if serde::Serialize::serialize(value, &mut to).is_err() {
            return value.to_string();
        }
        let text = String::from_utf8_lossy(&bytes);
        text.replace('\n', &format!("{}{indent}", self.line_end()))
    }

    fn with_entry(&self, container: &Node, key: Option<&str>, value: &Value) -> String {
        let span = &container.span;
        let close = span.end.saturating_sub(1);
        let entries = container.entries();
        let name = key.map(|key| format!("{}: ", Value::from(key))).unwrap_or_default();
        let Some(last) = entries.last() else {
            let outer = self.indent_at(span.start);
            let inner = format!("{outer}{}", self.unit());
            let nl = self.line_end();
            // Comments may stand in it.
            let kept = self.slice(span.start + 1..close).trim_end();
            let new = self.render(value, &inner, false);
            let text = format!("{kept}{nl}{inner}{name}{new}{nl}{outer}");
            return self.with(span.start + 1..close, &text);
        };
        // Where the last entry has a comma, the new one, which is the last then, has one too.
        let (comma, own) =
            if self.comma(last.end..close).is_some() { ("", ",") } else { (",", "") };
        if self.is_one_line(span) {
            let new = self.render(value, "", true);
            let between = self.slice(last.end..close);
            let (between, blanks) = between.split_at(between.trim_end().len());
            return self
                .with(last.end..close, &format!("{comma}{between} {name}{new}{own}{blanks}"));
        }
        let indent = if self.begins_line(last.start) {
            self.indent_at(last.start).to_owned()
        } else {
            format!("{}{}", self.indent_at(span.start), self.unit())
        };
        let between = self.slice(last.end..close);
        let (kept, blanks) = between.split_at(between.trim_end().len());
        let new = self.render(value, &indent, false);
        let nl = self.line_end();
        // Where the bracket stood behind the last entry, it goes to a line of its own.
        let blanks = if blanks.contains('\n') {
            blanks.to_owned()
        } else {
            format!("{nl}{}", self.indent_at(span.start))
        };
        self.with(last.end..close, &format!("{comma}{kept}{nl}{indent}{name}{new}{own}{blanks}"))
    }

    fn without_entry(&self, container: &Node, at: usize) -> String {
        let entries = container.entries();
        let Some(entry) = entries.get(at) else { return self.text.clone() };
        let close = container.span.end.saturating_sub(1);
        let next = entries.get(at + 1).map_or(close, |next| next.start);
        let own_comma = self.comma(entry.end..next);
        let before = at.checked_sub(1).and_then(|at| entries.get(at));
        // The blanks before it, and the line end where it begins its line.
        let blanks = self.slice(0..entry.start).trim_end_matches([' ', '\t']);
        let start = blanks
            .strip_suffix('\n')
            .map_or(blanks.len(), |rest| rest.strip_suffix('\r').unwrap_or(rest).len());
        if let Some(comma) = own_comma {
            return self.with(start..comma + 1, "");
        }
        let mut text = self.with(start..entry.end, "");
        let left = before.and_then(|before| self.comma(before.end..start));
        if let Some(comma) = left {
            text.replace_range(comma..=comma, "");
        }
        if entries.len() == 1 {
            let close = close - (entry.end - start);
            let inner = container.span.start + 1..close;
            if text.get(inner.clone()).is_some_and(|inner| inner.trim().is_empty()) {
                text.replace_range(inner, "");
            }
        }
        text
    }

    /// Where a comma stands among blanks and comments.
    fn comma(&self, range: Range<usize>) -> Option<usize> {
        let mut reader = Reader { text: self.slice(0..range.end), at: range.start, depth: 0 };
        reader.skip().ok()?;
        (reader.peek() == Some(b',')).then_some(reader.at)
    }
}

fn object_mut<'a>(
    value: &'a mut Value,
    keys: &[&str],
) -> Result<&'a mut Map<String, Value>, EditError> {
    let at = if keys.is_empty() { "the whole file".to_owned() } else { keys.join(".") };
    value.as_object_mut().ok_or(EditError::Other { at, expected: "an object" })
}

/// Reads a text from its beginning.
struct Reader<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
}

impl Reader<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn rest(&self) -> &str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn wrong<T>(&self, what: impl Into<String>) -> Result<T, EditError> {
        let before = self.text.get(..self.at).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        Err(EditError::Syntax { line, what: what.into() })
    }

    fn document(&mut self) -> Result<Node, EditError> {
        self.skip()?;
        let root = self.value()?;
        self.skip()?;
        if self.peek().is_some() { self.wrong("something follows the value") } else { Ok(root) }
    }

    /// Goes on to what is neither blank nor comment.
    fn skip(&mut self) -> Result<(), EditError> {
        loop {
            let rest = self.rest();
            if let Some(comment) = rest.strip_prefix("//") {
                self.at += 2 + comment.find('\n').unwrap_or(comment.len());
            } else if let Some(comment) = rest.strip_prefix("/*") {
                let Some(end) = comment.find("*/") else {
                    return self.wrong("a comment does not end");
                };
                self.at += end + 4;
            } else if rest.starts_with([' ', '\t', '\r', '\n']) {
                self.at += 1;
            } else {
                return Ok(());
            }
        }
    }

    fn value(&mut self) -> Result<Node, EditError> {
        let start = self.at;
        let what = match self.peek() {
            Some(b'{') => What::Object(self.entries(b'}', Self::member)?),
            Some(b'[') => What::Array(self.entries(b']', Self::value)?),
            Some(b'"') => What::Plain(Value::String(self.string()?)),
            _ => What::Plain(self.word()?),
        };
        Ok(Node { span: start..self.at, what })
    }

    fn entries<T>(
        &mut self,
        close: u8,
        entry: impl Fn(&mut Self) -> Result<T, EditError>,
    ) -> Result<Vec<T>, EditError> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return self.wrong("it is nested too deeply");
        }
        self.at += 1;
        let mut entries = Vec::new();
        loop {
            self.skip()?;
            if self.peek() == Some(close) {
                break;
            }
            entries.push(entry(self)?);
            self.skip()?;
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(byte) if byte == close => break,
                Some(_) => return self.wrong("a comma is missing"),
                None => return self.wrong("it ends before its end"),
            }
        }
        self.at += 1;
        self.depth -= 1;
        Ok(entries)
    }

    fn member(&mut self) -> Result<Member, EditError> {
        let start = self.at;
        if self.peek() != Some(b'"') {
            return self.wrong("a name in double quotes is missing");
        }
        let key = self.string()?;
        self.skip()?;
        if self.peek() != Some(b':') {
            return self.wrong("a colon is missing");
        }
        self.at += 1;
        self.skip()?;
        Ok(Member { key, start, value: self.value()? })
    }

    fn string(&mut self) -> Result<String, EditError> {
        let mut is_escaped = false;
        let end = self.rest().bytes().skip(1).position(|byte| {
            let is_end = byte == b'"' && !is_escaped;
            is_escaped = byte == b'\\' && !is_escaped;
            is_end
        });
        let Some(end) = end else { return self.wrong("a text does not end") };
        let Some(text) = self.rest().get(..end + 2) else {
            return self.wrong("a text does not end");
        };
        let Ok(string) = serde_json::from_str(text) else {
            return self.wrong("a text has what no text may have");
        };
        self.at += end + 2;
        Ok(string)
    }

    fn word(&mut self) -> Result<Value, EditError> {
        let is_of_word = |c: char| c.is_ascii_alphanumeric() || "+-.".contains(c);
        let rest = self.rest();
        let end = rest.find(|c| !is_of_word(c)).unwrap_or(rest.len());
        let found = rest.get(..end).and_then(|word| serde_json::from_str(word).ok());
        match found {
            Some(value) => {
                self.at += end;
                Ok(value)
            }
            None => self.wrong("there is no value"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const COMMENTED: &str = "// mine\n{\n\t\"z\": 1, // last letter\n\t/* two */ \"a\": [1, 2,],\n\t\"hooks\": {\n\t\t\"Stop\": [\n\t\t\t{\"x\": \"}\"} // own\n\t\t]\n\t}, // end\n}\n";

    #[test]
    fn what_is_put_in_stands_behind_what_is_there_and_comments_stay() {
        let mut document = Document::parse(COMMENTED).unwrap();
        document.push(&["hooks", "Stop"], &json!({"y": 1})).unwrap();
        document.push(&["hooks", "Start"], &json!(2)).unwrap();
        document.set(&["mcp", "baton"], &json!({})).unwrap();
        let expected = "// mine\n{\n\t\"z\": 1, // last letter\n\t/* two */ \"a\": [1, 2,],\n\t\"hooks\": {\n\t\t\"Stop\": [\n\t\t\t{\"x\": \"}\"}, // own\n\t\t\t{\n\t\t\t\t\"y\": 1\n\t\t\t}\n\t\t],\n\t\t\"Start\": [\n\t\t\t2\n\t\t]\n\t}, // end\n\t\"mcp\": {\n\t\t\"baton\": {}\n\t},\n}\n";
        assert_eq!(document.text(), expected);
        document.remove(&[Step::Key("hooks"), Step::Key("Stop"), Step::At(1)]).unwrap();
        document.remove(&[Step::Key("hooks"), Step::Key("Start")]).unwrap();
        document.remove(&[Step::Key("mcp")]).unwrap();
        assert_eq!(document.value(), Document::parse(COMMENTED).unwrap().value());
        assert!(document.text().contains("\"}\"} // own\n"), "{}", document.text());
    }

    #[test]
    fn every_form_of_a_file_takes_an_entry_and_gives_it_back() {
        for text in [
            "{}",
            "{}\n",
            "{\"a\":1}",
            "{ \"a\": [1] }\n",
            "{\n  \"a\": 1\n}\n",
            "{\r\n    \"a\": {\r\n        \"b\": []\r\n    }\r\n}\r\n",
            "{\n \"a\": 1,\n}\n",
            "\u{feff}{\n  \"a\": 1\n}\n",
            "{\"a\": 1,\n \"b\": 2}",
        ] {
            let before = Document::parse(text).unwrap();
            let mut document = before.clone();
            document.push(&["hooks", "Stop"], &json!([{"command": "x"}])).unwrap();
            document.set(&["mcp"], &json!({"baton": 1})).unwrap();
            assert_eq!(document.at(&[Step::Key("mcp"), Step::Key("baton")]), Some(json!(1)));
            document.remove(&[Step::Key("hooks")]).unwrap();
            document.remove(&[Step::Key("mcp")]).unwrap();
            let blanks_at_the_end = text == "{\"a\": 1,\n \"b\": 2}";
            if blanks_at_the_end {
                assert_eq!(document.value(), before.value());
            } else {
                assert_eq!(document.text(), text);
            }
        }
    }

    #[test]
    fn a_value_is_replaced_where_it_stands() {
        let mut document = Document::parse("{\"a\": {\"b\": 1, \"c\": 2} /* x */}").unwrap();
        document.set(&["a", "b"], &json!("new")).unwrap();
        assert_eq!(document.text(), "{\"a\": {\"b\": \"new\", \"c\": 2} /* x */}");
    }

    #[test]
    fn what_is_no_json_is_named_with_its_line() {
        for (text, line) in [
            ("{\n  \"a\": 1\n  \"b\": 2\n}", 3),
            ("{\n", 2),
            ("{\"a\" 1}", 1),
            ("{a: 1}", 1),
            ("[1, 2", 1),
            ("{} {}", 1),
            ("{\"a\": nul}", 1),
            ("{\"a\": \"\n\"}", 1),
            ("/* {}", 1),
            ("{\"a\": 01}", 1),
        ] {
            let error = Document::parse(text).unwrap_err();
            let EditError::Syntax { line: told, .. } = &error else { panic!("{error}") };
            assert_eq!(*told, line, "{text}: {error}");
        }
        let deep = "[".repeat(1_000_000);
        assert!(Document::parse(&deep).is_err());
        assert_eq!(Document::parse("").unwrap().value(), json!({}));
    }

    #[test]
    fn what_is_no_container_is_not_replaced_by_one() {
        let mut document = Document::parse("{\"hooks\": 1, \"l\": {\"Stop\": 2}}").unwrap();
        assert!(document.push(&["hooks", "Stop"], &json!(1)).is_err());
        assert!(document.push(&["l", "Stop"], &json!(1)).is_err());
        assert!(Document::parse("[1]").unwrap().set(&["a"], &json!(1)).is_err());
        // Of a name that is there twice no one can be taken out without the other one showing.
        let mut twice = Document::parse("{\"a\": 1, \"a\": 2}").unwrap();
        assert!(twice.remove(&[Step::Key("a")]).is_err());
    }

    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            ".{0,8}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("[a-d\"\\\\]{0,3}", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_anybody_writes_is_read_or_refused(text in "[\\{\\}\\[\\],:\"/*\\\\ a1\n]{0,40}") {
            if let Ok(document) = Document::parse(&text) {
                drop(document.value());
            }
        }

        #[test]
        fn entries_come_and_go(value in values(), new in values(), is_pretty: bool) {
            let whole = json!({"there": value});
            let text = if is_pretty { serde_json::to_string_pretty(&whole).unwrap() } else { whole.to_string() };
            let mut document = Document::parse(&text).unwrap();
            prop_assert_eq!(document.value(), whole);
            document.set(&["x", "y"], &new).unwrap();
            document.push(&["x", "z"], &new).unwrap();
            document.remove(&[Step::Key("x")]).unwrap();
            prop_assert_eq!(document.text(), text);
        }
    }
}
