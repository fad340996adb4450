//! `[notify]`: who is told that a run has ended, or waits.
//!
//! **Invariant:** what could never be told is an error when the file is read, and not when a run ends.

use serde::{Deserialize, Serialize};

use super::sync::Contradiction;

/// `[notify]`. Both may be set.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NotifyConfig {
    /// A program and its arguments, which gets what there is to tell on its standard input. Empty: none.
    pub command: Vec<String>,
    /// Where what there is to tell is sent, with `POST`. Nothing: nowhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
}

impl std::fmt::Debug for NotifyConfig {
    /// Without the URL: of many services it is the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let program = self.command.first();
        f.debug_struct("NotifyConfig")
            .field("program", &program)
            .field("url", &self.url.as_ref().map(|_| "***"))
            .finish()
    }
}

impl NotifyConfig {
    /// The first value that cannot be meant.
    pub fn validate(&self) -> Result<(), Contradiction> {
        let wrong =
            |key, why: &str| Err(Contradiction { table: "notify", key, why: why.to_owned() });
        if self.command.first().is_some_and(String::is_empty) {
            return wrong("command", "its first word is the program, and is empty");
        }
        if self.command.iter().any(|word| word.contains('\0')) {
            return wrong("command", "it contains a NUL byte, which no program can be given");
        }
        let Some(url) = &self.url else { return Ok(()) };
        let Ok(url) = url.parse::<ureq::http::Uri>() else {
            return wrong("url", "it is no URL");
        };
        if !matches!(url.scheme_str(), Some("http" | "https"))
            || url.host().is_none_or(str::is_empty)
        {
            return wrong("url", "it begins with neither http:// nor https://, and a host");
        }
        if url.authority().is_some_and(|authority| authority.as_str().contains('@')) {
            return wrong("url", "it has a user in it, who is not sent");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_never_be_told_is_refused_without_its_key() {
        let command = |words: &[&str]| NotifyConfig {
            command: words.iter().map(|&word| word.to_owned()).collect(),
            url: None,
        };
        let url = |url: &str| NotifyConfig { url: Some(url.to_owned()), ..NotifyConfig::default() };
        for right in [
            NotifyConfig::default(),
            command(&["notify-send", "Baton", ""]),
            url("https://example.org/hook?key=swordfish"),
            url("http://127.0.0.1:8080"),
            url("http://[::1]:8080/x"),
        ] {
            assert_eq!(right.validate(), Ok(()), "{right:?}");
            assert!(!format!("{right:?}").contains("swordfish"));
        }
        for wrong in [
            command(&[""]),
            command(&["x", "a\0b"]),
            url(""),
            url("swordfish"),
            url("ftp://swordfish/x"),
            url("https:///swordfish"),
            url("https://ann:swordfish@example.org/"),
            url("file:///swordfish"),
            url("http://a b/swordfish"),
        ] {
            let said = wrong.validate().unwrap_err().to_string();
            assert!(said.starts_with("notify.") && !said.contains("swordfish"), "{said}");
        }
    }
}
