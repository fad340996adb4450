//! The toolchains of the node's user that runs may use: where they are, what of them is shown, and what they are told.
//!
//! Version managers keep compilers and interpreters in the home of a user, where a run sees nothing. Those that are found
//! are shown read-only; what they write, and what they log in with, a run keeps in its own home.
//!
//! **Invariant:** what tools keep to log in with is hidden, also in a folder that is exposed, unless it is exposed itself.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use baton_store::fs;

use super::is_executable;

/// Where a toolchain has its programs.
#[derive(Clone, Copy)]
enum Programs {
    In(&'static str),
    /// In the newest version of those in a folder, at a place.
    Newest(&'static str, &'static str),
    /// In each folder of a folder, at a place.
    Each(&'static str, &'static str),
    /// In the newest version of each folder of a folder, at a place.
    NewestOfEach(&'static str, &'static str),
}
use Programs::{Each, In, Newest, NewestOfEach};

/// A toolchain that is looked for.
struct Known {
    name: &'static str,
    /// What of it is shown, below the user's home.
    shown: &'static [&'static str],
    programs: &'static [Programs],
    /// Variables by which it finds itself.
    variables: &'static [(&'static str, &'static str)],
}

const KNOWN: [Known; 12] = [
    Known {
        name: "rustup",
        shown: &[".cargo/bin", ".rustup"],
        programs: &[In(".cargo/bin")],
        variables: &[("RUSTUP_HOME", ".rustup")],
    },
    Known {
        name: "nvm",
        shown: &[".nvm/versions"],
        programs: &[Newest(".nvm/versions/node", "bin")],
        variables: &[],
    },
    Known {
        name: "volta",
        shown: &[".volta/tools/image"],
        programs: &[
            Newest(".volta/tools/image/node", "bin"),
            Newest(".volta/tools/image/npm", "bin"),
            Newest(".volta/tools/image/pnpm", "bin"),
            Newest(".volta/tools/image/yarn", "bin"),
        ],
        variables: &[],
    },
    Known {
        name: "fnm",
        shown: &[".local/share/fnm/node-versions"],
        programs: &[Newest(".local/share/fnm/node-versions", "installation/bin")],
        variables: &[],
    },
    Known {
        name: "mise",
        shown: &[".local/share/mise/installs"],
        programs: &[Each(".local/share/mise/installs", "latest/bin")],
        variables: &[],
    },
    Known {
        name: "asdf",
        // Its shims ask for a version that only files in the home of its user name.
        shown: &[".asdf/installs"],
        programs: &[NewestOfEach(".asdf/installs", "bin")],
        variables: &[],
    },
    Known {
        name: "pyenv",
        shown: &[".pyenv"],
        programs: &[In(".pyenv/shims"), In(".pyenv/bin")],
        variables: &[("PYENV_ROOT", ".pyenv")],
    },
    Known {
        name: "rbenv",
        shown: &[".rbenv"],
        programs: &[In(".rbenv/shims"), In(".rbenv/bin")],
        variables: &[("RBENV_ROOT", ".rbenv")],
    },
    Known {
        name: "go",
        shown: &["go/bin", "sdk"],
        programs: &[In("go/bin"), Newest("sdk", "bin")],
        variables: &[],
    },
    Known { name: "bun", shown: &[".bun/bin"], programs: &[In(".bun/bin")], variables: &[] },
    Known { name: "deno", shown: &[".deno/bin"], programs: &[In(".deno/bin")], variables: &[] },
    Known {
        name: "sdkman",
        shown: &[".sdkman/candidates"],
        programs: &[Each(".sdkman/candidates", "current/bin")],
        variables: &[],
    },
];

/// What tools keep to log in with, below the user's home.
const PRIVATE: [&str; 32] = [
    ".ssh",
    ".gnupg",
    ".aws",
    ".azure",
    ".kube",
    ".docker",
    ".netrc",
    ".npmrc",
    ".yarnrc",
    ".yarnrc.yml",
    ".pypirc",
    ".git-credentials",
    ".vault-token",
    ".terraform.d",
    ".cargo/credentials",
    ".cargo/credentials.toml",
    ".gem/credentials",
    ".bundle/config",
    ".m2/settings.xml",
    ".m2/settings-security.xml",
    ".gradle/gradle.properties",
    ".config/gcloud",
    ".config/gh",
    ".config/git",
    ".config/hub",
    ".config/op",
    ".config/rclone",
    ".local/share/keyrings",
    ".claude",
    ".codex",
    ".gemini",
    ".bash_history",
];

/// What such files are called, wherever they are.
const PRIVATE_NAMES: [&str; 16] = [
    "npmrc",
    ".npmrc",
    ".yarnrc",
    ".yarnrc.yml",
    "pip.conf",
    ".pypirc",
    "credentials",
    "credentials.toml",
    ".credentials",
    ".git-credentials",
    ".netrc",
    "_netrc",
    ".env",
    "settings.xml",
    "settings-security.xml",
    "gradle.properties",
];

/// How deep those are looked for in what is shown, and among how many files in all.
const MAX_DEPTH: usize = 5;
const MAX_LOOKED_AT: usize = 200_000;

/// Versions in a folder that are looked at.
const MAX_VERSIONS: usize = 1000;

/// What runs are shown of the toolchains of a user.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Toolchains {
    /// Files and folders, read-only.
    pub expose: Vec<PathBuf>,
    /// Of those, what stays out of sight.
    pub hide: Vec<PathBuf>,
    /// Folders with programs, the first ones first.
    pub path: Vec<PathBuf>,
    /// Variables by which they find themselves.
    pub variables: Vec<(OsString, OsString)>,
    /// What was found, for `doctor`.
    pub names: Vec<String>,
}

/// The toolchains in a user's home that are found there, and those that `chosen` names, which come first; `~/` is the home.
pub fn find(home: Option<&Path>, chosen: &[String]) -> Toolchains {
    let mut found = Toolchains::default();
    let listed: Vec<_> = chosen.iter().filter_map(|path| expanded(home, path)).collect();
    for known in home.iter().flat_map(|home| KNOWN.iter().map(move |known| (home, known))) {
        let (home, known) = known;
        let shown = known.shown.iter().map(|path| home.join(path));
        let shown: Vec<_> = shown.filter(|path| path.is_dir()).collect();
        if shown.is_empty() {
            continue;
        }
        let inside = |path: &PathBuf| shown.iter().any(|above| path.starts_with(above));
        for programs in known.programs {
            found.path.extend(folders(home, *programs).into_iter().filter(inside));
        }
        let variables = known.variables.iter().map(|(name, path)| (name, home.join(path)));
        let variables = variables.filter(|(_, path)| inside(path));
        found.variables.extend(variables.map(|(name, path)| (name.into(), path.into())));
        let at: Vec<_> = shown.iter().map(|path| path.display().to_string()).collect();
        found.names.push(format!("{} ({})", known.name, at.join(", ")));
        found.expose.extend(shown);
    }
    let mut first = Vec::new();
    for path in listed.into_iter().filter(|path| path.exists()) {
        let of_known = found.path.iter().any(|known| known.starts_with(&path));
        if let Some(programs) = programs_of(&path).filter(|_| !of_known) {
            first.push(programs);
        }
        // What is found by itself is shown and named already.
        if !found.expose.contains(&path) {
            if !of_known {
                found.names.push(path.display().to_string());
            }
            found.expose.push(path);
        }
    }
    found.path.splice(0..0, first);
    // Where one is reached over a link, its programs are where that leads.
    let real = found.expose.iter().filter_map(|path| path.canonicalize().ok());
    let real: Vec<_> = real.filter(|path| !found.expose.contains(path)).collect();
    found.expose.extend(real);
    let real_home = home.and_then(|home| home.canonicalize().ok());
    let homes = home.into_iter().chain(real_home.as_deref());
    let mut private: Vec<_> =
        homes.flat_map(|home| PRIVATE.iter().map(|path| home.join(path))).collect();
    let real: Vec<_> = private.iter().filter_map(|path| path.canonicalize().ok()).collect();
    private.extend(real);
    private.extend(private_by_name(&found.expose));
    for path in private {
        let is_seen = found.expose.iter().any(|it| path.starts_with(it));
        if is_seen && !found.expose.contains(&path) && !found.hide.contains(&path) {
            found.hide.push(path);
        }
    }
    found
}

impl Toolchains {
    /// The folders in which runs look for programs, where the node itself looks in these: what its user has chosen
    /// comes first.
    pub fn path_with(&self, path: &OsStr) -> OsString {
        let known: Vec<_> = std::env::split_paths(path).collect();
        let new = self.path.iter().filter(|folder| !known.contains(folder));
        // A folder with a colon in its name cannot be in a search path.
        std::env::join_paths(known.iter().chain(new)).unwrap_or_else(|_| path.to_owned())
    }
}

/// Files in what is shown that have a name under which tools keep what they log in with.
fn private_by_name(shown: &[PathBuf]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders: VecDeque<_> = shown.iter().map(|folder| (folder.clone(), 0)).collect();
    let mut left = MAX_LOOKED_AT;
    while let Some((folder, depth)) = folders.pop_front() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            left = left.saturating_sub(1);
            if left == 0 {
                return found;
            }
            let Ok(kind) = entry.file_type() else { continue };
            let name = entry.file_name();
            if kind.is_dir() && depth < MAX_DEPTH {
                folders.push_back((entry.path(), depth + 1));
            } else if !kind.is_dir() && name.to_str().is_some_and(|it| PRIVATE_NAMES.contains(&it))
            {
                found.push(entry.path());
            }
        }
    }
    found
}

/// An absolute path; nothing for one that is none.
fn expanded(home: Option<&Path>, path: &str) -> Option<PathBuf> {
    match path.strip_prefix("~/") {
        Some(below) => home.map(|home| home.join(below)),
        None => Some(PathBuf::from(path)).filter(|path| path.is_absolute()),
    }
}

fn folders(home: &Path, programs: Programs) -> Vec<PathBuf> {
    let inner = |folder: &str| {
        let names = fs::list_dir(&home.join(folder)).unwrap_or_default();
        names.into_iter().take(MAX_VERSIONS)
    };
    let newest = |folder: &str, at: &str| {
        let there = |name: &OsString| home.join(folder).join(name).join(at).is_dir();
        let newest = inner(folder).filter(there).max_by_key(|name| version(name));
        newest.map(|name| home.join(folder).join(name).join(at))
    };
    let mut all = match programs {
        In(folder) => vec![home.join(folder)],
        Newest(folder, at) => newest(folder, at).into_iter().collect(),
        NewestOfEach(folder, at) => inner(folder)
            .filter_map(|name| newest(&Path::new(folder).join(name).to_string_lossy(), at))
            .collect(),
        Each(folder, at) => {
            inner(folder).map(|name| home.join(folder).join(name).join(at)).collect()
        }
    };
    all.retain(|path| path.is_dir());
    all
}

/// The numbers in a name: `v22.1.0` is newer than `v9.9`.
fn version(name: &OsStr) -> Vec<u64> {
    let name = name.to_string_lossy();
    let numbers = name.split(|digit: char| !digit.is_ascii_digit());
    numbers.filter_map(|number| number.parse().ok()).collect()
}

/// The folder with the programs of a folder that somebody exposes.
fn programs_of(folder: &Path) -> Option<PathBuf> {
    let bin = folder.join("bin");
    if bin.is_dir() {
        return Some(bin);
    }
    let names = fs::list_dir(folder).ok()?;
    let mut files = names.into_iter().take(MAX_VERSIONS).map(|name| folder.join(name));
    files.any(|file| is_executable(&file) == Some(true)).then(|| folder.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn home() -> tempfile::TempDir {
        let home = tempfile::tempdir().unwrap();
        for folder in [
            ".cargo/bin",
            ".rustup/toolchains/stable",
            ".nvm/versions/node/v9.9.1/bin",
            ".nvm/versions/node/v22.1.0/bin",
            ".nvm/versions/node/v100/broken",
            ".local/share/mise/installs/python/latest/bin",
            ".ssh",
            "tools/bin",
            "scripts",
        ] {
            fs::create_dir_all(&home.path().join(folder)).unwrap();
        }
        for file in [".cargo/credentials.toml", ".npmrc", "scripts/readme"] {
            fs::write_atomic(&home.path().join(file), b"secret", 0o600).unwrap();
        }
        fs::write_atomic(&home.path().join("scripts/tool"), b"#!/bin/sh\n", 0o755).unwrap();
        home
    }

    #[test]
    fn what_is_there_is_found_and_the_newest_version_is_used() {
        let home = home();
        let found = find(Some(home.path()), &[]);
        let below = |paths: &[PathBuf]| -> Vec<String> {
            let below = paths.iter().filter_map(|path| path.strip_prefix(home.path()).ok());
            below.map(|path| path.display().to_string()).collect()
        };
        assert_eq!(
            below(&found.expose),
            [".cargo/bin", ".rustup", ".nvm/versions", ".local/share/mise/installs"]
        );
        assert_eq!(
            below(&found.path),
            [
                ".cargo/bin",
                ".nvm/versions/node/v22.1.0/bin",
                ".local/share/mise/installs/python/latest/bin"
            ]
        );
        assert_eq!(
            found.variables,
            [("RUSTUP_HOME".into(), home.path().join(".rustup").into_os_string())]
        );
        assert_eq!((found.names.len(), found.hide.len()), (3, 0));
        let path = found.path_with(OsStr::new("/usr/bin:/bin"));
        let path = path.to_str().unwrap();
        assert!(path.starts_with("/usr/bin:/bin:/"), "{path}");
        // What is in it already stays where it stands.
        assert_eq!(found.path_with(OsStr::new(path)), path);
        assert_eq!(find(None, &[]), Toolchains::default());
    }

    #[test]
    fn what_is_chosen_is_shown_beside_what_is_found_and_comes_first() {
        let home = home();
        let chosen = ["~/.cargo", "~/tools", "~/scripts", "relative", "~/missing", "~/.ssh"];
        let chosen = chosen.map(str::to_owned);
        let found = find(Some(home.path()), &chosen);
        let at = |path: &str| home.path().join(path);
        let by_itself = find(Some(home.path()), &[]);
        let shown = [".cargo", "tools", "scripts", ".ssh"].map(at);
        assert_eq!(found.expose, [by_itself.expose.as_slice(), &shown].concat());
        let first = ["tools/bin", "scripts"].map(at);
        assert_eq!(found.path, [first.as_slice(), &by_itself.path].concat());
        assert_eq!(found.variables, by_itself.variables);
        // A folder that is exposed keeps what is private in it, and one that is exposed itself is not hidden.
        assert_eq!(found.hide, [".cargo/credentials", ".cargo/credentials.toml"].map(at));
        let again = [".cargo/bin", ".rustup"].map(|path| format!("~/{path}"));
        assert_eq!(find(Some(home.path()), &again), by_itself);
    }

    #[test]
    fn what_is_private_by_its_name_is_hidden_in_what_is_shown_and_shims_are_not_used() {
        let home = tempfile::tempdir().unwrap();
        let at = |path: &str| home.path().join(path);
        let private = [
            ".asdf/installs/rust/1.9/credentials.toml",
            ".nvm/versions/node/v22.1.0/etc/npmrc",
            ".pyenv/versions/3.12/pip.conf",
        ];
        for folder in [".asdf/shims", ".asdf/installs/rust/1.9/bin", ".asdf/installs/rust/1.10/bin"]
        {
            fs::create_dir_all(&at(folder)).unwrap();
        }
        for file in private {
            fs::create_dir_all(at(file).parent().unwrap()).unwrap();
            fs::write_atomic(&at(file), b"a token", 0o644).unwrap();
        }
        let found = find(Some(home.path()), &[]);
        for file in private {
            assert!(found.hide.contains(&at(file)), "{file}: {:?}", found.hide);
        }
        assert_eq!(found.path, [at(".asdf/installs/rust/1.10/bin")]);
    }

    #[test]
    fn versions_are_compared_as_numbers() {
        let newer =
            [("v22.1.0", "v9.9.1"), ("go1.10", "go1.9.7"), ("3.12.1", "3.12"), ("1", "latest")];
        for (new, old) in newer {
            assert!(version(OsStr::new(new)) > version(OsStr::new(old)), "{new} {old}");
        }
    }
}
