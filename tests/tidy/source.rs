//! A source file with its comments, strings and tests out of the way, and the paths that are left.
//!
//! Not a parser: it knows tokens, brackets and `use` lists, which is enough to tell `std::fs` in code
//! from `std::fs` in a sentence.

use std::collections::BTreeSet;

/// A file of Rust.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    /// From the top of the workspace, with slashes.
    pub(crate) path: String,
    /// As it stands on the disk.
    pub(crate) text: String,
    /// The same lines without comments, literals and what is compiled for tests only.
    pub(crate) code: String,
    /// Whether all of it is compiled for tests only.
    pub(crate) is_test: bool,
    /// The modules that it declares for tests only.
    test_modules: Vec<String>,
    /// Lines of its own tests.
    test_lines: usize,
}

/// A path in the code, such as `std::fs::File`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Used {
    pub(crate) line: usize,
    pub(crate) path: String,
}

impl Source {
    pub(crate) fn new(path: String, text: String) -> Self {
        let Split { code, test_modules, test_lines } = without_tests(&without_text(&text));
        Self { path, text, code, is_test: false, test_modules, test_lines }
    }

    /// The crate that it is part of; nothing for tests and benches of whole programs.
    pub(crate) fn crate_name(&self) -> Option<&str> {
        let (name, rest) = self.path.split_once('/')?;
        rest.starts_with("src/").then_some(name)
    }

    /// The names of its modules from the root of the crate: none for `lib.rs` and `main.rs`.
    pub(crate) fn module(&self) -> Vec<&str> {
        let inner = self.path.split_once("/src/").map_or("", |(_, inner)| inner);
        let inner = inner.strip_suffix(".rs").unwrap_or(inner);
        if inner == "lib" || inner == "main" { Vec::new() } else { inner.split('/').collect() }
    }

    pub(crate) fn lines_without_tests(&self) -> usize {
        self.text.lines().count().saturating_sub(self.test_lines)
    }

    /// Every path in the code, `use` lists taken apart.
    pub(crate) fn paths(&self) -> Vec<Used> {
        let tokens = tokens(&self.code);
        let mut found = Vec::new();
        let mut at = 0;
        while at < tokens.len() {
            if tokens[at].text == "use" {
                at = use_tree(&tokens, at + 1, "", &mut found);
            } else if is_name(tokens[at].text) {
                let (path, next) = plain_path(&tokens, at);
                found.push(Used { line: tokens[at].line, path });
                at = next;
            } else {
                at += 1;
            }
        }
        found
    }

    /// The modules that it declares, in order, those for tests only left out.
    pub(crate) fn children(&self) -> Vec<String> {
        let tokens = tokens(&self.code);
        tokens
            .windows(3)
            .filter(|three| three[0].text == "mod" && three[2].text == ";")
            .map(|three| three[1].text.to_owned())
            .collect()
    }
}

/// Takes the code out of files that are compiled for tests only.
pub(crate) fn mark_tests(mut sources: Vec<Source>) -> Vec<Source> {
    let mut tests = BTreeSet::new();
    for source in &sources {
        let Some(name) = source.crate_name() else { continue };
        for module in &source.test_modules {
            let path = [source.module(), vec![module.as_str()]].concat().join("/");
            tests.insert(format!("{name}/src/{path}"));
        }
    }
    for source in &mut sources {
        let stem = source.path.strip_suffix(".rs").unwrap_or(&source.path);
        let is_test = tests.iter().any(|test| {
            stem.strip_prefix(test.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        });
        source.is_test = is_test || source.crate_name().is_none();
        if source.is_test {
            source.code.clear();
        }
    }
    sources
}

/// Blanks comments and what stands in quotes; every line keeps its number.
fn without_text(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut code = String::with_capacity(text.len());
    let mut at = 0;
    let get = |at: usize| chars.get(at).copied().unwrap_or('\0');
    while at < chars.len() {
        let end = match (get(at), get(at + 1)) {
            ('/', '/') => (at..chars.len()).find(|&i| get(i) == '\n').unwrap_or(chars.len()),
            ('/', '*') => end_of_comment(&chars, at),
            ('"', _) => end_of_string(&chars, at),
            ('r', '"' | '#') if !is_word(at.checked_sub(1).map_or(' ', get)) => {
                match end_of_raw(&chars, at) {
                    Some(end) => end,
                    None => at,
                }
            }
            ('b' | 'c', 'r') if !is_word(at.checked_sub(1).map_or(' ', get)) => {
                end_of_raw(&chars, at + 1).unwrap_or(at)
            }
            ('\'', '\\') => (at + 3..chars.len()).find(|&i| get(i) == '\'').unwrap_or(at) + 1,
            ('\'', _) if get(at + 2) == '\'' => at + 3,
            _ => at,
        };
        if end == at {
            code.push(chars[at]);
            at += 1;
        } else {
            code.extend(
                chars[at..end.min(chars.len())].iter().map(|&c| if c == '\n' { '\n' } else { ' ' }),
            );
            at = end;
        }
    }
    code
}

fn end_of_comment(chars: &[char], start: usize) -> usize {
    let mut depth = 0;
    let mut at = start;
    while at < chars.len() {
        match (chars[at], chars.get(at + 1)) {
            ('/', Some('*')) => {
                depth += 1;
                at += 2;
            }
            ('*', Some('/')) => {
                depth -= 1;
                at += 2;
                if depth == 0 {
                    break;
                }
            }
            _ => at += 1,
        }
    }
    at
}

fn end_of_string(chars: &[char], start: usize) -> usize {
    let mut at = start + 1;
    while at < chars.len() && chars[at] != '"' {
        at += if chars[at] == '\\' { 2 } else { 1 };
    }
    at + 1
}

/// The end of `r"…"` or `r#"…"#`; nothing where that is none of these, such as `r#type`.
fn end_of_raw(chars: &[char], start: usize) -> Option<usize> {
    let hashes = chars[start + 1..].iter().take_while(|&&c| c == '#').count();
    let mut at = start + 1 + hashes;
    if chars.get(at) != Some(&'"') {
        return None;
    }
    loop {
        at += 1;
        if *chars.get(at)? == '"' {
            let closing = chars[at + 1..].iter().take(hashes).filter(|&&c| c == '#').count();
            if closing == hashes {
                return Some(at + 1 + hashes);
            }
        }
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

struct Split {
    code: String,
    test_modules: Vec<String>,
    test_lines: usize,
}

/// Blanks each item under `#[cfg(test)]`, and says which modules in files of their own were among them.
fn without_tests(code: &str) -> Split {
    const MARK: &str = "#[cfg(test)]";
    let mut kept = String::with_capacity(code.len());
    let mut test_modules = Vec::new();
    let mut test_lines = 0;
    let mut rest = code;
    while let Some(start) = rest.find(MARK) {
        kept.push_str(&rest[..start]);
        let item = &rest[start + MARK.len()..];
        let end = end_of_item(item);
        let words: Vec<_> =
            item[..end].split(|c: char| !is_word(c)).filter(|word| !word.is_empty()).collect();
        if item[..end].ends_with(';')
            && let Some(at) = words.iter().position(|&word| word == "mod")
            && let Some(name) = words.get(at + 1)
        {
            test_modules.push((*name).to_owned());
        }
        let lines = item[..end].matches('\n').count();
        kept.extend(std::iter::repeat_n('\n', lines));
        test_lines += lines + 1;
        rest = &item[end..];
    }
    kept.push_str(rest);
    Split { code: kept, test_modules, test_lines }
}

/// Where the item ends that starts here: after its `;`, or after its body.
fn end_of_item(item: &str) -> usize {
    let mut depth = 0usize;
    for (at, c) in item.char_indices() {
        match c {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => {
                depth = depth.saturating_sub(1);
                if depth == 0 && c == '}' {
                    return at + 1;
                }
            }
            ';' if depth == 0 => return at + 1,
            _ => {}
        }
    }
    item.len()
}

#[derive(Clone, Copy, Debug)]
struct Token<'a> {
    line: usize,
    text: &'a str,
}

/// Words, `::`, and every other sign by itself.
fn tokens(code: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    for (line, text) in code.lines().enumerate() {
        let mut rest = text.trim_start();
        while let Some(first) = rest.chars().next() {
            let len = if is_word(first) {
                rest.find(|c| !is_word(c)).unwrap_or(rest.len())
            } else if rest.starts_with("::") {
                2
            } else {
                first.len_utf8()
            };
            tokens.push(Token { line: line + 1, text: &rest[..len] });
            rest = rest[len..].trim_start();
        }
    }
    tokens
}

fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// Names joined by `::`, from here on.
fn plain_path(tokens: &[Token<'_>], mut at: usize) -> (String, usize) {
    let mut path = tokens[at].text.to_owned();
    at += 1;
    while let [joint, name, ..] = &tokens[at..]
        && joint.text == "::"
        && is_name(name.text)
    {
        path.push_str("::");
        path.push_str(name.text);
        at += 2;
    }
    (path, at)
}

/// One branch of a `use`; returns where it ends.
fn use_tree(tokens: &[Token<'_>], mut at: usize, above: &str, found: &mut Vec<Used>) -> usize {
    let join = |name: &str| {
        if above.is_empty() { name.to_owned() } else { format!("{above}::{name}") }
    };
    if tokens.get(at).is_some_and(|token| token.text == "::") {
        at += 1;
    }
    let Some(&Token { line, text }) = tokens.get(at) else { return at };
    if text == "{" {
        at += 1;
        while tokens.get(at).is_some_and(|token| token.text != "}") {
            at = use_tree(tokens, at, above, found);
            if tokens.get(at).is_some_and(|token| token.text == ",") {
                at += 1;
            }
        }
        return at + 1;
    }
    if !is_name(text) {
        // `*`: everything of what stands above.
        found.push(Used { line, path: above.to_owned() });
        return at + 1;
    }
    let (path, next) = plain_path(tokens, at);
    at = next;
    if tokens.get(at).is_some_and(|token| token.text == "::") {
        return use_tree(tokens, at + 1, &join(&path), found);
    }
    let path = if path == "self" && !above.is_empty() { above.to_owned() } else { join(&path) };
    found.push(Used { line, path });
    if tokens.get(at).is_some_and(|token| token.text == "as") {
        at += 2;
    }
    at
}
