//! Others are at work in the checkout meanwhile, or the system or a tree is hostile.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use baton_protocol::id::{ManifestId, ObjectKind};
use baton_protocol::object::{
    Blob, Content, Entry, EntryKind, Omission, OmitReason, Tree, TreeSums, build_tree,
};

use super::written::cut_off;
use super::*;
use crate::apply::moves::{Abilities, LIMITED};
use crate::apply::testing::{Node, folder, is_nightly};
use crate::objects::ObjectSink;

fn file(content: &str) -> Node {
    Node::File(0o644, content.into())
}

fn model(nodes: &[(&str, Node)]) -> Model {
    Model(nodes.iter().map(|(path, node)| (path.as_bytes().to_vec(), node.clone())).collect())
}

/// Every byte below a folder, file by file.
fn files(top: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    let mut open = vec![top.to_owned()];
    while let Some(path) = open.pop() {
        let Ok(entries) = std::fs::read_dir(&path) else { continue };
        for entry in entries {
            let path = entry.unwrap().path();
            let Ok(metadata) = path.symlink_metadata() else { continue };
            if metadata.is_dir() {
                open.push(path);
            } else if metadata.is_file() {
                found.push((path.clone(), std::fs::read(&path).unwrap_or_default()));
            }
        }
    }
    found
}

/// How an editor writes.
#[derive(Clone, Copy, Debug)]
enum Writes {
    /// A new file in the place of the old one.
    Replacing,
    /// Into the file that is there.
    InPlace,
    /// At the end of one that it keeps open.
    Appending,
}

const WRITTEN: [&str; 4] = ["a", "b", "sub/c", "sub/d"];

/// Writes until it is told to stop; returns what it wrote last to each file.
fn edit(
    root: &Path,
    how: Writes,
    round: usize,
    (begun, stop): (&AtomicBool, &AtomicBool),
) -> Vec<String> {
    let mut last = vec![String::new(); WRITTEN.len()];
    let append = |path: &Path| OpenOptions::new().append(true).open(path);
    let mut open: Vec<_> = WRITTEN.iter().map(|name| append(&root.join(name)).ok()).collect();
    let mut version = 0;
    while !stop.load(Ordering::Relaxed) {
        version += 1;
        for (at, name) in WRITTEN.iter().enumerate() {
            let path = root.join(name);
            let text = format!("[{round} {name} {version}]");
            let written = match how {
                Writes::Replacing => {
                    let beside = root.join(format!("{name}.tmp"));
                    std::fs::write(&beside, &text).is_ok()
                        && std::fs::rename(&beside, &path).is_ok()
                }
                Writes::InPlace => OpenOptions::new()
                    .write(true)
                    .truncate(true)
                    .open(&path)
                    .is_ok_and(|mut file| file.write_all(text.as_bytes()).is_ok()),
                Writes::Appending => {
                    open[at].as_mut().is_some_and(|file| file.write_all(text.as_bytes()).is_ok())
                }
            };
            if written {
                last[at] = text;
                begun.store(true, Ordering::Relaxed);
            }
        }
    }
    last
}

#[test]
fn what_an_editor_writes_meanwhile_is_not_lost() {
    let rounds = if is_nightly() { 10_000 } else { 300 };
    let here = model(&[
        ("a", file("1")),
        ("b", file("1")),
        ("sub", Node::Directory(0o755)),
        ("sub/c", file("1")),
        ("sub/d", file("1")),
    ]);
    let there = model(&[
        ("a", file("2")),
        ("sub", Node::Directory(0o755)),
        ("sub/c", Node::Link(b"x".to_vec())),
        ("sub/d", Node::File(0o600, b"2".to_vec())),
    ]);
    let case = Case { base: here.clone(), here, there };
    let objects = MemoryObjects::default();
    let plan = case.plan(&objects);
    let mut disturbed = 0;
    for round in 0..rounds {
        let how = [Writes::Replacing, Writes::InPlace, Writes::Appending][round % 3];
        let top = folder();
        let root = top.path().join("tree");
        case.here.write(&root);
        let applies = Applies::new(&top.path().join("applies"));
        let (begun, stop) = (AtomicBool::new(false), AtomicBool::new(false));
        let (applied, last) = std::thread::scope(|scope| {
            let editor = scope.spawn(|| edit(&root, how, round, (&begun, &stop)));
            // Now and then it is quicker for sure.
            while round % 8 == 0 && !begun.load(Ordering::Relaxed) {
                std::thread::yield_now();
            }
            let request = request(&root, 9);
            let applied = applies
                .apply(&objects, &request, &plan, None, options(), &Progress::default())
                .unwrap();
            stop.store(true, Ordering::Relaxed);
            (applied, editor.join().unwrap())
        });
        disturbed += usize::from(applied.done.iter().any(|done| !done.is_so()));
        let all = files(top.path());
        for text in last.iter().filter(|text| !text.is_empty()) {
            let is_there = all.iter().any(|(_, bytes)| {
                bytes.windows(text.len()).any(|window| window == text.as_bytes())
            });
            assert!(is_there, "round {round} {how:?}: {text} is lost\n{all:?}\n{applied:?}");
        }
        // What was there before is in the snapshot; what came there is in its place, or told.
        for (step, done) in plan.steps.iter().zip(&applied.done) {
            assert!(*done != Done::Waiting, "{:?}", step.path);
        }
    }
    assert!(disturbed > 0, "the editor was never in the way");
}

#[test]
fn a_link_that_takes_a_folders_place_leads_nowhere() {
    let rounds = if is_nightly() { 3_000 } else { 100 };
    let base =
        model(&[("d", Node::Directory(0o755)), ("d/gone", file("1")), ("d/kept", file("1"))]);
    let there =
        model(&[("d", Node::Directory(0o755)), ("d/kept", file("2")), ("d/new", file("new"))]);
    let case = Case { base: base.clone(), here: base, there };
    let objects = MemoryObjects::default();
    let plan = case.plan(&objects);
    for _ in 0..rounds {
        let top = folder();
        let root = top.path().join("tree");
        case.here.write(&root);
        let outside = top.path().join("outside");
        let within = model(&[("gone", file("1")), ("kept", file("1"))]);
        within.write(&outside);
        std::os::unix::fs::symlink(&outside, top.path().join("link")).unwrap();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let (link, place) = (top.path().join("link"), root.join("d"));
                while !stop.load(Ordering::Relaxed) {
                    let flags = rustix::fs::RenameFlags::EXCHANGE;
                    let cwd = rustix::fs::CWD;
                    // One of them may just be looked at.
                    let _ = rustix::fs::renameat_with(cwd, &link, cwd, &place, flags);
                }
            });
            let applies = Applies::new(&top.path().join("applies"));
            let request = request(&root, 9);
            let applied =
                applies.apply(&objects, &request, &plan, None, options(), &Progress::default());
            stop.store(true, Ordering::Relaxed);
            drop(applied);
        });
        assert_eq!(Model::read(&outside), within);
    }
}

#[test]
fn nothing_is_written_into_a_folder_that_was_moved_away() {
    let directory = || Node::Directory(0o755);
    let base = model(&[
        ("d", directory()),
        ("d/a", file("a")),
        ("d/b", file("b")),
        ("d/c", file("c")),
        ("d/empty", directory()),
        ("d/file", file("file")),
        ("d/folder", directory()),
        ("d/mode", file("mode")),
        ("d/sub", directory()),
    ]);
    let there = model(&[
        ("d", directory()),
        ("d/a", file("a there")),
        ("d/b", file("b there")),
        ("d/file", directory()),
        ("d/folder", file("a file now")),
        ("d/link", Node::Link(b"a".to_vec())),
        ("d/mode", Node::File(0o755, b"mode".to_vec())),
        ("d/new", file("new")),
        ("d/new-folder", directory()),
        ("d/sub", Node::Directory(0o700)),
    ]);
    let case = Case { base: base.clone(), here: base, there };
    let objects = MemoryObjects::default();
    let plan = case.plan(&objects);
    let limits = [(true, true), (true, false), (false, false)];
    for (new, exchange) in limits {
        LIMITED.set(Some(Abilities { new, exchange, link: true }));
        let mut reversed = 0;
        for after in 0.. {
            let top = folder();
            let root = top.path().join("tree");
            case.here.write(&root);
            let before = Model::read(&root.join("d"));
            let applies = Applies::new(&top.path().join("applies"));
            let request = request(&root, 9);
            let (from, away) = (root.join("d"), top.path().join("away"));
            let then = std::rc::Rc::new(std::cell::RefCell::new(Model::default()));
            let (seen, to) = (std::rc::Rc::clone(&then), away.clone());
            let move_away = move || {
                *seen.borrow_mut() = Model::read(&from);
                std::fs::rename(&from, &to).unwrap();
            };
            let is_moved = crate::apply::crash::meanwhile(after, move_away, || {
                let applied =
                    applies.apply(&objects, &request, &plan, None, options(), &Progress::default());
                drop(applied.unwrap());
            });
            if !is_moved {
                break;
            }
            // What was written by then is there; what was on its way may have gone back.
            let (then, now) = (then.borrow(), Model::read(&away));
            let paths: std::collections::BTreeSet<_> = then.0.keys().chain(now.0.keys()).collect();
            let other: Vec<_> = paths
                .into_iter()
                .filter(|path| then.0.get(*path) != now.0.get(*path))
                .map(|path| (path, now.0.get(path) == before.0.get(path)))
                .collect();
            let told = || format!("{new} {exchange} {after}: {then:?}\n{now:?}");
            assert!(other.len() <= 1 && other.iter().all(|(_, is_back)| *is_back), "{}", told());
            reversed += other.len();
        }
        assert!(reversed > 5, "{reversed}");
    }
    LIMITED.set(None);
}

/// Applies a case to a folder that has more in it than the trees say.
fn apply_with(case: &Case, more: &[(&str, &str)]) -> (tempfile::TempDir, Plan, Applied) {
    let objects = MemoryObjects::default();
    let plan = case.plan(&objects);
    let top = folder();
    let root = top.path().join("tree");
    case.here.write(&root);
    for (path, content) in more {
        std::fs::write(root.join(path), content).unwrap();
    }
    let applies = Applies::new(&top.path().join("applies"));
    let request = request(&root, 9);
    let applied =
        applies.apply(&objects, &request, &plan, None, options(), &Progress::default()).unwrap();
    (top, plan, applied)
}

#[test]
fn what_no_snapshot_has_stays_where_it_is() {
    let base = model(&[
        ("gone", Node::Directory(0o755)),
        ("gone/file", file("1")),
        ("turned", Node::Directory(0o755)),
        ("turned/file", file("1")),
    ]);
    let there = model(&[("added", file("there")), ("turned", file("a file now"))]);
    let case = Case { base: base.clone(), here: base, there };
    let more = [("gone/.env", "mine"), ("turned/.env", "mine"), ("added", "mine")];
    let (top, plan, applied) = apply_with(&case, &more);
    let root = top.path().join("tree");
    for (path, content) in more {
        assert_eq!(std::fs::read_to_string(root.join(path)).unwrap(), content, "{path}");
    }
    // Of what is below a conflict nothing was taken away either.
    assert!(root.join("turned/file").exists() && !root.join("gone/file").exists());
    let done: Vec<_> = plan
        .steps
        .iter()
        .zip(applied.done)
        .map(|(step, done)| (step.path.display().into_owned(), done))
        .collect();
    let expected = [
        ("added", Done::Changed),
        ("gone", Done::NotEmpty),
        ("gone/file", Done::Made),
        ("turned", Done::NotEmpty),
        ("turned/file", Done::Blocked),
    ];
    assert_eq!(done, expected.map(|(path, done)| (path.to_owned(), done)));
}

#[test]
fn what_is_held_back_from_the_safety_copy_is_a_conflict() {
    let base = model(&[("key", file("1")), ("other", file("1"))]);
    let here = model(&[("other", file("1"))]);
    let there = model(&[("key", file("2")), ("other", file("2"))]);
    let objects = MemoryObjects::default();
    let [base, here, there] = [&base, &here, &there].map(|model| model.store(&objects));
    let path = RelPath::new(b"key").unwrap();
    let not_sealed = vec![Omission { path, reason: OmitReason::Secret }];
    let options = PlanOptions { not_sealed, ..PlanOptions::default() };
    let plan =
        plan(&objects, &Trees { base, here, there }, &options, &Progress::default()).unwrap();
    let told: Vec<_> = plan.actions.iter().map(|action| &action.outcome).collect();
    assert_eq!(told, [&Outcome::Conflict(Clash::NotSealed), &Outcome::Taken]);
    assert_eq!(plan.steps.len(), 1);
}

fn planned(objects: &MemoryObjects, base: Root, there: Root) -> Result<Plan, ApplyError> {
    let trees = Trees { base, here: base, there };
    plan(objects, &trees, &PlanOptions::default(), &Progress::default())
}

#[test]
fn names_that_could_reach_gits_folder_are_refused_by_name() {
    let objects = MemoryObjects::default();
    let base = model(&[("a", file("1"))]).store(&objects);
    for name in
        [".git", ".GIT", ".git.", ".git ", "git~1", ".g\u{200c}it", ".git::$INDEX_ALLOCATION"]
    {
        for path in [name.to_owned(), format!("deep/{name}"), format!("{name}/hooks")] {
            let mut nodes = vec![("a".to_owned(), file("1"))];
            if let Some((above, _)) = path.rsplit_once('/') {
                nodes.push((above.to_owned(), Node::Directory(0o755)));
            }
            nodes.push((path.clone(), file("evil")));
            let nodes: Vec<_> =
                nodes.iter().map(|(path, node)| (path.as_str(), node.clone())).collect();
            let there = model(&nodes).store(&objects);
            let refused = planned(&objects, base, there).unwrap_err();
            assert!(matches!(refused, ApplyError::GitName { .. }), "{path}: {refused}");
        }
    }
}

#[test]
fn what_another_apply_has_kept_is_not_brought_in() {
    let objects = MemoryObjects::default();
    let base = model(&[("a", file("1"))]).store(&objects);
    let shelf = format!(".baton-apply-{}", "0".repeat(32));
    let there = model(&[
        (&shelf, Node::Directory(0o755)),
        (&format!("{shelf}/out"), file("1")),
        ("a", file("2")),
    ]);
    let there = there.store(&objects);
    for (base, there) in [(base, there), (there, base)] {
        let plan = planned(&objects, base, there).unwrap();
        let steps: Vec<_> = plan.steps.iter().map(|step| step.path.display()).collect();
        assert_eq!((steps, plan.actions.len()), (vec!["a".into()], 1));
    }
}

#[test]
fn a_tree_that_grows_without_end_is_refused_and_a_plan_can_be_called_off() {
    let objects = MemoryObjects::default();
    let put = |_, _: &Tree, bytes: Vec<u8>| objects.put(ObjectKind::Tree, &bytes).map(drop);
    let base = model(&[]).store(&objects);
    let mut tree = base.tree;
    for _ in 0..6 {
        let entry = |number: u8| Entry {
            name: vec![b'a' + number],
            kind: EntryKind::Directory { mode: 0o755, tree, below: TreeSums::default() },
        };
        tree = build_tree((0..20).map(entry).collect(), put).unwrap().0;
    }
    // Or a file that would be larger than any.
    let content = Content::Manifest(ManifestId::from_bytes([1; 32]));
    let kind = EntryKind::File { mode: 0o644, blob: Blob { size: 1 << 51, content } };
    let (large, _) = build_tree(vec![Entry { name: b"large".to_vec(), kind }], put).unwrap();
    for tree in [tree, large] {
        let refused = planned(&objects, base, Root { tree, mode: 0o755 }).unwrap_err();
        assert!(matches!(refused, ApplyError::Store(StoreError::TooMany { .. })), "{refused}");
    }
    let there = Root { tree, mode: 0o755 };
    let progress = Progress::default();
    progress.cancel();
    let trees = Trees { base, here: base, there };
    let stopped = plan(&objects, &trees, &PlanOptions::default(), &progress).unwrap_err();
    assert!(matches!(stopped, ApplyError::Cancelled));
}

#[test]
fn the_cost_of_a_plan_follows_what_differs() {
    let objects = MemoryObjects::default();
    let mut base = Model::default();
    for number in 0..200 {
        let folder = format!("{number:03}").into_bytes();
        base.0.insert(folder.clone(), Node::Directory(0o755));
        base.0.insert([&folder[..], b"/file"].concat(), file(&number.to_string()));
    }
    let mut there = base.clone();
    there.0.insert(b"007/file".to_vec(), file("changed"));
    let (base, there) = (base.store(&objects), there.store(&objects));
    // All but the folders that are looked into are gone from the store.
    let kept: Vec<_> = {
        let plan = planned(&objects, base, there).unwrap();
        assert_eq!(plan.steps.len(), 1);
        let map = objects.0.lock().unwrap();
        map.keys().copied().collect()
    };
    let mut needed = 0;
    for id in kept {
        let bytes = objects.0.lock().unwrap().remove(&id).unwrap();
        if planned(&objects, base, there).is_err() {
            needed += 1;
            objects.0.lock().unwrap().insert(id, bytes);
        }
    }
    assert_eq!(needed, 4, "two roots, and one folder of each");
}

#[test]
fn a_store_that_lacks_something_changes_nothing() {
    let base = model(&[("a", file("1")), ("b", file("1"))]);
    let there = model(&[("a", file("2")), ("b", file("3")), ("new", file("4"))]);
    let case = Case { base: base.clone(), here: base, there };
    let objects = MemoryObjects::default();
    let plan = case.plan(&objects);
    let lost = plan.steps[1].to.unwrap().content().unwrap();
    objects.0.lock().unwrap().remove(&lost);
    let top = folder();
    let root = top.path().join("tree");
    case.here.write(&root);
    let applies = Applies::new(&top.path().join("applies"));
    let request = request(&root, 9);
    let failed = applies
        .apply(&objects, &request, &plan, None, options(), &Progress::default())
        .unwrap_err();
    assert!(!matches!(failed, ApplyError::Interrupted { .. }), "{failed}");
    assert_eq!(Model::read(&root), case.here);
    assert!(applies.list().unwrap().is_empty());
    assert_eq!(crate::fs::list_dir(&top.path().join("applies")).unwrap(), [""; 0]);
}

#[test]
fn what_gets_another_name_for_the_same_file_is_not_taken_away() {
    let base = model(&[
        ("Lib", Node::Directory(0o755)),
        ("Lib/x", file("x")),
        ("readme", file("1")),
        ("same", file("same")),
    ]);
    let there = model(&[
        ("README", file("2")),
        ("lib", Node::Directory(0o755)),
        ("lib/new", file("new")),
        ("lib/x", file("x")),
        ("SAME", file("same")),
        ("other", file("other")),
    ]);
    let case = Case { base: base.clone(), here: base, there };
    let objects = MemoryObjects::default();
    let plan = case.plan(&objects);
    let top = folder();
    let root = top.path().join("tree");
    case.here.write(&root);
    // A second name is what a file system that does not tell case would show under the new one.
    for (path, name) in [("readme", "README"), ("same", "SAME")] {
        std::fs::hard_link(root.join(path), root.join(name)).unwrap();
    }
    std::fs::create_dir(root.join("lib")).unwrap();
    std::fs::hard_link(root.join("Lib/x"), root.join("lib/x")).unwrap();
    let applies = Applies::new(&top.path().join("applies"));
    let request = request(&root, 9);
    let applied =
        applies.apply(&objects, &request, &plan, None, options(), &Progress::default()).unwrap();
    let done: Vec<_> = plan
        .steps
        .iter()
        .zip(applied.done)
        .map(|(step, done)| (step.path.display().into_owned(), done))
        .collect();
    let expected = [
        ("Lib", Done::NotEmpty),
        ("Lib/x", Done::NotCarried),
        ("README", Done::NotCarried),
        ("SAME", Done::NotCarried),
        ("lib", Done::Found),
        ("lib/new", Done::Made),
        ("lib/x", Done::NotCarried),
        ("other", Done::Made),
        ("readme", Done::NotCarried),
        ("same", Done::NotCarried),
    ];
    assert_eq!(done, expected.map(|(path, done)| (path.to_owned(), done)));
    for (path, text) in [("Lib/x", "x"), ("readme", "1"), ("same", "same"), ("other", "other")] {
        assert_eq!(std::fs::read_to_string(root.join(path)).unwrap(), text);
    }
}

/// A small disk of its own; nothing where this user may not mount one.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn at(folder: &Path, size: &str) -> Option<Self> {
        std::fs::create_dir_all(folder).unwrap();
        let mut mount = std::process::Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={size},mode=0700"), "tmpfs"]).arg(folder);
        let is_mounted = rustix::process::geteuid().is_root()
            && mount.output().is_ok_and(|output| output.status.success());
        is_mounted.then(|| Self(folder.to_owned()))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let umount = std::process::Command::new("umount").arg("--lazy").arg(&self.0).status();
        drop(umount);
    }
}

#[test]
fn a_full_disk_stops_it_before_the_first_write() {
    let top = tempfile::tempdir().unwrap();
    let Some(disk) = SmallDisk::at(&top.path().join("disk"), "300k") else { return };
    let base = model(&[("a", file("1"))]);
    let large = "0123456789abcde\n".repeat(40_000);
    let there = model(&[("a", file("2")), ("large", file(&large))]);
    let case = Case { base: base.clone(), here: base, there };
    let objects = MemoryObjects::default();
    let plan = case.plan(&objects);
    let root = disk.0.join("tree");
    case.here.write(&root);
    let applies = Applies::new(&top.path().join("applies"));
    let apply = |plan: &Plan, number| {
        let request = request(&root, number);
        applies.apply(&objects, &request, plan, None, options(), &Progress::default())
    };
    let failed = apply(&plan, 9).unwrap_err();
    assert!(failed.is_disk_full(), "{failed:?}");
    assert_eq!(Model::read(&root), case.here);
    // Beside the checkout nothing is left.
    assert_eq!(crate::fs::list_dir(&disk.0).unwrap(), ["tree"]);
    // What fits goes there: the shelf is on the disk of the checkout.
    let small = Plan { steps: plan.steps[..1].to_vec(), ..Plan::default() };
    let applied = apply(&small, 10).unwrap();
    assert!(applied.shelf.unwrap().starts_with(&disk.0));
    applies.undo(&objects, applied.id.unwrap(), &root).unwrap();
    assert_eq!(Model::read(&root), case.here);
    applies.purge(u64::MAX).unwrap();
    assert_eq!(crate::fs::list_dir(&disk.0).unwrap(), ["tree"]);
}

#[test]
fn where_the_checkout_is_a_mount_point_the_shelf_is_in_it_and_git_ignores_it() {
    let top = tempfile::tempdir().unwrap();
    let Some(disk) = SmallDisk::at(&top.path().join("disk"), "300k") else { return };
    let base = model(&[("a", file("1"))]);
    let there = model(&[("a", file("2"))]);
    let case = Case { base: base.clone(), here: base, there };
    let objects = MemoryObjects::default();
    let plan = case.plan(&objects);
    case.here.write(&disk.0);
    let applies = Applies::new(&top.path().join("applies"));
    let request = request(&disk.0, 9);
    let applied =
        applies.apply(&objects, &request, &plan, None, options(), &Progress::default()).unwrap();
    let shelf = applied.shelf.unwrap();
    let area = shelf.parent().unwrap();
    assert_eq!(area.parent().unwrap(), disk.0);
    assert_eq!(std::fs::read(area.join(".gitignore")).unwrap(), b"*\n");
    assert_eq!(std::fs::read(shelf.join("0")).unwrap(), b"1");
    assert_eq!(std::fs::read(area.join("paths")).unwrap(), b"0\ta\n");
    applies.purge(u64::MAX).unwrap();
    assert!(!area.exists());
    assert!(applies.list().unwrap().is_empty());
}

#[test]
fn one_apply_to_a_workspace_at_a_time_and_a_damaged_record_is_refused() {
    let top = folder();
    let applies = Applies::new(&top.path().join("applies"));
    let lock = applies.lock(workspace()).unwrap();
    assert!(matches!(applies.lock(workspace()), Err(ApplyError::Locked)));
    let other = WorkspaceId::from_bytes([8; 16]);
    drop(applies.lock(other).unwrap());
    drop(lock);
    drop(applies.lock(workspace()).unwrap());

    let base = model(&[("a", file("1"))]);
    let case = Case { base: base.clone(), here: base, there: model(&[("a", file("2"))]) };
    let objects = MemoryObjects::default();
    let plan = case.plan(&objects);
    let root = top.path().join("tree");
    case.here.write(&root);
    let request = request(&root, 9);
    let apply = || applies.apply(&objects, &request, &plan, None, options(), &Progress::default());
    let id = apply().unwrap().id.unwrap();
    let path = top.path().join("applies").join(id.to_string()).join("plan");
    let whole = std::fs::read(&path).unwrap();
    for at in (0..whole.len()).step_by(7) {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x10;
        std::fs::write(&path, &damaged).unwrap();
        let refused = applies.undo(&objects, id, &root).unwrap_err();
        assert!(matches!(refused, ApplyError::Store(StoreError::Damaged { .. })), "{refused}");
        assert!(applies.list().unwrap().is_empty());
    }
    std::fs::write(&path, &whole).unwrap();
    applies.undo(&objects, id, &root).unwrap();
    assert_eq!(Model::read(&root), case.here);
}

#[test]
fn git_at_work_stops_it_before_the_first_write() {
    let base = model(&[("a", file("1"))]);
    let case = Case { base: base.clone(), here: base, there: model(&[("a", file("2"))]) };
    let objects = MemoryObjects::default();
    let plan = case.plan(&objects);
    let top = folder();
    let root = top.path().join("tree");
    case.here.write(&root);
    let git = top.path().join("elsewhere");
    std::fs::create_dir_all(&git).unwrap();
    let linked = format!("gitdir: {}\n", git.display());
    for link in [false, true] {
        let dot_git = root.join(".git");
        let folder = if link {
            std::fs::remove_dir_all(&dot_git).unwrap();
            std::fs::write(&dot_git, &linked).unwrap();
            git.clone()
        } else {
            std::fs::create_dir(&dot_git).unwrap();
            dot_git
        };
        for name in ["index.lock", "MERGE_HEAD", "rebase-merge", "rebase-apply", "CHERRY_PICK_HEAD"]
        {
            std::fs::create_dir(folder.join(name)).unwrap();
            let applies = Applies::new(&top.path().join("applies"));
            let request = request(&root, 9);
            let refused = applies
                .apply(&objects, &request, &plan, None, options(), &Progress::default())
                .unwrap_err();
            assert!(matches!(refused, ApplyError::GitBusy { .. }), "{refused}");
            std::fs::remove_dir(folder.join(name)).unwrap();
        }
        assert_eq!(std::fs::read(root.join("a")).unwrap(), b"1");
    }
}

#[test]
fn what_a_build_made_there_is_left_out_unless_it_is_named() {
    let base = model(&[
        (".gitignore", file("target/\n*.log\n")),
        ("kept.log", file("tracked\n")),
        ("src", Node::Directory(0o755)),
        ("src/a", file("1")),
    ]);
    let mut there = base.clone();
    for (path, node) in [
        (".gitignore", file("target/\n*.log\ndist\n")),
        ("deep", Node::Directory(0o755)),
        ("deep/target", Node::Directory(0o755)),
        ("deep/target/b", file("built")),
        ("deep/target/x", file("built")),
        ("dist", Node::Directory(0o755)),
        ("dist/x", file("built")),
        ("kept.log", file("edited\n")),
        ("src/.gitignore", file("made\n")),
        ("src/b", file("new")),
        ("src/b.log", file("noise")),
        ("src/made", file("noise")),
        ("target", Node::Directory(0o755)),
        ("target/debug", Node::Directory(0o755)),
        ("target/debug/x", file("built")),
    ] {
        there.0.insert(path.as_bytes().to_vec(), node);
    }
    let top = folder();
    let root = top.path().join("tree");
    base.write(&root);
    for args in [&["init", "-q"][..], &["add", "-f", "."]] {
        let mut git = std::process::Command::new("git");
        git.args(args).current_dir(&root).env("HOME", top.path());
        git.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1");
        assert!(git.status().unwrap().success());
    }
    let objects = MemoryObjects::default();
    let [base, there] = [&base, &there].map(|model| model.store(&objects));
    let trees = Trees { base, here: base, there };
    let told = |only: &[&str]| {
        let only = only.iter().map(|path| RelPath::new(path.as_bytes()).unwrap()).collect();
        let rules = CheckoutRules {
            root: root.clone(),
            git_user: crate::ignore::GitUser::default(),
            exclude: b"never\n".to_vec(),
        };
        let options = PlanOptions { rules: Some(rules), only, ..PlanOptions::default() };
        let plan = plan(&objects, &trees, &options, &Progress::default()).unwrap();
        let told = plan
            .actions
            .into_iter()
            .filter(|action| action.outcome != Outcome::Kept(Kept::NotAsked));
        let told = told.map(|action| (action.path.display().into_owned(), action.outcome));
        told.collect::<Vec<_>>()
    };
    let ignored = || Outcome::Kept(Kept::Ignored);
    let expected = [
        (".gitignore", Outcome::Taken),
        ("deep", Outcome::Taken),
        ("deep/target", ignored()),
        ("dist", ignored()),
        ("kept.log", Outcome::Taken),
        ("src/.gitignore", Outcome::Taken),
        ("src/b", Outcome::Taken),
        ("src/b.log", ignored()),
        ("src/made", ignored()),
        ("target", ignored()),
    ];
    assert_eq!(told(&[]), expected.map(|(path, outcome)| (path.to_owned(), outcome)));
    let named = [
        ("target", Outcome::Taken),
        ("target/debug", Outcome::Taken),
        ("target/debug/x", Outcome::Taken),
    ];
    assert_eq!(told(&["target"]), named.map(|(path, outcome)| (path.to_owned(), outcome)));
    assert_eq!(told(&["target/debug/x"]), told(&["target"]));
    assert_eq!(told(&["target/debug"]), told(&["target"]));
    // What else is in it is left out all the same, and so is what is beside it.
    let expected = [
        ("deep", Outcome::Taken),
        ("deep/target", Outcome::Taken),
        ("deep/target/b", Outcome::Kept(Kept::Ignored)),
        ("deep/target/x", Outcome::Taken),
    ];
    let both = told(&["deep", "deep/target/x"]);
    assert_eq!(both, expected.map(|(path, outcome)| (path.to_owned(), outcome)));
}

#[test]
fn what_a_snapshot_left_out_there_was_not_deleted_there() {
    let base = model(&[
        ("closed", Node::Directory(0o755)),
        ("closed/a", file("1")),
        ("gone", file("1")),
        ("key", file("1")),
    ]);
    let there = model(&[]);
    let objects = MemoryObjects::default();
    let [base, there] = [&base, &there].map(|model| model.store(&objects));
    let left_out =
        |path: &str, reason| Omission { path: RelPath::new(path.as_bytes()).unwrap(), reason };
    let not_carried =
        vec![left_out("closed", OmitReason::Unreadable), left_out("key", OmitReason::Secret)];
    let options = PlanOptions { not_carried, ..PlanOptions::default() };
    let trees = Trees { base, here: base, there };
    let plan = plan(&objects, &trees, &options, &Progress::default()).unwrap();
    let steps: Vec<_> = plan.steps.iter().map(|step| step.path.display()).collect();
    assert_eq!(steps, ["gone"]);
    let kept = |action: &&Action| action.outcome == Outcome::Kept(Kept::NotCarried);
    let told: Vec<_> = plan.actions.iter().filter(kept).map(|one| one.path.display()).collect();
    assert_eq!(told, ["closed", "closed/a", "key"]);
}

#[test]
fn what_was_put_into_a_folder_that_goes_back_is_kept() {
    let base = model(&[("d", file("old"))]);
    let there = model(&[("d", Node::Directory(0o755))]);
    let case = Case { base: base.clone(), here: base, there };
    let objects = MemoryObjects::default();
    let plan = case.plan(&objects);
    let mut looked_at = [0; 2];
    for came_out in [false, true] {
        for after in 0.. {
            let top = folder();
            let root = top.path().join("tree");
            case.here.write(&root);
            let mut editor = OpenOptions::new().append(true).open(root.join("d")).unwrap();
            let applies = Applies::new(&top.path().join("applies"));
            let request = request(&root, 9);
            let is_cut = cut_off(after, || {
                let applied =
                    applies.apply(&objects, &request, &plan, None, options(), &Progress::default());
                drop(applied.unwrap());
            });
            if !is_cut {
                break;
            }
            let new = top.path().join("applies").join(request.id.to_string()).join("area/new/0");
            if root.join("d").is_dir() && new.is_file() {
                looked_at[usize::from(came_out)] += 1;
                if came_out {
                    // It became a folder just before, so that this is what came out.
                    std::fs::remove_file(&new).unwrap();
                    std::fs::create_dir(&new).unwrap();
                    std::fs::write(new.join("x"), "of a build").unwrap();
                } else {
                    std::fs::write(root.join("d/x"), "of a build").unwrap();
                    editor.write_all(b"edited").unwrap();
                }
                applies.resume(&objects, request.id, &root).unwrap();
                let all = files(top.path());
                let texts: &[&[u8]] =
                    if came_out { &[b"of a build"] } else { &[b"of a build", b"oldedited"] };
                for text in texts {
                    assert!(
                        all.iter().any(|(_, bytes)| bytes == text),
                        "{after} {text:?}: {all:?}"
                    );
                }
            }
        }
    }
    assert!(looked_at.iter().all(|count| *count > 0), "{looked_at:?}");
}

#[test]
fn what_others_made_after_a_crash_is_theirs_and_what_is_held_back_stays_told() {
    let objects = MemoryObjects::default();
    let apply = |case: &Case, top: &Path, after| {
        let plan = case.plan(&objects);
        let root = top.join("tree");
        case.here.write(&root);
        let applies = Applies::new(&top.join("applies"));
        let request = request(&root, 9);
        let is_cut = cut_off(after, || {
            drop(
                applies
                    .apply(&objects, &request, &plan, None, options(), &Progress::default())
                    .unwrap(),
            );
        });
        (applies, root, request.id, is_cut)
    };
    // The user makes the same file, or folder, before it is gone on with.
    let there = model(&[("d", Node::Directory(0o700)), ("n", file("new"))]);
    let case = Case { base: model(&[]), here: model(&[]), there };
    let mut seen = 0;
    for after in 0.. {
        let top = folder();
        let (applies, root, id, is_cut) = apply(&case, top.path(), after);
        if !is_cut {
            break;
        }
        let is_begun = applies.list().unwrap().iter().any(|known| known.stage == Stage::Begun);
        if !is_begun || root.join("n").exists() || root.join("d").exists() {
            continue;
        }
        seen += 1;
        case.there.write(&root);
        applies.resume(&objects, id, &root).unwrap();
        applies.undo(&objects, id, &root).unwrap();
        assert_eq!(Model::read(&root), case.there, "cut after {after}");
    }
    assert!(seen > 0);

    // An undo that was cut off tells what it left, too.
    let here = model(&[("d", file("1")), ("e", file("1"))]);
    let there = model(&[("d", Node::Directory(0o755)), ("d/x", file("2")), ("e", file("2"))]);
    let case = Case { base: here.clone(), here, there };
    let mut told = 0;
    for after in 0.. {
        let top = folder();
        let (applies, root, id, _) = apply(&case, top.path(), u64::MAX);
        std::fs::write(root.join("d/mine"), "mine").unwrap();
        let is_cut = cut_off(after, || drop(applies.undo(&objects, id, &root).unwrap()));
        let stage = applies.list().unwrap()[0].stage;
        if is_cut && stage != Stage::Undone {
            let kept = applies.undo(&objects, id, &root).unwrap().kept;
            let kept: Vec<_> =
                kept.into_iter().map(|(path, done)| (path.display().into_owned(), done)).collect();
            let expected = [("d", Done::NotEmpty), ("d/x", Done::Blocked)];
            assert_eq!(kept, expected.map(|(path, done)| (path.to_owned(), done)));
            told += usize::from(stage == Stage::Undoing);
        }
        assert_eq!(std::fs::read_to_string(root.join("d/mine")).unwrap(), "mine");
        if !is_cut {
            break;
        }
    }
    assert!(told > 0);
}

/// At whatever moment somebody saves a file that is to be replaced: what they saved is in its place, and the step says so.
#[test]
fn what_is_saved_meanwhile_stays_in_its_place() {
    let base = model(&[("file", file("base")), ("gone", file("base")), ("other", file("1"))]);
    let there = model(&[("file", file("there")), ("other", file("2"))]);
    let case = Case { base: base.clone(), here: base, there };
    let objects = MemoryObjects::default();
    let plan = case.plan(&objects);
    for (new, exchange) in [(true, true), (true, false), (false, false)] {
        LIMITED.set(Some(Abilities { new, exchange, link: true }));
        let mut held = 0;
        for name in ["file", "gone"] {
            for after in 0.. {
                let top = folder();
                let root = top.path().join("tree");
                case.here.write(&root);
                let (mine, place) = (top.path().join("mine"), root.join(name));
                std::fs::write(&mine, "mine").unwrap();
                let save = move || std::fs::rename(&mine, &place).unwrap();
                let applies = Applies::new(&top.path().join("applies"));
                let mut applied = None;
                let is_saved = crate::apply::crash::meanwhile(after, save, || {
                    let request = request(&root, 9);
                    let progress = Progress::default();
                    let done = applies.apply(&objects, &request, &plan, None, options(), &progress);
                    applied = Some(done.unwrap());
                });
                if !is_saved {
                    break;
                }
                let told = || format!("{new} {exchange} {name} {after}: {applied:?}");
                let now = std::fs::read_to_string(root.join(name));
                assert_eq!(now.ok().as_deref(), Some("mine"), "{}", told());
                assert_eq!(std::fs::read_to_string(root.join("other")).unwrap(), "2", "{}", told());
                let at = plan.steps.iter().position(|step| step.path.as_bytes() == name.as_bytes());
                let done = applied.as_ref().unwrap().done[at.unwrap()];
                // It was saved before or after its step.
                held += usize::from(!done.is_so());
            }
        }
        assert!(held > 3, "{new} {exchange}: {held}");
    }
    LIMITED.set(None);
}

/// A link that stands where a closed folder was: what it leads to is not opened for the apply.
#[test]
fn permissions_behind_a_link_are_nobodys_to_change() {
    use std::os::unix::fs::PermissionsExt;
    let tree = |content| {
        model(&[
            ("closed", Node::Directory(0o500)),
            ("closed/file", file(content)),
            ("closed/sub", Node::Directory(0o500)),
            ("closed/sub/file", file(content)),
        ])
    };
    let case = Case { base: tree("1"), here: tree("1"), there: tree("2") };
    let objects = MemoryObjects::default();
    let plan = case.plan(&objects);
    let top = folder();
    let (root, outside) = (top.path().join("tree"), top.path().join("outside"));
    std::fs::create_dir(&root).unwrap();
    std::fs::create_dir_all(outside.join("sub")).unwrap();
    for name in ["file", "sub/file"] {
        std::fs::write(outside.join(name), "1").unwrap();
    }
    let closed = |name: &str| {
        let closed = std::fs::Permissions::from_mode(0o500);
        std::fs::set_permissions(outside.join(name), closed).unwrap();
    };
    closed("sub");
    closed("");
    std::os::unix::fs::symlink(&outside, root.join("closed")).unwrap();
    let applies = Applies::new(&top.path().join("applies"));
    let request = request(&root, 9);
    let applied = applies.apply(&objects, &request, &plan, None, options(), &Progress::default());
    for name in ["", "sub"] {
        let mode = std::fs::metadata(outside.join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o500, "{name:?}: {applied:?}");
    }
    for name in ["file", "sub/file"] {
        assert_eq!(std::fs::read_to_string(outside.join(name)).unwrap(), "1");
    }
    assert!(applied.unwrap().done.iter().all(|done| !done.is_so()));
}
