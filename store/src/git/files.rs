//! Files of a repository's folder that travel as they stand: what git is in the middle of, patterns of its
//! own, and reflogs.
//!
//! **Invariant:** the list, and what a file on it may say, hold where a repository is captured and again where it
//! is rebuilt. No file on it makes git run a program but the lines that [`commands`] finds.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use baton_protocol::object::{GitFile, GitHash, GitOid, GitOmitReason, GitRefName, is_index_path};
use baton_protocol::path::{RelPath, is_git_name};

use super::place::{Repository, parse_config, read_below};
use super::settings::{self, Verdict};
use super::{GitError, Told, as_path, shown};
use crate::fs::{Context, list_dir};

/// Largest file.
const MAX_FILE: u64 = 64 << 20;

/// Bytes of all of them.
const MAX_FILES: u64 = 256 << 20;

/// Most of them.
const MAX_COUNT: usize = 100_000;

/// Names that may be those of objects, at most.
const MAX_MENTIONS: usize = 200_000;

/// Shortest abbreviation of an object's name that is looked for.
const MIN_MENTION: usize = 7;

/// Files that are a worktree's own.
const OF_WORKTREE: [&str; 14] = [
    "BISECT_ANCESTORS_OK",
    "BISECT_FIRST_PARENT",
    "BISECT_LOG",
    "BISECT_NAMES",
    "BISECT_START",
    "BISECT_TERMS",
    "COMMIT_EDITMSG",
    "MERGE_HEAD",
    "MERGE_MODE",
    "MERGE_MSG",
    "MERGE_RR",
    "SQUASH_MSG",
    "info/sparse-checkout",
    "logs/HEAD",
];

/// Folders that are a worktree's own, with everything in them.
const FOLDERS: [&str; 3] = ["rebase-apply", "rebase-merge", "sequencer"];

/// Files that the worktrees of a repository share.
const SHARED: [&str; 4] = ["info/attributes", "info/exclude", "logs/refs/stash", "shallow"];

/// Entries of a repository's folder that travel in another way, or mean nothing elsewhere.
const OTHERWISE: [&str; 23] = [
    "FETCH_HEAD",
    "HEAD",
    "branches",
    "commondir",
    "config",
    "config.worktree",
    "description",
    "gc.log",
    "gc.pid",
    "gitdir",
    "hooks",
    "index",
    "info",
    "locked",
    "logs",
    "modules",
    "objects",
    "packed-refs",
    "refs",
    "reftable",
    "rr-cache",
    "worktrees",
    "fsmonitor--daemon",
];

/// Strategies of merging that git itself has: another one is a program of that name.
const STRATEGIES: [&str; 6] = ["octopus", "ours", "ort", "recursive", "resolve", "subtree"];

/// Reads the files that travel, ascending by path, and tells what lies beside them.
pub(super) fn read(repo: &Repository, told: &mut Told) -> Result<Vec<GitFile>, GitError> {
    let mut files = Vec::new();
    let mut left = MAX_FILES;
    let mut add = |folder: &Path, path: &[u8], told: &mut Told| -> Result<(), GitError> {
        let full = folder.join(as_path(path));
        let bytes = match read_below(&full, MAX_FILE.min(left)) {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return Ok(()),
            Err(GitError::Refused { .. }) => {
                told.note(GitOmitReason::Broken, shown(path));
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        left -= bytes.len() as u64;
        let Some(bytes) = cleaned(path, bytes, repo.hash, told) else { return Ok(()) };
        match RelPath::new(path) {
            Ok(path) if files.len() < MAX_COUNT => files.push(GitFile { path, bytes }),
            _ => told.note(GitOmitReason::Broken, shown(path)),
        }
        Ok(())
    };
    for name in OF_WORKTREE {
        add(&repo.git_dir, name.as_bytes(), told)?;
    }
    for name in FOLDERS {
        for path in list_below(&repo.git_dir, name, told)? {
            add(&repo.git_dir, &path, told)?;
        }
    }
    for name in SHARED {
        add(&repo.common_dir, name.as_bytes(), told)?;
    }
    let resolutions = read_below(&repo.git_dir.join("MERGE_RR"), MAX_FILE).ok().flatten();
    let ids = resolution_ids(&resolutions.unwrap_or_default());
    if list_dir(&repo.common_dir.join("rr-cache"))?
        .iter()
        .any(|it| !ids.iter().any(|id| id.as_bytes() == it.as_bytes()))
    {
        told.note(GitOmitReason::NotCarried, "recorded resolutions of other conflicts");
    }
    for id in ids {
        for path in list_below(&repo.common_dir, &format!("rr-cache/{id}"), told)? {
            add(&repo.common_dir, &path, told)?;
        }
    }
    tell_the_rest(repo, told)?;
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

/// The regular files below a folder of a repository, as paths within the repository.
fn list_below(top: &Path, folder: &str, told: &mut Told) -> Result<Vec<Vec<u8>>, GitError> {
    let mut paths = Vec::new();
    let mut left = vec![folder.as_bytes().to_vec()];
    while let Some(folder) = left.pop() {
        let full = top.join(as_path(&folder));
        // A link to a folder is none of them.
        if !full.symlink_metadata().is_ok_and(|metadata| metadata.is_dir()) {
            continue;
        }
        for name in list_dir(&full)? {
            let path = [&folder[..], b"/", name.as_bytes()].concat();
            let kind =
                full.join(&name).symlink_metadata().context("looking at", &full)?.file_type();
            if paths.len() + left.len() > MAX_COUNT || path.split(|&it| it == b'/').count() > 4 {
                told.note(GitOmitReason::Broken, shown(&path));
            } else if kind.is_dir() {
                left.push(path);
            } else if kind.is_file() {
                paths.push(path);
            } else {
                told.note(GitOmitReason::Broken, shown(&path));
            }
        }
    }
    Ok(paths)
}

/// What of the folder of a repository does not travel.
fn tell_the_rest(repo: &Repository, told: &mut Told) -> Result<(), GitError> {
    let mut folders = vec![&repo.git_dir];
    if repo.common_dir != repo.git_dir {
        folders.push(&repo.common_dir);
    }
    for folder in folders {
        for name in list_dir(folder)? {
            let bytes = name.as_bytes();
            let known = |list: &[&str]| list.iter().any(|it| it.as_bytes() == bytes);
            let temporary = bytes.ends_with(b".lock") || bytes.starts_with(b"sharedindex.");
            if known(&OTHERWISE) || known(&OF_WORKTREE) || known(&SHARED) || known(&FOLDERS) {
                continue;
            }
            if temporary || GitRefName::new(bytes).is_some() {
                continue;
            }
            told.note(GitOmitReason::NotCarried, shown(bytes));
        }
    }
    for name in list_dir(&repo.common_dir.join("hooks"))? {
        if Path::new(&name).extension() != Some(OsStr::new("sample")) {
            told.note(GitOmitReason::Command, format!("hooks/{}", shown(name.as_bytes())));
        }
    }
    for name in list_dir(&repo.common_dir.join("worktrees"))? {
        let own = repo.common_dir.join("worktrees").join(&name) == repo.git_dir;
        if !own {
            told.note(GitOmitReason::Elsewhere, format!("worktrees/{}", shown(name.as_bytes())));
        }
    }
    for folder in ["logs/refs/heads", "logs/refs/remotes"] {
        if repo.common_dir.join(folder).is_dir() {
            told.note(GitOmitReason::NotCarried, folder);
        }
    }
    for name in list_dir(&repo.common_dir.join("info"))? {
        let path = [b"info/", name.as_bytes()].concat();
        let known = OF_WORKTREE.iter().chain(&SHARED).any(|it| it.as_bytes() == path);
        // What a server of files would need, and nobody else.
        if !known && path != b"info/refs" && !path.ends_with(b".lock") {
            told.note(GitOmitReason::NotCarried, shown(&path));
        }
    }
    if !list_dir(&repo.common_dir.join("branches"))?.is_empty() {
        told.note(GitOmitReason::NotCarried, "branches");
    }
    let fetched = repo.git_dir.join("FETCH_HEAD").symlink_metadata();
    if fetched.is_ok_and(|it| it.len() > 0) {
        told.note(GitOmitReason::NotCarried, "FETCH_HEAD");
    }
    Ok(())
}

/// A file as it may travel; nothing where it may not.
fn cleaned(path: &[u8], bytes: Vec<u8>, hash: GitHash, told: &mut Told) -> Option<Vec<u8>> {
    if path.ends_with(b"/gpg_sign_opt") {
        told.note(GitOmitReason::Credential, shown(path));
        return None;
    }
    if path == b"sequencer/opts" {
        let (options, _) = parse_config(&bytes)?;
        let kept: Vec<_> =
            options.iter().filter(|it| is_option(&it.key, &it.value)).cloned().collect();
        if kept.len() < options.len() {
            told.note(GitOmitReason::Credential, "sequencer/opts: gpg-sign or strategy");
            return Some(settings::write(&kept));
        }
    }
    let (bytes, had_password) = match path {
        b"logs/HEAD" | b"logs/refs/stash" => without_passwords(bytes),
        _ => (bytes, false),
    };
    if had_password {
        told.note(GitOmitReason::Credential, shown(path));
    }
    match check(path, &bytes, hash) {
        Ok(()) => Some(bytes),
        Err(reason) => {
            told.note(reason, shown(path));
            None
        }
    }
}

/// Whether an option of a sequence of picks may travel.
fn is_option(key: &str, value: &[u8]) -> bool {
    match key {
        "gpg-sign" => false,
        "strategy" => is_strategy(value),
        _ => true,
    }
}

/// Whether a patch may be applied with an option: there are some that let it write anywhere, and each may be
/// cut short.
fn is_apply_option(quoted: &[u8]) -> bool {
    let option = quoted.strip_prefix(b"'").and_then(|it| it.strip_suffix(b"'")).unwrap_or(quoted);
    let number = |rest: &[u8]| rest.iter().all(u8::is_ascii_digit);
    match option {
        // Not `--reject`, which old versions of git write through links with (CVE-2023-25652).
        b"" | b"--ignore-space-change" | b"--ignore-whitespace" => true,
        [b'-', b'p' | b'C', rest @ ..] => number(rest),
        _ => option
            .strip_prefix(b"--whitespace=")
            .is_some_and(|it| it.iter().all(|byte| byte.is_ascii_lowercase() || *byte == b'-')),
    }
}

fn is_strategy(value: &[u8]) -> bool {
    STRATEGIES.iter().any(|strategy| strategy.as_bytes() == value.trim_ascii())
}

/// Whether a file that a state brings may be written.
pub(super) fn check_received(file: &GitFile, hash: GitHash) -> Result<(), GitError> {
    let path = file.path.as_bytes();
    check(path, &file.bytes, hash).map_err(|_| {
        GitError::refused(format!("the file {}", shown(path)), "git does not write it so")
    })
}

/// What a file may be called and may say.
fn check(path: &[u8], bytes: &[u8], hash: GitHash) -> Result<(), GitOmitReason> {
    let is = |list: &[&str]| list.iter().any(|it| it.as_bytes() == path);
    let parts: Vec<&[u8]> = path.split(|&byte| byte == b'/').collect();
    let in_folder = |folder: &&str| parts.first() == Some(&folder.as_bytes()) && parts.len() > 1;
    let is_resolution = match parts.as_slice() {
        [b"rr-cache", id, name] => {
            let name = name.split(|&byte| byte == b'.').next().unwrap_or_default();
            is_resolution_id(id) && matches!(name, b"preimage" | b"postimage" | b"thisimage")
        }
        _ => false,
    };
    let listed = is(&OF_WORKTREE)
        || is(&SHARED)
        || is_resolution
        || (FOLDERS.iter().any(in_folder) && parts.len() <= 4);
    if !listed || parts.iter().any(|part| is_git_name(part)) || path.ends_with(b"/gpg_sign_opt") {
        return Err(GitOmitReason::NotCarried);
    }
    let lines = || bytes.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
    let fine = match path {
        b"shallow" | b"MERGE_HEAD" => {
            lines().all(|line| GitOid::from_hex(hash, line).is_some_and(|oid| !oid.is_null()))
        }
        // Git writes to the paths that stand here.
        b"MERGE_RR" => resolutions(bytes)
            .all(|it| it.is_some_and(|(id, path)| is_resolution_id(id) && is_index_path(path))),
        // Git checks out what stands here.
        b"BISECT_START" => !bytes.starts_with(b"-"),
        b"logs/HEAD" | b"logs/refs/stash" => lines().all(|line| is_reflog_line(line, hash)),
        b"sequencer/opts" => parse_config(bytes)
            .is_some_and(|(options, _)| options.iter().all(|it| is_option(&it.key, &it.value))),
        _ if path.ends_with(b"/strategy") => is_strategy(bytes),
        _ if path.ends_with(b"/apply-opt") => {
            bytes.trim_ascii().split(|it| *it == b' ').all(is_apply_option)
        }
        _ => true,
    };
    if fine { Ok(()) } else { Err(GitOmitReason::Broken) }
}

/// Lines that git runs when what it is in the middle of goes on.
pub(super) fn commands(files: &[GitFile]) -> Vec<String> {
    let todo = |file: &&GitFile| {
        let path = file.path.as_bytes();
        path.starts_with(b"rebase-merge/git-rebase-todo") || path.starts_with(b"sequencer/todo")
    };
    let lines = files.iter().filter(todo).flat_map(|file| file.bytes.split(|&it| it == b'\n'));
    let runs = |line: &&[u8]| {
        let word = line.trim_ascii_start().split(u8::is_ascii_whitespace).next();
        word.is_some_and(|word| word == b"exec" || word == b"x")
    };
    let found: BTreeSet<Vec<u8>> =
        lines.filter(runs).map(|line| line.trim_ascii().to_vec()).collect();
    found.into_iter().map(|line| String::from_utf8_lossy(&line).into_owned()).collect()
}

/// Words of the files that may be names of objects, whole or cut short.
pub(super) fn mentions(files: &[GitFile], hash: GitHash) -> BTreeSet<Vec<u8>> {
    let mut found = BTreeSet::new();
    let told = files.iter().filter(|file| {
        let path = file.path.as_bytes();
        path == b"MERGE_HEAD"
            || path == b"BISECT_LOG"
            || FOLDERS.iter().any(|folder| path.starts_with(folder.as_bytes()))
    });
    for file in told {
        let hex = |byte: &u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(byte);
        for word in file.bytes.split(|byte| !byte.is_ascii_alphanumeric()) {
            if (MIN_MENTION..=2 * hash.len()).contains(&word.len()) && word.iter().all(hex) {
                if found.len() >= MAX_MENTIONS {
                    return found;
                }
                found.insert(word.to_vec());
            }
        }
    }
    found
}

/// One change of a ref, as a reflog has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LogLine<'a> {
    pub(super) old: GitOid,
    pub(super) new: GitOid,
    /// Name and address.
    pub(super) who: &'a [u8],
    /// Seconds and zone.
    pub(super) when: &'a [u8],
    pub(super) message: &'a [u8],
}

/// Takes a line of a reflog apart.
pub(super) fn parse_log_line(line: &[u8], hash: GitHash) -> Option<LogLine<'_>> {
    let digits = 2 * hash.len();
    let (old, rest) = line.split_at_checked(digits)?;
    let (new, rest) = rest.strip_prefix(b" ")?.split_at_checked(digits)?;
    let rest = rest.strip_prefix(b" ")?;
    let tab = rest.iter().position(|&byte| byte == b'\t').unwrap_or(rest.len());
    let (person, message) = rest.split_at(tab);
    let end = person.windows(2).rposition(|pair| pair == b"> ")? + 1;
    let (who, when) = person.split_at(end);
    let when = when.strip_prefix(b" ")?;
    let time = |byte: &u8| byte.is_ascii_digit() || b" +-".contains(byte);
    when.iter().all(time).then_some(LogLine {
        old: GitOid::from_hex(hash, old)?,
        new: GitOid::from_hex(hash, new)?,
        who,
        when,
        message: message.strip_prefix(b"\t").unwrap_or_default(),
    })
}

/// Whether a file is a reflog.
pub(super) fn is_log(file: &GitFile) -> bool {
    file.path.as_bytes().starts_with(b"logs/")
}

/// The objects that a reflog names; none for another file.
pub(super) fn logged(file: &GitFile, hash: GitHash) -> Vec<GitOid> {
    if !is_log(file) {
        return Vec::new();
    }
    let lines = file.bytes.split(|&byte| byte == b'\n').filter_map(|it| parse_log_line(it, hash));
    lines.flat_map(|line| [line.old, line.new]).filter(|oid| !oid.is_null()).collect()
}

/// Drops lines of a reflog whose objects are not there: git would call them broken. The line of a stash stays, though
/// the one before it is gone: then it says that there was none.
pub(super) fn drop_lines(file: &mut GitFile, hash: GitHash, there: &BTreeSet<GitOid>) {
    if !is_log(file) {
        return;
    }
    let known = |oid: GitOid| oid.is_null() || there.contains(&oid);
    let mut kept = Vec::with_capacity(file.bytes.len());
    for line in file.bytes.split_inclusive(|&byte| byte == b'\n') {
        match parse_log_line(line.strip_suffix(b"\n").unwrap_or(line), hash) {
            Some(parsed) if known(parsed.new) && !known(parsed.old) => {
                kept.extend_from_slice(GitOid::null(hash).to_string().as_bytes());
                kept.extend_from_slice(line.get(2 * hash.len()..).unwrap_or_default());
            }
            Some(parsed) if known(parsed.new) => kept.extend_from_slice(line),
            _ => {}
        }
    }
    file.bytes = kept;
}

/// A reflog without the passwords of URLs: git writes into it what was typed, such as what was pulled from where.
pub(super) fn without_passwords(log: Vec<u8>) -> (Vec<u8>, bool) {
    if !log.windows(3).any(|it| it == b"://") {
        return (log, false);
    }
    let mut cleaned = Vec::with_capacity(log.len());
    let mut found = false;
    for word in log.split_inclusive(u8::is_ascii_whitespace) {
        let end = word.iter().rposition(|it| !it.is_ascii_whitespace()).map_or(0, |at| at + 1);
        let (url, space) = word.split_at(end);
        match settings::judge_url(url) {
            Verdict::Cleaned(url) if word.windows(3).any(|it| it == b"://") => {
                cleaned.extend_from_slice(&url);
                found = true;
            }
            _ => cleaned.extend_from_slice(url),
        }
        cleaned.extend_from_slice(space);
    }
    (cleaned, found)
}

fn is_reflog_line(line: &[u8], hash: GitHash) -> bool {
    parse_log_line(line, hash).is_some() && !line.contains(&0)
}

/// The records of a list of recorded resolutions: an id and a path each.
fn resolutions(bytes: &[u8]) -> impl Iterator<Item = Option<(&[u8], &[u8])>> {
    bytes.split(|&byte| byte == 0).filter(|record| !record.is_empty()).map(|record| {
        let tab = record.iter().position(|&byte| byte == b'\t')?;
        Some((record.get(..tab)?, record.get(tab + 1..)?))
    })
}

/// The records of which the path is to stay.
pub(super) fn keep_resolutions(bytes: &[u8], mut stays: impl FnMut(&[u8]) -> bool) -> Vec<u8> {
    let records = bytes.split_inclusive(|&byte| byte == 0);
    let kept = records.filter(|record| resolutions(record).flatten().all(|(_, path)| stays(path)));
    kept.collect::<Vec<_>>().concat()
}

/// A hash, and with several resolutions of one conflict a number.
fn is_resolution_id(id: &[u8]) -> bool {
    let (hash, variant) = match id.iter().position(|&byte| byte == b'.') {
        Some(dot) => (id.get(..dot), id.get(dot + 1..)),
        None => (Some(id), None),
    };
    hash.is_some_and(|hash| matches!(hash.len(), 40 | 64) && hash.iter().all(u8::is_ascii_hexdigit))
        && variant.is_none_or(|it| !it.is_empty() && it.iter().all(u8::is_ascii_digit))
}

fn resolution_ids(bytes: &[u8]) -> BTreeSet<String> {
    let ids = resolutions(bytes).flatten().filter(|(id, _)| is_resolution_id(id));
    let folder = |id: &[u8]| {
        let hash = id.split(|&byte| byte == b'.').next().unwrap_or_default();
        String::from_utf8_lossy(hash).into_owned()
    };
    ids.map(|(id, _)| folder(id)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, text: &str) -> GitFile {
        GitFile { path: RelPath::new(path.as_bytes()).unwrap(), bytes: text.into() }
    }

    #[test]
    fn files_that_could_do_harm_are_refused() {
        let oid = "1".repeat(40);
        let resolution = |path: &str| format!("{oid}\t{path}\0");
        for (path, text) in [
            ("MERGE_HEAD", format!("{oid}\n")),
            ("rebase-merge/git-rebase-todo", "exec make\n".to_owned()),
            ("rebase-merge/strategy", "ort\n".to_owned()),
            ("rebase-apply/apply-opt", "'-p2' '--whitespace=fix'".to_owned()),
            ("MERGE_RR", resolution("a/b")),
            ("BISECT_START", "main\n".to_owned()),
            ("sequencer/opts", "[options]\n\tno-commit = true\n".to_owned()),
        ] {
            assert!(check_received(&file(path, &text), GitHash::Sha1).is_ok(), "{path}");
        }
        for (path, text) in [
            ("config", String::new()),
            ("config.worktree", String::new()),
            ("hooks/post-checkout", String::new()),
            ("objects/info/alternates", "/elsewhere\n".to_owned()),
            ("commondir", "/elsewhere".to_owned()),
            ("gitdir", String::new()),
            ("index", String::new()),
            ("packed-refs", String::new()),
            ("refs/heads/x", String::new()),
            ("modules/x/config", String::new()),
            ("info/grafts", String::new()),
            ("rebase-merge/.git/config", String::new()),
            ("rebase-merge/a/b/c/d", String::new()),
            ("rebase-merge", String::new()),
            ("rebase-merge/gpg_sign_opt", "-Sx".to_owned()),
            ("rebase-merge/strategy", "evil".to_owned()),
            ("rebase-apply/apply-opt", "'--unsafe-paths'".to_owned()),
            ("rebase-apply/apply-opt", "'--reject'".to_owned()),
            ("rebase-apply/apply-opt", "'-p1' '--unsafe' '--dir=/'".to_owned()),
            ("rr-cache/x/preimage", String::new()),
            ("MERGE_HEAD", "x".to_owned()),
            ("shallow", "../x\n".to_owned()),
            ("MERGE_RR", resolution("../../x")),
            ("MERGE_RR", resolution("/etc/x")),
            ("MERGE_RR", resolution(".git/config")),
            ("MERGE_RR", "x\ta\0".to_owned()),
            ("BISECT_START", "--exec".to_owned()),
            ("sequencer/opts", "[options]\n\tstrategy = evil\n".to_owned()),
            ("sequencer/opts", "[options]\n\tgpg-sign = x\n".to_owned()),
            ("logs/refs/stash", "x\n".to_owned()),
        ] {
            assert!(check_received(&file(path, &text), GitHash::Sha1).is_err(), "{path}: {text}");
        }
    }

    #[test]
    fn commands_are_found_and_nothing_else() {
        let todo = "pick 1234567 exec\n  x make\nexec rm -rf /\n# exec no\nbreak\nexecute\n";
        let files = [file("rebase-merge/git-rebase-todo", todo), file("MERGE_MSG", "exec no\n")];
        assert_eq!(commands(&files), ["exec rm -rf /", "x make"]);
    }

    #[test]
    fn lines_of_reflogs_come_apart() {
        let (old, new) = ("0".repeat(40), "a".repeat(40));
        let line = format!("{old} {new} A > B <a@b> 17 +0100\tWIP on main: x > y");
        let parsed = parse_log_line(line.as_bytes(), GitHash::Sha1).unwrap();
        assert_eq!(parsed.who, b"A > B <a@b>");
        assert_eq!(parsed.when, b"17 +0100");
        assert_eq!(parsed.message, b"WIP on main: x > y");
        assert!(parsed.old.is_null());
        for bad in ["", "x", &line[..50], &line.replace("> 17", ">17"), &line.replace("17", "$x")] {
            assert!(parse_log_line(bad.as_bytes(), GitHash::Sha1).is_none(), "{bad}");
        }
    }

    #[test]
    fn a_stash_stays_though_the_one_before_it_is_gone() {
        let [zero, gone, a, b] = ["0", "1", "a", "b"].map(|digit| digit.repeat(40));
        let line = |old: &str, new: &str| format!("{old} {new} A <a@b> 17 +0100\tWIP\n");
        let text = [line(&zero, &gone), line(&gone, &a), line(&a, &b), line(&b, &gone)].concat();
        let mut log = file("logs/refs/stash", &text);
        let oid = |hex: &str| GitOid::from_hex(GitHash::Sha1, hex.as_bytes()).unwrap();
        drop_lines(&mut log, GitHash::Sha1, &[oid(&a), oid(&b)].into());
        assert_eq!(log.bytes, [line(&zero, &a), line(&a, &b)].concat().as_bytes());
    }

    #[test]
    fn passwords_do_not_stay_in_reflogs() {
        let clean = |text: &str| {
            let (bytes, found) = without_passwords(text.into());
            (String::from_utf8(bytes).unwrap(), found)
        };
        let text = "0 1 A <a@b> 17 +0100\tpull https://u:SECRET@h/x main: Fast-forward\n2 3 x\n";
        let (cleaned, found) = clean(text);
        assert_eq!(cleaned, text.replace("u:SECRET@", ""));
        assert!(found);
        for text in ["", "0 1 A <a@b>\tWIP on x: a::b c@d:e\n", "clone: from https://h/x\n"] {
            assert_eq!(clean(text), (text.to_owned(), false));
        }
    }

    #[test]
    fn objects_that_files_mention_are_found() {
        let files = [
            file("rebase-merge/git-rebase-todo", "pick 1234567 deadbeef\nlabel x\n"),
            file("info/exclude", "abcdef0\n"),
        ];
        let found = mentions(&files, GitHash::Sha1);
        assert_eq!(
            found.into_iter().collect::<Vec<_>>(),
            [b"1234567".to_vec(), b"deadbeef".to_vec()]
        );
    }
}
