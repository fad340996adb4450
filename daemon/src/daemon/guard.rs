//! What the secret scan holds back, and `allow`, which lets it through.
//!
//! Not here: the rules ([`baton_store::secrets`]) and the scan that asks them.
//!
//! **Invariant:** an answer names files, rules and findings, and never what was found.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use baton_protocol::id::WorkspaceId;
use baton_store::catalog::held::HeldFinding;
use baton_store::catalog::workspaces::Workspace;

use super::Daemon;
use super::failure::Fail;
use crate::api::control::{
    AllowCall, AllowedAnswer, AllowedEntry, Answer, Bytes, HeldEntry, ReportPath,
};

/// What to type where it is not known what was meant.
const LIST: &str = "baton status lists what is held back";

impl Daemon {
    pub(super) async fn allow(self: &Arc<Self>, call: AllowCall) -> Result<Answer, Fail> {
        let answer = self.blocking("allow", move |daemon| daemon.allow_answer(&call)).await?;
        Ok(Answer::Allowed(answer))
    }

    fn allow_answer(&self, call: &AllowCall) -> Result<AllowedAnswer, Fail> {
        let path = |bytes: &Bytes| Path::new(OsStr::from_bytes(&bytes.0)).to_owned();
        let entries = match &call.finding {
            Some(id) if call.revoke => self.revoke_finding(id)?,
            Some(id) => vec![self.allow_finding(id, &path(&call.folder))?],
            None => vec![self.allow_path(&path(&call.path), call.revoke)?],
        };
        let (allowed, revoked) =
            if call.revoke { (Vec::new(), entries) } else { (entries, Vec::new()) };
        Ok(AllowedAnswer { allowed, revoked })
    }

    /// Lets one secret through in the workspace in which it is held; of several in that of `folder`.
    fn allow_finding(&self, id: &str, folder: &Path) -> Result<AllowedEntry, Fail> {
        let mut found = self.catalog.held_by_id(id)?;
        // The same secret in several files is one finding.
        found.dedup_by(|a, b| (a.0, a.1.fingerprint) == (b.0, b.1.fingerprint));
        if found.len() > 1 {
            let own = self.workspace_above(folder)?.map(|(workspace, _)| workspace.id);
            let here: Vec<_> = found.iter().filter(|(id, _)| Some(*id) == own).cloned().collect();
            if let [one] = &here[..] {
                found = vec![one.clone()];
            }
        }
        let (workspace, finding) = match &found[..] {
            [] => {
                let what = format!("nothing is held back that is called {id}, no file either");
                return Err(Fail::new("not-found", what).hint(LIST));
            }
            [one] => one.clone(),
            _ => {
                let what = format!("{id} can mean {} findings", found.len());
                let hint = "name the file, or more digits, or cd to the workspace that is meant";
                return Err(Fail::new("ambiguous", what).hint(hint));
            }
        };
        self.catalog.allow_finding(workspace, &finding.fingerprint, self.clock.now_ms())?;
        self.rules_changed(workspace, false);
        let root = self.catalog.workspace(workspace)?.map(|workspace| workspace.root);
        Ok(AllowedEntry {
            workspace: workspace.to_string(),
            root: String::from_utf8_lossy(&root.unwrap_or_default()).into_owned(),
            path: None,
            path_b64: None,
            finding: Some(finding.id()),
            rule: Some(finding.rule),
        })
    }

    /// Holds findings back again, in every workspace.
    fn revoke_finding(&self, id: &str) -> Result<Vec<AllowedEntry>, Fail> {
        let mut entries = Vec::new();
        for workspace in self.catalog.workspaces()? {
            let revoked = self.catalog.disallow_finding(workspace.id, id)?;
            if !revoked.is_empty() {
                self.rules_changed(workspace.id, true);
            }
            entries.extend(revoked.into_iter().map(|finding| AllowedEntry {
                workspace: workspace.id.to_string(),
                root: String::from_utf8_lossy(&workspace.root).into_owned(),
                path: None,
                path_b64: None,
                finding: Some(finding),
                rule: None,
            }));
        }
        if entries.is_empty() {
            return Err(Fail::new("not-found", format!("{id} is not allowed")).hint(LIST));
        }
        Ok(entries)
    }

    /// Lets the file at `path` through, or holds it back again.
    fn allow_path(&self, path: &Path, revoke: bool) -> Result<AllowedEntry, Fail> {
        let Some((workspace, inside)) = self.workspace_above(path)? else {
            let what = format!("{} is in no workspace that is kept", path.display());
            return Err(Fail::new("no-workspace", what).hint("baton snapshot, in its workspace"));
        };
        let held = self.catalog.held_at(workspace.id, &inside)?;
        if revoke {
            if !self.catalog.disallow_path(workspace.id, &inside)? {
                let what = format!("{} is not allowed", path.display());
                return Err(Fail::new("not-found", what).hint(LIST));
            }
        } else {
            let is_folder = path.symlink_metadata().map(|metadata| metadata.is_dir()).ok();
            if is_folder == Some(true) {
                let what = format!("{} is a folder; files are allowed one by one", path.display());
                let hint = "secret_allow in config.toml takes patterns, as in .gitignore";
                return Err(Fail::new("not-a-file", what).hint(hint));
            }
            if held.is_none() && is_folder.is_none() {
                let what = format!("{} is neither held back nor there", path.display());
                return Err(Fail::new("not-found", what).hint(LIST));
            }
            self.catalog.allow_path(workspace.id, &inside, self.clock.now_ms())?;
        }
        self.rules_changed(workspace.id, revoke);
        let ReportPath { path, path_b64 } = ReportPath::new(&inside);
        Ok(AllowedEntry {
            workspace: workspace.id.to_string(),
            root: String::from_utf8_lossy(&workspace.root).into_owned(),
            path: Some(path),
            path_b64,
            finding: None,
            rule: held.map(|held| held.rule),
        })
    }

    /// The innermost workspace that `path` is in, and where in it.
    fn workspace_above(&self, path: &Path) -> Result<Option<(Workspace, Vec<u8>)>, Fail> {
        let path = path.as_os_str().as_bytes();
        let inside = |workspace: Workspace| {
            let rest = path.strip_prefix(&workspace.root[..])?;
            let rest = match workspace.root.last() {
                Some(b'/') => rest,
                _ if rest.is_empty() => rest,
                _ => rest.strip_prefix(b"/")?,
            };
            Some((workspace.clone(), rest.to_vec()))
        };
        let workspaces = self.catalog.workspaces()?.into_iter();
        Ok(workspaces.filter_map(inside).max_by_key(|(workspace, _)| workspace.root.len()))
    }

    /// Called when what a workspace may send has changed: what was held back can go now.
    pub(super) fn rules_changed(&self, workspace: WorkspaceId, revoked: bool) {
        self.workspaces.reconsider(workspace, revoked);
        self.look_again(workspace);
    }

    /// What is held back in a workspace, for `status`.
    pub(super) fn held_entries(&self, workspace: WorkspaceId) -> Result<Vec<HeldEntry>, Fail> {
        let entry = |held: HeldFinding| HeldEntry {
            path: ReportPath::new(&held.path),
            finding: held.id(),
            rule: held.rule,
            line: held.line,
        };
        Ok(self.catalog.held(workspace)?.into_iter().map(entry).collect())
    }
}
