//! The toolchains of the node's user that runs may use: where they are, what of them is shown, and what they are told.
//!
//! Version managers keep compilers and interpreters in the home of a user, where a run sees nothing. Those that are found
//! are shown read-only; what they write, and what they log in with, a run keeps in its own home.
//!
//! **Invariant:** what tools keep to log in with is hidden, also in a folder that is exposed, unless it is exposed itself.

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
}
use Programs::{Each, In, Newest};

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
        shown: &[".asdf"],
        programs: &[In(".asdf/shims"), In(".asdf/bin")],
        variables: &[("ASDF_DIR", ".asdf"), ("ASDF_DATA_DIR", ".asdf")],
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

/// The toolchains in a user's home that are found there, or those that `chosen` names; `~/` is the home.
pub fn find(home: Option<&Path>, chosen: Option<&[String]>) -> Toolchains {
    let mut found = Toolchains::default();
    let listed = chosen.map(|chosen| {
        chosen.iter().filter_map(|path| expanded(home, path)).collect::<Vec<PathBuf>>()
    });
    let shows = |path: &Path| {
        listed.as_ref().is_none_or(|listed| listed.iter().any(|above| path.starts_with(above)))
    };
    for known in home.iter().flat_map(|home| KNOWN.iter().map(move |known| (home, known))) {
        let (home, known) = known;
        let shown = known.shown.iter().map(|path| home.join(path));
        let shown: Vec<_> = shown.filter(|path| shows(path) && path.is_dir()).collect();
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
        if listed.is_none() {
            found.expose.extend(shown);
        }
    }
    for path in listed.into_iter().flatten().filter(|path| path.exists()) {
        let of_known = found.path.iter().any(|known| known.starts_with(&path));
        if let Some(programs) = programs_of(&path).filter(|_| !of_known) {
            found.path.push(programs);
        }
        if !of_known {
            found.names.push(path.display().to_string());
        }
        found.expose.push(path);
    }
    let private = home.iter().flat_map(|home| PRIVATE.iter().map(|path| home.join(path)));
    let private = private.filter(|path| !found.expose.contains(path));
    found.hide =
        private.filter(|path| found.expose.iter().any(|it| path.starts_with(it))).collect();
    // Where one is reached over a link, its programs are where that leads.
    let real = found.expose.iter().filter_map(|path| path.canonicalize().ok());
    let real: Vec<_> = real.filter(|path| !found.expose.contains(path)).collect();
    found.expose.extend(real);
    let real = found.hide.iter().filter_map(|path| path.canonicalize().ok());
    let real: Vec<_> = real.filter(|path| !found.hide.contains(path)).collect();
    found.hide.extend(real);
    found
}

impl Toolchains {
    /// The folders in which runs look for programs, where the node itself looks in these.
    pub fn path_with(&self, path: &OsStr) -> OsString {
        let known: Vec<_> = std::env::split_paths(path).collect();
        let new = self.path.iter().filter(|folder| !known.contains(folder));
        // A folder with a colon in its name cannot be in a search path.
        std::env::join_paths(new.chain(&known)).unwrap_or_else(|_| path.to_owned())
    }
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
    let mut all = match programs {
        In(folder) => vec![home.join(folder)],
        Newest(folder, at) => {
            let there = |name: &OsString| home.join(folder).join(name).join(at).is_dir();
            let newest = inner(folder).filter(there).max_by_key(|name| version(name));
            newest.map(|name| home.join(folder).join(name).join(at)).into_iter().collect()
        }
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
        let found = find(Some(home.path()), None);
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
        assert!(path.ends_with("/bin:/usr/bin:/bin"), "{path}");
        // What is in it already stays where it stands.
        assert_eq!(found.path_with(OsStr::new(path)), path);
        assert_eq!(find(None, None), Toolchains::default());
    }

    #[test]
    fn what_is_chosen_takes_the_place_of_all_that_is_found() {
        let home = home();
        let chosen = ["~/.cargo", "~/tools", "~/scripts", "relative", "~/missing", "~/.ssh"];
        let chosen = chosen.map(str::to_owned);
        let found = find(Some(home.path()), Some(&chosen));
        let at = |path: &str| home.path().join(path);
        assert_eq!(found.expose, [".cargo", "tools", "scripts", ".ssh"].map(at));
        assert_eq!(found.path, [".cargo/bin", "tools/bin", "scripts"].map(at));
        // Its toolchains are not shown, so that it is not told where they are.
        assert_eq!(found.variables, []);
        // A folder that is exposed keeps what is private in it, and one that is exposed itself is not hidden.
        assert_eq!(found.hide, [".cargo/credentials", ".cargo/credentials.toml"].map(at));
        assert_eq!(find(Some(home.path()), Some(&[])), Toolchains::default());
        let both = ["~/.cargo/bin".to_owned(), "~/.rustup".to_owned()];
        assert_eq!(find(Some(home.path()), Some(&both)).variables.len(), 1);
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
