//! `baton status`: what is kept, where it stands, and what is wrong.
//!
//! One line for each workspace, and below it what is under way, what is held back, and what to do where
//! something is wrong.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use baton_daemon::api::control::{
    Command, HeldEntry, RemotesAnswer, StatusAnswer, SyncProgress, WorkspaceEntry,
};

use super::remote;
use crate::error::CliError;
use crate::report::{Report, Style, figures};
use crate::session::{Session, expect_answer};

/// Held files that are named of each workspace where all of them are shown.
const NAMED: usize = 3;

/// Workspaces, remotes and health.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only this workspace [default: all of them].
    path: Option<PathBuf>,
}

pub(crate) fn run(session: &Session, args: &Args) -> Result<u8, CliError> {
    let path = args.path.as_deref().map(|path| session.workspace(Some(path))).transpose()?;
    let named = if path.is_some() { usize::MAX } else { NAMED };
    let status = expect_answer!(session.call(&Command::Status { path })?, Status);
    let view = View { report: &session.report, home: session.env.git_user.home.as_deref(), named };
    session.report.answer(&status, |text| view.show(text, &status))?;
    Ok(0)
}

/// How it is shown.
struct View<'a> {
    report: &'a Report,
    /// What `~` means.
    home: Option<&'a Path>,
    /// Held files that are named of each workspace.
    named: usize,
}

impl View<'_> {
    fn show(&self, to: &mut String, status: &StatusAnswer) {
        if status.workspaces.is_empty() {
            to.push_str("no workspace is kept yet; baton snapshot starts one\n");
        }
        let rows: Vec<_> =
            status.workspaces.iter().map(|entry| self.row(entry, &status.as_of)).collect();
        let mut table = String::new();
        figures::table(&mut table, &rows);
        for (line, entry) in table.lines().zip(&status.workspaces) {
            to.push_str(line);
            to.push('\n');
            self.below(to, entry);
        }
        to.push('\n');
        remote::list(self.report, to, &RemotesAnswer { remotes: status.remotes.clone() });
        if let Some(first) = status.damage.first() {
            let word = self.report.paint(Style::Bad, "damaged:");
            let (what, detail) = (figures::one_line(&first.what), figures::one_line(&first.detail));
            let _ = writeln!(to, "\n{word} {what}: {detail}");
            let more = status.damage.len() as u64 - 1;
            if more > 0 {
                let _ = writeln!(to, "  and {} more", figures::count(more));
            }
            self.fix(to, "baton repair");
        }
        let daemon = &status.daemon;
        let what = if daemon.serving { "serving" } else { "daemon" };
        let version = figures::one_line(daemon.version.as_deref().unwrap_or_default());
        let pid = daemon.pid.map(|pid| format!(", process {pid}")).unwrap_or_default();
        let _ = writeln!(to, "\n{what} {version}{pid}, home {}", self.short_root(&daemon.home));
    }

    /// `~/src/app  synced  2 s ago  on box  1 queued`
    fn row(&self, entry: &WorkspaceEntry, as_of: &str) -> Vec<String> {
        let style = match entry.state.as_str() {
            "synced" => Style::Good,
            "error" => Style::Bad,
            _ => Style::Warn,
        };
        let age = match (&entry.synced_at, &entry.head) {
            (Some(at), _) => figures::age(at, as_of),
            (None, Some(_)) => "never sent".to_owned(),
            (None, None) => "no snapshot".to_owned(),
        };
        let remote = entry.remote.as_deref().map(|name| format!("on {}", figures::one_line(name)));
        let mut notes = Vec::new();
        if entry.pending_files > 0 {
            notes.push(format!("{} pending", figures::plural(entry.pending_files, "file")));
        }
        if entry.queued > 0 {
            notes.push(format!("{} queued", figures::count(entry.queued)));
        }
        if !entry.held.is_empty() {
            let held = format!("{} held back", figures::count(entry.held.len() as u64));
            notes.push(self.report.paint(Style::Warn, &held));
        }
        vec![
            self.short_root(&entry.root),
            self.report.paint(style, &figures::one_line(&entry.state)),
            age,
            remote.unwrap_or_default(),
            notes.join(", "),
        ]
    }

    /// What stands below the line of a workspace.
    fn below(&self, to: &mut String, entry: &WorkspaceEntry) {
        if let Some(progress) = &entry.progress {
            let _ = writeln!(to, "  {}", sending(progress));
        }
        if let Some(error) = &entry.last_error {
            let word = self.report.paint(Style::Bad, "failed:");
            let _ = writeln!(to, "  {word} {}", figures::one_line(error));
            self.fix(to, "baton doctor");
        } else if entry.state == "offline" {
            self.fix(to, "nothing is lost, what waits goes out by itself; baton doctor says why");
        }
        if entry.history.is_some() {
            to.push_str("  the older part of its git history follows in the background\n");
            if let Some(why) = &entry.history_waits {
                to.push_str("    it waits: ");
                to.push_str(why);
                to.push('\n');
            }
        }
        for held in entry.held.iter().take(self.named) {
            let HeldEntry { path, rule, line, finding } = held;
            let word = self.report.paint(Style::Warn, "held back:");
            let (path, rule) = (figures::one_line(&path.path), figures::one_line(rule));
            let _ = writeln!(to, "  {word} {path} line {line} ({rule})");
            let id = figures::one_line(figures::short(finding));
            self.fix(to, &format!("take it out of the file, or baton allow {id}"));
        }
        let more = entry.held.len().saturating_sub(self.named);
        if more > 0 {
            let more = figures::count(more as u64);
            let _ =
                writeln!(to, "  and {more} more: baton status {}", self.short_root(&entry.root));
        }
        if let Some(watch) = &entry.watch
            && let Some(note) = &watch.note
        {
            let swept = figures::count(watch.swept);
            let of = figures::count(watch.swept.saturating_add(watch.watched));
            let _ = writeln!(to, "  {swept} of {of} folders are not watched but looked through");
            self.fix(to, &figures::one_line(note));
        }
    }

    fn fix(&self, to: &mut String, what: &str) {
        let _ = writeln!(to, "    {} {what}", self.report.paint(Style::Name, "fix:"));
    }

    /// The path with `~` for the user's own folder.
    fn short_root(&self, root: &str) -> String {
        let home = self.home.and_then(Path::to_str).filter(|home| home.len() > 1);
        let inside = home.and_then(|home| root.strip_prefix(home.trim_end_matches('/')));
        figures::one_line(&match inside {
            Some("") => "~".to_owned(),
            Some(rest) if rest.starts_with('/') => format!("~{rest}"),
            _ => root.to_owned(),
        })
    }
}

/// `sending 1,234 files, 12.0 MB of 1.30 GB, 20.0 MB/s, 1 min 4 s left`
fn sending(progress: &SyncProgress) -> String {
    let mut text = format!("sending {}, ", figures::plural(progress.files, "file"));
    text.push_str(&figures::size(progress.bytes));
    if let Some(total) = progress.total_bytes {
        let _ = write!(text, " of {}", figures::size(total));
    }
    if let Some(rate) = progress.rate {
        let _ = write!(text, ", {}/s", figures::size(rate));
    }
    if let Some(left) = progress.left_ms {
        #[expect(clippy::cast_precision_loss, reason = "seconds are shown")]
        let _ = write!(text, ", {} left", figures::span(left as f64));
    }
    text
}

#[cfg(test)]
mod tests {
    use baton_daemon::api::control::{DaemonAnswer, RemoteEntry, ReportPath, WatchEntry};

    use super::*;

    fn shown(workspaces: Vec<WorkspaceEntry>, named: usize) -> String {
        let remotes = vec![RemoteEntry {
            name: "box".into(),
            node_id: "ab12cd34".repeat(8),
            user: "owner".into(),
            addresses: vec!["10.0.0.2:4319".into()],
            default: true,
            embedded: false,
            transport: None,
        }];
        let daemon = DaemonAnswer {
            running: true,
            pid: Some(7),
            version: Some("0.1.0".into()),
            home: "/home/a/.local/state/baton".into(),
            serving: false,
        };
        let as_of = "2026-01-02T03:04:05.678Z".to_owned();
        let report = Report::new(false, None);
        let view = View { report: &report, home: Some(Path::new("/home/a")), named };
        let mut text = String::new();
        view.show(
            &mut text,
            &StatusAnswer { workspaces, remotes, daemon, as_of, damage: Vec::new() },
        );
        text
    }

    fn entry(root: &str, state: &str, synced_at: Option<&str>) -> WorkspaceEntry {
        WorkspaceEntry {
            root: root.into(),
            state: state.into(),
            head: Some("3f2a91c0".repeat(8)),
            remote: Some("box".into()),
            synced_at: synced_at.map(str::to_owned),
            ..WorkspaceEntry::default()
        }
    }

    fn held(path: &str, rule: &str) -> HeldEntry {
        HeldEntry {
            path: ReportPath::new(path.as_bytes()),
            rule: rule.into(),
            line: 3,
            finding: "3f2a91c05566aabb".into(),
        }
    }

    const REST: &str = "\nbox  ab12cd34  owner  10.0.0.2:4319  default\n\
                        \ndaemon 0.1.0, process 7, home ~/.local/state/baton\n";

    #[test]
    fn one_line_for_each_workspace_where_all_is_well() {
        let text = shown(
            vec![
                entry("/home/a/src/app", "synced", Some("2026-01-02T03:04:03.600Z")),
                entry("/srv/www", "syncing", Some("2026-01-02T01:00:00.000Z")),
                WorkspaceEntry { head: None, ..entry("/home/ab", "paused", None) },
            ],
            3,
        );
        let expected = "~/src/app  synced   2 s ago      on box\n\
                        /srv/www   syncing  2 h ago      on box\n\
                        /home/ab   paused   no snapshot  on box\n";
        assert_eq!(text, format!("{expected}{REST}"));
        assert!(shown(Vec::new(), 3).starts_with("no workspace is kept yet; baton snapshot"));
    }

    #[test]
    fn what_is_wrong_stands_below_with_its_fix() {
        let mut app = entry("/home/a/app", "error", Some("2025-12-30T03:04:05.000Z"));
        app.pending_files = 12;
        app.queued = 1;
        app.last_error = Some("the disk is full\nthere".into());
        let names = ["a.env", "b\x1b[31m", "c", "d"];
        app.held = names.iter().map(|name| held(name, "github-token")).collect();
        let offline = entry("/home/a", "offline", None);
        let expected = "\
~/app  error    3 d ago     on box  12 files pending, 1 queued, 4 held back
  failed: the disk is full\\nthere
    fix: baton doctor
  held back: a.env line 3 (github-token)
    fix: take it out of the file, or baton allow 3f2a91c0
  and 3 more: baton status ~/app
~      offline  never sent  on box
    fix: nothing is lost, what waits goes out by itself; baton doctor says why
";
        assert_eq!(shown(vec![app.clone(), offline], 1), format!("{expected}{REST}"));
        let all = shown(vec![app], usize::MAX);
        assert!(all.contains("held back: b\\u{1b}[31m line 3") && !all.contains("more:"), "{all}");
    }

    #[test]
    fn a_transfer_and_folders_that_are_not_watched_are_told() {
        let mut app = entry("/home/a/app", "syncing", None);
        app.progress = Some(SyncProgress {
            files: 1234,
            bytes: 12_000_000,
            total_bytes: Some(1_300_000_000),
            rate: Some(20_000_000),
            left_ms: Some(64_000),
        });
        app.watch = Some(WatchEntry {
            backend: "inotify".into(),
            watched: 30_000,
            swept: 2_000,
            note: Some("sysctl fs.inotify.max_user_watches=524288".into()),
        });
        let expected = "\
~/app  syncing  never sent  on box
  sending 1,234 files, 12.0 MB of 1.30 GB, 20.0 MB/s, 1 min 4 s left
  2,000 of 32,000 folders are not watched but looked through
    fix: sysctl fs.inotify.max_user_watches=524288
";
        assert_eq!(shown(vec![app], 3), format!("{expected}{REST}"));
    }
}
