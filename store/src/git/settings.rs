//! Which settings of a repository travel, and how they are written.
//!
//! A setting travels only if it stands on the list below: how the worktree is to be read, how branches and
//! remotes belong together, what git does when it merges or shows, and who the user is. Whatever
//! names a program, a file elsewhere, or a credential does not, and is named by its key.
//!
//! **Invariant:** the list holds where a repository is captured and again where it is rebuilt, so that a state
//! that a peer made up sets nothing else.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use baton_protocol::object::{GitOmitReason, GitSetting};

use super::place::is_yes;
use super::{Told, as_path, shown};

/// Whole sections without subsection, every key of which only says what git shows and remembers.
const SECTIONS: [&str; 4] = ["advice", "rerere", "stash", "status"];

/// Keys by section, without subsection.
const KEYS: [(&str, &[&str]); 16] = [
    (
        "core",
        &[
            "abbrev",
            "autocrlf",
            "bigfilethreshold",
            "checkstat",
            "commentchar",
            "eol",
            "filemode",
            "ignorecase",
            "logallrefupdates",
            "precomposeunicode",
            "preloadindex",
            "quotepath",
            "safecrlf",
            "sparsecheckout",
            "sparsecheckoutcone",
            "splitindex",
            "symlinks",
            "trustctime",
            "untrackedcache",
            "whitespace",
        ],
    ),
    ("index", &["skiphash", "sparse", "threads", "version"]),
    ("user", &["email", "name", "useconfigonly"]),
    ("author", &["email", "name"]),
    ("committer", &["email", "name"]),
    ("branch", &["autosetupmerge", "autosetuprebase", "sort"]),
    ("remote", &["pushdefault"]),
    ("pull", &["ff", "rebase"]),
    ("push", &["autosetupremote", "default", "followtags", "recursesubmodules"]),
    (
        "merge",
        &[
            "autostash",
            "branchdesc",
            "conflictstyle",
            "directoryrenames",
            "ff",
            "log",
            "renamelimit",
            "renames",
            "renormalize",
            "stat",
        ],
    ),
    (
        "rebase",
        &[
            "autosquash",
            "autostash",
            "forkpoint",
            "missingcommitscheck",
            "rebasemerges",
            "stat",
            "updaterefs",
        ],
    ),
    (
        "diff",
        &[
            "algorithm",
            "colormoved",
            "context",
            "dirstat",
            "ignoresubmodules",
            "indentheuristic",
            "interhunkcontext",
            "mnemonicprefix",
            "noprefix",
            "relative",
            "renamelimit",
            "renames",
            "submodule",
            "wserrorhighlight",
        ],
    ),
    ("commit", &["cleanup", "status", "verbose"]),
    ("log", &["abbrevcommit", "date", "decorate", "follow", "showroot"]),
    ("i18n", &["commitencoding", "logoutputencoding"]),
    ("submodule", &["active"]),
];

/// Keys by section, below a subsection that is a name of the user's.
const NAMED: [(&str, &[&str]); 3] = [
    ("branch", &["description", "merge", "pushremote", "rebase", "remote"]),
    (
        "remote",
        &[
            "fetch",
            "partialclonefilter",
            "promisor",
            "prune",
            "prunetags",
            "push",
            "pushurl",
            "skipdefaultupdate",
            "tagopt",
            "url",
        ],
    ),
    ("submodule", &["active", "branch", "ignore", "url"]),
];

/// Sections that make git what it is at the place where it stands: a rebuild writes its own.
const OWN: [(&str, &str); 4] = [
    ("core", "bare"),
    ("core", "repositoryformatversion"),
    ("core", "worktree"),
    ("extensions", ""),
];

/// What is to become of a setting.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It travels.
    Travels,
    /// It travels with this value.
    Cleaned(Vec<u8>),
    /// It does not, and the other side says so by itself.
    Own,
    /// It does not.
    Stays(GitOmitReason),
}

/// What else a setting is judged by.
struct Around<'a> {
    /// Remotes that have a URL which travels.
    remotes: BTreeSet<&'a [u8]>,
    /// Whether the index is split where the settings say how it is kept.
    splits: bool,
    /// The worktree.
    worktree: &'a Path,
    /// It and those around it, as they are called and as they are.
    roots: Vec<PathBuf>,
}

/// The settings of the repository of a worktree that travel, in order; what does not is told by its name, and
/// never by its value. `outermost` is the worktree in which this one lies, or the same.
pub(super) fn select(
    all: &[GitSetting],
    worktree: &Path,
    outermost: &Path,
    told: &mut Told,
) -> Vec<GitSetting> {
    let named = [worktree, outermost];
    let real = named.iter().filter_map(|path| path.canonicalize().ok());
    let roots = named.iter().map(|path| (*path).to_owned()).chain(real).collect();
    let split = all.iter().rfind(|it| it.section == "core" && it.key == "splitindex");
    let splits = split.is_some_and(|it| is_yes(&it.value));
    let mut around = Around { remotes: BTreeSet::new(), splits, worktree, roots };
    let of_remote = |it: &&GitSetting| it.section == "remote" && it.key == "url";
    around.remotes = all
        .iter()
        .filter(of_remote)
        .filter(|it| matches!(judge(it, &around), Verdict::Travels | Verdict::Cleaned(_)))
        .filter_map(|it| it.subsection.as_deref())
        .collect();
    let mut selected = Vec::new();
    for setting in promises(all).iter() {
        match judge(setting, &around) {
            Verdict::Travels => selected.push(setting.clone()),
            Verdict::Cleaned(value) => {
                told.note(GitOmitReason::Credential, name_of(setting));
                selected.push(GitSetting { value, ..setting.clone() });
            }
            Verdict::Own => {}
            Verdict::Stays(reason) => told.note(reason, name_of(setting)),
        }
    }
    selected
}

/// Settings in which a partial clone says in the way of today from which remote the rest would come: an old one
/// says it by an extension, which does not travel.
fn promises(all: &[GitSetting]) -> Cow<'_, [GitSetting]> {
    let promised = all.iter().any(|it| it.section == "remote" && it.key == "promisor");
    let by = all.iter().rfind(|it| it.section == "extensions" && it.key == "partialclone");
    let Some(by) = by.filter(|_| !promised) else { return Cow::Borrowed(all) };
    let promise = GitSetting {
        section: "remote".into(),
        subsection: Some(by.value.clone()),
        key: "promisor".into(),
        value: b"true".to_vec(),
    };
    if promise.is_valid() { Cow::Owned([all, &[promise]].concat()) } else { Cow::Borrowed(all) }
}

fn judge(setting: &GitSetting, around: &Around<'_>) -> Verdict {
    let GitSetting { section, subsection, key, value } = setting;
    if OWN.iter().any(|(own, name)| own == section && (name.is_empty() || name == key)) {
        return Verdict::Own;
    }
    let listed = |list: &[(&str, &[&str])]| {
        list.iter().any(|(name, keys)| name == section && keys.contains(&key.as_str()))
    };
    let is_known = match subsection {
        None => SECTIONS.contains(&section.as_str()) || listed(&KEYS),
        Some(_) => listed(&NAMED),
    };
    if !is_known {
        return Verdict::Stays(why_not(section, key));
    }
    if !fits_a_line(setting) {
        return Verdict::Stays(GitOmitReason::NotCarried);
    }
    let is_at = |name: &Vec<u8>| name.contains(&b'@') && name.windows(3).any(|it| it == b"://");
    if subsection.as_ref().is_some_and(is_at) {
        return Verdict::Stays(GitOmitReason::Credential);
    }
    // With both git writes a shared index whose name is no hash, and then an index that has lost what is in it.
    if section == "index" && key == "skiphash" && around.splits {
        return Verdict::Stays(GitOmitReason::NotCarried);
    }
    if key == "tagopt" && matches!(value.as_slice(), b"--tags" | b"--no-tags") {
        return Verdict::Travels;
    }
    // A value that begins like an option could become one; a key of these sections is none.
    if value.starts_with(b"-") && matches!(section.as_str(), "remote" | "submodule" | "branch") {
        return Verdict::Stays(GitOmitReason::Command);
    }
    let names_remote = (section == "branch" && matches!(key.as_str(), "remote" | "pushremote"))
        || (section == "remote" && key == "pushdefault");
    let is_url = matches!(key.as_str(), "url" | "pushurl")
        || (names_remote && !around.remotes.contains(value.as_slice()));
    // A folder of the worktree may be a repository with hooks, which a push to it would run.
    if is_url && leads_inside(value, around.worktree, &around.roots) {
        return Verdict::Stays(GitOmitReason::Command);
    }
    if is_url { judge_url(value) } else { Verdict::Travels }
}

/// Whether a URL, or the name of a remote that has none, is a path that leads from a worktree into or through one
/// of these. A whole worktree is fine: its repository has no hooks.
fn leads_inside(url: &[u8], worktree: &Path, roots: &[PathBuf]) -> bool {
    let path = match url.strip_prefix(b"file://") {
        Some(rest) => {
            let slash = rest.iter().position(|&byte| byte == b'/').unwrap_or(0);
            rest.get(slash..).unwrap_or_default()
        }
        // With a colon before the first slash it is a host or a scheme.
        None if url.split(|&byte| byte == b'/').next().unwrap_or_default().contains(&b':') => {
            return false;
        }
        None => url,
    };
    let is_name = |name: &&[u8]| !name.is_empty() && *name != b".";
    let mut names = path.split(|&byte| byte == b'/').filter(is_name).peekable();
    let is_absolute = path.starts_with(b"/");
    let mut at = if is_absolute { PathBuf::from("/") } else { worktree.to_owned() };
    while !is_absolute && names.next_if(|name| *name == b"..").is_some() {
        at.pop();
    }
    if names.peek().is_none() {
        return roots.iter().any(|root| is_within(&at, root) && !is_within(root, &at));
    }
    names.any(|name| {
        if name == b".." {
            at.pop();
        } else {
            at.push(as_path(name));
        }
        roots.iter().any(|root| is_within(&at, root))
    })
}

/// Whether a path is another one or below it, on a file system that may not tell cases apart.
fn is_within(path: &Path, root: &Path) -> bool {
    let mut names = path.components().map(|it| it.as_os_str().as_bytes());
    root.components().all(|name| {
        names.next().is_some_and(|it| it.eq_ignore_ascii_case(name.as_os_str().as_bytes()))
    })
}

/// Whether a setting is no longer than a line that every git reads as one: some before 2.40.1 take a configuration
/// apart in pieces of 1,024 bytes when they rename or remove a section (CVE-2023-29007).
fn fits_a_line(setting: &GitSetting) -> bool {
    const MAX_LINE: usize = 1000;
    write(std::slice::from_ref(setting)).split(|&byte| byte == b'\n').all(|it| it.len() <= MAX_LINE)
}

/// Why a setting that is not on the list stays: for the report, which should not cry wolf over a setting
/// that names no program.
fn why_not(section: &str, key: &str) -> GitOmitReason {
    const PROGRAMS: [&str; 12] = [
        "command", "cmd", "clean", "smudge", "process", "textconv", "driver", "editor", "pager",
        "program", "helper", "hook",
    ];
    let credential = section == "credential"
        || key.contains("password")
        || key.contains("token")
        || matches!(key, "extraheader" | "cookiefile" | "signingkey" | "sslkey" | "sslcert");
    match section {
        "include" | "includeif" => GitOmitReason::Outside,
        "alias" | "filter" | "difftool" | "mergetool" | "pager" | "browser" | "man" | "gpg" => {
            GitOmitReason::Command
        }
        "url" | "credential" => GitOmitReason::Credential,
        _ if credential => GitOmitReason::Credential,
        _ if PROGRAMS.iter().any(|program| key.ends_with(program))
            || matches!(
                key,
                "hookspath"
                    | "fsmonitor"
                    | "sshcommand"
                    | "askpass"
                    | "gitproxy"
                    | "uploadpack"
                    | "receivepack"
                    | "vcs"
                    | "update"
                    | "packobjectshook"
                    | "alternaterefscommand"
                    | "external"
                    | "mergeoptions"
                    | "twohead"
                    | "octopus"
            ) =>
        {
            GitOmitReason::Command
        }
        _ => GitOmitReason::NotCarried,
    }
}

/// A URL, or the name of a remote: what runs a helper stays, and a password does not travel.
pub(super) fn judge_url(url: &[u8]) -> Verdict {
    if url.iter().any(u8::is_ascii_control) {
        return Verdict::Stays(GitOmitReason::Broken);
    }
    let scheme_end = url.windows(3).position(|at| at == b"://");
    // `ext::sh -c …` runs it; any other `name::` runs a helper of that name.
    if let Some(at) = url.windows(2).position(|at| at == b"::")
        && scheme_end.is_none_or(|end| at < end)
        && url.iter().take(at).all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(byte))
    {
        return Verdict::Stays(GitOmitReason::Command);
    }
    let Some(end) = scheme_end else {
        // `user@host:path` and paths: no password can stand there.
        return Verdict::Travels;
    };
    let (scheme, rest) = url.split_at(end + 3);
    let authority_len = rest.iter().position(|byte| b"/?#".contains(byte)).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(authority_len);
    let host_at = authority.iter().rposition(|&byte| byte == b'@').map_or(0, |at| at + 1);
    let (user, host) = authority.split_at(host_at);
    // For ssh the name is a part of the address, and without it another user is asked for.
    let by_ssh = scheme.starts_with(b"ssh") || scheme.starts_with(b"git+ssh");
    let name = user.split(|&byte| byte == b':' || byte == b'@').next().unwrap_or_default();
    let kept_user = if by_ssh && !name.is_empty() { [name, b"@"].concat() } else { Vec::new() };
    let is_web = scheme.starts_with(b"http") || scheme.starts_with(b"ftp");
    let query_at = path.iter().position(|byte| b"?#".contains(byte)).filter(|_| is_web);
    let kept_path = path.get(..query_at.unwrap_or(path.len())).unwrap_or_default();
    let cleaned = [scheme, &kept_user, host, kept_path].concat();
    if cleaned == url { Verdict::Travels } else { Verdict::Cleaned(cleaned) }
}

/// A setting for people. What stands below a section may be a URL with a password in it, but for the
/// sections where it is a name.
fn name_of(setting: &GitSetting) -> String {
    let GitSetting { section, subsection, key, .. } = setting;
    match subsection {
        None => format!("{section}.{key}"),
        Some(name) if NAMED.iter().any(|(named, _)| named == section) && !name.contains(&b'@') => {
            format!("{section}.{}.{key}", shown(name))
        }
        Some(_) => format!("{section}.*.{key}"),
    }
}

/// Settings as a file of git.
pub(super) fn write(settings: &[GitSetting]) -> Vec<u8> {
    let mut text = Vec::new();
    let mut open: Option<(&str, Option<&[u8]>)> = None;
    for GitSetting { section, subsection, key, value } in settings {
        let header = (section.as_str(), subsection.as_deref());
        if open != Some(header) {
            open = Some(header);
            text.push(b'[');
            text.extend_from_slice(section.as_bytes());
            if let Some(name) = subsection {
                text.extend_from_slice(b" \"");
                for &byte in name {
                    if matches!(byte, b'"' | b'\\') {
                        text.push(b'\\');
                    }
                    text.push(byte);
                }
                text.push(b'"');
            }
            text.extend_from_slice(b"]\n");
        }
        text.push(b'\t');
        text.extend_from_slice(key.as_bytes());
        text.extend_from_slice(b" = \"");
        for &byte in value {
            match byte {
                b'\n' => text.extend_from_slice(b"\\n"),
                b'\t' => text.extend_from_slice(b"\\t"),
                b'"' | b'\\' => text.extend_from_slice(&[b'\\', byte]),
                _ => text.push(byte),
            }
        }
        text.extend_from_slice(b"\"\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::place::parse_config;
    use super::*;

    fn travels(config: &str) -> (String, Vec<(String, &'static str)>) {
        let (settings, untold) = parse_config(config.as_bytes()).unwrap();
        assert_eq!(untold, 0);
        let mut told = Told::default();
        let root = Path::new("/home/u/work");
        let selected = select(&settings, root, root, &mut told);
        let text = String::from_utf8(write(&selected)).unwrap();
        let told = told.into_list().into_iter().map(|it| (it.what, it.reason.name())).collect();
        (text, told)
    }

    #[test]
    fn what_loses_an_index_together_travels_apart() {
        let skips = "[index]\nskipHash = true\n";
        assert_eq!(travels(skips).1, []);
        let no = travels(&format!("{skips}[core]\nsplitIndex\nsplitIndex = no\n"));
        assert_eq!(no.1, []);
        let (text, told) = travels(&format!("{skips}[core]\nsplitIndex\n"));
        assert!(
            text.to_ascii_lowercase().contains("splitindex") && !text.contains("kip"),
            "{text}"
        );
        assert_eq!(told, [("index.skiphash".into(), "not-carried")]);
    }

    /// Everything in a configuration that is known to make git run something, or to hold a secret.
    #[test]
    fn nothing_that_runs_or_is_secret_travels() {
        let hostile = "
            [core] fsmonitor = ./evil
                hooksPath = evil
                sshCommand = evil
                editor = evil
                pager = evil
                askPass = evil
                gitProxy = evil
                attributesFile = /etc/passwd
                excludesFile = /etc/passwd
                worktree = /
                alternateRefsCommand = evil
            [include] path = /etc/passwd
            [includeIf \"gitdir:/\"] path = /etc/passwd
            [alias] st = !evil
            [filter \"lfs\"] clean = evil
                smudge = evil
                process = evil
            [diff] external = evil
            [diff \"x\"] textconv = evil
                command = evil
            [merge \"x\"] driver = evil
            [difftool \"x\"] cmd = evil
            [mergetool \"x\"] cmd = evil
            [credential] helper = !evil
            [credential \"https://u:SECRET@h\"] helper = !evil
            [http] extraHeader = Authorization: SECRET
            [http \"https://h\"] extraHeader = SECRET
            [url \"https://u:SECRET@h/\"] insteadOf = gh:
            [gpg] program = evil
            [sequence] editor = evil
            [commit] gpgSign = true
            [user] signingKey = SECRET
            [uploadpack] packObjectsHook = evil
            [remote \"o\"] uploadpack = evil
                receivepack = evil
                vcs = evil
                proxy = evil
            [submodule \"x\"] update = !evil
            [interactive] diffFilter = evil
            [trailer \"x\"] command = evil
            [receive] x = evil
            [web] browser = evil
            [init] templateDir = evil
            [extensions] worktreeConfig = true
            [branch \"x\"] mergeOptions = --strategy=evil
            [pull] twohead = evil
            [push] gpgSign = true
            [fetch] bundleURI = https://evil
            [remote \"o\"] bundleURI = https://evil
            [bundle] heuristic = evil
            [remote \"https://u:SECRET@h/x\"] fetch = x
            ";
        let (text, told) = travels(hostile);
        assert_eq!(text, "");
        let names: Vec<_> = told.iter().map(|(what, _)| what.as_str()).collect();
        for name in ["core.fsmonitor", "filter.*.clean", "credential.*.helper", "url.*.insteadof"] {
            assert!(names.contains(&name), "{name} of {names:?}");
        }
        assert!(!told.iter().any(|(what, _)| what.contains("SECRET")));
        let reason = |name: &str| told.iter().find(|(what, _)| what == name).unwrap().1;
        assert_eq!(reason("core.sshcommand"), "command");
        assert_eq!(reason("include.path"), "outside");
        assert_eq!(reason("http.extraheader"), "credential");
        assert_eq!(reason("user.signingkey"), "credential");
    }

    #[test]
    fn what_git_needs_to_go_on_travels() {
        let usual = "[core]\n\tautocrlf = \"input\"\n\tfilemode = \"false\"\n\
            [user]\n\tname = \"A \\\"B\\\" \\\\ C\"\n\
            [remote \"origin\"]\n\turl = \"git@h:a/b.git\"\n\tfetch = \"+refs/heads/*:refs/remotes/origin/*\"\n\
            [branch \"we \\\"ird\"]\n\tremote = \"origin\"\n\tmerge = \"refs/heads/x\"\n\
            [pull]\n\trebase = \"true\"\n";
        let (text, told) = travels(usual);
        assert_eq!(text, usual);
        assert_eq!(told, []);
        assert_eq!(travels("[core]\nignorecase").0, "[core]\n\tignorecase = \"true\"\n");
    }

    #[test]
    fn urls_lose_what_is_secret_and_those_that_run_something_stay() {
        for (url, kept) in [
            ("https://h/a.git", "https://h/a.git"),
            ("https://user:SECRET@h/a.git", "https://h/a.git"),
            ("https://TOKEN@h/a.git", "https://h/a.git"),
            ("https://h/a.git?token=SECRET#x", "https://h/a.git"),
            ("https://a@b:SECRET@h:8080/x@y", "https://h:8080/x@y"),
            ("ssh://git@h:22/a", "ssh://git@h:22/a"),
            ("ssh://git:SECRET@h/a", "ssh://git@h/a"),
            ("git@h:a/b.git", "git@h:a/b.git"),
            ("../a.git", "../a.git"),
            ("/srv/a.git", "/srv/a.git"),
            ("C:/a", "C:/a"),
            ("ssh://[::1]/a", "ssh://[::1]/a"),
        ] {
            let wanted = if url == kept { Verdict::Travels } else { Verdict::Cleaned(kept.into()) };
            assert_eq!(judge_url(url.as_bytes()), wanted, "{url}");
        }
        for url in ["ext::sh -c evil", "fd::7", "my-helper::https://h", "a\rb", "a\nb"] {
            assert!(matches!(judge_url(url.as_bytes()), Verdict::Stays(_)), "{url:?}");
        }
        let option =
            "[remote \"o\"] url = --upload-pack=evil\n[submodule \"x\"] url = -oProxyCommand=x";
        assert_eq!(travels(option).0, "");
    }

    /// Plain files of the worktree may be a repository with hooks.
    #[test]
    fn urls_that_lead_into_the_worktree_stay() {
        let root = [PathBuf::from("/home/u/work")];
        let leads = |url: &str, from: &str| leads_inside(url.as_bytes(), Path::new(from), &root);
        for url in [
            "evil",
            "./evil",
            "a/../../x",
            "../work/evil",
            "../Work/evil",
            "../../u/work/evil",
            "/home/u/work/evil",
            "/home/u//work/./evil",
            "/home/u/work/../x",
            "file:///home/u/work/evil",
            "file://localhost/home/u/work/a",
            "~/evil",
            "/x/../home/u/work",
        ] {
            assert!(leads(url, "/home/u/work"), "{url}");
        }
        for url in [
            ".",
            "..",
            "../a.git",
            "../../a",
            "/srv/a.git",
            "/home/u/work2",
            "/home/u/a",
            "file:///srv/a",
            "h:work/x",
            "https://h/home/u/work",
            "git@h:home/u/work",
        ] {
            assert!(!leads(url, "/home/u/work"), "{url}");
        }
        // From a repository inside: to another folder of the outer worktree, and out of it.
        assert!(leads("../evil", "/home/u/work/a") && leads("..", "/home/u/work/a/b"));
        assert!(!leads("..", "/home/u/work/a") && !leads("../../x", "/home/u/work/a"));
        // A remote that has no URL is a path, and so is one whose URL stays.
        let (text, told) = travels(
            "[branch \"a\"]\nremote = evil\n[branch \"b\"]\nremote = good\npushRemote = .\n\
             [remote \"evil\"]\nfetch = x\n[remote \"good\"]\nurl = ../x\n[remote]\npushDefault = bad\n\
             [remote \"bad\"]\nurl = ./hooks\n",
        );
        assert!(
            !text.contains("= \"evil\"") && !text.contains("./hooks") && !text.contains("bad"),
            "{text}"
        );
        assert!(
            text.contains("remote = \"good\"") && text.contains("pushremote = \".\""),
            "{text}"
        );
        assert_eq!(told.len(), 3, "{told:?}");
    }

    /// CVE-2023-29007: a long line becomes another section where an old git renames one.
    #[test]
    fn lines_that_git_once_took_apart_stay() {
        let long =
            |len: usize| format!("[branch \"x\"]\n\tdescription = \"{}\"\n", "a".repeat(len));
        assert_eq!(travels(&long(900)).0, long(900));
        let (text, told) = travels(&long(1010));
        assert_eq!((text.as_str(), told.len()), ("", 1));
        let name = format!("[branch \"{}\"]\n\tmerge = x\n", "a".repeat(1010));
        assert_eq!(travels(&name).0, "");
    }

    #[test]
    fn what_git_says_of_tags_and_of_an_old_partial_clone_travels() {
        let usual = "[remote \"o\"]\n\turl = \"/srv/a\"\n\ttagopt = \"--no-tags\"\n";
        assert_eq!(travels(usual).0, usual);
        let old = "[extensions]\n\tpartialClone = o\n[remote \"o\"]\n\turl = \"/srv/a\"\n";
        assert!(travels(old).0.ends_with("promisor = \"true\"\n"));
    }

    #[test]
    fn what_is_written_is_what_git_reads() {
        let value: Vec<u8> = (1..=255).collect();
        let setting = GitSetting {
            section: "branch".into(),
            subsection: Some(b"a \"b\" \\ ]".to_vec()),
            key: "description".into(),
            value,
        };
        let (read, untold) = parse_config(&write(std::slice::from_ref(&setting))).unwrap();
        assert_eq!((read, untold), (vec![setting], 0));
    }
}
