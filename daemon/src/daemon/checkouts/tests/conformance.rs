//! What every kind of checkout has to do, whatever a run does in it: the same for all.
//!
//! Those of a user without root run these tests, too: [`super::unprivileged`].

use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Command;

use super::*;

/// Bytes of a file system that is made for a test; XFS takes no less.
const IMAGE: u64 = 400 << 20;

/// A lab of each kind that there can be here.
pub(super) fn labs() -> Vec<Lab> {
    let mut all = vec![
        Lab::new(),
        // Where bytes cannot be shared, each file is copied.
        Lab::in_folder(tempfile::tempdir().unwrap(), Kind::Bytes),
    ];
    all.extend(Lab::with_overlays());
    all
}

/// A file system whose files can share bytes, mounted while it is there.
pub(super) struct Xfs {
    folder: tempfile::TempDir,
}

impl Xfs {
    pub(super) fn new() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            writeln!(std::io::stderr(), "!!! files that share bytes are not tested without root")
                .unwrap();
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let (image, at) = (folder.path().join("image"), folder.path().join("at"));
        system::create_dir(&at).unwrap();
        system::File::create(&image).unwrap().set_len(IMAGE).unwrap();
        let made = Command::new("mkfs.xfs").args(["-q", "-m", "reflink=1"]).arg(&image).output();
        let mounted = made.is_ok_and(|made| made.status.success())
            && Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&at).output().is_ok_and(
                |mounted| {
                    let said = String::from_utf8_lossy(&mounted.stderr).into_owned();
                    writeln!(std::io::stderr(), "{said}").unwrap();
                    mounted.status.success()
                },
            );
        if !mounted {
            writeln!(std::io::stderr(), "!!! files that share bytes are not tested: no XFS")
                .unwrap();
            assert!(std::env::var_os("BATON_REQUIRE_REFLINK").is_none(), "they have to be");
            return None;
        }
        Some(Self { folder })
    }

    pub(super) fn lab(&self) -> Lab {
        let folder = tempfile::tempdir_in(self.folder.path().join("at")).unwrap();
        let lab = Lab::in_folder(folder, Kind::Bytes);
        SharedBytes::choose(lab.path("copies"), &lab.path("runs")).unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        SharedBytes::choose(lab.path("copies"), elsewhere.path()).unwrap_err();
        lab
    }
}

impl Drop for Xfs {
    fn drop(&mut self) {
        let at = self.folder.path().join("at");
        let mut ended = Command::new("umount");
        assert!(ended.arg("-l").arg(at).status().unwrap().success());
    }
}

/// Something that a run does.
type Deed = fn(&Path);

pub(super) fn shell(at: &Path, script: &str) {
    let output = Command::new("sh").args(["-ec", script]).current_dir(at).output().unwrap();
    assert!(output.status.success(), "{script}: {output:?}");
}

const DEEDS: [(&str, Deed); 10] = [
    ("edits", |at| {
        write(at, "edited", "by the run\n");
        write(at, "folder/new", "new\n");
        system::remove_file(at.join("folder/gone")).unwrap();
    }),
    ("a directory that was there gets another name", |at| {
        shell(at, "mv folder renamed && echo x > renamed/inside && mv renamed/deep/er other/er");
    }),
    ("one that is new gets another name", |at| {
        shell(at, "mkdir new && echo x > new/file && mv new newer");
    }),
    ("all is removed and made again", |at| {
        shell(at, "rm -rf folder && mkdir folder && echo again > folder/stays");
    }),
    ("removed and made again with nothing in it", |at| {
        shell(at, "rm -rf folder/deep && mkdir -p folder/deep/er");
    }),
    ("a file takes the place of a directory, and the other way round", |at| {
        shell(at, "rm -rf other edited && echo file > other && mkdir edited && echo x > edited/x");
    }),
    ("links", |at| {
        system::hard_link(at.join("edited"), at.join("same")).unwrap();
        system::hard_link(at.join("folder/stays"), at.join("folder/deep/same")).unwrap();
        symlink("folder/stays", at.join("link")).unwrap();
        write(at, "same", "of both names\n");
    }),
    ("modes", |at| {
        shell(at, "chmod 755 edited && chmod 700 folder/deep && chmod 640 folder/stays");
    }),
    ("an editor saves", |at| {
        shell(at, "echo saved > .edited.swp && mv .edited.swp edited");
    }),
    ("everything goes", |at| shell(at, "rm -rf * && echo only > one")),
];

fn fill(lab: &Lab) {
    for name in ["edited", "folder/gone", "folder/stays", "folder/deep/er/file", "other/stays"] {
        write(&lab.path("plain"), name, "before\n");
    }
    write(&lab.path("plain"), "large", &"many bytes\n".repeat(50_000));
}

/// What a run leaves is what stands in its checkout, for this daemon and the next one, and what the next run sees.
fn conform(lab: &Lab) -> Vec<TreeId> {
    fill(lab);
    let snapshot = lab.snapshot();
    let mut results = Vec::new();
    for (number, (what, deed)) in DEEDS.iter().enumerate() {
        let (node, place) = (lab.node(), lab.place(2 * number as u8));
        let prepared = node.prepare(&place, snapshot).unwrap();
        assert_eq!((prepared.files, prepared.bytes), (6, 550_035));
        assert_eq!(lab.found(&place.checkout), lab.files(snapshot), "{what}: {:?}", lab.kind);
        deed(&place.checkout);
        let left = lab.found(&place.checkout);
        assert_ne!(left, lab.files(snapshot), "{what}: {:?}", lab.kind);
        // By the next daemon.
        let node = if number % 2 == 0 { lab.node() } else { node };
        let result = node.seal(&place, snapshot).unwrap();
        assert_eq!(lab.files(result), left, "{what}: {:?}", lab.kind);
        assert_eq!(lab.vault().head(WORKSPACE, place.run.device()).unwrap().snapshot, result);
        assert_eq!(node.seal(&place, snapshot).unwrap(), result);
        let next = lab.place(2 * number as u8 + 1);
        node.prepare(&next, result).unwrap();
        assert_eq!(lab.found(&next.checkout), left, "{what}: {:?}", lab.kind);
        assert_eq!(lab.files(node.seal(&next, result).unwrap()), left, "{what}: {:?}", lab.kind);
        node.release(&next.checkout, &next.layer).unwrap();
        node.let_go(&place.checkout, &place.layer).unwrap();
        sweep_all(&node);
        results.push(left);
    }
    // None of it has reached what they share.
    let place = lab.place(100);
    lab.node().prepare(&place, snapshot).unwrap();
    assert_eq!(lab.found(&place.checkout), lab.files(snapshot), "{:?}", lab.kind);
    results
}

#[test]
fn whatever_a_run_does_every_kind_of_checkout_leaves_the_same() {
    let xfs = Xfs::new();
    let mut labs = labs();
    labs.extend(xfs.as_ref().map(Xfs::lab));
    let first = conform(&labs[0]);
    for lab in labs.iter().skip(1) {
        assert_eq!(conform(lab), first, "{:?}", lab.kind);
    }
    drop(labs);
}

/// A project with history, in a lab with git.
fn with_history(lab: &mut Lab) -> SnapshotId {
    lab.git = Some(git_program());
    let plain = lab.path("plain");
    run_git(&plain, &["init", "-q", "-b", "main"]);
    for round in 0..3 {
        write(&plain, "file", &format!("{round}\n"));
        write(&plain, &format!("folder/{round}"), "x\n");
        run_git(&plain, &["add", "."]);
        run_git(&plain, &["commit", "-q", "-m", &round.to_string()]);
    }
    lab.snapshot()
}

#[test]
fn git_works_in_every_kind_of_checkout() {
    let xfs = Xfs::new();
    let mut labs = labs();
    labs.extend(xfs.as_ref().map(Xfs::lab));
    for lab in &mut labs {
        let mut snapshot = with_history(lab);
        let status = ["status", "--porcelain"];
        for round in 0..4u8 {
            let (node, place) = (lab.node(), lab.place(round));
            node.prepare(&place, snapshot).unwrap();
            let at = &place.checkout;
            // Git knows all files, before it has looked at one.
            let looked = ["diff-files", "--name-only"];
            assert_eq!(run_git(at, &looked), "", "{:?} {round}", lab.kind);
            assert_eq!(run_git(at, &status), "", "{:?}", lab.kind);
            run_git(at, &["checkout", "-q", "HEAD~1"]);
            assert_eq!(run_git(at, &status), "", "{:?}", lab.kind);
            run_git(at, &["checkout", "-q", "main"]);
            write(at, "file", &format!("by run {round}\n"));
            run_git(at, &["commit", "-q", "-a", "-m", "of a run"]);
            run_git(at, &["checkout", "-q", "-b", &format!("branch-{round}")]);
            run_git(at, &["checkout", "-q", "main"]);
            let log = run_git(at, &["log", "--all", "--format=%H %s"]);
            let result = node.seal(&place, snapshot).unwrap();
            assert_eq!(lab.files(result), lab.found(at), "{:?}", lab.kind);
            let next = lab.place(100 + round);
            node.prepare(&next, result).unwrap();
            assert_eq!(run_git(&next.checkout, &["log", "--all", "--format=%H %s"]), log);
            run_git(&next.checkout, &["fsck", "--strict", "--no-dangling"]);
            node.release(&next.checkout, &next.layer).unwrap();
            snapshot = result;
        }
    }
    drop(labs);
}

#[test]
fn a_repository_that_a_run_left_alone_is_the_one_that_it_was_given() {
    for mut lab in labs() {
        let snapshot = with_history(&mut lab);
        let git_of = |id| load_snapshot(&lab.vault(), id).unwrap().git.unwrap();
        let node = lab.node();
        let alone = lab.place(1);
        node.prepare(&alone, snapshot).unwrap();
        write(&alone.checkout, "file", "by a run\n");
        let result = node.seal(&alone, snapshot).unwrap();
        if is_shared(&alone.layer) {
            assert_eq!(git_of(result), git_of(snapshot), "{:?}", lab.kind);
        }
        let next = lab.place(2);
        node.prepare(&next, result).unwrap();
        assert_eq!(run_git(&next.checkout, &["status", "--porcelain"]), " M file\n");
        // What it wrote there is found, in a file or under a name that is gone.
        for (byte, words) in [(3, ["tag", "new"]), (4, ["branch", "new"]), (5, ["add", "file"])] {
            let place = lab.place(byte);
            node.prepare(&place, result).unwrap();
            run_git(&place.checkout, &words);
            let written = node.seal(&place, result).unwrap();
            assert_ne!(git_of(written), git_of(result), "{:?} {words:?}", lab.kind);
        }
        let place = lab.place(6);
        node.prepare(&place, result).unwrap();
        shell(&place.checkout, "rm -rf .git");
        let without = node.seal(&place, result).unwrap();
        assert_eq!(load_snapshot(&lab.vault(), without).unwrap().git, None, "{:?}", lab.kind);
    }
}

#[test]
fn a_run_cannot_make_marks_that_its_layers_are_read_by() {
    let Some(lab) = Lab::with_overlays() else { return };
    fill(&lab);
    let (place, snapshot) = (lab.place(1), lab.snapshot());
    lab.node().prepare(&place, snapshot).unwrap();
    let at = &place.checkout;
    system::create_dir(at.join("fake")).unwrap();
    for name in ["opaque", "redirect", "whiteout", "baton", "metacopy", "origin"] {
        for of in ["user", "trusted"] {
            for value in [&b"y"[..], b"x", b"/folder"] {
                let name = format!("{of}.overlay.{name}");
                for path in ["folder", "fake", "edited", "."] {
                    let flags = rustix::fs::XattrFlags::empty();
                    // Whether the system takes it or not.
                    let _taken = rustix::fs::setxattr(at.join(path), &name, value, flags);
                }
            }
        }
    }
    let _gone = rustix::fs::removexattr(at.as_path(), "user.overlay.baton");
    let device = rustix::fs::mknodat(
        rustix::fs::CWD,
        at.join("whiteout"),
        rustix::fs::FileType::CharacterDevice,
        rustix::fs::Mode::RWXU,
        0,
    );
    // What stands for a name that is gone nobody can make through it.
    assert!(device.is_err(), "{device:?}");
    let left = lab.found(at);
    let upper = place.layer.join("upper");
    // Those of the other kind mean nothing to the system here.
    let of = match lab.layers().unwrap().marks() {
        Marks::Trusted => "trusted",
        Marks::User => "user",
    };
    for path in ["folder", "fake", "edited", "."] {
        for name in ["opaque", "redirect", "whiteout", "metacopy"] {
            let name = format!("{of}.overlay.{name}");
            let found = rustix::fs::getxattr(upper.join(path), &name, &mut [0; 64]);
            // Of a folder that the run made itself there is none below it to be shown.
            let is_own = path == "fake" && name.ends_with("opaque");
            assert!(found.is_err() || is_own, "{path} {name}: {found:?}");
        }
    }
    // Shown again, as after another start: the system reads what stands there.
    overlay::unmount(at).unwrap();
    let node = lab.node();
    assert_eq!(lab.files(node.seal(&place, snapshot).unwrap()), left);
    assert_eq!(lab.found(at), left);
    let again = lab.place(2);
    node.prepare(&again, snapshot).unwrap();
    assert_eq!(lab.found(&again.checkout), lab.files(snapshot));
    let below = lab.stack_folder();
    assert_eq!(lab.found(&below.join("1/tree")), lab.files(snapshot));
}

#[test]
fn what_a_node_of_a_user_has_left_is_sealed_by_one_of_root() {
    let Some(lab) = Lab::with_overlays() else { return };
    fill(&lab);
    let snapshot = lab.snapshot();
    for (number, (what, deed)) in DEEDS.iter().enumerate() {
        let mut node = lab.without_overlays();
        let (cache, runs) = (lab.path("cache"), lab.path("runs"));
        node.shared = Some(SharedLayers::choose_with(cache, runs, Marks::User).unwrap());
        let place = lab.place(number as u8);
        node.prepare(&place, snapshot).unwrap();
        deed(&place.checkout);
        let left = lab.found(&place.checkout);
        // What was mounted ends with the node.
        overlay::unmount(&place.checkout).unwrap();
        let result = lab.node().seal(&place, snapshot).unwrap();
        assert_eq!(lab.files(result), left, "{what}");
    }
}

#[test]
fn what_a_run_shuts_is_no_ones_loss() {
    for lab in labs() {
        fill(&lab);
        let (node, place, snapshot) = (lab.node(), lab.place(1), lab.snapshot());
        node.prepare(&place, snapshot).unwrap();
        let at = &place.checkout;
        write(at, "folder/deep/new", "new\n");
        write(at, "shut/file", "x\n");
        for path in ["folder/deep", "shut"] {
            system::set_permissions(at.join(path), system::Permissions::from_mode(0o000)).unwrap();
        }
        write(at, "edited", "and this is kept\n");
        let result = node.seal(&place, snapshot).unwrap();
        assert_eq!(lab.files(result), lab.found(at), "{:?}", lab.kind);
        node.let_go(at, &place.layer).unwrap();
        node.release(at, &place.layer).unwrap();
        sweep_all(&node);
        assert!(names(&node.aside).is_empty(), "{:?}", lab.kind);
    }
}

#[test]
fn a_run_that_shuts_its_whole_checkout_loses_nothing() {
    let shut = |path: &Path, mode| {
        system::set_permissions(path, system::Permissions::from_mode(mode)).unwrap();
    };
    for lab in labs() {
        fill(&lab);
        let (node, snapshot) = (lab.node(), lab.snapshot());
        for (number, mode) in [0o000, 0o644, 0o311].into_iter().enumerate() {
            for is_shown in [true, false] {
                let place = lab.place((2 * number + usize::from(is_shown)) as u8);
                node.prepare(&place, snapshot).unwrap();
                let at = &place.checkout;
                write(at, "edited", "and this is kept\n");
                let left = lab.found(at);
                shut(at, mode);
                if !is_shown {
                    overlay::unmount(at).unwrap();
                }
                let result = node.seal(&place, snapshot).unwrap();
                assert_eq!(lab.files(result), left, "{:?} {mode:o}", lab.kind);
                node.release(at, &place.layer).unwrap();
            }
        }
        // As `chmod -R 644 .` does.
        let place = lab.place(9);
        node.prepare(&place, snapshot).unwrap();
        write(&place.checkout, "edited", "and this is kept\n");
        shut(&place.checkout.join("folder"), 0o644);
        shut(&place.checkout, 0o644);
        let result = node.seal(&place, snapshot).unwrap();
        assert_eq!(lab.files(result), lab.found(&place.checkout), "{:?}", lab.kind);
        node.release(&place.checkout, &place.layer).unwrap();
        sweep_all(&node);
        assert!(names(&node.aside).is_empty(), "{:?}", lab.kind);
    }
}

#[test]
fn what_copies_came_from_goes_where_there_are_none_any_more() {
    let lab = Lab::in_folder(tempfile::tempdir().unwrap(), Kind::Bytes);
    fill(&lab);
    let (node, snapshot) = (lab.node(), lab.snapshot());
    node.prepare(&lab.place(1), snapshot).unwrap();
    assert!(!names(&lab.path("copies")).is_empty());
    for _ in 0..2 {
        SharedBytes::give_up(&lab.path("copies"), &node.aside).unwrap();
        assert!(!lab.path("copies").exists());
    }
    sweep_all(&node);
    assert!(names(&node.aside).is_empty());
    assert_eq!(lab.found(&lab.place(1).checkout), lab.files(snapshot));
}

#[test]
fn copies_come_from_one_that_follows_the_snapshots_and_no_run_reaches() {
    let xfs = Xfs::new();
    let mut labs = vec![Lab::in_folder(tempfile::tempdir().unwrap(), Kind::Bytes)];
    labs.extend(xfs.as_ref().map(Xfs::lab));
    for lab in &mut labs {
        let folder = lab.path("copies").join(VAULT.to_string()).join(WORKSPACE.to_string());
        let inode = || {
            use std::os::unix::fs::MetadataExt;
            system::metadata(folder.join("tree")).unwrap().ino()
        };
        fill(lab);
        let first = lab.snapshot();
        let node = lab.node();
        node.prepare(&lab.place(1), first).unwrap();
        let tree = inode();
        // A few changes of every kind.
        let plain = lab.path("plain");
        shell(&plain, "rm -rf other && echo file > other && mkdir -p a/b && echo x > a/b/c");
        shell(&plain, "rm edited && mkdir edited && echo x > edited/x && chmod 750 folder");
        let second = lab.snapshot();
        let place = lab.place(2);
        node.prepare(&place, second).unwrap();
        assert_eq!(lab.found(&place.checkout), lab.files(second), "the tree follows");
        assert_eq!(inode(), tree);
        shell(&place.checkout, "echo appended >> large && rm -rf folder");
        let again = lab.place(3);
        lab.node().prepare(&again, second).unwrap();
        assert_eq!(lab.found(&again.checkout), lab.files(second));
        // One that was not finished is not used.
        system::remove_file(folder.join("record")).unwrap();
        write(&folder.join("tree"), "half", "x");
        let last = lab.place(4);
        lab.node().prepare(&last, first).unwrap();
        assert_eq!(lab.found(&last.checkout), lab.files(first));
        assert_ne!(inode(), tree);
        sweep_all(&lab.node());
        assert_eq!(names(&folder), ["record", "tree"]);
    }
    drop(labs);
}
