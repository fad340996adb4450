//! Environments in both kinds of checkouts: what is installed is seen, and is in no result.

use baton_protocol::message::secrets::{SecretValue, SetSecret};

use super::*;
use crate::environments::key::{Key, Wanted};

const FILE: &str = ".baton/environment.toml";

/// Opens the node of a lab.
type Open = fn(&Lab) -> NodeCheckouts;

/// A project that asks for an environment, and a node of each kind.
fn nodes() -> Vec<(Lab, Open)> {
    let bytes = Lab::in_folder(tempfile::tempdir().unwrap(), Kind::Bytes);
    let mut all: Vec<(Lab, Open)> = vec![(Lab::new(), Lab::without_overlays), (bytes, Lab::node)];
    all.extend(Lab::with_overlays().map(|lab| (lab, Lab::node as Open)));
    for (lab, _) in &all {
        write(&lab.path("plain"), FILE, "setup = 'x'\ncache_key = ['lock', 'sub/**']\n");
        write(&lab.path("plain"), "lock", "1");
        write(&lab.path("plain"), "src/kept", "kept");
        write(&lab.path("plain"), "src/gone", "gone");
    }
    all
}

fn key(node: &NodeCheckouts, place: &Place, snapshot: SnapshotId) -> Key {
    match node.wanted(place, snapshot).unwrap() {
        Wanted::Environment(asked) => asked.key,
        wanted => panic!("{wanted:?}"),
    }
}

/// What a setup does to the files of the tree, and beside them.
fn set_up(node: &NodeCheckouts, place: &Place, snapshot: SnapshotId) -> Key {
    let key = key(node, place, snapshot);
    let setup = node.begin(place, snapshot, key).unwrap();
    write(&setup.checkout, "lock", "rewritten");
    system::remove_file(setup.checkout.join("src/gone")).unwrap();
    for name in ["deps/a", "deps/b/c", "src/made", "src/deep/made"] {
        write(&setup.checkout, name, "installed");
    }
    system::hard_link(setup.checkout.join("deps/a"), setup.checkout.join("deps/same")).unwrap();
    std::os::unix::fs::symlink("a", setup.checkout.join("deps/link")).unwrap();
    // Nothing that another one could be fooled by.
    let fifo = setup.checkout.join("deps/fifo");
    let mode = rustix::fs::Mode::RWXU;
    rustix::fs::mknodat(rustix::fs::CWD, fifo, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    system::remove_dir_all(setup.checkout.join(".baton")).unwrap();
    write(&setup.checkout, ".baton/environment.toml/x", "a folder now");
    write(&setup.home, ".cache/tool", "of the home");
    let kept = Environments::keep(node, place, snapshot, key).unwrap();
    assert_eq!(kept.files, 7);
    key
}

/// A checkout in which an environment was set up that is kept now.
fn first_set_up(lab: &Lab, node: &NodeCheckouts, snapshot: SnapshotId) -> (Place, Key) {
    let place = lab.place(1);
    node.prepare(&place, snapshot).unwrap();
    let key = set_up(node, &place, snapshot);
    (place, key)
}

/// A checkout with its environment.
fn furnished(lab: &Lab, node: &NodeCheckouts, number: u8, snapshot: SnapshotId, key: Key) -> Place {
    let place = lab.place(number);
    node.prepare(&place, snapshot).unwrap();
    let home = place.checkout.with_file_name("home");
    write(&home, "own", "stays");
    node.furnish(&place, &home, snapshot, key).unwrap().unwrap();
    assert_eq!(system::read(home.join(".cache/tool")).unwrap(), b"of the home");
    assert_eq!(system::read(home.join("own")).unwrap(), b"stays");
    place
}

fn read(place: &Place, name: &str) -> String {
    system::read_to_string(place.checkout.join(name)).unwrap_or_default()
}

#[test]
fn what_is_installed_is_seen_and_is_no_change_by_a_run() {
    for (lab, open) in nodes() {
        let (node, snapshot) = (open(&lab), lab.snapshot());
        let (first, key) = first_set_up(&lab, &node, snapshot);
        // The one that set up sees what all see.
        let home = first.checkout.with_file_name("home");
        system::create_dir_all(&home).unwrap();
        node.furnish(&first, &home, snapshot, key).unwrap().unwrap();
        let node = open(&lab);
        let second = furnished(&lab, &node, 2, snapshot, key);
        for place in [&first, &second] {
            assert_eq!(read(place, "deps/a"), "installed");
            assert_eq!(read(place, "deps/link"), "installed");
            assert_eq!(read(place, "src/deep/made"), "installed");
            assert_eq!((read(place, "lock"), read(place, "src/gone")), ("1".into(), "gone".into()));
            assert!(read(place, FILE).starts_with("setup"));
            assert!(place.checkout.join("deps/fifo").symlink_metadata().is_err());
            // Asked again, by this daemon or the next one.
            for node in [&node, &open(&lab)] {
                assert_eq!(lab.files(node.seal(place, snapshot).unwrap()), lab.files(snapshot));
            }
        }
    }
}

#[test]
fn what_a_run_changes_is_its_own_wherever_it_is() {
    for (lab, open) in nodes() {
        let (node, snapshot) = (open(&lab), lab.snapshot());
        let (_, key) = first_set_up(&lab, &node, snapshot);
        let place = furnished(&lab, &node, 2, snapshot, key);
        write(&place.checkout, "lock", "2");
        write(&place.checkout, "src/deep/made", "by the run");
        write(&place.checkout, "deps/new", "by the run");
        system::remove_file(place.checkout.join("src/kept")).unwrap();
        system::remove_file(place.checkout.join("deps/b/c")).unwrap();
        // Because of these rules all of it is looked at.
        write(&place.checkout, ".batonignore", "nothing\n");
        let result = node.seal(&place, snapshot).unwrap();
        let expected = lab.path("expected");
        write(&expected, FILE, "setup = 'x'\ncache_key = ['lock', 'sub/**']\n");
        for (name, text) in [
            ("lock", "2"),
            ("src/gone", "gone"),
            ("src/deep/made", "by the run"),
            ("deps/new", "by the run"),
            (".batonignore", "nothing\n"),
        ] {
            write(&expected, name, text);
        }
        // A folder in which nothing is left is there.
        system::create_dir_all(expected.join("deps/b")).unwrap();
        let (left, options) = (lab.path("left"), RestoreOptions::default());
        restore(&lab.vault(), lab.files(result), 0o755, &left, &options, &Progress::default())
            .unwrap();
        assert_eq!(listed(&left), listed(&expected));
        assert_eq!(lab.files(result), lab.found(&expected));
        // Who goes on from it has both.
        let next = furnished(&lab, &node, 3, result, key);
        assert_eq!(read(&next, "src/deep/made"), "by the run");
        assert_eq!(
            (read(&next, "deps/new"), read(&next, "deps/a")),
            ("by the run".into(), "installed".into())
        );
        assert_eq!(read(&next, "deps/b/c"), "installed");
        assert_eq!(lab.files(node.seal(&next, result).unwrap()), lab.files(result));
    }
}

#[test]
fn what_gets_another_name_or_is_committed_is_the_run_s_and_what_is_touched_is_not() {
    for (mut lab, open) in nodes() {
        let found = ["/usr/bin/git", "/usr/local/bin/git"].map(PathBuf::from);
        lab.git = Some(GitProgram::new(found.into_iter().find(|path| path.exists()).unwrap()));
        run_git(&lab.path("plain"), &["init", "-q"]);
        run_git(&lab.path("plain"), &["add", "-A"]);
        run_git(&lab.path("plain"), &["commit", "-qm", "first"]);
        let (node, snapshot) = (open(&lab), lab.snapshot());
        let (_, key) = first_set_up(&lab, &node, snapshot);

        let touched = furnished(&lab, &node, 2, snapshot, key);
        for name in ["deps/a", "deps/b/c", "src/deep/made"] {
            let file = system::File::options().append(true).open(touched.checkout.join(name));
            file.unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
        }
        write(&touched.checkout, "src/deep/moment", "x");
        system::remove_file(touched.checkout.join("src/deep/moment")).unwrap();
        assert_eq!(lab.files(node.seal(&touched, snapshot).unwrap()), lab.files(snapshot));

        // Under its new name it is all there, and what stays where it was is not.
        let renamed = furnished(&lab, &node, 3, snapshot, key);
        // By copying them, where the system can do no better.
        conformance::shell(&renamed.checkout, "mv deps vendor && mv src lib");
        write(&renamed.checkout, "lib/made", "by the run");
        let left = left_by(&lab, node.seal(&renamed, snapshot).unwrap(), "renamed");
        for (name, text) in [
            ("vendor/a", "installed"),
            ("vendor/b/c", "installed"),
            ("lib/deep/made", "installed"),
            ("lib/made", "by the run"),
            ("lib/kept", "kept"),
        ] {
            assert_eq!(system::read_to_string(left.join(name)).unwrap(), text, "{name}");
        }
        assert!(!left.join("src").exists() && !left.join("deps").exists());

        let committed = furnished(&lab, &node, 4, snapshot, key);
        run_git(&committed.checkout, &["add", "deps/b", "src/deep"]);
        run_git(&committed.checkout, &["commit", "-qm", "second"]);
        let left = left_by(&lab, node.seal(&committed, snapshot).unwrap(), "committed");
        for name in ["deps/b/c", "src/deep/made"] {
            assert_eq!(system::read_to_string(left.join(name)).unwrap(), "installed", "{name}");
        }
        assert!(!left.join("deps/a").exists() && !left.join("src/made").exists());
    }
}

/// The files of a result, in a folder.
fn left_by(lab: &Lab, result: SnapshotId, name: &str) -> PathBuf {
    let (left, options) = (lab.path(name), RestoreOptions::default());
    restore(&lab.vault(), lab.files(result), 0o755, &left, &options, &Progress::default()).unwrap();
    left
}

#[test]
fn an_environment_that_is_gone_is_no_result() {
    for (lab, open) in nodes() {
        let (node, snapshot) = (open(&lab), lab.snapshot());
        let (_, key) = first_set_up(&lab, &node, snapshot);
        let place = furnished(&lab, &node, 2, snapshot, key);
        write(&place.checkout, "made", "by the run");
        system::rename(lab.path("environments"), lab.path("elsewhere")).unwrap();
        let refused = node.seal(&place, snapshot).unwrap_err();
        assert!(refused.source.to_string().ends_with("is not there any more"), "{refused:?}");
        // What is there is read, and nothing is written where it is.
        system::rename(lab.path("elsewhere"), lab.path("environments")).unwrap();
        let left = left_by(&lab, node.seal(&place, snapshot).unwrap(), "left");
        assert!(left.join("made").exists() && !left.join("deps").exists());
    }
}

#[test]
fn a_later_snapshot_is_seen_through_what_was_installed_before_it() {
    for (lab, open) in nodes() {
        let (node, snapshot) = (open(&lab), lab.snapshot());
        let (_, key) = first_set_up(&lab, &node, snapshot);
        let plain = lab.path("plain");
        // A file where a file is, a file where a folder is, a folder where a file is, and another mode.
        write(&plain, "deps/a", "of the tree");
        write(&plain, "deps/b", "of the tree");
        write(&plain, "src/made/inner", "of the tree");
        system::create_dir_all(plain.join("src/deep")).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o711);
        system::set_permissions(plain.join("src/deep"), mode).unwrap();
        let later = lab.snapshot();
        let place = furnished(&lab, &node, 2, later, key);
        for name in ["deps/a", "deps/b", "src/made/inner"] {
            assert_eq!(read(&place, name), "of the tree", "{name}");
        }
        assert_eq!(read(&place, "src/deep/made"), "installed");
        let deep = place.checkout.join("src/deep").metadata().unwrap();
        assert_eq!(std::os::unix::fs::PermissionsExt::mode(&deep.permissions()) & 0o777, 0o711);
        assert_eq!(lab.files(node.seal(&place, later).unwrap()), lab.files(later));
    }
}

#[test]
fn keys_follow_what_the_tree_names_and_nothing_else() {
    let lab = Lab::new();
    let (node, plain, place) = (lab.without_overlays(), lab.path("plain"), lab.place(1));
    write(&plain, FILE, "setup = 'x'\ncache_key = ['lock', 'sub/**/*.toml']\n");
    write(&plain, "lock", "1");
    write(&plain, "sub/a/b.toml", "1");
    let now = || key(&node, &place, lab.snapshot());
    let first = now();
    write(&plain, "other", "1");
    write(&plain, "sub/a/b.txt", "1");
    write(&plain, FILE, "setup = 'x'\ncache_key = ['sub/**/*.toml', 'lock']\nmaintain = 'y'\n");
    assert_eq!(now(), first);
    let mut all = vec![first];
    for (name, text) in [
        ("lock", "2"),
        ("sub/a/b.toml", "2"),
        ("sub/c.toml", ""),
        (FILE, "setup = 'y'\ncache_key = ['lock', 'sub/**/*.toml']"),
        (FILE, "setup = 'y'\ncache_key = ['lock', 'sub/**/*.toml']\nenv = { A = 'b' }"),
        (FILE, "setup = 'y'\nenv = { A = 'b' }"),
        ("Cargo.lock", "1"),
        ("Cargo.lock", "2"),
    ] {
        write(&plain, name, text);
        let next = now();
        assert!(!all.contains(&next), "{name} {text}");
        all.push(next);
    }
    write(&plain, FILE, "setup = 'y'\nservices = ['db']");
    assert!(matches!(node.wanted(&place, lab.snapshot()).unwrap(), Wanted::Refused(_)));
    system::remove_file(plain.join(FILE)).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", plain.join(FILE)).unwrap();
    assert!(matches!(node.wanted(&place, lab.snapshot()).unwrap(), Wanted::Refused(_)));
    system::remove_file(plain.join(FILE)).unwrap();
    let wanted = node.wanted(&place, lab.snapshot()).unwrap();
    assert!(matches!(wanted, Wanted::Nothing(Some(found)) if found.lockfile == "Cargo.lock"));
}

#[test]
fn a_value_of_a_secret_is_not_kept() {
    for (lab, open) in nodes() {
        let (node, snapshot) = (open(&lab), lab.snapshot());
        let value = SecretValue::new(b"a value of many letters".to_vec());
        let secret = SetSecret { name: "TOKEN".to_owned(), agent: None, value, push: None };
        node.secrets.set(VAULT, &secret).unwrap();
        let place = lab.place(1);
        node.prepare(&place, snapshot).unwrap();
        let key = key(&node, &place, snapshot);
        let setup = node.begin(&place, snapshot, key).unwrap();
        write(&setup.home, ".config/tool", "key = a value of many letters\n");
        let error = Environments::keep(&node, &place, snapshot, key).unwrap_err();
        let why = error.source.to_string();
        assert_eq!(why, "the setup has left the value of a secret in .config/tool");
        node.leave_off(&place, key).unwrap();
        let home = place.checkout.with_file_name("home");
        assert!(node.furnish(&place, &home, snapshot, key).unwrap().is_none());
    }
}

#[test]
fn an_environment_that_a_run_has_stays_and_the_layer_of_one_goes() {
    let Some(lab) = Lab::with_overlays() else { return };
    write(&lab.path("plain"), FILE, "setup = 'x'\n");
    let snapshot = lab.snapshot();
    let mut node = lab.node();
    let folder = lab.path("environments");
    let limits = CacheLimits { per_workspace: 0, bytes: 0 };
    node.environments = EnvironmentCache::open(folder, limits);
    let first = lab.place(1);
    node.prepare(&first, snapshot).unwrap();
    let key = key(&node, &first, snapshot);
    let setup = node.begin(&first, snapshot, key).unwrap();
    write(&setup.checkout, "deps/a", "installed");
    Environments::keep(&node, &first, snapshot, key).unwrap();
    let place = furnished_bare(&lab, &node, snapshot, key);
    sweep_all(&node);
    assert_eq!(read(&place, "deps/a"), "installed");
    assert_eq!(lab.files(node.seal(&place, snapshot).unwrap()), lab.files(snapshot));
    node.let_go(&place.checkout, &place.layer).unwrap();
    node.release(&first.checkout, &first.layer).unwrap();
    sweep_all(&node);
    assert!(names(&node.aside).is_empty());
    let home = place.checkout.with_file_name("home");
    assert!(node.furnish(&first, &home, snapshot, key).unwrap().is_none());
}

#[test]
fn a_checkout_with_an_environment_is_let_go_of_once_it_is_sealed() {
    for (lab, open) in nodes() {
        let (mut node, snapshot) = (open(&lab), lab.snapshot());
        let first = lab.place(1);
        node.prepare(&first, snapshot).unwrap();
        let key = set_up(&node, &first, snapshot);
        node.release(&first.checkout, &first.layer).unwrap();
        let place = furnished(&lab, &node, 2, snapshot, key);
        write(&place.checkout, "made", "by the run");
        let limits = CacheLimits { per_workspace: 0, bytes: 0 };
        node.environments = EnvironmentCache::open(lab.path("environments"), limits);
        node.let_go(&place.checkout, &place.layer).unwrap();
        sweep_all(&node);
        assert_eq!(
            (read(&place, "made"), read(&place, "deps/a")),
            ("by the run".into(), "installed".into())
        );
        let result = node.seal(&place, snapshot).unwrap();
        node.let_go(&place.checkout, &place.layer).unwrap();
        sweep_all(&node);
        assert!(!place.checkout.exists() && names(&node.aside).is_empty());
        // Nobody has it any more, and what was sealed is.
        assert!(node.environments.look((VAULT, WORKSPACE, key)).unwrap().is_none());
        assert_eq!(node.seal(&place, snapshot).unwrap(), result);
    }
}

/// The paths in a folder, with their modes.
fn listed(folder: &Path) -> Vec<String> {
    let mut all = Vec::new();
    for name in names(folder) {
        let path = folder.join(&name);
        let found = path.symlink_metadata().unwrap();
        let mode = std::os::unix::fs::PermissionsExt::mode(&found.permissions()) & 0o777;
        all.push(format!("{name} {mode:o}"));
        if found.is_dir() {
            all.extend(listed(&path).into_iter().map(|inner| format!("{name}/{inner}")));
        }
    }
    all
}

fn furnished_bare(lab: &Lab, node: &NodeCheckouts, snapshot: SnapshotId, key: Key) -> Place {
    let place = lab.place(2);
    node.prepare(&place, snapshot).unwrap();
    let home = place.checkout.with_file_name("home");
    system::create_dir_all(&home).unwrap();
    node.furnish(&place, &home, snapshot, key).unwrap().unwrap();
    place
}
