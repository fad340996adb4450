//! What holds a conversation back is found before anybody who sends has heard of it.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::{Arc, Mutex};

use baton_protocol::id::SnapshotId;
use baton_protocol::object::Snapshot;
use baton_store::fs;
use baton_store::objects::{AppendObserver, Location};
use baton_store::scan::Progress;
use baton_store::secrets::SecretRules;
use baton_store::segment::RecordEntry;

use super::super::tests::workspaces;
use super::super::{Beside, Taken};
use super::*;

const ID: &str = "01a21b58-b33b-4981-9512-8b8a5be4cd61";

/// Counts what it hears of an intake.
#[derive(Clone, Debug, Default)]
struct Hearing(Arc<Mutex<(bool, Vec<RecordEntry>)>>);

impl AppendObserver for Hearing {
    fn appended(&self, _at: Location, entries: &[RecordEntry]) {
        self.0.lock().unwrap().1.extend_from_slice(entries);
    }
}

impl Beside for Hearing {
    fn start(&mut self, intake: &Intake) {
        self.0.lock().unwrap().0 = true;
        intake.tell(Arc::new(self.clone()));
    }

    fn begin(&mut self, _intake: &Intake, _id: SnapshotId, _snapshot: &Snapshot) {}
}

/// A workspace, and a conversation about it in a folder of Claude Code.
struct Scene {
    dir: tempfile::TempDir,
    workspaces: Workspaces,
    wanted: Wanted,
}

impl Scene {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().canonicalize().unwrap();
        let (root, folder) = (top.join("app"), top.join("claude"));
        fs::create_dir_all(&root).unwrap();
        let project = folder.join("projects/-app");
        fs::create_dir_all(&project).unwrap();
        let rules = SecretRules::standard().unwrap();
        let home = top.join("home");
        fs::create_dir_all(&home).unwrap();
        let workspaces = Workspaces { secrets: Some(Arc::new(rules)), ..workspaces(&home) };
        let wanted = Wanted {
            agent: "claude",
            session: Session {
                id: ID.to_owned(),
                at: RelPath::new(format!("projects/-app/{ID}.jsonl").as_bytes()).unwrap(),
                cwd: root.clone(),
                modified_ms: 0,
                title: String::new(),
            },
            folder,
            root,
            home: None,
            is_asked: false,
            is_named: false,
        };
        Self { dir, workspaces, wanted }
    }

    fn write(&self, text: &str) {
        let path = self.wanted.folder.join(format!("projects/-app/{ID}.jsonl"));
        fs::write_atomic(&path, text.as_bytes(), 0o600).unwrap();
    }

    fn take(&self, beside: &mut Hearing) -> Result<Taken, TakeError> {
        let root = &self.wanted.root;
        let workspace = self.workspaces.find_or_add(root).unwrap().id;
        let options =
            TakeOptions { conversation: Some(self.wanted.clone()), ..TakeOptions::default() };
        let progress = Progress::default();
        self.workspaces.take_beside(workspace, root, &options, &progress, Some(beside))
    }

    fn bytes_on_disk(&self) -> u64 {
        fn below(path: &Path) -> u64 {
            let names = fs::list_dir(path).unwrap().into_iter();
            names
                .map(|name| {
                    let path = path.join(name);
                    let found = path.symlink_metadata().unwrap();
                    if found.is_dir() { below(&path) } else { found.len() }
                })
                .sum()
        }
        below(&self.dir.path().join("home/store"))
    }
}

/// Lines of some megabytes that do not compress.
fn long(end: &str) -> String {
    let mut text = String::new();
    let mut state = 7u64;
    while text.len() < 5 << 20 {
        let mut word = String::new();
        for _ in 0..60 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            write!(word, "{state:x} ").unwrap();
        }
        writeln!(text, "{{\"type\":\"user\",\"message\":{{\"content\":\"{word}\"}}}}").unwrap();
    }
    text + end
}

#[test]
fn nobody_who_sends_hears_of_a_conversation_that_is_held_back() {
    let scene = Scene::new();
    // As a tool has printed a file of settings.
    let line = "{\"message\":{\"content\":\"A=1\\nAPI_TOKEN=q7Zk2mXv9RtL4wBn8sYc\\n\"}}\n";
    scene.write(&long(line));
    let mut hearing = Hearing::default();
    let before = scene.bytes_on_disk();
    let held = scene.take(&mut hearing).unwrap_err();
    let TakeError::Secrets { found, .. } = &held else { panic!("{held}") };
    assert_eq!(found.len(), 1);
    {
        let heard = hearing.0.lock().unwrap();
        assert!(!heard.0 && heard.1.is_empty(), "{} objects were offered", heard.1.len());
    }
    // Nor is anything of it kept.
    assert!(scene.bytes_on_disk() < before + (1 << 20));
    // It is allowed by its name, as one of a file is.
    let id = HeldFinding::said("x", &found[0].finding(), 0).id();
    let named = scene.workspaces.catalog.held_by_id(&id).unwrap();
    let [(workspace, finding)] = &named[..] else { panic!("{named:?}") };
    scene.workspaces.catalog.allow_finding(*workspace, &finding.fingerprint, 1).unwrap();
    let taken = scene.take(&mut hearing).unwrap();
    assert_eq!(taken.snapshot.conversations.len(), 1);
}

#[test]
fn what_of_a_conversation_stays_here_is_in_the_snapshot() {
    let scene = Scene::new();
    scene.write("{\"type\":\"user\",\"message\":{\"content\":\"hello\"}}\n");
    let own = scene.wanted.folder.join(format!("projects/-app/{ID}"));
    fs::create_dir_all(&own).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", own.join("link")).unwrap();
    let taken = scene.take(&mut Hearing::default()).unwrap();
    let name = |taken: &Taken| -> Vec<_> {
        let left = taken.omitted.iter();
        left.map(|it| (it.path.display().into_owned(), it.reason)).collect()
    };
    let file = format!("conversation/claude/{ID}/projects/-app/{ID}/link");
    assert_eq!(name(&taken), [(file, OmitReason::Special)]);
    let kept = baton_store::snapshot::load_omissions(&scene.workspaces.vault, &taken.snapshot);
    assert_eq!(kept.unwrap(), taken.omitted);
    // One that cannot be read, and that nobody asked for.
    fs::remove_file(&scene.wanted.folder.join(format!("projects/-app/{ID}.jsonl"))).unwrap();
    let taken = scene.take(&mut Hearing::default()).unwrap();
    assert_eq!(taken.snapshot.conversations.len(), 0);
    assert_eq!(name(&taken), [(format!("conversation/claude/{ID}"), OmitReason::Unreadable)]);
    assert!(taken.notes.iter().any(|note| note.contains("does not travel")), "{:?}", taken.notes);
    let asked = Wanted { is_asked: true, ..scene.wanted.clone() };
    let failed = Scene { wanted: asked, ..scene }.take(&mut Hearing::default());
    assert!(matches!(failed, Err(TakeError::Conversation(_))), "{failed:?}");
}
