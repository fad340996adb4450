//! Repositories inside another one: submodules that are there, and others that the caller knows of.

use std::collections::BTreeSet;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use baton_protocol::object::{
    GitMode, GitOmission, GitOmitReason, GitPlace, GitState, GitUnit, MAX_GIT_UNITS,
    is_module_name, unit_path,
};
use baton_protocol::path::RelPath;

use super::{CaptureOptions, Parts, capture_unit};
use crate::fs::list_dir;
use crate::git::place::Repository;
use crate::git::{GitError, as_path, shown};
use crate::objects::{ObjectSink, ObjectSource};

/// Deepest nesting of repositories.
const MAX_DEPTH: usize = 16;

/// What is needed to capture the repositories inside one.
pub(super) struct InnerUnits<'a> {
    pub(super) nested: &'a BTreeSet<RelPath>,
    pub(super) base: Option<&'a GitState>,
    pub(super) depth: usize,
}

impl InnerUnits<'_> {
    pub(super) fn capture<S: ObjectSink + ObjectSource + ?Sized>(
        &self,
        parts: &mut Parts,
        sink: &S,
        options: &CaptureOptions,
    ) -> Result<(Vec<GitUnit>, Vec<GitOmission>), GitError> {
        let Parts { repo, index, told, .. } = parts;
        let mut paths: BTreeSet<Vec<u8>> =
            self.nested.iter().map(|path| path.as_bytes().to_vec()).collect();
        let entries = index.iter().flat_map(|index| &index.meaning.entries);
        let links = entries.filter(|entry| entry.mode == GitMode::Submodule);
        paths.extend(links.map(|entry| entry.path.clone()));
        let mut units = Vec::new();
        let mut omitted = Vec::new();
        for path in paths {
            let worktree = repo.worktree.join(as_path(&path));
            if worktree.join(".git").symlink_metadata().is_err() || !is_plain_folder(repo, &path) {
                continue;
            }
            // One inside another of them is a unit of that one.
            let inside = |unit: &GitUnit| {
                path.strip_prefix(unit.path.as_bytes()).is_some_and(|rest| rest.starts_with(b"/"))
            };
            if units.iter().any(inside) {
                continue;
            }
            let what = format!("the repository in {}", shown(&path));
            let (Some(unit), true) = (unit_path(&path), units.len() < MAX_GIT_UNITS) else {
                told.note(GitOmitReason::Broken, what);
                continue;
            };
            if self.depth >= MAX_DEPTH {
                told.note(GitOmitReason::NotCarried, what);
                continue;
            }
            let base = self.base.and_then(|base| base.units.iter().find(|it| it.path == unit));
            let nested = self.nested.iter().filter_map(|inner| {
                let rest = inner.as_bytes().strip_prefix(&path[..])?.strip_prefix(b"/")?;
                RelPath::new(rest).ok()
            });
            let captured = capture_unit(
                &worktree,
                &nested.collect(),
                base.map(|base| base.state),
                self.depth + 1,
                sink,
                options,
            );
            let captured = match captured {
                Ok(captured) => captured,
                Err(GitError::Store(error)) => return Err(error.into()),
                Err(error) => {
                    told.note(GitOmitReason::Broken, format!("{what}: {error}"));
                    continue;
                }
            };
            let Some(place) = place_of(repo, &worktree, options) else {
                told.note(GitOmitReason::Broken, what);
                continue;
            };
            omitted.extend(captured.omitted.into_iter().map(|it| GitOmission {
                what: format!("{}: {}", shown(&path), it.what),
                reason: it.reason,
            }));
            units.push(GitUnit { path: unit, place, state: captured.id });
        }
        for name in list_dir(&repo.common_dir.join("modules"))? {
            let known = |unit: &GitUnit| match &unit.place {
                // Of a name with a slash the first part is a folder, and told with what is in it.
                GitPlace::Module(known) => {
                    known.split(|&it| it == b'/').next() == Some(name.as_bytes())
                }
                GitPlace::Embedded => false,
            };
            if !units.iter().any(known) {
                let what = format!("modules/{}", shown(name.as_bytes()));
                told.note(GitOmitReason::NotCarried, what);
            }
        }
        Ok((units, omitted))
    }
}

/// Whether a path leads to a folder through folders only: through a link it would be another one.
fn is_plain_folder(repo: &Repository, path: &[u8]) -> bool {
    let mut at = repo.worktree.clone();
    path.split(|&byte| byte == b'/').all(|name| {
        at.push(as_path(name));
        at.symlink_metadata().is_ok_and(|metadata| metadata.is_dir())
    })
}

/// Where an inner repository keeps its own; nothing where its name is none that git takes.
fn place_of(outer: &Repository, worktree: &Path, options: &CaptureOptions) -> Option<GitPlace> {
    let inner = Repository::open(worktree, options.within.as_deref()).ok()?;
    for folder in [&outer.common_dir, &outer.git_dir] {
        if let Ok(name) = inner.git_dir.strip_prefix(folder.join("modules")) {
            let name = name.as_os_str().as_bytes();
            return is_module_name(name).then(|| GitPlace::Module(name.to_vec()));
        }
    }
    Some(GitPlace::Embedded)
}
