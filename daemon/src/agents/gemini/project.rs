//! Folders of projects, `tmp/NAME`: a file in each says which working folder it is of, and `projects.json` lists them.
//!
//! **Invariant:** the folder of a working folder is the one that the program itself would find or make for it; the list,
//! which is the program's, is never written.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use baton_protocol::path::RelPath;
use baton_store::folder::{Folder, Kind};

use super::super::session::AgentError;

/// Holds the folders of all projects.
pub(super) const TOP: &str = "tmp";

/// Folders in which a name belongs to one project.
const TOPS: [&str; 2] = [TOP, "history"];

/// Says of which working folder a folder is.
const SIGN: &str = ".project_root";

const LIST: &str = "projects.json";

/// Longest sign that is read.
const MAX_SIGN: u64 = 8 * 1024;

/// Longest list.
const MAX_LIST: u64 = 4 * 1024 * 1024;

/// The folder of a project.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Project {
    at: RelPath,
    /// Where the program was started; nothing where nothing says that.
    pub(super) cwd: Option<PathBuf>,
}

impl Project {
    /// Where its transcripts are.
    pub(super) fn chats(&self) -> RelPath {
        self.at.join(b"chats")
    }

    /// The folder of the project of a transcript, by where that is.
    pub(super) fn of_transcript(at: &[u8]) -> Option<RelPath> {
        let text = std::str::from_utf8(at).ok()?;
        let [TOP, name, "chats", _] = text.split('/').collect::<Vec<_>>()[..] else { return None };
        Some(rel(TOP).join(name.as_bytes()))
    }
}

fn rel(path: &str) -> RelPath {
    // Made of names that were checked.
    RelPath::new(path.as_bytes()).unwrap_or_default()
}

/// Whether the program would take it for one of its names.
fn is_name(name: &str) -> bool {
    let is_letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !name.is_empty() && name.len() < 250 && name.bytes().all(is_letter)
}

/// The name that the program would give to a folder of this one.
fn name_of(cwd: &Path) -> String {
    let last = cwd.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    let parts = last.split(|c: char| !(c.is_ascii_lowercase() || c.is_ascii_digit()));
    let parts: Vec<_> = parts.filter(|part| !part.is_empty()).collect();
    let name = parts.join("-");
    if name.is_empty() { "project".to_owned() } else { name }
}

/// Whose a folder is.
enum Owner {
    Nobody,
    Of(PathBuf),
    /// Nobody can say.
    Unclear,
}

impl Owner {
    /// Whether one of this working folder may use it.
    fn allows(&self, cwd: &Path) -> bool {
        match self {
            Self::Nobody => true,
            Self::Of(owner) => owner == cwd,
            Self::Unclear => false,
        }
    }
}

fn owner(folder: &Folder, at: &RelPath) -> Owner {
    let file = match folder.file(&at.join(SIGN.as_bytes())) {
        Ok(Some(file)) => file,
        Ok(None) => return Owner::Nobody,
        Err(_) => return Owner::Unclear,
    };
    let mut bytes = Vec::new();
    match file.take(MAX_SIGN + 1).read_to_end(&mut bytes) {
        Ok(read) if read as u64 <= MAX_SIGN => {}
        _ => return Owner::Unclear,
    }
    let path = PathBuf::from(std::ffi::OsStr::from_bytes(bytes.trim_ascii()));
    if path.is_absolute() { Owner::Of(path) } else { Owner::Unclear }
}

/// The names of the list, by working folder; none where it cannot be read, which the program makes anew then.
fn listed(folder: &Folder) -> BTreeMap<PathBuf, String> {
    #[derive(serde::Deserialize)]
    struct List {
        projects: BTreeMap<PathBuf, String>,
    }
    let Ok(Some(file)) = folder.file(&rel(LIST)) else { return BTreeMap::new() };
    let mut bytes = Vec::new();
    let read = file.take(MAX_LIST + 1).read_to_end(&mut bytes);
    if !read.is_ok_and(|read| read as u64 <= MAX_LIST) {
        return BTreeMap::new();
    }
    let list = serde_json::from_slice::<List>(&bytes).map(|list| list.projects);
    list.unwrap_or_default().into_iter().filter(|(_, name)| is_name(name)).collect()
}

/// All of them.
pub(super) fn all(folder: &Folder) -> Result<Vec<Project>, AgentError> {
    let names = folder.list(&rel(TOP))?.into_iter().filter(|(_, kind)| *kind == Kind::Directory);
    let listed = listed(folder);
    let project = |(name, _): (Vec<u8>, Kind)| {
        let at = rel(TOP).join(&name);
        let cwd = match owner(folder, &at) {
            Owner::Of(cwd) => Some(cwd),
            Owner::Unclear => None,
            // Of versions that left no sign.
            Owner::Nobody => {
                let mut found = listed.iter().filter(|(_, it)| it.as_bytes() == name);
                found.next().map(|(cwd, _)| cwd.clone())
            }
        };
        Project { at, cwd }
    };
    Ok(names.map(project).collect())
}

/// The name of the one of this working folder, or the one that it would get.
pub(super) fn of(folder: &Folder, cwd: &Path) -> Result<String, AgentError> {
    let listed = listed(folder);
    let owners = |name: &str| TOPS.map(|top| owner(folder, &rel(top).join(name.as_bytes())));
    let is_free = |name: &str| owners(name).iter().all(|owner| owner.allows(cwd));
    if let Some(name) = listed.get(cwd).filter(|name| is_free(name)) {
        return Ok(name.clone());
    }
    for top in TOPS {
        for (name, _) in folder.list(&rel(top))? {
            let is_it = matches!(owner(folder, &rel(top).join(&name)), Owner::Of(it) if it == cwd);
            if let Ok(name) = String::from_utf8(name)
                && is_it
                && is_name(&name)
            {
                return Ok(name);
            }
        }
    }
    let others = listed.iter().filter(|(of, _)| *of != cwd);
    let taken: BTreeSet<_> = others.map(|(_, name)| name.as_str()).collect();
    let name = name_of(cwd);
    let mut number = 0u64;
    loop {
        let candidate = if number == 0 { name.clone() } else { format!("{name}-{number}") };
        if !taken.contains(candidate.as_str()) && is_free(&candidate) {
            return Ok(candidate);
        }
        number += 1;
    }
}

/// What says that a folder is the one of this working folder.
pub(super) fn sign(name: &str, cwd: &Path) -> Option<(RelPath, Vec<u8>)> {
    let at = format!("{TOP}/{name}/{SIGN}");
    Some((RelPath::new(at.as_bytes()).ok()?, cwd.as_os_str().as_bytes().to_vec()))
}

#[cfg(test)]
mod tests {
    use baton_store::fs;

    use super::*;
    use crate::fuzz::fuzzing::{fuzz_with, texts, within};

    #[test]
    fn project_lists() {
        let dir = crate::fuzz::scratch();
        let at = |path: &str| dir.path().join(path);
        let folders = ["tmp/app", "tmp/app-1", "tmp/odd name", "history/app-2"];
        let signs = folders.map(|folder| at(folder).join(SIGN));
        for folder in folders {
            fs::create_dir_all(&at(folder)).unwrap();
        }
        let folder = Folder::open(dir.path()).unwrap().unwrap();
        let corpus = texts(&[
            r#"{"projects":{"/src/app":"app","/other/app":"app-1","/x":"app-2"}}"#,
            r#"{"projects":{"/src/app":"app-3","/y":"../up","/z":""},"more":[1]}"#,
            "/src/app\n",
            "/other/app",
        ]);
        let cwd = Path::new("/src/app");
        fuzz_with(1000, corpus, |random, input| {
            let is_list = random.below(2) == 0;
            let path = if is_list { &at(LIST) } else { &signs[random.below(signs.len())] };
            fs::write_whole(path, input, 0o644).unwrap();
            let name = within(input, 64, 65_536, |_| of(&folder, cwd)).unwrap();
            assert!(is_name(&name));
            for top in TOPS {
                assert!(owner(&folder, &rel(top).join(name.as_bytes())).allows(cwd));
            }
            assert_eq!(of(&folder, cwd).unwrap(), name);
            assert_eq!(within(input, 64, 65_536, |_| all(&folder)).unwrap().len(), 3);
            if random.below(20) == 0 {
                for sign in &signs {
                    fs::remove_file(sign).unwrap();
                }
            }
            !is_list || !listed(&folder).is_empty()
        });
    }

    #[test]
    fn many_names_that_are_taken_are_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let taken = |number: u32| {
            let name = if number == 0 { "app".to_owned() } else { format!("app-{number}") };
            (format!("/{number}"), name)
        };
        let projects: BTreeMap<_, _> = (0..60_000).map(taken).collect();
        let list = serde_json::json!({ "projects": projects }).to_string();
        assert!(list.len() as u64 <= MAX_LIST);
        fs::write_atomic(&dir.path().join(LIST), list.as_bytes(), 0o644).unwrap();
        let folder = Folder::open(dir.path()).unwrap().unwrap();
        assert_eq!(of(&folder, Path::new("/src/app")).unwrap(), "app-60000");
    }
}
