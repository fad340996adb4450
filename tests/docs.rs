//! What the documents say about the repository: the files and tests they name are there, and the test
//! command of the README is what CI runs.
//!
//! A test is named after its file: `` `some/file.rs`: `its_name`, `another` ``.

use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn text(path: &Path) -> String {
    let read = std::fs::read_to_string(path);
    read.unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every document, by its path from the root.
fn documents() -> Vec<(String, String)> {
    let root = root();
    let mut found = Vec::new();
    for folder in ["", "docs"] {
        for entry in root.join(folder).read_dir().unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            if Path::new(&name).extension().is_some_and(|extension| extension == "md") {
                let path = Path::new(folder).join(name).to_str().unwrap().to_owned();
                let text = text(&root.join(&path));
                found.push((path, text));
            }
        }
    }
    assert!(found.len() >= 8, "{found:?}");
    found
}

/// The code spans of a document outside its blocks, each with what stands between it and the one
/// before.
fn spans(text: &str) -> Vec<(String, String)> {
    let mut in_block = false;
    let mut prose = String::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            in_block = !in_block;
        } else if !in_block {
            prose.push_str(line.trim());
            prose.push(' ');
        }
    }
    let mut parts = prose.split('`').map(str::to_owned);
    let pair = || Some((parts.next()?, parts.next()?));
    std::iter::from_fn(pair).collect()
}

fn is_rust(path: &str) -> bool {
    Path::new(path).extension().is_some_and(|extension| extension == "rs")
}

/// What is wrong with the files and tests that a document names.
fn wrong_names(name: &str, document: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut file: Option<(String, String)> = None;
    for (before, span) in spans(document) {
        let separator = before.trim();
        if span.contains(['{', '*', ' ']) {
            file = None;
        } else if span.contains('/') && is_rust(&span) {
            file =
                std::fs::read_to_string(root().join(&span)).ok().map(|text| (span.clone(), text));
            if file.is_none() {
                wrong.push(format!("{name}: there is no {span}"));
            }
        } else if matches!(separator, ":" | ",")
            && let Some((path, code)) = &file
        {
            if !code.contains(&format!("fn {span}(")) {
                wrong.push(format!("{name}: there is no {span} in {path}"));
            }
        } else {
            file = None;
        }
    }
    wrong
}

#[test]
fn files_and_tests_that_are_named_exist() {
    let documents = documents();
    let wrong: Vec<_> = documents.iter().flat_map(|(name, text)| wrong_names(name, text)).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let (_, safety) = documents.iter().find(|(name, _)| name == "docs/safety.md").unwrap();
    assert!(spans(safety).len() > 100, "the promises are gone");
}

#[test]
fn a_name_that_is_not_there_is_found() {
    let good =
        "as in `tests/docs.rs`: `root`,\n  `text`. Then `anything`: `else`.\n```\n`x/y.rs`\n```\n";
    assert_eq!(wrong_names("x", good), Vec::<String>::new());
    for bad in ["`tests/gone.rs`", "`tests/docs.rs`: `roof`", "`tests/docs.rs`: `root`, `roof`"] {
        assert_eq!(wrong_names("x", bad).len(), 1, "{bad}");
    }
}

#[test]
fn links_lead_somewhere() {
    for (name, text) in documents() {
        let folder = root().join(&name).parent().unwrap().to_owned();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let target = link.split('#').next().unwrap_or_default();
            let outside = target.is_empty() || target.contains("://");
            assert!(outside || folder.join(target).exists(), "{name} links to {link}");
        }
    }
}

#[test]
fn the_test_command_of_the_readme_is_what_ci_runs() {
    let readme = text(&root().join("README.md"));
    assert!(readme.contains("bash .ci/test\n"));
    let run = text(&root().join(".ci/run"));
    let commands: Vec<_> =
        run.lines().filter(|line| !line.starts_with('#') && !line.starts_with("set ")).collect();
    assert_eq!(commands, [r#"exec bash "$(dirname "${BASH_SOURCE[0]}")/test" "$@""#]);
}

/// The value of a line `FIELD: …` in what stands before a patch.
fn field<'a>(patch: &'a str, field: &str) -> &'a str {
    let line = patch.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(": "));
    line.unwrap_or_else(|| panic!("{field} is missing in {patch}"))
}

/// Bugs that are put in on purpose; `tests/bugs/replay` does it.
#[test]
fn bugs_fit_and_what_is_to_notice_them_is_named() {
    let root = root();
    let safety = text(&root.join("docs/safety.md"));
    let mut count = 0;
    for entry in root.join("tests/bugs").read_dir().unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "patch") {
            continue;
        }
        count += 1;
        let (name, patch) = (path.file_stem().unwrap().to_str().unwrap(), text(&path));
        let fits = Command::new("git")
            .args(["apply", "--check"])
            .arg(&path)
            .current_dir(&root)
            .output()
            .unwrap();
        assert!(fits.status.success(), "{name} does not fit any more: {fits:?}");
        let package = field(&patch, "Package").strip_prefix("baton-").unwrap().to_owned();
        let row = safety.lines().find(|line| line.contains(&format!("`{name}`")));
        let row = row.unwrap_or_else(|| panic!("{name} is not in docs/safety.md"));
        for test in field(&patch, "Test").split(' ') {
            let test = test.rsplit("::").next().unwrap();
            assert!(row.contains(&format!("`{test}`")), "{name}: {test} is not in its row");
            let found = sources(&root.join(&package).join("src"))
                .iter()
                .any(|code| code.contains(&format!("fn {test}(")));
            assert!(found, "{name}: there is no {test} in {package}");
        }
    }
    assert!(count >= 20, "{count} bugs");
}

/// Every source file below a folder.
fn sources(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in folder.read_dir().unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if is_rust(path.to_str().unwrap()) {
            found.push(text(&path));
        }
    }
    found
}
