//! Where a repository is, and its configuration as it stands there.
//!
//! A linked worktree has a folder of its own for what is its alone (`HEAD`, the index, operations), and
//! shares the rest with the others.
//!
//! **Invariant:** only regular files are read, through no link below the folder of a repository, and of at most a length
//! that is known before. Where the caller says within which folder a repository must lie, no part of it lies elsewhere.

use std::collections::BTreeSet;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use baton_protocol::object::{GitHash, GitHead, GitSetting, RefStorage};
use rustix::fs::{FileType, Mode, OFlags};

use super::{GitError, as_path};
use crate::fs::{self, Context, FsError};

/// Longest file that names a folder.
const MAX_LINK: u64 = 8 * 1024;

/// Longest configuration that is read.
const MAX_CONFIG: u64 = 4 << 20;

/// Most files of a repository that are looked at to see that none leads elsewhere.
const MAX_INSIDE: usize = 4_000_000;

/// Extensions of a repository that are understood, or change nothing here.
const EXTENSIONS: [&str; 9] = [
    "objectformat",
    "refstorage",
    "worktreeconfig",
    "partialclone",
    "preciousobjects",
    "relativeworktrees",
    "noop",
    "noop-v1",
    "submodulepathconfig",
];

/// A repository as one of its worktrees sees it.
#[derive(Debug)]
pub(super) struct Repository {
    /// The worktree.
    pub(super) worktree: PathBuf,
    /// What is the worktree's alone.
    pub(super) git_dir: PathBuf,
    /// What is shared; the same folder in a repository of one worktree.
    pub(super) common_dir: PathBuf,
    pub(super) hash: GitHash,
    pub(super) storage: RefStorage,
    /// All of its configuration; a later line wins.
    pub(super) config: Vec<GitSetting>,
    /// Lines of it that cannot be told, by their number of all such.
    pub(super) untold: usize,
    /// Whether objects may be missing by intention.
    pub(super) is_partial: bool,
}

impl Repository {
    /// Opens the repository of a worktree. With `within` nothing of it may lie outside of that folder.
    pub(super) fn open(worktree: &Path, within: Option<&Path>) -> Result<Self, GitError> {
        let no = |why| GitError::NoRepository { path: worktree.to_owned(), why };
        let dot_git = worktree.join(".git");
        let stat = rustix::fs::lstat(&dot_git).context("looking at", &dot_git)?;
        let git_dir = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => dot_git,
            FileType::Symlink if within.is_none() => dot_git,
            FileType::RegularFile => {
                let link = read_file(&dot_git, MAX_LINK)?.unwrap_or_default();
                let target =
                    link.strip_prefix(b"gitdir: ").ok_or_else(|| no("its .git names no folder"))?;
                worktree.join(as_path(target.trim_ascii_end()))
            }
            _ => return Err(no("its .git is neither a folder nor a file")),
        };
        let common_dir = match read_file(&git_dir.join("commondir"), MAX_LINK)? {
            Some(common) => git_dir.join(as_path(common.trim_ascii_end())),
            None => git_dir.clone(),
        };
        let git_dir = canonical(&git_dir)?;
        let common_dir = canonical(&common_dir)?;
        if let Some(within) = within {
            let within = canonical(within)?;
            let inside = |path: &Path| path.starts_with(&within);
            if !inside(&git_dir) || !inside(&common_dir) {
                return Err(no("its folder lies elsewhere"));
            }
            check_inside(&git_dir)?;
            check_inside(&common_dir)?;
            if common_dir.join("objects/info/alternates").exists() {
                return Err(no("it borrows objects from elsewhere"));
            }
        }
        let mut this = Self {
            worktree: worktree.to_owned(),
            git_dir,
            common_dir,
            hash: GitHash::Sha1,
            storage: RefStorage::Files,
            config: Vec::new(),
            untold: 0,
            is_partial: false,
        };
        this.read_config("config")?;
        if this.is_set("extensions", "worktreeconfig") {
            let path = this.git_dir.join("config.worktree");
            this.add_config(&path)?;
        }
        this.read_format()?;
        Ok(this)
    }

    fn read_config(&mut self, name: &str) -> Result<(), GitError> {
        let path = self.common_dir.join(name);
        self.add_config(&path)
    }

    fn add_config(&mut self, path: &Path) -> Result<(), GitError> {
        let Some(bytes) = read_below(path, MAX_CONFIG)? else { return Ok(()) };
        let (settings, untold) = parse_config(&bytes).ok_or_else(|| GitError::Damaged {
            path: path.to_owned(),
            why: "git could not read it",
        })?;
        self.config.extend(settings);
        self.untold += untold;
        Ok(())
    }

    /// What the extensions say of how the rest is to be read.
    fn read_format(&mut self) -> Result<(), GitError> {
        let no = |why| GitError::NoRepository { path: self.worktree.clone(), why };
        let version = self.value(("core", "repositoryformatversion")).unwrap_or(b"0");
        if version != b"0" && version != b"1" {
            return Err(no("its format is of a later version of git"));
        }
        let mut unknown = self.config.iter().filter(|it| it.section == "extensions");
        if version == b"1" && !unknown.all(|it| EXTENSIONS.contains(&it.key.as_str())) {
            return Err(no("it has an extension that this version does not know"));
        }
        let hash = match self.value(("extensions", "objectformat")) {
            None | Some(b"sha1") => GitHash::Sha1,
            Some(b"sha256") => GitHash::Sha256,
            Some(_) => return Err(no("it names objects in an unknown way")),
        };
        let storage = match self.value(("extensions", "refstorage")) {
            None | Some(b"files") => RefStorage::Files,
            Some(b"reftable") => RefStorage::Reftable,
            Some(_) => return Err(no("it keeps refs in an unknown way")),
        };
        let promised = self.config.iter().any(|it| it.section == "remote" && it.key == "promisor");
        self.is_partial = promised || self.value(("extensions", "partialclone")).is_some();
        (self.hash, self.storage) = (hash, storage);
        Ok(())
    }

    /// The last value of a setting without subsection.
    pub(super) fn value(&self, (section, key): (&str, &str)) -> Option<&[u8]> {
        let found =
            |it: &&GitSetting| it.section == section && it.key == key && it.subsection.is_none();
        self.config.iter().rfind(found).map(|it| it.value.as_slice())
    }

    /// Whether its configuration says that its worktree is somewhere else.
    pub(super) fn is_of_another_worktree(&self) -> bool {
        let Some(said) = self.value(("core", "worktree")) else { return false };
        let said = self.git_dir.join(as_path(said)).canonicalize();
        // Of a linked worktree the setting means the main one.
        self.git_dir == self.common_dir && said.ok() != self.worktree.canonicalize().ok()
    }

    /// Whether a setting says yes, as git reads it.
    pub(super) fn is_set(&self, section: &str, key: &str) -> bool {
        self.value((section, key)).is_some_and(is_yes)
    }
}

/// Whether git reads a value as yes.
pub(super) fn is_yes(value: &[u8]) -> bool {
    let value = value.to_ascii_lowercase();
    let number = || std::str::from_utf8(&value).ok()?.parse::<i64>().ok();
    matches!(value.as_slice(), b"true" | b"yes" | b"on") || number().is_some_and(|it| it != 0)
}

/// The lines of a configuration, without those that it includes, and how many of them no setting can hold.
pub(super) fn parse_config(bytes: &[u8]) -> Option<(Vec<GitSetting>, usize)> {
    let file = gix::config::File::from_bytes_no_includes(
        bytes,
        gix::config::file::Metadata::from(gix::config::Source::Local),
        gix::config::file::init::Options { lossy: true, ..Default::default() },
    )
    .ok()?;
    Some(settings_of(&file))
}

/// The lines of a configuration of the user's own, with those that it includes for this repository. Links are
/// followed: many keep such files elsewhere.
pub(super) fn read_user_config(
    path: &Path,
    home: Option<&Path>,
    git_dir: &Path,
    head: &GitHead,
) -> Vec<GitSetting> {
    use gix::config::file::includes::conditional;
    use gix::config::file::{Metadata, includes, init};
    let Ok(Some(bytes)) = fs::read_if_exists(path, MAX_CONFIG) else { return Vec::new() };
    let metadata = Metadata::from(gix::config::Source::User).at(path);
    let options = init::Options { lossy: true, ..Default::default() };
    let Ok(mut file) = gix::config::File::from_bytes_no_includes(&bytes, metadata, options) else {
        return Vec::new();
    };
    let branch = match head {
        GitHead::Symbolic(name) => gix::refs::FullName::try_from(name.to_string()).ok(),
        GitHead::Detached(_) => None,
    };
    let interpolate =
        gix::config::path::interpolate::Context { home_dir: home, ..Default::default() };
    let conditional = conditional::Context {
        git_dir: Some(git_dir),
        branch_name: branch.as_ref().map(AsRef::as_ref),
    };
    let includes = includes::Options::follow(interpolate, conditional);
    if let Err(error) = file.resolve_includes(init::Options { includes, ..options }) {
        tracing::debug!(%error, "a configuration is read without what it includes");
    }
    settings_of(&file).0
}

fn settings_of(file: &gix::config::File) -> (Vec<GitSetting>, usize) {
    let mut settings = Vec::new();
    let mut untold = 0;
    for section in file.sections() {
        let header = section.header();
        let name = header.name().to_ascii_lowercase();
        let subsection = header.subsection_name().map(|name| name.to_vec());
        for (key, value) in section.body() {
            let mut value = value.to_vec();
            // A name without a value says yes, one with an empty value says no.
            if value.is_empty() && section.value_implicit(&key) == Some(None) {
                value = b"true".to_vec();
            }
            let setting = GitSetting {
                section: String::from_utf8_lossy(&name).into_owned(),
                subsection: subsection.clone(),
                key: key.to_ascii_lowercase(),
                value,
            };
            if setting.is_valid() { settings.push(setting) } else { untold += 1 }
        }
    }
    (settings, untold)
}

/// Reads a regular file of at most `limit` bytes; nothing where there is none. Its last name is no link.
pub(super) fn read_file(path: &Path, limit: u64) -> Result<Option<Vec<u8>>, GitError> {
    read_opened(rustix::fs::open(path, FILE, Mode::empty()), path, limit)
}

/// Reads a regular file below a folder of a repository: a path without links when it was opened, so that a link on
/// the way to the file is one that came since.
pub(super) fn read_below(path: &Path, limit: u64) -> Result<Option<Vec<u8>>, GitError> {
    #[cfg(target_os = "linux")]
    {
        let resolve = rustix::fs::ResolveFlags::NO_SYMLINKS;
        match rustix::fs::openat2(rustix::fs::CWD, path, FILE, Mode::empty(), resolve) {
            // Not in this kernel, or not in this sandbox.
            Err(rustix::io::Errno::NOSYS | rustix::io::Errno::PERM) => {}
            opened => return read_opened(opened, path, limit),
        }
    }
    read_file(path, limit)
}

const FILE: OFlags =
    OFlags::RDONLY.union(OFlags::CLOEXEC).union(OFlags::NONBLOCK).union(OFlags::NOFOLLOW);

fn read_opened(
    opened: Result<OwnedFd, rustix::io::Errno>,
    path: &Path,
    limit: u64,
) -> Result<Option<Vec<u8>>, GitError> {
    let file = match opened {
        Ok(file) => std::fs::File::from(file),
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => return Ok(None),
        Err(rustix::io::Errno::LOOP) => {
            return Err(GitError::refused(path.display().to_string(), "it is a link"));
        }
        Err(error) => {
            let path = path.to_owned();
            return Err(FsError { action: "opening", path, source: error.into() }.into());
        }
    };
    let stat = rustix::fs::fstat(&file).context("looking at", path)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(GitError::refused(path.display().to_string(), "it is no regular file"));
    }
    let too_long = || GitError::refused(path.display().to_string(), "it is too long");
    if u64::try_from(stat.st_size).is_ok_and(|size| size > limit) {
        return Err(too_long());
    }
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes).context("reading", path)?;
    if bytes.len() as u64 > limit {
        return Err(too_long());
    }
    Ok(Some(bytes))
}

fn canonical(path: &Path) -> Result<PathBuf, GitError> {
    Ok(path.canonicalize().context("looking for", path)?)
}

/// Refuses a folder with anything in it that is neither a file nor a folder.
fn check_inside(folder: &Path) -> Result<(), GitError> {
    let mut left = vec![folder.to_owned()];
    let mut seen = BTreeSet::new();
    let mut count = 0usize;
    while let Some(folder) = left.pop() {
        if !seen.insert(folder.clone()) {
            continue;
        }
        for entry in std::fs::read_dir(&folder).context("listing", &folder)? {
            let entry = entry.context("listing", &folder)?;
            let kind = entry.file_type().context("looking at", &entry.path())?;
            count += 1;
            if count > MAX_INSIDE {
                return Err(GitError::refused(
                    folder.display().to_string(),
                    "it has too many files",
                ));
            }
            if kind.is_dir() {
                left.push(entry.path());
            } else if !kind.is_file() {
                let path = entry.path().display().to_string();
                return Err(GitError::refused(path, "it is a link or a special file"));
            }
        }
    }
    Ok(())
}
