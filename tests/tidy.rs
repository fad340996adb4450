//! The house rules that a compiler does not keep: which crate and module may use which, how long a
//! file may be, what must stand at its top, and where clock, threads, sockets and the environment
//! are reached from.
//!
//! Each rule is a function from sources to problems, and has a test in which it finds one. A rule that
//! is in the way has exceptions with a reason, here, where they are seen.

#![expect(
    clippy::disallowed_methods,
    clippy::indexing_slicing,
    reason = "a test, which reads the sources"
)]

mod modules;
mod source;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use source::Source;

/// Most lines of a file without its tests.
const MAX_LINES: usize = 500;

/// Files that may be longer, and why.
const LONG: [(&str, &str); 1] =
    [("daemon/src/api/control.rs", "the fields of the command-line contract, in one list")];

/// Crates from the lowest up; each may depend on those before it.
const CRATES: [&str; 4] = ["protocol", "store", "daemon", "cli"];

/// Names that say nothing of what is in a module.
const NO_NAMES: [&str; 10] =
    ["util", "utils", "common", "helper", "helpers", "types", "misc", "shared", "core", "base"];

/// What may not be reached from a crate: the crate, the paths, and what to do instead. A path stands
/// for all below it.
const BANNED: [(&str, &[&str], &str); 5] = [
    (
        "protocol",
        &["std::fs", "std::net", "std::time", "std::thread", "std::process", "std::os", "tokio"],
        "the protocol is pure: the caller hands in what it needs",
    ),
    (
        "store",
        &[
            "tokio",
            "std::net",
            "std::os::unix::net",
            "std::time::SystemTime::now",
            "std::time::Instant::now",
            "SystemTime::now",
            "Instant::now",
        ],
        "the store is synchronous and knows no network and no clock: times are arguments",
    ),
    ("protocol", &["println", "eprintln"], "libraries never print"),
    ("store", &["println", "eprintln"], "libraries never print"),
    ("daemon", &["println", "eprintln"], "libraries never print"),
];

/// What only one file may reach, wherever the crate: the file, how the paths end, and the rule.
const PLACES: [(&str, &[&str], &str); 2] = [
    (
        "daemon/src/task.rs",
        &[
            "tokio::spawn",
            "tokio::task::spawn",
            "task::spawn",
            "tokio::task::spawn_blocking",
            "task::spawn_blocking",
            "tokio::task::spawn_local",
        ],
        "tasks are started there, where they are named, counted and joined",
    ),
    (
        "cli/src/env.rs",
        &[
            "env::var",
            "env::var_os",
            "env::vars",
            "env::vars_os",
            "env::set_var",
            "env::remove_var",
            "env::temp_dir",
            "env::home_dir",
        ],
        "the environment is read there, and handed on",
    ),
];

fn is_rust(path: &str) -> bool {
    Path::new(path).extension().is_some_and(|extension| extension == "rs")
}

fn root() -> PathBuf {
    let cli = Path::new(env!("CARGO_MANIFEST_DIR"));
    cli.parent().unwrap().to_owned()
}

/// Every file below `folder` that is ours, with its path from the top.
fn files_below(top: &Path, folder: &str, found: &mut Vec<String>) {
    let mut entries: Vec<_> =
        std::fs::read_dir(top.join(folder)).unwrap().map(|entry| entry.unwrap()).collect();
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let name = entry.file_name().into_string().unwrap();
        let path = if folder.is_empty() { name.clone() } else { format!("{folder}/{name}") };
        let kind = entry.file_type().unwrap();
        if name == ".git" || name == "target" {
            continue;
        }
        if kind.is_dir() {
            files_below(top, &path, found);
        } else if kind.is_file() {
            found.push(path);
        }
    }
}

fn files() -> Vec<String> {
    let mut found = Vec::new();
    files_below(&root(), "", &mut found);
    assert!(found.iter().any(|path| path == "protocol/src/lib.rs"), "this is not the workspace");
    found
}

fn sources() -> Vec<Source> {
    let rust = files().into_iter().filter(|path| is_rust(path));
    let sources = rust
        .map(|path| {
            let text = std::fs::read_to_string(root().join(&path)).unwrap();
            Source::new(path, text)
        })
        .collect();
    source::mark_tests(sources)
}

fn report(problems: &[String]) {
    assert!(problems.is_empty(), "{} problems\n{}", problems.len(), problems.join("\n"));
}

/// A manifest may name only the crates below its own.
fn crate_direction(name: &str, manifest: &str) -> Vec<String> {
    let allowed = CRATES.iter().take_while(|&&other| other != name);
    let allowed: Vec<_> = allowed.map(|other| format!("baton-{other}")).collect();
    let mut problems = Vec::new();
    let mut in_dependencies = false;
    for line in manifest.lines() {
        if line.starts_with('[') {
            in_dependencies = line.contains("dependencies");
        }
        let key = line.split(['.', '=', ' ']).next().unwrap_or_default().trim_matches('"');
        if in_dependencies && key.starts_with("baton-") && !allowed.iter().any(|it| it == key) {
            problems.push(format!("{name}/Cargo.toml: {name} may not depend on {key}"));
        }
    }
    problems
}

fn too_long(source: &Source) -> Option<String> {
    if source.is_test {
        return None;
    }
    let lines = source.lines_without_tests();
    let excused = LONG.iter().any(|(path, _)| *path == source.path);
    match (lines > MAX_LINES, excused) {
        (true, false) => Some(format!(
            "{}: {lines} lines without tests, at most {MAX_LINES}: split it by what is in it",
            source.path
        )),
        (false, true) => Some(format!("{}: no longer too long: drop its exception", source.path)),
        _ => None,
    }
}

fn without_docs(source: &Source) -> Option<String> {
    let first = source.text.lines().next().unwrap_or_default();
    let says = first.strip_prefix("//!").is_some_and(|text| text.trim().len() > 5);
    (!says).then(|| format!("{}: its first line does not say what it is (`//!`)", source.path))
}

fn without_name(path: &str) -> Option<String> {
    let mut parts = path.split('/').map(|part| part.strip_suffix(".rs").unwrap_or(part));
    let bad = parts.find(|part| NO_NAMES.contains(part))?;
    Some(format!("{path}: {bad} says nothing: name it for what is in it"))
}

fn mod_rs(path: &str) -> Option<String> {
    path.ends_with("/mod.rs").then(|| format!("{path}: name it after its folder, beside it"))
}

/// Absolute paths of the machine that something was written on.
fn machine_paths(path: &str, text: &str) -> Vec<String> {
    let folders = ["work", "root"].map(|name| format!("/{name}/"));
    let mut problems = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let absolute = folders.iter().any(|folder| {
            line.match_indices(folder.as_str()).any(|(start, _)| {
                let before = line[..start].chars().next_back();
                !before.is_some_and(|c| c.is_alphanumeric() || "._~-*}])>/".contains(c))
            })
        });
        if absolute {
            problems.push(format!("{path}:{}: a path of one machine: {}", at + 1, line.trim()));
        }
    }
    problems
}

fn is_below(path: &str, banned: &str) -> bool {
    path.strip_prefix(banned).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

fn banned(source: &Source) -> Vec<String> {
    let mut problems = Vec::new();
    for (name, paths, why) in BANNED {
        if source.crate_name() != Some(name) {
            continue;
        }
        for used in source.paths() {
            if paths.iter().any(|path| is_below(&used.path, path)) {
                let Source { path, .. } = source;
                problems
                    .push(format!("{path}:{}: {} is not for {name}: {why}", used.line, used.path));
            }
        }
    }
    problems
}

fn out_of_place(source: &Source) -> Vec<String> {
    let mut problems = Vec::new();
    if source.crate_name().is_none() {
        return problems;
    }
    for (place, paths, why) in PLACES {
        if source.path == place {
            continue;
        }
        for used in source.paths() {
            let ends = |path: &&str| {
                used.path
                    .strip_suffix(*path)
                    .is_some_and(|rest| rest.is_empty() || rest.ends_with("::"))
            };
            if paths.iter().any(ends) {
                let Source { path, .. } = source;
                problems
                    .push(format!("{path}:{}: {} belongs in {place}: {why}", used.line, used.path));
            }
        }
    }
    problems
}

#[test]
fn crates_stand_in_a_line() {
    let problems: Vec<_> = CRATES
        .iter()
        .flat_map(|name| {
            let manifest = root().join(name).join("Cargo.toml");
            crate_direction(name, &std::fs::read_to_string(manifest).unwrap())
        })
        .collect();
    report(&problems);
}

#[test]
fn modules_use_only_those_above_them() {
    let sources = sources();
    let problems: Vec<_> =
        CRATES.iter().flat_map(|name| modules::out_of_order(name, &sources)).collect();
    report(&problems);
}

#[test]
fn files_are_short_and_say_what_they_are() {
    let sources = sources();
    let mut problems: Vec<_> = sources.iter().filter_map(too_long).collect();
    problems.extend(sources.iter().filter_map(without_docs));
    for (path, _) in LONG {
        if !sources.iter().any(|source| source.path == path) {
            problems.push(format!("{path}: is gone: drop its exception"));
        }
    }
    report(&problems);
}

#[test]
fn modules_have_names() {
    let files = files();
    let rust = || files.iter().filter(|path| is_rust(path));
    let mut problems: Vec<_> = rust().filter_map(|path| without_name(path)).collect();
    problems.extend(rust().filter_map(|path| mod_rs(path)));
    report(&problems);
}

#[test]
fn no_file_knows_the_machine_it_was_written_on() {
    let mut problems = Vec::new();
    for path in files() {
        let bytes = std::fs::read(root().join(&path)).unwrap();
        if let Ok(text) = String::from_utf8(bytes) {
            problems.extend(machine_paths(&path, &text));
        }
    }
    report(&problems);
}

#[test]
fn clock_threads_sockets_and_environment_are_reached_from_their_places() {
    let sources = sources();
    let mut problems: Vec<_> = sources.iter().flat_map(banned).collect();
    problems.extend(sources.iter().flat_map(out_of_place));
    report(&problems);
}

/// The rules see what they are for, and only that.
#[cfg(test)]
mod tests {
    use super::*;

    fn source(path: &str, text: &str) -> Source {
        Source::new(path.into(), text.into())
    }

    #[test]
    fn a_crate_that_looks_up_is_found() {
        let manifest = "[dependencies]\nbaton-store.workspace = true\n\
            [dev-dependencies]\nbaton-daemon = { path = \"../daemon\" }\n";
        assert_eq!(crate_direction("daemon", manifest).len(), 1);
        assert_eq!(crate_direction("store", manifest).len(), 2);
        assert_eq!(crate_direction("cli", manifest), [""; 0]);
    }

    #[test]
    fn a_long_file_is_found() {
        let body = "fn f() {}\n".repeat(MAX_LINES);
        assert!(too_long(&source("store/src/x.rs", &body)).is_none());
        assert!(too_long(&source("store/src/x.rs", &format!("{body}\n"))).is_some());
        let tests = format!("#[cfg(test)]\nmod tests {{\n{body}}}\n");
        assert!(too_long(&source("store/src/x.rs", &format!("{body}{tests}"))).is_none());
        assert!(too_long(&source("store/src/x.rs", &format!("{body}{tests}\n"))).is_some());
        assert!(too_long(&source(LONG[0].0, "//! short")).is_some());
    }

    #[test]
    fn a_file_that_does_not_say_what_it_is_is_found() {
        assert!(without_docs(&source("a.rs", "//! What it is.\n")).is_none());
        for text in ["", "use x;\n//! late", "//!\n", "// a comment", "//! x"] {
            assert!(without_docs(&source("a.rs", text)).is_some(), "{text:?}");
        }
    }

    #[test]
    fn a_name_that_says_nothing_is_found() {
        for path in ["store/src/util.rs", "store/src/common/x.rs", "daemon/src/a/helpers.rs"] {
            assert!(without_name(path).is_some(), "{path}");
        }
        assert!(without_name("store/src/utility_poles.rs").is_none());
        assert!(mod_rs("store/src/x/mod.rs").is_some());
    }

    #[test]
    fn a_path_of_one_machine_is_found() {
        let [work, root] = ["work", "root"].map(|name| format!("/{name}/"));
        for text in [format!("cd {work}x"), format!("\"{root}.cargo\""), format!("{work}a\n")] {
            assert_eq!(machine_paths("a", &text).len(), 1, "{text}");
        }
        for text in [format!("src{work}x"), format!("..{root}x"), format!("{{home}}{work}x")] {
            assert_eq!(machine_paths("a", &text), [""; 0], "{text}");
        }
    }

    #[test]
    fn what_a_crate_may_not_reach_is_found() {
        let found = |path, text| banned(&source(path, text)).len();
        for text in [
            "use std::fs::File;",
            "use std::{fmt, fs};",
            "use std::{collections::{HashMap, BTreeMap}, net::{self, TcpStream}};",
            "fn f() { std::thread::spawn(|| ()); }",
            "use tokio::sync::Mutex;",
            "fn now() -> std::time::Instant { todo() }",
            "fn f() { println!(\"x\"); }",
        ] {
            assert_eq!(found("protocol/src/x.rs", text).min(1), 1, "{text}");
            assert_eq!(found("cli/src/x.rs", text), 0, "{text}");
        }
        for text in [
            "use std::fmt;",
            "// std::fs",
            "/// See [`std::fs`].\nfn f() {}",
            "const X: &str = \"std::fs\";",
            "const X: &str = r#\"a \" std::fs \"#;",
            "#[cfg(test)]\nmod tests {\n    use std::fs;\n}\n",
            "#[cfg(test)]\n#[expect(clippy::x, reason = \"}\")]\nfn f() { std::fs::read(); }",
            "use crate::fs::File;",
            "fn f<'a>(x: &'a str) -> char { 'x' }",
        ] {
            assert_eq!(found("protocol/src/x.rs", text), 0, "{text}");
        }
        // After what was skipped the rest is still seen.
        let after = "#[cfg(test)]\nmod tests { fn f() { '}'; \"}\"; } }\nuse std::fs;\n";
        assert_eq!(found("protocol/src/x.rs", after), 1);
        let problem = banned(&source("protocol/src/x.rs", after)).remove(0);
        assert!(
            problem.starts_with("protocol/src/x.rs:3: std::fs is not for protocol"),
            "{problem}"
        );
        let after = "fn f<'a>() { let c = '\"'; }\n/* \" /* */ */ use std::fs;\n";
        assert_eq!(found("protocol/src/x.rs", after), 1);
        assert_eq!(found("store/src/x.rs", "use std::fs;"), 0);
        assert_eq!(found("store/src/x.rs", "fn f() { SystemTime::now(); }"), 1);
        assert_eq!(found("store/src/x.rs", "use std::os::unix::net::UnixStream;"), 1);
    }

    #[test]
    fn what_belongs_in_one_place_is_found_elsewhere() {
        let spawn = "fn f() { tokio::spawn(async {}); }";
        assert_eq!(out_of_place(&source("daemon/src/node.rs", spawn)).len(), 1);
        assert_eq!(out_of_place(&source("daemon/src/task.rs", spawn)), [""; 0]);
        for text in [
            "fn f() { std::env::var(\"X\"); }",
            "use std::env;\nfn f() { env::var_os(\"X\"); }",
            "use std::env::{self, temp_dir};",
        ] {
            assert_eq!(out_of_place(&source("cli/src/main.rs", text)).len(), 1, "{text}");
            assert_eq!(out_of_place(&source("cli/src/env.rs", text)), [""; 0], "{text}");
        }
        let harmless = "fn f() { std::env::args(); env!(\"X\"); my_env::variable(); }";
        assert_eq!(out_of_place(&source("cli/src/main.rs", harmless)), [""; 0]);
    }

    #[test]
    fn files_of_tests_alone_are_known() {
        let sources = source::mark_tests(vec![
            source("store/src/a.rs", "#[cfg(test)]\nmod tests;\nmod b;\n"),
            source("store/src/a/tests.rs", "use tokio::x;"),
            source("store/src/a/tests/inner.rs", "use tokio::x;"),
            source("store/src/a/b.rs", "use tokio::x;"),
            source("store/src/lib.rs", "pub mod a;\n#[cfg(test)]\npub(crate) mod model;\n"),
            source("store/src/model.rs", "use tokio::x;"),
        ]);
        let found: BTreeSet<_> = sources
            .iter()
            .filter(|source| !banned(source).is_empty())
            .map(|source| source.path.as_str())
            .collect();
        assert_eq!(found, BTreeSet::from(["store/src/a/b.rs"]));
    }

    #[test]
    fn a_module_that_looks_down_is_found() {
        let with = |path: &str, text: &str| {
            let mut sources = vec![
                source(
                    "store/src/lib.rs",
                    "pub mod fs;\npub mod index;\nmod scan;\nfn crate_fn() {}",
                ),
                source("store/src/scan.rs", "mod walk;\npub(crate) mod order;\nfn own() {}"),
                source("store/src/fs.rs", ""),
                source("store/src/index.rs", ""),
                source("store/src/scan/walk.rs", ""),
                source("store/src/scan/order.rs", ""),
            ];
            sources.retain(|source| source.path != path);
            sources.push(source(path, text));
            modules::out_of_order("store", &sources)
        };
        for (path, text) in [
            ("store/src/fs.rs", "use crate::index::Index;"),
            ("store/src/fs.rs", "use crate::{fs::X, scan};"),
            ("store/src/fs.rs", "fn f() { crate::scan::run(); }"),
            ("store/src/index.rs", "use super::scan::Scan;"),
            ("store/src/scan/walk.rs", "use super::order::X;"),
            ("store/src/scan/walk.rs", "use crate::scan::order::X;"),
        ] {
            assert_eq!(with(path, text).len(), 1, "{path}: {text}");
        }
        for (path, text) in [
            ("store/src/scan.rs", "mod walk;\nmod order;\nuse crate::index::Index;\nuse walk::W;"),
            ("store/src/scan/order.rs", "use super::walk::X;\nuse super::own;\nuse crate::fs::F;"),
            ("store/src/fs.rs", "use crate::crate_fn;\nuse crate::fs::X;"),
            ("store/src/fs.rs", "#[cfg(test)]\nmod tests {\n    use crate::scan::X;\n}\n"),
        ] {
            assert_eq!(with(path, text), [""; 0], "{path}: {text}");
        }
    }
}
