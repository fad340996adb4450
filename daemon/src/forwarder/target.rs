//! What a request of a run is about: a host, a repository there, and what git does with it.
//!
//! **Invariant:** nothing but fetching and pushing of git has a target: a path ends as git's do, and does not begin as the
//! interfaces for programs that hosts have.

/// Longest path of a repository.
const MAX_PATH: usize = 2048;

/// The two sides of git's protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Service {
    /// Reading.
    UploadPack,
    /// Writing.
    ReceivePack,
}

impl Service {
    /// As URLs and types have it.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::UploadPack => "git-upload-pack",
            Self::ReceivePack => "git-receive-pack",
        }
    }
}

/// One of the two requests that each of them has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Which refs are there.
    Refs,
    /// What is to be done.
    Work,
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// As it was written, in lower case.
    pub(super) host: String,
    /// Of the repository, with a slash before it and none behind.
    pub(super) path: String,
    pub(super) service: Service,
    pub(super) step: Step,
}

/// A request is about something else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum TargetError {
    /// It is about large files.
    #[error(
        "files of git LFS are not passed on. Without them: GIT_LFS_SKIP_SMUDGE=1 git clone (or checkout, or pull), and git push --no-verify"
    )]
    Lfs,
    /// It is a fetch or push of a git before 1.6.6, or of something that is no git.
    #[error("only git's own requests to fetch and to push are passed on")]
    NotGit,
    /// The repository has a name that hosts read in more than one way.
    #[error(
        "the path of the repository has something in it that is not passed on: an empty part, dots, or signs that URLs do not have"
    )]
    Path,
}

impl Target {
    /// Reads a request's method, path and query.
    pub(super) fn read(method: &str, path: &str, query: Option<&str>) -> Result<Self, TargetError> {
        use Service::{ReceivePack, UploadPack};
        if path.contains("/info/lfs") {
            return Err(TargetError::Lfs);
        }
        let ends = |what: &str| path.strip_suffix(what);
        let (rest, service, step) = if let Some(rest) = ends("/info/refs") {
            let service = match query {
                Some("service=git-upload-pack") => UploadPack,
                Some("service=git-receive-pack") => ReceivePack,
                _ => return Err(TargetError::NotGit),
            };
            (rest, service, Step::Refs)
        } else if let Some(rest) = ends("/git-upload-pack") {
            (rest, UploadPack, Step::Work)
        } else if let Some(rest) = ends("/git-receive-pack") {
            (rest, ReceivePack, Step::Work)
        } else {
            return Err(TargetError::NotGit);
        };
        let fits = match step {
            Step::Refs => method == "GET",
            Step::Work => method == "POST" && query.is_none(),
        };
        if !fits {
            return Err(TargetError::NotGit);
        }
        let (host, repository) = rest
            .strip_prefix('/')
            .and_then(|rest| rest.split_once('/'))
            .ok_or(TargetError::NotGit)?;
        if is_interface(repository) {
            return Err(TargetError::NotGit);
        }
        let is_path = repository.len() <= MAX_PATH && repository.split('/').all(is_part);
        if !is_path {
            return Err(TargetError::Path);
        }
        let (host, path) = (host.to_ascii_lowercase(), format!("/{repository}"));
        Ok(Self { host, path, service, step })
    }

    /// The path and query at the host.
    pub(super) fn at_host(&self) -> String {
        let (path, service) = (&self.path, self.service.name());
        match self.step {
            Step::Refs => format!("{path}/info/refs?service={service}"),
            Step::Work => format!("{path}/{service}"),
        }
    }

    /// The type of what is sent.
    pub(super) fn asked_type(&self) -> String {
        format!("application/x-{}-request", self.service.name())
    }

    /// The type of the answer.
    pub(super) fn answer_type(&self) -> String {
        let kind = match self.step {
            Step::Refs => "advertisement",
            Step::Work => "result",
        };
        format!("application/x-{}-{kind}", self.service.name())
    }
}

/// Whether a host has something else than a repository there: GitHub, GitLab and Gitea below `api`, GitLab behind `-` at any
/// place, Bitbucket below `rest`, Azure at `_apis`.
fn is_interface(path: &str) -> bool {
    let parts: Vec<_> = path.split('/').map(str::to_ascii_lowercase).collect();
    let begins = |what: &[&str]| {
        parts.len() >= what.len() && parts.iter().zip(what).all(|(part, what)| part == what)
    };
    let inner = parts.split_last().map_or(&[][..], |(_, inner)| inner);
    begins(&["api"])
        || begins(&["rest", "api"])
        || inner.iter().any(|part| part == "-")
        || parts.iter().any(|part| part == "_apis")
}

/// Whether a part of a path means itself, to whoever reads it.
fn is_part(part: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+@!$&'()*,=:".contains(&byte);
    let mut bytes = part.bytes();
    let mut only_dots = true;
    while let Some(byte) = bytes.next() {
        only_dots &= byte == b'.';
        let is_plain = match byte {
            b'%' => {
                let digits = [bytes.next(), bytes.next()]
                    .map(|digit| char::from(digit.unwrap_or(b'x')).to_digit(16));
                let [Some(high), Some(low)] = digits else { return false };
                // What must be written so, and nothing that could be a dot, a slash or the end once it is read.
                let meant = high * 16 + low;
                meant == 0x20 || meant >= 0x80
            }
            byte => plain(byte),
        };
        if !is_plain {
            return false;
        }
    }
    !only_dots
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_git_asks_is_read_and_asked_of_the_host() {
        let query = Some("service=git-receive-pack");
        let target = Target::read("GET", "/github.com/o/r.git/info/refs", query).unwrap();
        assert_eq!((target.host.as_str(), target.path.as_str()), ("github.com", "/o/r.git"));
        assert_eq!((target.service, target.step), (Service::ReceivePack, Step::Refs));
        assert_eq!(target.at_host(), "/o/r.git/info/refs?service=git-receive-pack");
        assert_eq!(target.answer_type(), "application/x-git-receive-pack-advertisement");
        let path = "/h:8443/a/b/c/My%20Repo/_git/r%C3%A9/git-upload-pack";
        let target = Target::read("POST", path, None).unwrap();
        assert_eq!((target.host.as_str(), target.step), ("h:8443", Step::Work));
        assert_eq!(target.at_host(), "/a/b/c/My%20Repo/_git/r%C3%A9/git-upload-pack");
        assert_eq!(target.asked_type(), "application/x-git-upload-pack-request");
        assert_eq!(target.answer_type(), "application/x-git-upload-pack-result");
    }

    #[test]
    fn nothing_else_of_a_host_can_be_asked() {
        let refs = Some("service=git-upload-pack");
        for (method, path, query) in [
            ("GET", "/h/r/info/refs", None),
            ("GET", "/h/r/info/refs", Some("service=git-upload-archive")),
            ("GET", "/h/r/info/refs", Some("service=git-upload-pack&x=y")),
            ("GET", "/h/r/info/refs", Some("")),
            ("POST", "/h/r/info/refs", refs),
            ("HEAD", "/h/r/info/refs", refs),
            ("GET", "/h/r/git-upload-pack", None),
            ("PUT", "/h/r/git-receive-pack", None),
            ("POST", "/h/r/git-receive-pack", Some("x")),
            ("POST", "/h/api/v3/user/repos", None),
            ("POST", "/h/api/v1/repos/o/r/contents/git-upload-pack", None),
            ("POST", "/h/API/v1/repos/o/r/contents/git-receive-pack", None),
            ("GET", "/h/api/v4/projects/1/info/refs", refs),
            ("POST", "/h/-/api/v4/git-upload-pack", None),
            ("POST", "/h/o/r/-/issues/git-upload-pack", None),
            ("POST", "/h/rest/api/1.0/projects/git-upload-pack", None),
            ("POST", "/h/o/p/_apis/git/git-upload-pack", None),
            ("GET", "/h/r/HEAD", None),
            ("GET", "/h/r/objects/info/packs", None),
            ("GET", "/h/info/refs", refs),
            ("GET", "/info/refs", refs),
            ("GET", "h/r/info/refs", refs),
            ("CONNECT", "h:443", None),
            ("GET", "", None),
        ] {
            let refused = Target::read(method, path, query);
            assert_eq!(refused, Err(TargetError::NotGit), "{method} {path} {query:?}");
        }
        let lfs = Target::read("POST", "/h/r.git/info/lfs/objects/batch", None);
        assert_eq!(lfs, Err(TargetError::Lfs));
    }

    #[test]
    fn a_path_that_is_read_in_two_ways_is_refused() {
        let long = "a".repeat(MAX_PATH + 1);
        for path in [
            "", "/", "a//b", "/a", "a/", ".", "..", "a/../b", "a/./b", "a/.../b", "%2e%2e/a",
            "a%2fb", "a%2Fb", "a%00", "a%5cb", "a\\b", "a%", "a%2", "a%g0", "a%25", "a;b", "a?b",
            "a#b", "a b", "a\nb", "a%0d%0ab", "a\0", "ä", "a%3fb", "a%23b", &long,
        ] {
            let whole = format!("/h/{path}/git-upload-pack");
            assert_eq!(Target::read("POST", &whole, None), Err(TargetError::Path), "{path:?}");
        }
        for path in
            ["a", "~ann/r", ".git", "o/api", "rest/r", "o/-", "a.b/c..d", "@scope/x", "r.git"]
        {
            let whole = format!("/h/{path}/git-upload-pack");
            assert!(Target::read("POST", &whole, None).is_ok(), "{path:?}");
        }
    }
}
