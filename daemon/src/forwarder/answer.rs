//! What a run is told, in words that its git shows.
//!
//! **Invariant:** nothing of a host's own text, which could have what the node said to it, is in what is told.

use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue, LOCATION};
use hyper::{HeaderMap, Response, StatusCode};

use super::body::Passed;
use super::pkt;
use super::target::{Service, Step, Target};

/// Longest address of a host that is shown.
const MAX_SHOWN: usize = 200;

/// An answer with a body of this type.
pub(super) fn typed(status: StatusCode, kind: &str, body: Passed) -> Response<Passed> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    let kind = HeaderValue::from_str(kind);
    headers.insert(CONTENT_TYPE, kind.unwrap_or(HeaderValue::from_static("text/plain")));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

/// Tells whatever program asks.
pub(super) fn plain(status: StatusCode, text: &str) -> Response<Passed> {
    let text = format!("baton: {}\n", one_line(text));
    typed(status, "text/plain; charset=utf-8", Passed::bytes(text.into_bytes()))
}

/// Tells the git that asks this: as the last word of a host, because the text of an HTTP error is not shown at each step.
pub(super) fn refused(target: &Target, text: &str) -> Response<Passed> {
    let (mut body, text) = (Vec::new(), one_line(text));
    if (target.service, target.step) == (Service::ReceivePack, Step::Work) {
        // Behind a push git reads nothing but what comes in bands; the third one ends it.
        pkt::put(&mut body, format!("\u{3}baton: {text}\n").as_bytes());
        pkt::flush(&mut body);
    } else {
        pkt::put(&mut body, format!("ERR baton: {text}").as_bytes());
    }
    typed(StatusCode::OK, &target.answer_type(), Passed::bytes(body))
}

/// What a status means that is no success.
pub(super) fn meaning(target: &Target, status: StatusCode, headers: &HeaderMap) -> String {
    let host = &target.host;
    match status {
        StatusCode::UNAUTHORIZED => format!(
            "{host} does not accept what is kept for it (status 401): it may have expired. Set it again at home: \
             baton secret set git:{host}"
        ),
        StatusCode::FORBIDDEN => {
            let what = match target.service {
                Service::UploadPack => "read",
                Service::ReceivePack => "write",
            };
            format!(
                "{host} refuses (status 403): what is kept for it may not {what} {}",
                target.path
            )
        }
        StatusCode::NOT_FOUND => {
            format!("{host} has no {} that what is kept for it may see (status 404)", target.path)
        }
        status if status.is_redirection() => match moved(target, headers) {
            Some(to) => format!(
                "{host} says that {} is at {to} now; redirects are not followed: git remote set-url REMOTE {to}",
                target.path
            ),
            None => format!(
                "{host} says that {} is elsewhere (status {}); redirects are not followed, because what is kept for \
                 {host} is for nobody else",
                target.path,
                status.as_u16()
            ),
        },
        status => format!("{host} answered with status {}", status.as_u16()),
    }
}

/// The new address of a repository, where that is at the same host.
fn moved(target: &Target, headers: &HeaderMap) -> Option<String> {
    let to = headers.get(LOCATION)?.to_str().ok()?;
    let to = to.split(['?', '#']).next()?.strip_suffix("/info/refs")?;
    let path = match to.strip_prefix("https://") {
        Some(rest) => rest.strip_prefix(target.host.as_str())?,
        None => to,
    };
    let is_path = path.starts_with('/')
        && !path.starts_with("//")
        && path.len() <= MAX_SHOWN
        && path.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/-._~+%".contains(&byte));
    is_path.then(|| format!("https://{}{path}", target.host))
}

/// Without what a terminal could obey.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// An error and what is below it.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut below = error.source();
    while let Some(error) = below {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        below = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target() -> Target {
        let query = Some("service=git-receive-pack");
        Target::read("GET", "/h.org/o/r.git/info/refs", query).unwrap()
    }

    fn redirected(to: &str) -> String {
        let mut headers = HeaderMap::new();
        headers.insert(LOCATION, HeaderValue::from_str(to).unwrap());
        meaning(&target(), StatusCode::MOVED_PERMANENTLY, &headers)
    }

    #[test]
    fn a_new_address_is_named_where_it_is_at_the_same_host() {
        let refs = "/info/refs?service=git-receive-pack";
        for to in ["https://h.org/n/r.git", "/n/r.git"] {
            let said = redirected(&format!("{to}{refs}"));
            assert!(said.ends_with("git remote set-url REMOTE https://h.org/n/r.git"), "{said}");
        }
        for to in [
            "https://h.org.evil.example/n/r.git",
            "https://evil.example/h.org/n/r.git",
            "https://h.org@evil.example/r",
            "http://h.org/n/r.git",
            "//evil.example/r",
            "https://h.org/n/$(x)",
        ] {
            let said = redirected(&format!("{to}{refs}"));
            assert!(!said.contains("set-url") && !said.contains("evil"), "{to}: {said}");
        }
        assert!(redirected("https://h.org/login").contains("redirects are not followed"));
    }

    #[test]
    fn what_is_said_is_one_line() {
        assert_eq!(one_line("a\nb\u{1b}[31m\r"), "a b [31m ");
    }
}
