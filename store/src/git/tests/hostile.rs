//! Repositories and states that someone made to do harm. Each class of hole that git itself once had, as far
//! as capturing or rebuilding could have it, is here by its number.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use baton_protocol::id::{GitStateId, ObjectKind};
use baton_protocol::object::{
    GitEntry, GitFile, GitFiles, GitHash, GitHead, GitIndex, GitMode, GitOid, GitPlace, GitRef,
    GitRefName, GitRefs, GitSetting, GitSettings, GitState, GitTarget, GitUnit,
};
use baton_protocol::path::RelPath;

use super::lab::{Lab, PLAIN, copy_files};
use crate::chunk::store_bytes;
use crate::git::place::Repository;
use crate::git::{Captured, Commands, GitError, Told, capture, files, rebuild};
use crate::objects::ObjectSink;

/// A repository of two commits with something staged and something changed.
fn small() -> Lab {
    let lab = Lab::new(PLAIN);
    lab.write("a/1", "one\n");
    lab.write("2", "two\n");
    lab.commit("first");
    lab.write("2", "three\n");
    lab.git(&["add", "2"]);
    lab.write("a/1", "changed\n");
    lab
}

/// A program that leaves a trace when it is run.
fn trap(lab: &Lab) -> String {
    let path = lab.path("trap.sh");
    let trace = lab.path("SPRUNG");
    let text = format!("#!/bin/sh\ntouch {}\ncat\n", trace.display());
    crate::fs::write_atomic(&path, text.as_bytes(), 0o755).unwrap();
    path.display().to_string()
}

fn assert_not_sprung(lab: &Lab) {
    assert!(!lab.path("SPRUNG").exists(), "something was run");
}

fn told(captured: &Captured, what: &str) -> &'static str {
    let found = captured.omitted.iter().find(|it| it.what.contains(what));
    found.unwrap_or_else(|| panic!("{what} is not in {:?}", captured.omitted)).reason.name()
}

/// A state with one thing changed.
fn forged(lab: &Lab, state: &GitState, change: impl FnOnce(&mut GitState)) -> GitStateId {
    let mut state = state.clone();
    change(&mut state);
    let id = lab.objects.put(ObjectKind::GitState, &state.encode()).unwrap();
    GitStateId::from_bytes(id.hash)
}

fn try_rebuild(lab: &Lab, id: GitStateId) -> Result<(), GitError> {
    let to = lab.path("forged");
    crate::fs::remove_dir_all(&to).unwrap();
    copy_files(&lab.work(), &to);
    let rebuilt = rebuild(&lab.objects, id, &to, &lab.rebuild_options()).map(|_| ());
    if rebuilt.is_err() {
        // All or nothing.
        assert!(!to.join(".git").exists());
        assert!(std::fs::read_dir(lab.path("scratch")).unwrap().next().is_none());
    }
    rebuilt
}

/// Configuration that runs programs when git looks at a repository (CVE-2022-24765 and its kin).
#[test]
fn nothing_of_a_repository_runs_while_it_is_captured() {
    let lab = small();
    let trap = trap(&lab);
    crate::fs::create_dir_all(&lab.work().join(".git/hooks")).unwrap();
    for hook in ["post-index-change", "reference-transaction", "post-checkout", "pre-commit"] {
        let text = std::fs::read_to_string(lab.path("trap.sh")).unwrap();
        let path = lab.work().join(".git/hooks").join(hook);
        crate::fs::write_atomic(&path, text.as_bytes(), 0o755).unwrap();
    }
    lab.write(".gitattributes", "* filter=evil diff=evil merge=evil\n");
    let config = lab.work().join(".git/config");
    let mut text = std::fs::read_to_string(&config).unwrap();
    let evil = format!(
        "[core]\n fsmonitor = {trap}\n hooksPath = {hooks}\n sshCommand = {trap}\n pager = {trap}\n\
         editor = {trap}\n askPass = {trap}\n alternateRefsCommand = {trap}\n gitProxy = {trap}\n\
         [filter \"evil\"]\n clean = {trap}\n smudge = {trap}\n process = {trap}\n required = true\n\
         [diff \"evil\"]\n textconv = {trap}\n command = {trap}\n[diff]\n external = {trap}\n\
         [merge \"evil\"]\n driver = {trap}\n[alias]\n cat-file = !{trap}\n pack-objects = !{trap}\n\
         [uploadpack]\n packObjectsHook = {trap}\n[gpg]\n program = {trap}\n\
         [credential]\n helper = !{trap}\n[include]\n path = {included}\n\
         [remote \"o\"]\n url = ext::{trap}\n promisor = true\n uploadpack = {trap}\n",
        hooks = lab.work().join(".git/hooks").display(),
        included = lab.path("included").display(),
    );
    text.push_str(&evil);
    crate::fs::write_atomic(&config, text.as_bytes(), 0o644).unwrap();
    let included = format!("[core]\n fsmonitor = {trap}\n");
    crate::fs::write_atomic(&lab.path("included"), included.as_bytes(), 0o644).unwrap();

    let captured = lab.capture();
    assert_not_sprung(&lab);
    for (what, reason) in [
        ("hooks/pre-commit", "command"),
        ("core.fsmonitor", "command"),
        ("filter.*.clean", "command"),
        ("include.path", "outside"),
        ("credential.helper", "credential"),
        ("remote.o.url", "command"),
        ("alias.cat-file", "command"),
    ] {
        assert_eq!(told(&captured, what), reason, "{what}");
    }
    lab.rebuild(&captured, "there");
    assert_not_sprung(&lab);
    let there = lab.path("there/.git/config");
    let text = std::fs::read_to_string(there).unwrap();
    assert!(!text.contains("trap") && !text.contains("included"), "{text}");
    // And what was rebuilt does nothing either, when git looks at it.
    lab.git_in(&lab.path("there"), &["status"]);
    lab.git_in(&lab.path("there"), &["diff"]);
    assert_not_sprung(&lab);
}

/// The same from a state that was made up: what no capture writes is not written here either.
#[test]
fn settings_that_run_programs_are_not_rebuilt() {
    let lab = small();
    let captured = lab.capture();
    let setting = |section: &str, subsection: Option<&str>, key: &str, value: &str| GitSetting {
        section: section.into(),
        subsection: subsection.map(Into::into),
        key: key.into(),
        value: value.into(),
    };
    let evil = vec![
        setting("core", None, "fsmonitor", "evil"),
        setting("core", None, "worktree", "/"),
        setting("core", None, "hookspath", "evil"),
        setting("core", None, "bare", "true"),
        setting("filter", Some("x"), "clean", "evil"),
        setting("include", None, "path", "evil"),
        setting("extensions", None, "worktreeconfig", "true"),
        setting("remote", Some("o"), "url", "ext::sh -c evil"),
        setting("remote", Some("o"), "uploadpack", "evil"),
        setting("alias", None, "status", "!evil"),
        setting("branch", Some("x"), "remote", "--upload-pack=evil"),
        setting("branch", Some("x"), "description", "a\n[core]\n\tpager = evil\r"),
    ];
    let settings = store_bytes(&GitSettings(evil).encode(), &lab.objects).unwrap();
    let id = forged(&lab, &captured.state, |state| state.settings = settings);
    try_rebuild(&lab, id).unwrap();
    let there = lab.path("forged");
    let listed = lab.git_in(&there, &["config", "--local", "--list", "--name-only"]);
    let listed = String::from_utf8(listed).unwrap();
    let own = ["core.repositoryformatversion", "core.bare", "branch.x.description"];
    assert_eq!(listed.lines().collect::<Vec<_>>(), own);
    assert_eq!(lab.git_in(&there, &["config", "core.bare"]), b"false\n");
}

#[test]
fn refs_that_lead_out_of_their_folder_are_refused() {
    let lab = small();
    let captured = lab.capture();
    let oid = lab.says(&["rev-parse", "HEAD"]);
    let oid = GitOid::from_hex(GitHash::Sha1, oid.as_bytes()).unwrap();
    // No name of the format says it, so that it takes forged bytes.
    for name in
        ["refs/../../x", "refs/heads/../../config", "refs/heads/.git/x", "refs/heads/a.lock"]
    {
        let honest = format!("refs/heads/{}", "x".repeat(name.len().saturating_sub(11)));
        let refs = vec![GitRef {
            name: GitRefName::new(honest.as_bytes()).unwrap(),
            target: GitTarget::Object(oid),
        }];
        let mut bytes = GitRefs { hash: GitHash::Sha1, refs }.encode();
        let at = bytes.windows(5).position(|it| it == b"refs/").unwrap();
        bytes.splice(at..at + honest.len(), name.bytes());
        let refs = store_bytes(&bytes, &lab.objects).unwrap();
        let id = forged(&lab, &captured.state, |state| state.refs = refs);
        assert!(matches!(try_rebuild(&lab, id), Err(GitError::Malformed(_))), "{name}");
    }
    assert!(!lab.path("x").exists());
    // Names that one by one are fine.
    let make = |names: &[&str], target: GitOid| {
        let refs = names.iter().map(|name| GitRef {
            name: GitRefName::new(name.as_bytes()).unwrap(),
            target: GitTarget::Object(target),
        });
        let bytes = GitRefs { hash: GitHash::Sha1, refs: refs.collect() }.encode();
        let refs = store_bytes(&bytes, &lab.objects).unwrap();
        forged(&lab, &captured.state, |state| state.refs = refs)
    };
    let both = make(&["refs/heads/main", "refs/heads/main/x"], oid);
    assert!(matches!(try_rebuild(&lab, both), Err(GitError::Refused { .. })));
    let absent = make(&["refs/heads/main"], GitOid::new(GitHash::Sha1, &[7; 20]).unwrap());
    assert!(matches!(try_rebuild(&lab, absent), Err(GitError::Refused { .. })));
}

/// Broken and escaping refs of a real repository are left out by name.
#[test]
fn odd_files_among_refs_are_named_and_not_followed() {
    let lab = small();
    let refs = lab.work().join(".git/refs/heads");
    crate::fs::write_atomic(&lab.path("secret"), b"SECRET\n", 0o600).unwrap();
    std::os::unix::fs::symlink(lab.path("secret"), refs.join("link")).unwrap();
    crate::fs::write_atomic(&refs.join("broken"), b"nothing\n", 0o600).unwrap();
    crate::fs::write_atomic(&refs.join("out"), b"ref: refs/../../../secret\n", 0o600).unwrap();
    crate::fs::write_atomic(&refs.join("bad name"), b"", 0o600).unwrap();
    std::os::unix::fs::symlink(lab.path("secret"), lab.work().join(".git/MERGE_MSG")).unwrap();
    crate::fs::create_dir_all(&lab.work().join(".git/rebase-merge")).unwrap();
    let fifo = lab.work().join(".git/rebase-merge/done");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &fifo,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RWXU,
        0,
    )
    .unwrap();
    let captured = lab.capture();
    for what in ["link", "broken", "out", "bad name", "MERGE_MSG", "rebase-merge/done"] {
        assert_eq!(told(&captured, what), "broken", "{what}");
    }
    lab.rebuild(&captured, "there");
    assert!(!lab.path("there/.git/MERGE_MSG").exists());
    let all = lab.objects.0.lock().unwrap();
    assert!(!all.values().any(|bytes| bytes.windows(6).any(|it| it == b"SECRET")));
}

/// A repository made by someone who may read less than this process (CVE-2024-32004, CVE-2024-32020,
/// CVE-2024-32021, CVE-2022-39253: objects through links and from elsewhere).
#[test]
fn a_repository_that_reaches_out_of_its_folder_is_refused() {
    let within = |lab: &Lab| {
        let mut options = lab.options();
        options.within = Some(lab.work());
        capture(&lab.work(), &lab.objects, &options)
    };
    let lab = small();
    within(&lab).unwrap();
    // Objects of someone else, by a link, by a list, by a folder.
    let other = small();
    let objects = lab.work().join(".git/objects");
    std::os::unix::fs::symlink(other.work().join(".git/objects"), objects.join("pack/x")).unwrap();
    assert!(matches!(within(&lab), Err(GitError::Refused { .. })));

    let lab = small();
    let alternates = lab.work().join(".git/objects/info/alternates");
    let elsewhere = other.work().join(".git/objects").display().to_string();
    crate::fs::write_atomic(&alternates, elsewhere.as_bytes(), 0o644).unwrap();
    assert!(matches!(within(&lab), Err(GitError::NoRepository { .. })));

    let lab = Lab::new(PLAIN);
    crate::fs::remove_dir_all(&lab.work().join(".git")).unwrap();
    let link = format!("gitdir: {}\n", other.work().join(".git").display());
    crate::fs::write_atomic(&lab.work().join(".git"), link.as_bytes(), 0o644).unwrap();
    assert!(matches!(within(&lab), Err(GitError::NoRepository { .. })));
    crate::fs::remove_file(&lab.work().join(".git")).unwrap();
    std::os::unix::fs::symlink(other.work().join(".git"), lab.work().join(".git")).unwrap();
    assert!(matches!(within(&lab), Err(GitError::NoRepository { .. })));
}

/// What would take all memory of the machine ends the one run.
#[cfg(target_os = "linux")]
#[test]
fn a_run_is_held_to_its_memory() {
    let dir = tempfile::tempdir().unwrap();
    let git = Lab::program();
    let hash = |memory: u64| {
        let run = git.at(dir.path()).args(["hash-object", "--stdin"]).memory(memory);
        run.bytes("hash", &vec![0; 100 << 20], 100).unwrap()
    };
    assert!(hash(1 << 30).success);
    let refused = hash(50 << 20);
    assert!(!refused.success);
    let said = refused.checked("hash").unwrap_err().to_string();
    assert!(said.contains("memory"), "{said}");
}

/// A folder that becomes a link to somebody else's while it is read, again and again.
#[cfg(target_os = "linux")]
#[test]
fn nothing_is_read_behind_a_link_that_comes_meanwhile() {
    let lab = small();
    let folder = lab.work().join(".git/rebase-merge");
    let (link, other) = (lab.path("link"), lab.path("other"));
    for (at, text) in [(&folder, "own"), (&other, "SECRET")] {
        crate::fs::create_dir_all(at).unwrap();
        crate::fs::write_atomic(&at.join("message"), text.as_bytes(), 0o600).unwrap();
    }
    std::os::unix::fs::symlink(&other, &link).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (at, exchange) = (rustix::fs::CWD, rustix::fs::RenameFlags::EXCHANGE);
            while !done.load(Ordering::Relaxed) {
                rustix::fs::renameat_with(at, &folder, at, &link, exchange).unwrap();
            }
        });
        let repo = Repository::open(&lab.work(), None).unwrap();
        let is_secret = |file: &GitFile| file.bytes == b"SECRET";
        let found = (0..5_000).any(|_| {
            let files = files::read(&repo, &mut Told::default());
            files.is_ok_and(|files| files.iter().any(is_secret))
        });
        done.store(true, Ordering::Relaxed);
        assert!(!found);
    });
}

/// What is missing is fetched by a program that the repository names (CVE-2024-32465).
#[test]
fn nothing_is_fetched_for_a_repository_that_lacks_objects() {
    let lab = small();
    let trap = trap(&lab);
    lab.write("staged", "only in the index\n");
    lab.git(&["add", "staged"]);
    let oid = lab.says(&["rev-parse", ":staged"]);
    let object = lab.work().join(".git/objects").join(&oid[..2]).join(&oid[2..]);
    crate::fs::remove_file(&object).unwrap();
    let url = lab.path("evil").display().to_string();
    for (key, value) in [("url", url.as_str()), ("uploadpack", &trap), ("promisor", "true")] {
        lab.git(&["config", &format!("remote.o.{key}"), value]);
    }
    lab.git(&["config", "extensions.partialClone", "o"]);
    let captured = lab.capture();
    assert_not_sprung(&lab);
    assert_eq!(told(&captured, "the entry staged"), "missing");
    lab.rebuild(&captured, "there");
    assert_not_sprung(&lab);
}

/// Entries that would be checked out into `.git` (CVE-2014-9390, CVE-2024-32002, CVE-2021-21300).
#[test]
fn entries_that_reach_gits_folder_are_refused() {
    let lab = small();
    let captured = lab.capture();
    let oid =
        GitOid::from_hex(GitHash::Sha1, lab.says(&["rev-parse", "HEAD:2"]).as_bytes()).unwrap();
    let entry = |path: &str, mode| GitEntry {
        path: path.into(),
        stage: 0,
        mode,
        assume_valid: false,
        skip_worktree: false,
        intent_to_add: false,
        clean: None,
        oid,
    };
    for (path, mode) in [
        (".git/hooks/post-checkout", GitMode::Executable),
        (".GIT/config", GitMode::File),
        ("a/.git", GitMode::Symlink),
        ("git~1/config", GitMode::File),
        (".g\u{200c}it/config", GitMode::File),
        ("../x", GitMode::File),
        ("/x", GitMode::File),
        (".gitmodules", GitMode::Symlink),
    ] {
        let entries = vec![entry(path, mode)];
        let index =
            GitIndex { hash: GitHash::Sha1, version: 2, sparse: false, entries, undo: Vec::new() };
        let blob = store_bytes(&index.encode(), &lab.objects).unwrap();
        let id = forged(&lab, &captured.state, |state| state.index = Some(blob));
        assert!(matches!(try_rebuild(&lab, id), Err(GitError::Malformed(_))), "{path}");
    }
}

/// Files of a state that would be more than what git is in the middle of.
#[test]
fn files_that_no_operation_has_are_refused() {
    let lab = small();
    let captured = lab.capture();
    for path in [
        "hooks/post-checkout",
        "config",
        "objects/info/alternates",
        "commondir",
        "info/grafts",
        "modules/x/config",
        "index",
        "rebase-merge/gpg_sign_opt",
    ] {
        let file =
            GitFile { path: RelPath::new(path.as_bytes()).unwrap(), bytes: b"evil\n".to_vec() };
        let blob = store_bytes(&GitFiles(vec![file]).encode(), &lab.objects).unwrap();
        let id = forged(&lab, &captured.state, |state| state.files = Some(blob));
        assert!(matches!(try_rebuild(&lab, id), Err(GitError::Refused { .. })), "{path}");
    }
}

/// Commands in the list of a rebase go where they were made, and come home only if they went out.
#[test]
fn commands_of_a_rebase_are_named_and_held_where_they_are_new() {
    let lab = small();
    lab.git(&["stash", "-q"]);
    lab.write("3", "x\n");
    lab.commit("second");
    let editor = "sequence.editor=sed -i -e '1s/^pick/edit/' -e '$a exec make it' -e '$a x other'";
    lab.git(&["-c", editor, "rebase", "-q", "-i", "HEAD~1"]);
    let captured = lab.capture();
    assert_eq!(told(&captured, "exec make it"), "runs");
    let rebuilt = lab.rebuild(&captured, "there");
    assert!(rebuilt.omitted.iter().any(|it| it.what == "exec other"));
    let todo = |at: &str| {
        crate::fs::read_if_exists(&lab.path(at).join(".git/rebase-merge/git-rebase-todo"), 9999)
            .unwrap()
    };
    assert_eq!(todo("there"), todo("work"));

    let mut options = lab.rebuild_options();
    let known = |lines: &[&str]| lines.iter().map(|&it| it.to_owned()).collect::<BTreeSet<_>>();
    for (at, lines) in [(1, &["exec make it"][..]), (2, &[])] {
        options.commands = Commands::Only(known(lines));
        let to = lab.path(&format!("home{at}"));
        copy_files(&lab.work(), &to);
        let held = rebuild(&lab.objects, captured.id, &to, &options);
        assert!(matches!(held, Err(GitError::Commands { lines }) if lines.len() == at));
        assert!(!to.join(".git").exists());
    }
    options.commands = Commands::Only(known(&["exec make it", "exec other"]));
    let to = lab.path("home");
    copy_files(&lab.work(), &to);
    rebuild(&lab.objects, captured.id, &to, &options).unwrap();
}

/// Names of submodules that lead elsewhere (CVE-2018-11235), one inside another, a carriage return at the end of
/// a path (CVE-2025-48384), a folder that is a link (CVE-2024-32002, CVE-2021-21300).
#[test]
fn submodules_that_lead_elsewhere_are_refused() {
    let lab = small();
    let captured = lab.capture();
    let unit = |path: &str, place| GitUnit {
        path: RelPath::new(path.as_bytes()).unwrap(),
        place,
        state: captured.id,
    };
    let module = |name: &str| GitPlace::Module(name.into());
    let with = |units: Vec<GitUnit>| forged(&lab, &captured.state, |state| state.units = units);
    for name in ["../../hooks", "a/../../hooks", "..", "", "a\\..\\b", ".git", "a\r"] {
        let id = with(vec![unit("a", module(name))]);
        assert!(matches!(try_rebuild(&lab, id), Err(GitError::Malformed(_))), "{name:?}");
    }
    for path in ["a\r", "a/.git/modules/x", ".GIT/hooks"] {
        let id = with(vec![unit(path, module("x"))]);
        assert!(matches!(try_rebuild(&lab, id), Err(GitError::Malformed(_))), "{path:?}");
    }
    for names in [["x", "x/hooks"], ["x", "X"], ["x", "x/modules/y"]] {
        let id = with(vec![unit("a", module(names[0])), unit("b", module(names[1]))]);
        assert!(matches!(try_rebuild(&lab, id), Err(GitError::Refused { .. })), "{names:?}");
    }
    // A link where the submodule should be: its repository is there, and nothing is written behind the link.
    crate::fs::create_dir_all(&lab.path("behind")).unwrap();
    std::os::unix::fs::symlink(lab.path("behind"), lab.work().join("link")).unwrap();
    for place in [module("x"), GitPlace::Embedded] {
        let id = with(vec![unit("link", place)]);
        try_rebuild(&lab, id).unwrap();
        assert!(std::fs::read_dir(lab.path("behind")).unwrap().next().is_none());
    }
    // The same while it is captured: what lies behind the link is not a part of this repository.
    let other = small();
    crate::fs::remove_file(&lab.work().join("link")).unwrap();
    std::os::unix::fs::symlink(other.work(), lab.work().join("link")).unwrap();
    let head = lab.says(&["rev-parse", "HEAD"]);
    lab.git(&["update-index", "--add", "--cacheinfo", &format!("160000,{head},link")]);
    assert_eq!(lab.capture().state.units, []);
}

/// A submodule whose folder in the repository has such a name.
#[test]
fn a_submodule_of_a_hostile_name_is_named_and_left_out() {
    let lab = small();
    let inner = lab.work().join("sub");
    lab.init("work/sub");
    crate::fs::write_atomic(&inner.join("f"), b"x", 0o644).unwrap();
    lab.git_in(&inner, &["add", "f"]);
    lab.git_in(&inner, &["commit", "-q", "-m", "inner"]);
    let head = String::from_utf8(lab.git_in(&inner, &["rev-parse", "HEAD"])).unwrap();
    let info = format!("160000,{},sub", head.trim());
    lab.git(&["update-index", "--add", "--cacheinfo", &info]);
    let modules = lab.work().join(".git/modules");
    crate::fs::create_dir_all(&modules).unwrap();
    crate::fs::rename(&inner.join(".git"), &modules.join("a\rb")).unwrap();
    crate::fs::write_atomic(&inner.join(".git"), b"gitdir: ../.git/modules/a\rb\n", 0o644).unwrap();
    let captured = lab.capture();
    assert_eq!(captured.state.units, []);
    assert_eq!(told(&captured, "the repository in sub"), "broken");
    lab.rebuild(&captured, "there");
}

/// Objects that git would not take: a tree with `.git` in it (CVE-2014-9390), a `.gitmodules` that is a link or
/// names options (CVE-2018-17456), a pack that is none.
#[test]
fn packs_with_hostile_objects_are_refused() {
    let make = |tree: &[u8]| {
        let lab = small();
        let path = lab.path("tree");
        crate::fs::write_atomic(&path, tree, 0o600).unwrap();
        let tree = lab.says(&[
            "hash-object",
            "-t",
            "tree",
            "-w",
            "--literally",
            &path.display().to_string(),
        ]);
        let commit = lab.says(&["commit-tree", "-m", "evil", &tree]);
        lab.git(&["update-ref", "refs/heads/evil", &commit]);
        let captured = lab.capture();
        try_rebuild(&lab, captured.id)
    };
    let lab = small();
    let blob = lab.says(&["hash-object", "2"]);
    let oid = GitOid::from_hex(GitHash::Sha1, blob.as_bytes()).unwrap();
    let entry = |mode: &str, name: &str| {
        [mode.as_bytes(), b" ", name.as_bytes(), b"\0", oid.as_bytes()].concat()
    };
    assert!(make(&entry("100644", "fine")).is_ok());
    for (mode, name) in [
        ("100644", ".git"),
        ("100644", ".GIT"),
        ("120000", ".gitmodules"),
        ("100644", ".."),
        ("100644", "a/b"),
    ] {
        assert!(matches!(make(&entry(mode, name)), Err(GitError::Git { .. })), "{name}");
    }
    let captured = lab.capture();
    let junk = store_bytes(b"PACK but not really", &lab.objects).unwrap();
    let id = forged(&lab, &captured.state, |state| state.packs[0].blob = junk);
    assert!(matches!(try_rebuild(&lab, id), Err(GitError::Git { .. })));
    // One that did not come whole.
    let id = forged(&lab, &captured.state, |state| state.packs.clear());
    assert!(matches!(try_rebuild(&lab, id), Err(GitError::Refused { .. })));
}

/// A `.gitmodules` with an option for a URL (CVE-2018-17456) and with a path of an option (CVE-2018-17456).
#[test]
fn hostile_gitmodules_are_refused() {
    for text in [
        "[submodule \"x\"]\n\tpath = x\n\turl = --upload-pack=evil\n",
        "[submodule \"x\"]\n\tpath = -x\n\turl = https://h\n",
        "[submodule \"../../x\"]\n\tpath = x\n\turl = https://h\n",
    ] {
        let lab = small();
        lab.write(".gitmodules", text);
        lab.commit("modules");
        let captured = lab.capture();
        assert!(matches!(try_rebuild(&lab, captured.id), Err(GitError::Git { .. })), "{text}");
    }
}

/// What is written in the place of a file of git while its repository is read.
#[test]
fn indexes_that_lie_take_no_memory() {
    let header = |version: u32, count: u32| {
        [&b"DIRC"[..], &version.to_be_bytes(), &count.to_be_bytes()].concat()
    };
    for bytes in [
        Vec::new(),
        b"DIRC".to_vec(),
        [header(2, u32::MAX), vec![0; 1000]].concat(),
        [header(4, 1 << 30), vec![0; 1000]].concat(),
        [header(9, 0), vec![0; 20]].concat(),
        [header(2, 0), b"TREE\xff\xff\xff\xff".to_vec(), vec![0; 20]].concat(),
        [header(2, 0), b"what\0\0\0\0".to_vec(), vec![0; 20]].concat(),
        [header(2, 0), b"link\0\0\0\x18".to_vec(), vec![1; 20], vec![0xff; 4], vec![0; 20]]
            .concat(),
    ] {
        let lab = small();
        crate::fs::write_atomic(&lab.work().join(".git/index"), &bytes, 0o644).unwrap();
        let refused = lab.try_capture();
        assert!(matches!(refused, Err(GitError::Damaged { .. })), "{bytes:?}");
    }
    let lab = small();
    let index = lab.work().join(".git/index");
    let whole = crate::fs::read_if_exists(&index, 1 << 20).unwrap().unwrap();
    for at in (0..whole.len()).step_by(7) {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x11;
        crate::fs::write_atomic(&index, &bytes, 0o644).unwrap();
        assert!(matches!(lab.try_capture(), Err(GitError::Damaged { .. })), "byte {at}");
        // Without a checksum the parts have to be looked at.
        let end = bytes.len() - 20;
        bytes[end..].fill(0);
        crate::fs::write_atomic(&index, &bytes, 0o644).unwrap();
        drop(lab.try_capture());
    }
}

/// Files that are larger than anything that git writes.
#[test]
fn files_of_any_size_are_refused_by_name() {
    let lab = small();
    let file = |name: &str, size: u64| {
        let path = lab.work().join(".git").join(name);
        let file =
            std::fs::OpenOptions::new().create(true).truncate(true).write(true).open(path).unwrap();
        file.set_len(size).unwrap();
    };
    file("MERGE_MSG", 1 << 40);
    assert_eq!(told(&lab.capture(), "MERGE_MSG"), "broken");
    file("packed-refs", 1 << 40);
    assert!(matches!(lab.try_capture(), Err(GitError::Refused { .. })));
    file("packed-refs", 0);
    file("index", 1 << 40);
    assert!(matches!(lab.try_capture(), Err(GitError::Refused { .. })));
    let lab = small();
    let config = lab.work().join(".git/config");
    std::fs::OpenOptions::new().write(true).open(config).unwrap().set_len(1 << 40).unwrap();
    assert!(matches!(lab.try_capture(), Err(GitError::Refused { .. })));
}

/// A state that says that it is in another's middle, or nests for ever.
#[test]
fn states_that_nest_too_deeply_are_refused() {
    let lab = small();
    let mut captured = lab.capture();
    for _ in 0..20 {
        let unit = GitUnit {
            path: RelPath::new(b"a").unwrap(),
            place: GitPlace::Embedded,
            state: captured.id,
        };
        captured.id = forged(&lab, &captured.state, |state| state.units = vec![unit]);
    }
    assert!(matches!(try_rebuild(&lab, captured.id), Err(GitError::Refused { .. })));
}

/// Few states that name each other many times are many repositories.
#[test]
fn states_that_unfold_without_end_are_refused() {
    let lab = small();
    let mut captured = lab.capture();
    for _ in 0..10 {
        let units = ["a", "b", "c", "d"].map(|path| GitUnit {
            path: RelPath::new(path.as_bytes()).unwrap(),
            place: GitPlace::Embedded,
            state: captured.id,
        });
        captured.id = forged(&lab, &captured.state, |state| state.units = units.to_vec());
    }
    assert!(matches!(try_rebuild(&lab, captured.id), Err(GitError::Refused { .. })));
    // And lists that are long: a few chunks, named again and again. They are refused unread.
    let long = store_bytes(&vec![0; 300 << 20], &lab.objects).unwrap();
    let honest = lab.capture().state;
    let id = forged(&lab, &honest, |state| {
        (state.refs, state.settings) = (long, long);
        (state.files, state.index) = (Some(long), Some(long));
    });
    assert!(matches!(try_rebuild(&lab, id), Err(GitError::Refused { .. })));
}

/// Recorded resolutions of files behind a link: git would read the file there, and the next capture would carry it away.
#[test]
fn resolutions_behind_a_link_are_dropped() {
    let lab = small();
    crate::fs::create_dir_all(&lab.path("behind")).unwrap();
    crate::fs::write_atomic(&lab.path("behind/key"), b"SECRET\n", 0o600).unwrap();
    std::os::unix::fs::symlink("../behind", lab.work().join("link")).unwrap();
    std::os::unix::fs::symlink("../behind/key", lab.work().join("file")).unwrap();
    let captured = lab.capture();
    let id = "1".repeat(40);
    let text: String =
        ["2", "a/1", "a/gone", "file", "link/key"].map(|path| format!("{id}\t{path}\0")).concat();
    let file = |path: &str, bytes: &[u8]| GitFile {
        path: RelPath::new(path.as_bytes()).unwrap(),
        bytes: bytes.to_vec(),
    };
    let files = GitFiles(vec![
        file("MERGE_RR", text.as_bytes()),
        file(&format!("rr-cache/{id}/preimage"), b"x\n"),
    ]);
    let blob = store_bytes(&files.encode(), &lab.objects).unwrap();
    try_rebuild(&lab, forged(&lab, &captured.state, |state| state.files = Some(blob))).unwrap();
    let forged = lab.path("forged");
    let kept = std::fs::read_to_string(forged.join(".git/MERGE_RR")).unwrap();
    let paths: Vec<_> = kept.split('\0').filter_map(|it| it.split('\t').nth(1)).collect();
    assert_eq!(paths, ["2", "a/1", "a/gone"]);
    lab.git_in(&forged, &["commit", "-q", "-m", "x"]);
    let cache = forged.join(".git/rr-cache").join(&id);
    for entry in std::fs::read_dir(cache).unwrap() {
        assert!(!std::fs::read_to_string(entry.unwrap().path()).unwrap().contains("SECRET"));
    }
}

#[test]
fn a_worktree_that_has_a_repository_keeps_it() {
    let lab = small();
    let captured = lab.capture();
    let before = lab.says(&["rev-parse", "HEAD"]);
    let refused = rebuild(&lab.objects, captured.id, &lab.work(), &lab.rebuild_options());
    assert!(matches!(refused, Err(GitError::Refused { .. })));
    assert_eq!(lab.says(&["rev-parse", "HEAD"]), before);
    let elsewhere = lab.path("nothing-here");
    let refused = rebuild(&lab.objects, captured.id, &elsewhere, &lab.rebuild_options());
    assert!(refused.is_err() && !Path::new(&elsewhere).exists());
    // A head that is a name of nothing yet is fine, one that no ref may have is not.
    let head = GitHead::Symbolic(GitRefName::new(b"refs/heads/unborn").unwrap());
    try_rebuild(&lab, forged(&lab, &captured.state, |state| state.head = head)).unwrap();
}
