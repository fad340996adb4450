//! Programs that runs may start wherever the node has them: those of agents.
//!
//! An agent's own installer puts its program into the home of its user, often as a link to one version of several, and package
//! managers of Node put a link to a file of a package there. Of all that a run is shown the program; of a package that one and
//! those that it needs; and the interpreter, where it is a script. They are looked for whenever a run starts, because such
//! programs renew themselves.
//!
//! **Invariant:** nothing else of a home comes into sight by it, and nothing that is to stay hidden.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};

use baton_store::fs;

use super::{candidates, has_slash, is_executable};

/// Longest first line of a script that names its interpreter; Linux reads 256 bytes.
const MAX_FIRST_LINE: u64 = 256;

/// Longest description of a package.
const MAX_DESCRIPTION: u64 = 1 << 20;

/// Packages that one program may need.
const MAX_PACKAGES: usize = 500;

/// Where packages of Node are.
const PACKAGES: &str = "node_modules";

/// What is shown of programs beside what a room shows anyway.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Shown {
    /// Links, with where they lead.
    pub(super) links: Vec<(PathBuf, PathBuf)>,
    /// Files and folders, without links in their paths.
    pub(super) paths: Vec<PathBuf>,
}

impl Shown {
    /// What programs of these names are in a `PATH`; or at a path, where a name is one. `sees` is what the room shows anyway,
    /// and `hides` what it must not.
    pub(super) fn find(
        names: &[OsString],
        path: &OsStr,
        sees: impl Fn(&Path) -> bool,
        hides: impl Fn(&Path) -> bool,
    ) -> Self {
        let mut shown = Self::default();
        for name in names {
            for file in found(path, name) {
                shown.program(&file, path, true);
            }
        }
        shown.paths.retain(|path| !sees(path) && !hides(path));
        shown.links.retain(|(at, _)| !sees(at) && !hides(at));
        shown
    }

    /// Whether a path can be seen by it.
    pub(super) fn shows(&self, path: &Path) -> bool {
        self.links.iter().any(|(at, _)| at == path)
            || self.paths.iter().any(|shown| path.starts_with(shown))
    }

    fn program(&mut self, file: &Path, path: &OsStr, may_be_script: bool) {
        let Ok(target) = file.canonicalize() else { return };
        if file != target {
            self.links.push((file.to_owned(), target.clone()));
        }
        if may_be_script && let Some(interpreter) = interpreter(&target, path) {
            self.program(&interpreter, path, false);
        }
        match package_of(&target) {
            Some(package) => self.package(package),
            None => self.paths.push(target),
        }
    }

    /// A package of Node, and those that it needs.
    fn package(&mut self, package: PathBuf) {
        let (mut left, mut known) = (vec![package], BTreeSet::new());
        while let Some(package) = left.pop() {
            if known.len() >= MAX_PACKAGES || !known.insert(package.clone()) {
                continue;
            }
            for name in needs(&package) {
                let folders = package.ancestors().filter(|above| above.ends_with(PACKAGES));
                let inner = package.join(PACKAGES);
                let mut all = [inner.as_path()].into_iter().chain(folders);
                let Some(at) =
                    all.find_map(|folder| Some(folder.join(&name)).filter(|at| at.is_dir()))
                else {
                    continue;
                };
                // One that somebody has linked from where they work on it is not shown.
                let real = at.canonicalize().ok();
                let Some(real) = real.filter(|real| package_of(real).as_ref() == Some(real)) else {
                    continue;
                };
                if real != at {
                    self.links.push((at, real.clone()));
                }
                left.push(real);
            }
            if !self.paths.iter().any(|shown| package.starts_with(shown)) {
                self.paths.push(package);
            }
        }
    }
}

/// The files that a name stands for in a `PATH`, the first one first.
fn found(path: &OsStr, name: &OsStr) -> Vec<PathBuf> {
    if has_slash(name) {
        let file = Some(PathBuf::from(name)).filter(|file| file.is_absolute());
        return file.filter(|file| is_executable(file) == Some(true)).into_iter().collect();
    }
    candidates(path, name).find(|file| is_executable(file) == Some(true)).into_iter().collect()
}

/// The program that a script is for.
fn interpreter(file: &Path, path: &OsStr) -> Option<PathBuf> {
    let mut line = Vec::new();
    fs::open(file).ok()?.take(MAX_FIRST_LINE).read_to_end(&mut line).ok()?;
    let line = line.strip_prefix(b"#!")?.split(|&byte| byte == b'\n').next()?;
    let mut words = line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
    let program = Path::new(OsStr::from_bytes(words.next()?));
    if program.file_name() != Some(OsStr::new("env")) {
        return Some(program.to_owned()).filter(|it| it.is_absolute());
    }
    let is_name = |word: &&[u8]| !word.starts_with(b"-") && !word.contains(&b'=');
    found(path, OsStr::from_bytes(words.find(is_name)?)).into_iter().next()
}

/// The folder of the package that a file or folder belongs to.
fn package_of(path: &Path) -> Option<PathBuf> {
    let folder = path.ancestors().skip(1).find(|above| above.ends_with(PACKAGES))?;
    let mut below = path.strip_prefix(folder).ok()?.components();
    let first = below.next()?.as_os_str();
    // What begins with a dot is the manager's own.
    match first.as_bytes().first()? {
        b'.' => None,
        b'@' => Some(folder.join(first).join(below.next()?)),
        _ => Some(folder.join(first)),
    }
}

/// Names of the packages that a package says it needs.
fn needs(package: &Path) -> Vec<String> {
    let Ok(Some(text)) = fs::read_if_exists(&package.join("package.json"), MAX_DESCRIPTION) else {
        return Vec::new();
    };
    let said: serde_json::Value = serde_json::from_slice(&text).unwrap_or_default();
    let listed = ["dependencies", "optionalDependencies"].map(|key| said.get(key));
    let names = listed.into_iter().flatten().filter_map(serde_json::Value::as_object);
    let is_name = |name: &&String| {
        let mut parts = Path::new(name).components();
        let is_plain = parts.all(|part| matches!(part, Component::Normal(_)));
        let count = name.split('/').count();
        is_plain && (count == 1 || (count == 2 && name.starts_with('@'))) && !name.contains('\0')
    };
    names.flat_map(serde_json::Map::keys).filter(is_name).take(MAX_PACKAGES).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Home {
        root: PathBuf,
        _dir: tempfile::TempDir,
    }

    impl Home {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let root = dir.path().canonicalize().unwrap();
            Self { root, _dir: dir }
        }

        fn at(&self, path: &str) -> PathBuf {
            self.root.join(path)
        }

        fn file(&self, path: &str, text: &str) {
            fs::create_dir_all(self.at(path).parent().unwrap()).unwrap();
            fs::write_atomic(&self.at(path), text.as_bytes(), 0o755).unwrap();
        }

        fn link(&self, path: &str, to: &str) {
            fs::create_dir_all(self.at(path).parent().unwrap()).unwrap();
            std::os::unix::fs::symlink(to, self.at(path)).unwrap();
        }

        fn find(&self, name: &str) -> (Vec<(String, String)>, Vec<String>) {
            let path = format!("{}:{}", self.at(".local/bin").display(), self.at("bin").display());
            let sees = |path: &Path| path.starts_with("/usr") || path.starts_with("/bin");
            let hides = |path: &Path| path.starts_with(self.at("private"));
            let shown = Shown::find(&[name.into()], path.as_ref(), sees, hides);
            let below = |path: &Path| path.strip_prefix(&self.root).unwrap().display().to_string();
            let links = shown.links.iter().map(|(at, to)| (below(at), below(to)));
            let mut paths: Vec<_> = shown.paths.iter().map(|path| below(path)).collect();
            paths.sort();
            (links.collect(), paths)
        }
    }

    fn pairs(all: &[(&str, &str)]) -> Vec<(String, String)> {
        all.iter().map(|(at, to)| ((*at).to_owned(), (*to).to_owned())).collect()
    }

    #[test]
    fn a_program_is_shown_and_what_its_link_leads_to_and_nothing_beside() {
        let home = Home::new();
        home.file(".local/share/claude/versions/2.1", "\x7fELF");
        home.file(".local/share/claude/versions/2.0", "\x7fELF");
        home.link("bin/current", "../.local/share/claude/versions/2.1");
        home.link(".local/bin/claude", "../../bin/current");
        let (at, version) = (".local/bin/claude", ".local/share/claude/versions/2.1");
        assert_eq!(home.find("claude"), (pairs(&[(at, version)]), vec![version.to_owned()]));
        // By its path; a plain file; one of the system's.
        let path = home.at(at).to_str().unwrap().to_owned();
        assert_eq!(home.find(&path).1, [version]);
        home.file("bin/plain", "#!/bin/sh\n");
        assert_eq!(home.find("plain"), (Vec::new(), vec!["bin/plain".to_owned()]));
        home.link("bin/system", "/usr/bin/env");
        let (links, paths) = {
            let path = home.at("bin");
            let sees = |path: &Path| path.starts_with("/usr");
            let shown = Shown::find(&["system".into()], path.as_os_str(), sees, |_| false);
            (shown.links.len(), shown.paths)
        };
        assert_eq!((links, paths), (1, Vec::new()));
        // What is hidden, what is not there, and what is no program.
        home.file("private/tool", "\x7fELF");
        home.link("bin/hidden", "../private/tool");
        assert_eq!(home.find("hidden").1, Vec::<String>::new());
        for none in ["missing", "", "../bin/plain"] {
            assert_eq!(home.find(none), (Vec::new(), Vec::new()), "{none}");
        }
    }

    #[test]
    fn of_a_package_that_one_is_shown_with_those_it_needs_and_its_interpreter() {
        let home = Home::new();
        let modules = ".npm/lib/node_modules";
        home.file(&format!("{modules}/@x/agent/bin/a.js"), "#!/usr/bin/env -S node --flag\n");
        let needs = r#"{"dependencies":{"near":"1","@y/far":"1","linked":"1","../../other":"1","a/b":"1"},"optionalDependencies":{"none":"1"}}"#;
        home.file(&format!("{modules}/@x/agent/package.json"), needs);
        home.file(
            &format!("{modules}/@x/agent/node_modules/near/package.json"),
            r#"{"dependencies":{"last":"1"}}"#,
        );
        for other in ["@y/far", "last", "unneeded", "a/b"] {
            home.file(&format!("{modules}/{other}/package.json"), "{}");
        }
        home.file("work/linked/package.json", "{}");
        home.file("work/linked/.env", "a token");
        home.link(&format!("{modules}/linked"), "../../../work/linked");
        home.file("other/package.json", "{}");
        home.link(".local/bin/agent", &format!("../../{modules}/@x/agent/bin/a.js"));
        home.file("bin/node-22", "\x7fELF");
        home.link("bin/node", "node-22");
        let (links, paths) = home.find("agent");
        let own = [
            (".local/bin/agent", ".npm/lib/node_modules/@x/agent/bin/a.js"),
            ("bin/node", "bin/node-22"),
        ];
        assert_eq!(links, pairs(&own));
        let shown = ["@x/agent", "@y/far", "last"].map(|name| format!("{modules}/{name}"));
        assert_eq!(paths, [&shown[..], &["bin/node-22".to_owned()]].concat());
    }

    #[test]
    fn packages_that_are_links_to_a_store_are_shown_with_their_links() {
        let home = Home::new();
        let store = "pnpm/.pnpm/agent@1/node_modules";
        home.file(&format!("{store}/agent/a.js"), "#!/bin/sh\n");
        home.file(&format!("{store}/agent/package.json"), r#"{"dependencies":{"dep":"1"}}"#);
        home.file("pnpm/.pnpm/dep@2/node_modules/dep/package.json", "{}");
        home.link(&format!("{store}/dep"), "../../dep@2/node_modules/dep");
        home.link("bin/agent", &format!("../{store}/agent/a.js"));
        let (links, paths) = home.find("agent");
        let dep = "pnpm/.pnpm/dep@2/node_modules/dep";
        let expected = [
            ("bin/agent", "pnpm/.pnpm/agent@1/node_modules/agent/a.js"),
            ("pnpm/.pnpm/agent@1/node_modules/dep", dep),
        ];
        assert_eq!(links, pairs(&expected));
        assert_eq!(paths, [format!("{store}/agent"), dep.to_owned()]);
    }
}
