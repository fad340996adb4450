//! Tells a URL, with a `POST` of JSON.
//!
//! The certificates that are believed are those of Mozilla's list, built in: a private authority's are not.
//!
//! **Invariant:** nothing is sent elsewhere: no redirect is followed, and no proxy of the environment is used. The URL is in
//! no log: of many services it is the key.

use std::time::Duration;

use super::NoticeError;

/// A URL to which each notice is sent. Blocks, for as long as an attempt may take.
pub(super) struct Post {
    agent: ureq::Agent,
    url: String,
}

impl std::fmt::Debug for Post {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Post(***)")
    }
}

impl Post {
    pub(super) fn new(url: &str, limit: Duration) -> Self {
        let config = ureq::Agent::config_builder()
            .timeout_global(Some(limit))
            .max_redirects(0)
            .max_redirects_will_error(false)
            .http_status_as_error(false)
            .proxy(None)
            .user_agent(concat!("baton/", env!("CARGO_PKG_VERSION")))
            // A connection that is kept would be dead by the next notice.
            .max_idle_connections(0)
            .build();
        Self { agent: config.into(), url: url.to_owned() }
    }

    pub(super) fn send(&self, json: &[u8]) -> Result<(), NoticeError> {
        let request = self.agent.post(&self.url).header("content-type", "application/json");
        let answer = request.send(json).map_err(|error| NoticeError::Request(Box::new(error)))?;
        let status = answer.status();
        if status.is_success() { Ok(()) } else { Err(NoticeError::Status(status.as_u16())) }
    }
}
