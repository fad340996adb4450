//! Refs as they stand in a repository, and refs written into a new one.
//!
//! Refs in files are read here; tables are read and written by git.
//!
//! **Invariant:** a ref is read and written only under a name that [`GitRefName`] takes, so that none leads out
//! of its folder.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use baton_protocol::object::{
    GitHash, GitHead, GitOid, GitOmitReason, GitRef, GitRefName, GitTarget,
};

use super::files::{LogLine, parse_log_line};
use super::place::{Repository, read_below};
use super::program::Run;
use super::view::{View, write_new};
use super::{GitError, Told, as_path, shown};
use crate::fs::{self, list_dir};

/// Longest file of one ref.
const MAX_REF: u64 = 8 * 1024;

/// Longest list of refs, in bytes.
const MAX_REFS: u64 = 256 << 20;

/// Most refs.
const MAX_COUNT: usize = 2_000_000;

/// What `HEAD` and the refs point to.
#[derive(Debug)]
pub(super) struct Refs {
    pub(super) head: GitHead,
    pub(super) refs: BTreeMap<GitRefName, GitTarget>,
}

/// Reads all refs of a worktree, those in tables through a view, and tells of those that are no refs.
pub(super) fn read(
    repo: &Repository,
    view: Option<&View<'_>>,
    told: &mut Told,
) -> Result<Refs, GitError> {
    match view {
        None => read_belows(repo, told),
        Some(view) => read_tables(repo, view, told),
    }
}

fn read_belows(repo: &Repository, told: &mut Told) -> Result<Refs, GitError> {
    let mut refs = BTreeMap::new();
    // In this order: git writes the packed ones before it removes those in files.
    read_loose(&repo.common_dir, repo.hash, &mut refs, told, |name| !is_private(name))?;
    read_loose(&repo.git_dir, repo.hash, &mut refs, told, is_private)?;
    read_packed(repo, &mut refs, told)?;
    for name in list_dir(&repo.git_dir)? {
        let Some(name) = GitRefName::new(name.as_bytes()) else { continue };
        let bytes = read_below(&repo.git_dir.join(as_path(name.as_bytes())), MAX_REF)?;
        match parse_target(&bytes.unwrap_or_default(), repo.hash) {
            Some(target) => drop(refs.insert(name, target)),
            None => told.note(GitOmitReason::Broken, shown(name.as_bytes())),
        }
    }
    let path = repo.git_dir.join("HEAD");
    let damaged = |why| GitError::Damaged { path: path.clone(), why };
    let bytes = match std::fs::read_link(&path) {
        // The way in which old versions of git write it.
        Ok(target) if target.as_os_str().as_bytes().starts_with(b"refs/") => {
            [b"ref: ", target.as_os_str().as_bytes()].concat()
        }
        _ => read_below(&path, MAX_REF)?.ok_or_else(|| damaged("it is not there"))?,
    };
    let target = parse_target(&bytes, repo.hash).ok_or_else(|| damaged("it names nothing"))?;
    Ok(Refs { head: as_head(target), refs })
}

fn as_head(target: GitTarget) -> GitHead {
    match target {
        GitTarget::Object(oid) => GitHead::Detached(oid),
        GitTarget::Symbolic(name) => GitHead::Symbolic(name),
    }
}

/// Whether each worktree has a ref of this name of its own.
pub(super) fn is_private(name: &[u8]) -> bool {
    [&b"refs/bisect/"[..], b"refs/worktree/", b"refs/rewritten/"]
        .iter()
        .any(|start| name.starts_with(start))
}

/// What stands in the file of a ref.
fn parse_target(bytes: &[u8], hash: GitHash) -> Option<GitTarget> {
    let bytes = bytes.trim_ascii_end();
    if let Some(name) = bytes.strip_prefix(b"ref:") {
        let name = GitRefName::new(name.trim_ascii_start())?;
        return name.below_refs().map(GitTarget::Symbolic);
    }
    let oid = GitOid::from_hex(hash, bytes)?;
    (!oid.is_null()).then_some(GitTarget::Object(oid))
}

fn read_packed(
    repo: &Repository,
    refs: &mut BTreeMap<GitRefName, GitTarget>,
    told: &mut Told,
) -> Result<(), GitError> {
    let path = repo.common_dir.join("packed-refs");
    let bytes = read_below(&path, MAX_REFS)?.unwrap_or_default();
    let is_linked = repo.common_dir != repo.git_dir;
    for line in bytes.split(|&byte| byte == b'\n') {
        if line.is_empty() || line.starts_with(b"#") || line.starts_with(b"^") {
            continue;
        }
        let split = line.split_at_checked(2 * repo.hash.len());
        let (oid, name) = split
            .and_then(|(oid, rest)| {
                Some((GitOid::from_hex(repo.hash, oid)?, rest.strip_prefix(b" ")?))
            })
            .ok_or_else(|| GitError::Damaged { path: path.clone(), why: "a line is no ref" })?;
        match GitRefName::new(name).filter(|_| !oid.is_null()) {
            // Of the packed ones none is a linked worktree's own.
            Some(name) if is_linked && is_private(name.as_bytes()) => {}
            Some(name) if refs.contains_key(&name) => {}
            Some(name) => add(refs, name, GitTarget::Object(oid))?,
            None => told.note(GitOmitReason::Broken, shown(name)),
        }
    }
    Ok(())
}

fn add(
    refs: &mut BTreeMap<GitRefName, GitTarget>,
    name: GitRefName,
    target: GitTarget,
) -> Result<(), GitError> {
    if refs.len() >= MAX_COUNT {
        return Err(GitError::refused("the repository", "it has too many refs"));
    }
    refs.insert(name, target);
    Ok(())
}

/// Reads the refs in files below a folder.
fn read_loose(
    top: &Path,
    hash: GitHash,
    refs: &mut BTreeMap<GitRefName, GitTarget>,
    told: &mut Told,
    belongs: impl Fn(&[u8]) -> bool,
) -> Result<(), GitError> {
    let mut left = vec![b"refs".to_vec()];
    while let Some(folder) = left.pop() {
        for name in list_dir(&top.join(as_path(&folder)))? {
            let path = [&folder[..], b"/", name.as_bytes()].concat();
            let full = top.join(as_path(&path));
            let Ok(metadata) = full.symlink_metadata() else { continue };
            if metadata.is_dir() && path.len() < 4096 {
                left.push(path);
                continue;
            }
            if path.ends_with(b".lock") || !belongs(&path) {
                continue;
            }
            let target = match read_below(&full, MAX_REF) {
                Ok(None) => continue,
                Ok(Some(bytes)) => parse_target(&bytes, hash),
                Err(GitError::Refused { .. }) => None,
                Err(error) => return Err(error),
            };
            match (GitRefName::new(&path), target) {
                (Some(name), Some(target)) => add(refs, name, target)?,
                _ => told.note(GitOmitReason::Broken, shown(&path)),
            }
        }
    }
    Ok(())
}

fn read_tables(repo: &Repository, view: &View<'_>, told: &mut Told) -> Result<Refs, GitError> {
    let format = "--format=%(refname)%00%(objectname)%00%(symref)";
    let listed = view.git().args(["for-each-ref", "--include-root-refs", format]).bytes(
        "list refs",
        b"",
        MAX_REFS,
    )?;
    for line in listed.said.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
        told.note(GitOmitReason::Broken, shown(line));
    }
    let mut refs = BTreeMap::new();
    for line in listed.checked("list refs")?.split(|&byte| byte == b'\n') {
        let mut parts = line.split(|&byte| byte == 0);
        let (Some(name), Some(oid), Some(symbolic)) = (parts.next(), parts.next(), parts.next())
        else {
            continue;
        };
        let target = match symbolic {
            [] => {
                GitOid::from_hex(repo.hash, oid).filter(|oid| !oid.is_null()).map(GitTarget::Object)
            }
            name => GitRefName::new(name).and_then(GitRefName::below_refs).map(GitTarget::Symbolic),
        };
        match (GitRefName::new(name), target) {
            (Some(name), Some(target)) => add(&mut refs, name, target)?,
            _ if name == b"HEAD" => {}
            _ => told.note(GitOmitReason::Broken, shown(name)),
        }
    }
    let symbolic =
        view.git().args(["symbolic-ref", "-q", "HEAD"]).bytes("read HEAD", b"", MAX_REF)?;
    let no_head = || GitError::Damaged { path: repo.git_dir.join("HEAD"), why: "it names nothing" };
    let head = if symbolic.success {
        let name =
            GitRefName::new(symbolic.value.trim_ascii_end()).and_then(GitRefName::below_refs);
        GitHead::Symbolic(name.ok_or_else(no_head)?)
    } else {
        let args = ["rev-parse", "-q", "--verify", "HEAD"];
        let oid = view.git().args(args).bytes("read HEAD", b"", MAX_REF)?.checked("read HEAD")?;
        GitHead::Detached(GitOid::from_hex(repo.hash, oid.trim_ascii_end()).ok_or_else(no_head)?)
    };
    Ok(Refs { head, refs })
}

/// The reflog of `HEAD` or of the stash where refs are in tables, as files have them; of at most so many lines, the
/// last ones.
pub(super) fn read_table_logs(
    repo: &Repository,
    view: &View<'_>,
    name: &str,
    most: Option<usize>,
    told: &mut Told,
) -> Result<Vec<u8>, GitError> {
    let exists =
        view.git().args(["reflog", "exists", name]).bytes("look for a reflog", b"", MAX_REF)?;
    if !exists.success {
        return Ok(Vec::new());
    }
    let most = most.map(|most| format!("--max-count={most}"));
    let args = [
        "log",
        "--walk-reflogs",
        "--no-show-signature",
        "--no-notes",
        "--date=raw",
        "--format=%H%x00%gn <%ge>%x00%gd%x00%gs",
        name,
        "--",
    ];
    let (command, options) = args.split_at(1);
    let run = view.git().args(command).args(most).args(options);
    let listed = run.bytes("read a reflog", b"", MAX_REFS)?;
    if !listed.success {
        // The object of its last line is gone, and git does not look behind it.
        told.note(GitOmitReason::Broken, format!("logs/{name}"));
        return Ok(Vec::new());
    }
    let mut entries: Vec<Vec<&[u8]>> = listed
        .value
        .split(|&byte| byte == b'\n')
        .map(|line| line.splitn(4, |&byte| byte == 0).collect())
        .collect();
    // The oldest first, as in a file.
    entries.reverse();
    let mut old = GitOid::null(repo.hash).to_string();
    let mut text = Vec::new();
    for entry in &entries {
        let [new, who, when, message] = entry.as_slice() else { continue };
        // `name@{seconds zone}`
        let when = when.rsplit(|&byte| byte == b'{').next().unwrap_or_default();
        let when = when.strip_suffix(b"}").unwrap_or(when);
        text.extend_from_slice(old.as_bytes());
        for part in [new, who, &when] {
            text.push(b' ');
            text.extend_from_slice(part);
        }
        text.push(b'\t');
        text.extend_from_slice(message);
        text.push(b'\n');
        old = String::from_utf8_lossy(new).into_owned();
    }
    Ok(text)
}

/// Refuses refs of which one is the folder of another: git can keep no such two.
pub(super) fn check_folders(refs: &[GitRef]) -> Result<(), GitError> {
    let names: BTreeSet<&[u8]> = refs.iter().map(|it| it.name.as_bytes()).collect();
    for name in &names {
        let mut slashes = name.iter().enumerate().filter(|&(_, &byte)| byte == b'/');
        if slashes.any(|(at, _)| name.get(..at).is_some_and(|folder| names.contains(folder))) {
            return Err(GitError::refused(
                format!("the ref {}", shown(name)),
                "another one is its folder",
            ));
        }
    }
    Ok(())
}

/// Writes refs and `HEAD` into a new repository that keeps them in files.
pub(super) fn write_files(git_dir: &Path, head: &GitHead, refs: &[GitRef]) -> Result<(), GitError> {
    let mut packed = b"# pack-refs with: sorted \n".to_vec();
    for GitRef { name, target } in refs {
        match target {
            GitTarget::Object(oid) if !name.is_root() && !is_private(name.as_bytes()) => {
                packed.extend_from_slice(format!("{oid} ").as_bytes());
                packed.extend_from_slice(name.as_bytes());
                packed.push(b'\n');
            }
            _ => {
                let path = git_dir.join(as_path(name.as_bytes()));
                if let Some(folder) = path.parent() {
                    fs::create_dir_all(folder)?;
                }
                write_new(&path, &target_line(target))?;
            }
        }
    }
    write_new(&git_dir.join("packed-refs"), &packed)?;
    let target = match head {
        GitHead::Detached(oid) => GitTarget::Object(*oid),
        GitHead::Symbolic(name) => GitTarget::Symbolic(name.clone()),
    };
    let path = git_dir.join("HEAD");
    Ok(fs::write_atomic(&path, &target_line(&target), 0o600)?)
}

fn target_line(target: &GitTarget) -> Vec<u8> {
    match target {
        GitTarget::Object(oid) => format!("{oid}\n").into_bytes(),
        GitTarget::Symbolic(name) => [b"ref: ", name.as_bytes(), b"\n"].concat(),
    }
}

/// Lines of the reflog of `HEAD` that are written into tables, the last ones: git is run for each.
pub(super) const MAX_HEAD_LINES: usize = 20;

/// Most stashes that are written into tables, for the same reason.
const MAX_STASHES: usize = 5000;

/// Writes refs and `HEAD` into a new repository that keeps them in tables, through git. Reflogs come first,
/// because every line of one is a change of its ref.
pub(super) fn write_tables<'a>(
    git: impl Fn() -> Run<'a>,
    hash: GitHash,
    head: &GitHead,
    refs: &[GitRef],
    logs: [&[u8]; 2],
) -> Result<(), GitError> {
    const DOING: &str = "write refs";
    let [head_log, stash_log] = logs.map(|log| {
        let lines = log.split(|&byte| byte == b'\n').filter_map(|it| parse_log_line(it, hash));
        lines.collect::<Vec<_>>()
    });
    if stash_log.len() > MAX_STASHES {
        return Err(GitError::refused("the list of stashes", "it is too long for tables"));
    }
    let first = head_log.len().saturating_sub(MAX_HEAD_LINES);
    let (last, lines) = head_log.get(first..).and_then(<[_]>::split_last).unzip();
    // Git writes no line where nothing changes but where `HEAD` is turned to another ref. So it is turned to and fro.
    let spare = spare_names(refs)?;
    let head_is_born = match head {
        GitHead::Symbolic(name) => refs.iter().any(|it| it.name == *name),
        GitHead::Detached(_) => true,
    };
    let turns = lines.into_iter().flatten().chain(last.filter(|_| !head_is_born));
    for (line, turn) in turns.zip(spare.iter().cycle()) {
        let oid = line.new.to_string();
        git().args(["update-ref", turn, &oid]).bytes(DOING, b"", MAX_REF)?.checked(DOING)?;
        turn_head(&git, as_path(turn.as_bytes()), Some(line))?;
    }
    for line in &stash_log {
        write_stash_line(&git, line)?;
    }
    let mut input = Vec::new();
    for GitRef { name, target } in refs {
        match target {
            GitTarget::Object(oid) => {
                input.extend_from_slice(b"update ");
                input.extend_from_slice(name.as_bytes());
                input.extend_from_slice(format!(" {oid}\n").as_bytes());
            }
            GitTarget::Symbolic(to) => {
                let args =
                    [as_path(b"symbolic-ref"), as_path(name.as_bytes()), as_path(to.as_bytes())];
                git().args(args).bytes(DOING, b"", MAX_REF)?.checked(DOING)?;
            }
        }
    }
    let update = || git().args(["update-ref", "--no-deref", "--stdin"]);
    update().bytes(DOING, &input, MAX_REFS)?.checked(DOING)?;
    let last = last.filter(|_| head_is_born);
    match head {
        GitHead::Symbolic(name) => turn_head(&git, as_path(name.as_bytes()), last)?,
        GitHead::Detached(oid) => {
            let message = message_of(last);
            let run = by_whom(git(), last).args(["update-ref", "--no-deref"]);
            let run = run.args(message.iter().flatten()).args(["HEAD", &oid.to_string()]);
            run.bytes(DOING, b"", MAX_REF)?.checked(DOING)?;
        }
    }
    let gone = spare.map(|name| format!("delete {name}\n")).concat();
    if !head_log.is_empty() {
        update().bytes(DOING, gone.as_bytes(), MAX_REF)?.checked(DOING)?;
    }
    Ok(())
}

/// Turns `HEAD` to a ref, and has git write a line of its reflog.
fn turn_head<'a>(
    git: &impl Fn() -> Run<'a>,
    to: &Path,
    line: Option<&LogLine<'_>>,
) -> Result<(), GitError> {
    const DOING: &str = "write HEAD";
    let message = message_of(line);
    let run = by_whom(git(), line).args(["symbolic-ref"]).args(message.iter().flatten());
    run.args([as_path(b"HEAD"), to]).bytes(DOING, b"", MAX_REF)?.checked(DOING)?;
    Ok(())
}

/// Names of refs that are none of these, nor the folder of one, nor in one.
fn spare_names(refs: &[GitRef]) -> Result<[String; 2], GitError> {
    let folders: BTreeSet<&[u8]> = refs
        .iter()
        .filter_map(|it| it.name.as_bytes().split(|&byte| byte == b'/').nth(1))
        .collect();
    let folder = (0..=folders.len())
        .map(|at| format!("rebuild-{at}"))
        .find(|name| !folders.contains(name.as_bytes()))
        .ok_or_else(|| GitError::refused("the refs", "they leave no name free"))?;
    Ok(["a", "b"].map(|name| format!("refs/{folder}/{name}")))
}

fn write_stash_line<'a>(git: &impl Fn() -> Run<'a>, line: &LogLine<'_>) -> Result<(), GitError> {
    const DOING: &str = "write a reflog";
    let message = message_of(Some(line));
    let run = by_whom(git(), Some(line))
        .args(["update-ref", "--no-deref", "--create-reflog"])
        .args(message.iter().flatten())
        .args(["refs/stash", &line.new.to_string()]);
    run.bytes(DOING, b"", MAX_REF)?.checked(DOING)?;
    Ok(())
}

/// The message of a line as arguments. Git takes no empty one, and writes one where it is given none.
fn message_of<'l>(line: Option<&LogLine<'l>>) -> Option<[&'l Path; 2]> {
    let message = line.map(|line| line.message).filter(|message| !message.is_empty())?;
    Some([as_path(b"-m"), as_path(message)])
}

/// A run in the name of who made a line, and at that time.
fn by_whom<'a>(run: Run<'a>, line: Option<&LogLine<'_>>) -> Run<'a> {
    let Some(line) = line else { return run };
    let end = line.who.iter().rposition(|&byte| byte == b'<').unwrap_or_default();
    let (name, address) = line.who.split_at(end);
    let address =
        address.strip_prefix(b"<").and_then(|it| it.strip_suffix(b">")).unwrap_or_default();
    run.env("GIT_COMMITTER_NAME", as_path(name.trim_ascii_end()))
        .env("GIT_COMMITTER_EMAIL", as_path(address))
        .env("GIT_COMMITTER_DATE", as_path(&[b"@", line.when].concat()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(name: &str) -> GitRefName {
        GitRefName::new(name.as_bytes()).unwrap()
    }

    #[test]
    fn a_ref_that_is_the_folder_of_another_is_refused() {
        let one =
            |at: &str| GitRef { name: name(at), target: GitTarget::Symbolic(name("refs/heads/x")) };
        let refs = |names: &[&str]| names.iter().map(|at| one(at)).collect::<Vec<_>>();
        assert!(
            check_folders(&refs(&["refs/heads/a", "refs/heads/a-b", "refs/heads/ab/c"])).is_ok()
        );
        assert!(
            check_folders(&refs(&["refs/heads/a", "refs/heads/a-b", "refs/heads/a/b"])).is_err()
        );
    }

    #[test]
    fn what_a_file_of_a_ref_says_is_checked() {
        let parse = |text: &str| parse_target(text.as_bytes(), GitHash::Sha1);
        assert_eq!(parse("ref: refs/heads/x\n"), Some(GitTarget::Symbolic(name("refs/heads/x"))));
        assert!(parse(&"a".repeat(40)).is_some());
        for bad in ["", "ref: ../x", "ref: HEAD", "ref: refs/../config", "x", &"0".repeat(40)] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
