//! Settings of a repository, in the order in which its configuration has them.

use crate::encode::{DecodeError, Reader, Writer};

/// Longest section, subsection and key in bytes.
const MAX_SETTING_NAME: usize = 1024;

/// Longest value in bytes.
const MAX_SETTING_VALUE: usize = 16 * 1024;

/// One line of a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GitSetting {
    /// Lowercase, such as `remote`.
    pub section: String,
    /// Such as `origin`.
    pub subsection: Option<Vec<u8>>,
    /// Lowercase, such as `url`.
    pub key: String,
    /// Its value, without the quotes of the file.
    pub value: Vec<u8>,
}

impl GitSetting {
    /// Whether every part can stand in a file of git: sections and keys as git spells them, no line
    /// break in a subsection, no NUL anywhere.
    pub fn is_valid(&self) -> bool {
        let word = |word: &str| {
            word.len() <= MAX_SETTING_NAME
                && word.starts_with(|first: char| first.is_ascii_lowercase())
                && word
                    .bytes()
                    .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        };
        let plain = |bytes: &Vec<u8>| {
            bytes.len() <= MAX_SETTING_NAME
                && !bytes.iter().any(|&byte| matches!(byte, 0 | b'\n' | b'\r'))
        };
        word(&self.section)
            && word(&self.key)
            && self.subsection.as_ref().is_none_or(plain)
            && self.value.len() <= MAX_SETTING_VALUE
            && !self.value.contains(&0)
    }
}

/// Settings, in order: a later one of the same name wins, or adds to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GitSettings(pub Vec<GitSetting>);

impl GitSettings {
    /// The canonical bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut to = Writer::new();
        to.varint(self.0.len() as u64);
        for setting in &self.0 {
            to.bytes(setting.section.as_bytes());
            to.byte(u8::from(setting.subsection.is_some()));
            if let Some(subsection) = &setting.subsection {
                to.bytes(subsection);
            }
            to.bytes(setting.key.as_bytes());
            to.bytes(&setting.value);
        }
        to.finish()
    }

    /// Reads canonical bytes and refuses all others.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut from = Reader::new(bytes);
        let count = from.count("settings", bytes.len(), 6)?;
        let mut settings = Vec::with_capacity(count);
        for _ in 0..count {
            let section = from.text("section", MAX_SETTING_NAME)?.to_owned();
            let subsection = if super::read_flag(&mut from)? {
                Some(from.bytes("subsection", MAX_SETTING_NAME)?.to_vec())
            } else {
                None
            };
            let key = from.text("key", MAX_SETTING_NAME)?.to_owned();
            let value = from.bytes("value", MAX_SETTING_VALUE)?.to_vec();
            let setting = GitSetting { section, subsection, key, value };
            if !setting.is_valid() {
                return Err(DecodeError::Inconsistent { what: "setting" });
            }
            settings.push(setting);
        }
        from.finish()?;
        Ok(Self(settings))
    }
}
