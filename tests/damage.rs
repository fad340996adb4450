//! Damage is noticed, named, and costs nothing that is whole elsewhere; what cannot be done is refused
//! before anything is changed.

#![expect(clippy::disallowed_methods, reason = "a test has the file system itself")]

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::support::cloud::{Cloud, arg, list, refused, text};
use crate::support::home::{TestHome, eventually, run};
use crate::support::rng::Rng;
use crate::support::walker::{Listing, differences, walk};

/// Exit code of `check` where it finds damage.
const DAMAGE: i32 = 5;

fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-a").arg(from).arg(to).status();
    assert!(copied.unwrap().success());
}

/// Files of a home's state, by the folder they are in.
fn files(home: &TestHome, folder: &str) -> Vec<PathBuf> {
    let pattern = home.baton_home().join("store");
    let vaults =
        || std::fs::read_dir(pattern.join("vaults")).unwrap().map(|vault| vault.unwrap().path());
    let folders: Vec<PathBuf> = match folder {
        "journal" => vec![pattern.join("journal")],
        "cache" => vec![home.baton_home().join("cache")],
        "" => return vaults().map(|vault| vault.join("index.db")).collect(),
        class => vaults().map(|vault| vault.join(class)).collect(),
    };
    let mut found: Vec<PathBuf> = folders
        .iter()
        .flat_map(|folder| std::fs::read_dir(folder).unwrap())
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_file())
        .collect();
    found.sort();
    found
}

/// What happens to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Harm {
    /// Loses its last bytes.
    Shortened(u64),
    /// Loses its second half.
    Halved,
    /// One bit is another, so far from its start in thousandths.
    Flipped(u64),
    /// Is something else.
    Garbage,
    /// Is gone.
    Gone,
}

impl Harm {
    fn to(self, path: &Path) {
        let mut bytes = std::fs::read(path).unwrap();
        assert!(bytes.len() > 64, "{} holds nothing", path.display());
        let len = bytes.len();
        match self {
            Self::Shortened(by) => bytes.truncate(len - by as usize),
            Self::Halved => bytes.truncate(len / 2),
            Self::Flipped(at) => bytes[(len - 1) * at as usize / 1000] ^= 1,
            Self::Garbage => Rng::new(3).fill(&mut bytes),
            Self::Gone => return std::fs::remove_file(path).unwrap(),
        }
        std::fs::write(path, bytes).unwrap();
    }
}

/// A tree of which the node has two snapshots: one that went to segments, one that is in the journal.
struct Scene {
    cloud: Cloud,
    here: TestHome,
    there: TestHome,
    tree: PathBuf,
    snapshots: [(String, Listing); 2],
}

impl Scene {
    fn new() -> Self {
        let cloud = Cloud::new();
        let (here, there) = (cloud.device(), cloud.device());
        let tree = here.folder("work");
        let mut rng = Rng::new(7);
        std::fs::write(tree.join("large"), rng.bytes(3 << 20)).unwrap();
        for at in 0..40 {
            let folder = tree.join(format!("folder-{}", at % 4));
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(folder.join(format!("file-{at}")), rng.bytes(20_000)).unwrap();
        }
        let first = push(&here, &tree);
        let before = walk(&tree);
        std::fs::write(tree.join("folder-1/file-1"), "changed\n").unwrap();
        let second = push(&here, &tree);
        let snapshots = [(first, before), (second, walk(&tree))];
        Self { cloud, here, there, tree, snapshots }
    }

    /// Restores into a new folder: the tree that was kept, or a clear failure and nothing at all.
    /// Returns whether it came.
    fn restores(&self, home: &TestHome, at: usize, what: &str) -> bool {
        let (snapshot, listing) = &self.snapshots[at];
        restores(home, snapshot, listing, what)
    }

    /// What the node has is not touched by what happened to this home.
    fn is_whole_elsewhere(&self, what: &str) {
        let fresh = self.cloud.device();
        assert!(self.restores(&fresh, 0, what) && self.restores(&fresh, 1, what), "{what}");
    }
}

fn push(home: &TestHome, tree: &Path) -> String {
    let pushed = home.json(&["push", arg(tree)]);
    assert_eq!(text(&pushed, "state"), "acked");
    text(&pushed, "snapshot").to_owned()
}

/// `baton … --json`, and how it ended.
fn ask(home: &TestHome, args: &[&str]) -> (i32, Value) {
    let mut command = home.command();
    command.args(args).arg("--json");
    let output = run(command, std::time::Duration::from_mins(1));
    let answer = serde_json::from_slice(&output.stdout);
    let answer = answer.unwrap_or_else(|error| panic!("{args:?}: {error}: {output:?}"));
    (output.status.code().unwrap(), answer)
}

/// A failure that says what, why and what to do.
fn is_clear(code: i32, answer: &Value, what: &str) {
    assert_eq!(code, 1, "{what}: {answer}");
    for field in ["code", "message", "hint"] {
        let said = answer["error"][field].as_str().unwrap_or_default();
        assert!(!said.is_empty(), "{what}: no {field}: {answer}");
    }
}

fn restores(home: &TestHome, snapshot: &str, listing: &Listing, what: &str) -> bool {
    let folder = tempfile::tempdir().unwrap();
    let into = folder.path().join("restored");
    let (code, answer) = ask(home, &["restore", snapshot, "--into", arg(&into)]);
    if code == 0 {
        assert_eq!(differences(listing, &walk(&into), &[]), [""; 0], "{what}");
        return true;
    }
    is_clear(code, &answer, what);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "{what}: something was left");
    false
}

/// `check`, with what it found.
fn problems(home: &TestHome, args: &[&str], what: &str) -> usize {
    let (code, answer) = ask(home, &[&["check"], args].concat());
    let count = list(&answer, "problems").len();
    assert_eq!(code, if count == 0 { 0 } else { DAMAGE }, "{what}: {answer}");
    count
}

/// What a damaged file means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meaning {
    /// It can be computed again.
    Nothing,
    /// The same, and it may take a restart.
    Doubt,
    /// `check --data` finds it.
    Damage,
    /// `check` finds it without reading everything.
    Loss,
}

use Harm::{Flipped, Garbage, Gone, Halved, Shortened};
use Meaning::{Damage, Doubt, Loss, Nothing};

const CASES: [(&str, Harm, Meaning); 20] = [
    ("cache", Garbage, Nothing),
    ("cache", Halved, Nothing),
    ("cache", Flipped(500), Nothing),
    ("cache", Gone, Nothing),
    ("", Garbage, Nothing),
    ("", Halved, Nothing),
    ("", Flipped(0), Nothing),
    ("", Flipped(300), Doubt),
    ("", Flipped(500), Doubt),
    ("", Flipped(700), Doubt),
    ("", Gone, Nothing),
    ("journal", Shortened(10), Damage),
    ("journal", Flipped(990), Damage),
    ("journal", Flipped(50), Damage),
    ("data", Flipped(500), Damage),
    ("data", Halved, Loss),
    ("data", Gone, Loss),
    ("meta", Flipped(500), Loss),
    ("meta", Halved, Loss),
    ("meta", Gone, Loss),
];

/// Harms every file of this kind that holds something.
fn harm(home: &TestHome, folder: &str, harm: Harm) {
    let mut count = 0;
    for file in files(home, folder) {
        if std::fs::metadata(&file).unwrap().len() > 1000 || folder == "cache" {
            harm.to(&file);
            count += 1;
        }
    }
    assert!(count > 0, "nothing of {folder:?} to harm in {}", home.root().display());
}

fn looks_as_expected(home: &TestHome, meaning: Meaning, what: &str) {
    let quick = problems(home, &[], what);
    let thorough = problems(home, &["--data"], what);
    match meaning {
        Nothing => assert_eq!((quick, thorough), (0, 0), "{what}"),
        Doubt => {}
        Damage => assert!(thorough > 0, "{what} is not noticed"),
        Loss => assert!(quick > 0 && thorough > 0, "{what} is not noticed: {quick} {thorough}"),
    }
}

/// What was lost came back with the next push: the tree that was pushed, and all that was before.
fn is_healed(scene: &Scene, home: &TestHome, round: usize, what: &str) {
    let Scene { here, tree, .. } = scene;
    std::fs::write(tree.join("folder-1/file-1"), format!("round {round}\n")).unwrap();
    let (code, pushed) = ask(here, &["push", arg(tree)]);
    assert_eq!(code, 0, "{what}: {pushed}");
    let delivered = restores(home, text(&pushed, "snapshot"), &walk(tree), what);
    assert!(delivered, "{what}: acknowledged and not to be had");
}

#[test]
fn damage_here_is_found_and_work_goes_on() {
    let scene = Scene::new();
    let Scene { here, there, .. } = &scene;
    assert!(here.baton(&["daemon", "stop"]).status.success());
    let saved = here.root().join("saved");
    copy(&here.baton_home(), &saved);
    for (round, (folder, kind, meaning)) in CASES.into_iter().enumerate() {
        let what = format!("{folder:?} {kind:?}");
        harm(here, folder, kind);
        looks_as_expected(here, meaning, &what);
        let came = [scene.restores(here, 0, &what), scene.restores(here, 1, &what)];
        // What is not here comes from the node.
        if meaning == Nothing {
            assert_eq!(came, [true; 2], "{what}");
        }
        here.baton(&["daemon", "stop"]);
        if meaning == Doubt {
            looks_as_expected(here, Nothing, &what);
        }
        is_healed(&scene, there, round, &what);
        let came = [scene.restores(here, 0, &what), scene.restores(here, 1, &what)];
        assert_eq!(came, [true; 2], "{what}");

        assert!(here.baton(&["daemon", "stop"]).status.success());
        std::fs::remove_dir_all(here.baton_home()).unwrap();
        copy(&saved, &here.baton_home());
    }
    scene.is_whole_elsewhere("after all");
    assert_eq!(problems(&scene.cloud.home, &["--data"], "the node"), 0);
}

#[test]
fn damage_on_the_node_is_found_and_nothing_wrong_is_ever_delivered() {
    let mut scene = Scene::new();
    let address = scene.cloud.stop();
    let saved = scene.cloud.home.root().join("saved");
    copy(&scene.cloud.home.baton_home(), &saved);
    for (round, (folder, kind, meaning)) in CASES.into_iter().enumerate() {
        if folder == "cache" {
            continue;
        }
        let what = format!("{folder:?} {kind:?}");
        harm(&scene.cloud.home, folder, kind);
        scene.cloud.start(address);
        looks_as_expected(&scene.cloud.home, meaning, &what);
        let fresh = scene.cloud.device();
        let came = [scene.restores(&fresh, 0, &what), scene.restores(&fresh, 1, &what)];
        if meaning == Nothing {
            assert_eq!(came, [true; 2], "{what}");
        }
        let kept = [scene.restores(&scene.here, 0, &what), scene.restores(&scene.here, 1, &what)];
        assert_eq!(kept, [true; 2], "{what}");
        scene.cloud.stop();
        scene.cloud.start(address);
        if meaning == Doubt {
            looks_as_expected(&scene.cloud.home, Nothing, &what);
        }
        is_healed(&scene, &fresh, round, &what);

        scene.cloud.stop();
        std::fs::remove_dir_all(scene.cloud.home.baton_home()).unwrap();
        copy(&saved, &scene.cloud.home.baton_home());
    }
    scene.cloud.start(address);
    scene.is_whole_elsewhere("put back");
}

/// What `doctor` says of damage in the stores.
fn damage_in_doctor(home: &TestHome) -> Value {
    let (_, answer) = ask(home, &["doctor"]);
    list(&answer, "checks").iter().find(|check| check["name"] == "damage").unwrap().clone()
}

#[test]
fn what_is_damaged_here_is_repaired_from_the_node() {
    let mut scene = Scene::new();
    assert!(scene.here.baton(&["daemon", "stop"]).status.success());
    for (folder, kind) in [("data", Flipped(500)), ("meta", Flipped(500))] {
        harm(&scene.here, folder, kind);
    }
    assert!(problems(&scene.here, &["--data"], "before") > 0);
    assert!(!list(&ask(&scene.here, &["status"]).1, "damage").is_empty());
    let told = scene.here.baton(&["status"]);
    assert!(String::from_utf8_lossy(&told.stdout).contains("fix: baton repair"), "{told:?}");
    assert_eq!(damage_in_doctor(&scene.here)["fix"], "baton repair");
    let (code, answer) = ask(&scene.here, &["repair"]);
    assert_eq!((code, list(&answer, "problems").len()), (0, 0), "{answer}");
    assert!(!list(&answer, "fetched").is_empty() && !list(&answer, "found").is_empty(), "{answer}");
    let quarantine = std::fs::read_dir(text(&answer, "quarantine")).unwrap();
    assert!(quarantine.count() >= 2, "damaged segments are kept: {answer}");
    assert_eq!(problems(&scene.here, &["--data"], "after"), 0);
    assert_eq!(list(&ask(&scene.here, &["status"]).1, "damage").len(), 0);
    assert_eq!(damage_in_doctor(&scene.here)["ok"], true);
    let (code, again) = ask(&scene.here, &["repair"]);
    assert_eq!((code, list(&again, "found").len()), (0, 0), "{again}");
    // All of it is here.
    scene.cloud.stop();
    assert!(
        scene.restores(&scene.here, 0, "repaired") && scene.restores(&scene.here, 1, "repaired")
    );
}

#[test]
fn what_is_lost_on_a_node_is_named_and_comes_back_with_a_push() {
    let mut scene = Scene::new();
    let address = scene.cloud.stop();
    harm(&scene.cloud.home, "data", Flipped(500));
    scene.cloud.start(address);
    for round in ["once", "twice"] {
        let (code, answer) = ask(&scene.cloud.home, &["repair"]);
        assert_eq!(code, DAMAGE, "{round}: {answer}");
        let lost = &list(&answer, "problems")[0];
        let known = scene.snapshots.iter().any(|(id, _)| lost["snapshot"] == **id);
        assert!(known && !text(lost, "next").is_empty(), "{round}: {answer}");
        // It is named for as long as it is lost.
        assert!(problems(&scene.cloud.home, &[], round) > 0);
    }
    let fresh = scene.cloud.device();
    is_healed(&scene, &fresh, 1, "repaired");
    let (code, answer) = ask(&scene.cloud.home, &["repair"]);
    assert_eq!((code, list(&answer, "problems").len()), (0, 0), "{answer}");
    assert_eq!(problems(&scene.cloud.home, &["--data"], "after"), 0);
    assert!(scene.restores(&fresh, 0, "healed") && scene.restores(&fresh, 1, "healed"));
}

/// A home that has pushed something, its daemon stopped, and what it pushed.
fn at_rest(cloud: &Cloud) -> (TestHome, PathBuf, String) {
    let home = cloud.device();
    let tree = home.folder("work");
    std::fs::write(tree.join("file"), "kept\n").unwrap();
    let snapshot = push(&home, &tree);
    assert!(home.baton(&["daemon", "stop"]).status.success());
    (home, tree, snapshot)
}

/// Neither a daemon in the background nor one in the foreground starts in this home; both say why, and
/// nothing in it is changed by that.
fn does_not_start(home: &TestHome, tree: &Path, code: &str, why: &[&str]) {
    let state = |name: &str| home.baton_home().join(name);
    let before = walk(&home.baton_home());
    let said = [
        refused(home, &["push", arg(tree)], 1, "daemon-start"),
        refused(home, &["serve", "--listen", "127.0.0.1:0"], 1, code),
    ];
    for (said, part) in said.iter().flat_map(|said| why.iter().map(move |part| (said, part))) {
        assert!(said.contains(part), "{part:?} is missing: {said}");
    }
    let after = walk(&home.baton_home());
    let log = state("daemon.log");
    let ignored: [&[u8]; 2] = [log.file_name().unwrap().as_encoded_bytes(), b"store/lock"];
    assert_eq!(differences(&before, &after, &ignored), [""; 0]);
    assert_eq!(home.processes(), []);
}

#[test]
fn a_home_that_cannot_be_used_is_refused_and_left_alone() {
    let cloud = Cloud::new();
    let (home, tree, snapshot) = at_rest(&cloud);
    let file = |name: &str| home.baton_home().join(name);
    let saved = home.root().join("saved");
    copy(&home.baton_home(), &saved);
    let put_back = || {
        std::fs::remove_dir_all(home.baton_home()).unwrap();
        copy(&saved, &home.baton_home());
    };

    for harm in [Garbage, Halved, Flipped(0)] {
        harm.to(&file("catalog.db"));
        does_not_start(&home, &tree, "damaged", &["catalog.db"]);
        put_back();
    }
    std::fs::write(file("keys/identity.pk8"), b"not a key, and never was one").unwrap();
    does_not_start(&home, &tree, "identity", &["identity.pk8", "backup"]);
    put_back();
    std::fs::write(file("store/format"), "baton store 9\n").unwrap();
    does_not_start(&home, &tree, "newer-format", &["format 9", "install"]);
    put_back();
    std::fs::write(file("store/format"), "something\n").unwrap();
    does_not_start(&home, &tree, "damaged", &["format"]);
    put_back();
    std::fs::write(file("config.toml"), "[serve]\nmax_run = 2\n").unwrap();
    does_not_start(&home, &tree, "config", &["max_run", "serve.max_runs"]);
    std::fs::write(file("config.toml"), "[serve\n").unwrap();
    does_not_start(&home, &tree, "config", &["config.toml", "line 1"]);
    put_back();

    // Each of them put back, it is as before.
    assert_eq!(push(&home, &tree), snapshot);
    assert!(restores(&cloud.device(), &snapshot, &walk(&tree), "the node"));
}

#[test]
fn a_key_that_others_can_read_is_refused_until_it_is_closed_again() {
    let cloud = Cloud::new();
    let (home, tree, snapshot) = at_rest(&cloud);
    let keys = home.baton_home().join("keys");
    let mode = |path: &Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    for (path, open, closed) in [(keys.join("identity.pk8"), 0o644, 0o600), (keys, 0o770, 0o700)] {
        mode(&path, open);
        let command = format!("chmod {closed:o} {}", path.display());
        does_not_start(&home, &tree, "identity", &[&format!("{open:o}"), &command]);
        mode(&path, closed);
    }
    assert_eq!(push(&home, &tree), snapshot);
}

#[test]
fn a_home_has_one_daemon() {
    let cloud = Cloud::new();
    let said = refused(&cloud.home, &["serve", "--listen", "127.0.0.1:0"], 1, "home-in-use");
    assert!(said.contains(&cloud.serve().pid().as_raw_pid().to_string()), "{said}");
    // It is not told apart by its socket alone.
    let socket = cloud.home.baton_home().join("daemon.sock");
    let aside = socket.with_extension("aside");
    std::fs::rename(&socket, &aside).unwrap();
    let (code, answer) = ask(&cloud.home, &["serve", "--listen", "127.0.0.1:0"]);
    assert_eq!(answer["error"]["code"], "home-in-use", "{answer}");
    assert!(code == 1 || code == 4, "{answer}");
    std::fs::rename(&aside, &socket).unwrap();
    let home = cloud.device();
    assert_eq!(text(&home.json(&["remote", "list"])["remotes"][0], "name"), "cloud");

    // Many commands at once start one.
    assert!(home.baton(&["daemon", "stop"]).status.success());
    let tree = home.folder("work");
    std::fs::write(tree.join("file"), "kept\n").unwrap();
    std::thread::scope(|scope| {
        let pushes: Vec<_> = (0..6).map(|_| scope.spawn(|| push(&home, &tree))).collect();
        let mut ids: Vec<_> = pushes.into_iter().map(|push| push.join().unwrap()).collect();
        ids.dedup();
        assert_eq!(ids.len(), 1, "{ids:?}");
    });
    // Those that came second are gone as soon as they have seen it.
    eventually("one daemon", || home.processes().len() == 1);
}

#[test]
fn nothing_is_written_where_something_is_or_outside_of_the_target() {
    let cloud = Cloud::new();
    let (home, tree, snapshot) = at_rest(&cloud);
    let place = home.folder("place");
    let outside = home.folder("outside");
    std::fs::create_dir(place.join("full")).unwrap();
    std::fs::write(place.join("full/mine"), "precious\n").unwrap();
    std::fs::write(place.join("file"), "precious\n").unwrap();
    symlink("nowhere", place.join("dangling")).unwrap();
    symlink(place.join("full"), place.join("to-full")).unwrap();
    std::fs::create_dir(outside.join("empty")).unwrap();
    let before = [walk(&place), walk(&outside)];
    let restore = |target: &str, code: &str| {
        let into = place.join(target);
        refused(&home, &["restore", &snapshot, "--into", arg(&into)], 1, code);
    };
    restore("full", "target-not-empty");
    restore("to-full", "target-not-empty");
    restore("file", "target-not-directory");
    restore("dangling", "target-not-directory");
    restore("file/below", "restore");
    restore("dangling/below", "restore");
    refused(&home, &["restore", &snapshot, "--into", "/"], 1, "target-not-empty");
    refused(&home, &["restore", &snapshot, "--into", "/proc/none"], 1, "restore");
    assert_eq!(differences(&before[0], &walk(&place), &[]), [""; 0]);
    assert_eq!(differences(&before[1], &walk(&outside), &[]), [""; 0]);

    // The same for what a run has left.
    let answer = home.json(&["handoff", arg(&tree), "--", "sh", "-c", "echo made > made"]);
    let run = text(&answer["runs"][0], "run");
    home.json_exit(&["run", "wait", run], 0);
    let full = place.join("full");
    refused(&home, &["pull", run, "--into", arg(&full)], 1, "target-not-empty");
    assert_eq!(differences(&before[0], &walk(&place), &[]), [""; 0]);
    // A link to an empty folder is the folder.
    symlink(outside.join("empty"), place.join("to-empty")).unwrap();
    let to_empty = place.join("to-empty");
    home.json(&["restore", &snapshot, "--into", arg(&to_empty)]);
    assert_eq!(differences(&walk(&tree), &walk(&outside.join("empty")), &[]), [""; 0]);
    assert!(to_empty.is_symlink());
}
