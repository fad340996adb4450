//! What a node says for runs to a git host: never in their environment, and never among what is shown.

use std::sync::Arc;

use baton_protocol::message::secrets::{PushScope, SecretValue};
use data_encoding::BASE64;

/// The user where a value names none. Hosts that take a token alone take it with any user; this one is known to those
/// that look at it.
const USER: &str = "x-access-token";

/// A host, what opens it, and where one may push to there.
#[derive(Clone, PartialEq, Eq)]
pub struct GitHost {
    host: String,
    push: PushScope,
    /// The value of the header `Authorization`.
    authorization: Arc<str>,
}

impl std::fmt::Debug for GitHost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "git:{}", self.host)
    }
}

impl GitHost {
    /// Of a value that was checked.
    pub fn new(host: &str, value: &SecretValue, push: Option<PushScope>) -> Self {
        let mut pair = value.reveal().to_vec();
        if !pair.contains(&b':') {
            pair = [USER.as_bytes(), b":", &pair].concat();
        }
        let authorization = format!("Basic {}", BASE64.encode(&pair)).into();
        Self { host: host.to_owned(), push: push.unwrap_or(PushScope::Run), authorization }
    }

    /// As in URLs.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Where runs may push.
    pub const fn push(&self) -> PushScope {
        self.push
    }

    /// What the node says there. Shown to nobody else.
    pub fn authorization(&self) -> &str {
        &self.authorization
    }
}

/// The part of a value that is secret by itself.
pub(super) fn token(value: &SecretValue) -> &[u8] {
    let bytes = value.reveal();
    let user = bytes.iter().position(|&byte| byte == b':');
    user.and_then(|at| bytes.get(at + 1..)).unwrap_or(bytes)
}
