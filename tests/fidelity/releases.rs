//! The same of real content: a repository made of the releases of a program, at random points of its history, with
//! random work half done in it.
//!
//! What is pushed is one workspace that goes on from point to point, as it does for whoever works in it. The releases
//! are generated; `BATON_RELEASES` names a folder with those of real programs (a folder each, with a folder for each
//! release, in the order of their numbers), and `BATON_REPOSITORY` a large repository to do the same in a copy of.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::lab::{Dice, Kept, Lab, all_kept};
use super::{Scene, is_nightly, same};
use crate::support::cloud::{arg, text};
use crate::support::home::{TestHome, run};

/// A large repository takes its time where nothing is optimised.
const LIMIT: Duration = Duration::from_mins(30);

/// Writes three releases of a few files; returns their folders.
fn generated(folder: &Path, dice: &mut Dice) -> Vec<PathBuf> {
    let mut files: Vec<(String, String)> =
        (0..24).map(|at| (format!("src/m{}/f{at}.rs", at % 5), dice.text(30))).collect();
    let mut releases = Vec::new();
    for number in 0..4 {
        for _ in 0..6 {
            let at = dice.roll(files.len());
            match dice.roll(4) {
                0 => files[at].0 = format!("src/moved/{number}-{at}.rs"),
                1 => files[at].1.push_str(&dice.text(5)),
                2 => drop(files.swap_remove(at)),
                _ => files.push((format!("new/{number}/{}.txt", dice.roll(1000)), dice.text(12))),
            }
        }
        let release = folder.join(format!("1.0.{number}"));
        for (name, text) in &files {
            let path = release.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        releases.push(release);
    }
    releases
}

/// The folders in a folder, ascending by the numbers in their names.
fn folders(folder: &Path) -> Vec<PathBuf> {
    let numbers = |path: &PathBuf| -> Vec<u64> {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        name.split(|it: char| !it.is_ascii_digit()).map(|part| part.parse().unwrap_or(0)).collect()
    };
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut folders: Vec<_> = entries.filter(|path| path.is_dir()).collect();
    folders.sort_by_key(|path| (numbers(path), path.clone()));
    folders
}

/// Commits each release after the one before, with a tag.
fn commit_all(lab: &Lab, releases: &[PathBuf]) {
    let work = lab.work();
    for (number, release) in releases.iter().enumerate() {
        for entry in std::fs::read_dir(&work).unwrap() {
            let entry = entry.unwrap();
            match entry.file_type().unwrap().is_dir() {
                _ if entry.file_name() == ".git" => {}
                true => std::fs::remove_dir_all(entry.path()).unwrap(),
                false => std::fs::remove_file(entry.path()).unwrap(),
            }
        }
        let copied = Command::new("cp").arg("-a").arg(release.join(".")).arg(&work).status();
        assert!(copied.unwrap().success());
        lab.git(&["add", "-A", "-f"]);
        lab.git(&["commit", "-q", "--allow-empty", "-m", &format!("release {number}")]);
        lab.git(&["tag", &format!("r{number}")]);
    }
}

/// Files that the index has and that are there.
fn tracked(lab: &Lab) -> Vec<PathBuf> {
    use std::os::unix::ffi::OsStringExt;
    let listed = lab.git(&["ls-files", "-z"]);
    let names = listed.split(|&byte| byte == 0).filter(|name| !name.is_empty());
    let paths = names.map(|name| PathBuf::from(OsString::from_vec(name.to_vec())));
    paths
        .filter(|path| lab.work().join(path).is_file() && !lab.work().join(path).is_symlink())
        .collect()
}

fn try_git(lab: &Lab, args: &[&str]) -> bool {
    lab.try_git_in(&lab.work(), args).status.success()
}

/// The same where it does not matter.
fn tries(lab: &Lab, args: &[&str]) {
    try_git(lab, args);
}

/// One thing that somebody does to a file.
fn edit(lab: &Lab, dice: &mut Dice, paths: &[PathBuf]) {
    let Some(path) = paths.get(dice.roll(paths.len().max(1))) else { return };
    let (at, name) = (lab.work().join(path), path.to_str().unwrap_or("."));
    let Ok(mut bytes) = std::fs::read(&at) else { return };
    match dice.roll(13) {
        0 | 1 => bytes.extend(dice.text(3).into_bytes()),
        2 | 3 => {
            // One byte, and not one more.
            let len = bytes.len().max(1);
            if let Some(byte) = bytes.get_mut(dice.roll(len)) {
                *byte = b'~';
            }
        }
        4 => bytes.truncate(dice.roll(bytes.len() + 1)),
        5 => {
            std::fs::remove_file(&at).unwrap();
            return;
        }
        6 => return tries(lab, &["rm", "-q", "-f", "--", name]),
        7 => return tries(lab, &["rm", "-q", "--cached", "--", name]),
        8 => return tries(lab, &["mv", "--", name, &format!("{name}.moved")]),
        9 => {
            std::fs::rename(&at, at.with_extension("renamed")).unwrap();
            return;
        }
        10 => {
            use std::os::unix::fs::PermissionsExt;
            let mode = [0o644, 0o755, 0o600, 0o640][dice.roll(4)];
            std::fs::set_permissions(&at, PermissionsExt::from_mode(mode)).unwrap();
            return;
        }
        11 => {
            let at = at.with_extension(format!("new{}", dice.roll(100)));
            std::fs::write(&at, dice.text(4)).unwrap();
            if dice.roll(3) == 0 {
                try_git(lab, &["add", "-N", "-f", "--", arg(at.strip_prefix(lab.work()).unwrap())]);
            }
            return;
        }
        _ => return tries(lab, &["update-index", "--assume-unchanged", "--", name]),
    }
    std::fs::write(&at, bytes).unwrap();
    if dice.roll(3) == 0 {
        try_git(lab, &["add", "--", name]);
    }
}

/// Goes to another point, and leaves work half done there. Says what was done.
fn wander(lab: &Lab, dice: &mut Dice, points: &[String], edits: usize) -> String {
    for operation in ["merge", "cherry-pick", "rebase", "revert"] {
        try_git(lab, &[operation, "--abort"]);
    }
    // Without the index, which may say that files are not to be looked at.
    drop(std::fs::remove_file(lab.work().join(".git/index")));
    lab.git(&["reset", "-q", "--hard"]);
    lab.git(&["clean", "-q", "-f", "-d", "-x"]);
    let point = points[dice.roll(points.len())].as_str();
    let other = points[dice.roll(points.len())].as_str();
    let place: &[&str] = match dice.roll(4) {
        0 => &["checkout", "-q", "--detach", point],
        1 => &["checkout", "-q", "-B", "topic", point],
        _ => &["checkout", "-q", "-B", "work", point],
    };
    lab.git(place);
    if dice.roll(3) == 0 {
        try_git(lab, &["stash", "drop", "-q"]);
    }
    for round in 0..=dice.roll(3) {
        let paths = tracked(lab);
        for _ in 0..=dice.roll(edits) {
            edit(lab, dice, &paths);
        }
        match dice.roll(6) {
            0 => tries(lab, &["add", "-A"]),
            1 => tries(lab, &["commit", "-q", "-a", "-m", &format!("round {round}")]),
            2 => tries(lab, &["stash", "push", "-q", "-m", &format!("round {round}")]),
            3 => tries(lab, &["stash", "push", "-q", "-u"]),
            _ => {}
        }
    }
    let begun: &[&str] = match dice.roll(7) {
        0 => &["merge", "-q", "--no-edit", other],
        1 => &["cherry-pick", other],
        2 => &["revert", "--no-edit", other],
        3 => &["rebase", "-q", other],
        4 => &["stash", "apply", "-q"],
        _ => &[],
    };
    // What is in the way of it is committed before, mostly.
    if !begun.is_empty() && begun[0] != "stash" && dice.roll(4) != 0 {
        try_git(lab, &["add", "-A"]);
        try_git(lab, &["commit", "-q", "-m", "before"]);
    }
    let went = begun.is_empty() || try_git(lab, begun);
    if dice.roll(2) == 0 {
        edit(lab, dice, &tracked(lab));
    }
    format!("{place:?}, {begun:?} {went}")
}

/// A command of a home, with more patience.
fn json(home: &TestHome, args: &[&str]) -> serde_json::Value {
    let mut command = home.command();
    command.args(args).arg("--json");
    let output = run(command, LIMIT);
    assert!(output.status.success(), "{args:?}: {output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Goes through so many points, and pushes, restores and compares at each.
fn check_points(
    scene: &Scene,
    lab: &Lab,
    dice: &mut Dice,
    count: usize,
    edits: usize,
    name: &str,
) -> Vec<String> {
    let tags =
        lab.git(&["for-each-ref", "--format=%(refname:short)", "refs/tags", "refs/heads/v*"]);
    let points: Vec<_> = String::from_utf8(tags).unwrap().lines().map(str::to_owned).collect();
    let mut failed = Vec::new();
    for number in 0..count {
        let done = wander(lab, dice, &points, edits);
        let what = format!("{name}, point {number}: {done}");
        let check = std::panic::AssertUnwindSafe(|| {
            let into = lab.path(&format!("restored-{number}"));
            let pushed = json(&scene.here, &["push", arg(&lab.work())]);
            assert_eq!(text(&pushed, "state"), "acked", "{what}");
            json(&scene.there, &["restore", text(&pushed, "snapshot"), "--into", arg(&into)]);
            same(lab, &what, &lab.work(), &into);
            let fsck = lab.try_git_in(&into, &["fsck", "--full", "--strict"]);
            assert!(fsck.status.success(), "{what}: {}", String::from_utf8_lossy(&fsck.stderr));
            std::fs::remove_dir_all(&into).unwrap();
        });
        if std::panic::catch_unwind(check).is_err() {
            failed.push(what);
        }
    }
    failed
}

fn given(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).map(PathBuf::from)
}

#[test]
fn releases_with_work_half_done_arrive_as_they_are() {
    let scene = Scene::new();
    let mut dice = Dice::new(20);
    let ways = all_kept();
    let folder = tempfile::tempdir().unwrap();
    let programs: Vec<(String, Vec<PathBuf>)> =
        match given("BATON_RELEASES").filter(|_| is_nightly()) {
            None => vec![("generated".into(), generated(folder.path(), &mut dice))],
            Some(all) => {
                let named = |path: PathBuf| {
                    let name = path.file_name().unwrap().to_string_lossy().into_owned();
                    (name, folders(&path))
                };
                folders(&all)
                    .into_iter()
                    .map(named)
                    .filter(|(_, releases)| releases.len() >= 10)
                    .collect()
            }
        };
    let points = if is_nightly() { 200usize.div_ceil(programs.len()) } else { 5 };
    let mut failed = Vec::new();
    for (at, (name, releases)) in programs.iter().enumerate() {
        // No sparse ones: all of a release is looked at.
        let kept: Vec<&Kept> = ways.iter().filter(|kept| kept.index != "sparse").collect();
        let lab = Lab::new(*kept[at * 5 % kept.len()]);
        commit_all(&lab, releases);
        failed.extend(check_points(&scene, &lab, &mut dice, points, 8, name));
    }
    assert!(failed.is_empty(), "{} differ:\n{}", failed.len(), failed.join("\n"));
}

#[test]
fn a_large_repository_arrives_as_it_is() {
    let Some(large) = given("BATON_REPOSITORY").filter(|_| is_nightly()) else { return };
    let scene = Scene::new();
    let lab = Lab::new(Kept { hash: "sha1", refs: "files", index: "v2" });
    std::fs::remove_dir_all(lab.work()).unwrap();
    lab.git_in(&lab.path(""), &["clone", "-q", "--no-checkout", arg(&large), "work"]);
    for head in branches(&lab) {
        lab.git(&[
            "update-ref",
            &format!("refs/heads/{head}"),
            &format!("refs/remotes/origin/{head}"),
        ]);
    }
    lab.configure(&lab.work());
    let failed = check_points(&scene, &lab, &mut Dice::new(21), 3, 200, "the large one");
    assert!(failed.is_empty(), "{} differ:\n{}", failed.len(), failed.join("\n"));
}

/// Branches of the one that was cloned.
fn branches(lab: &Lab) -> Vec<String> {
    let listed = lab.says(&["for-each-ref", "--format=%(refname:lstrip=3)", "refs/remotes/origin"]);
    listed.lines().filter(|name| *name != "HEAD").map(str::to_owned).collect()
}
