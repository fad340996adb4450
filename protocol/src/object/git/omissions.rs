//! What of a repository did not travel, and why; and what did, but wants a look before git goes on.

use crate::encode::{DecodeError, Reader, Writer};

/// Longest name of a thing that was left out, in bytes.
const MAX_WHAT: usize = 4096;

/// Why something of a repository did not travel, or wants a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum GitOmitReason {
    /// It names a program, which would run at the other side.
    Command = 1,
    /// It is, or may hold, a credential. Of a URL only the name and password are left out.
    Credential = 2,
    /// It reaches outside of the repository.
    Outside = 3,
    /// The repository itself lacks it.
    Missing = 4,
    /// It cannot be read, or is not what git would take.
    Broken = 5,
    /// It belongs to another worktree of the repository.
    Elsewhere = 6,
    /// It is not on the list of what travels.
    NotCarried = 7,
    /// It *did* travel: git will run this when the operation goes on.
    Runs = 8,
    /// It *did* travel, as it was at the last of several looks, between which git wrote.
    Moving = 9,
    /// A lock was there that nobody seemed to use.
    Locked = 10,
    /// It follows by itself: history before a cut, and refs that only such history has.
    Later = 11,
}

impl GitOmitReason {
    /// Every reason, in the order of their numbers.
    pub const ALL: [Self; 11] = [
        Self::Command,
        Self::Credential,
        Self::Outside,
        Self::Missing,
        Self::Broken,
        Self::Elsewhere,
        Self::NotCarried,
        Self::Runs,
        Self::Moving,
        Self::Locked,
        Self::Later,
    ];

    /// The word used in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Command => "command",
            Self::Credential => "credential",
            Self::Outside => "outside",
            Self::Missing => "missing",
            Self::Broken => "broken",
            Self::Elsewhere => "elsewhere",
            Self::NotCarried => "not-carried",
            Self::Runs => "runs",
            Self::Moving => "moving",
            Self::Locked => "locked",
            Self::Later => "later",
        }
    }
}

/// One thing and why.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct GitOmission {
    /// In words for people: a setting, a ref, a file, a line. Never a value that may be secret.
    pub what: String,
    /// Why.
    pub reason: GitOmitReason,
}

/// What did not travel, ascending.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GitOmissions(pub Vec<GitOmission>);

impl GitOmissions {
    /// The canonical bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut to = Writer::new();
        to.varint(self.0.len() as u64);
        for omission in &self.0 {
            to.byte(omission.reason as u8);
            to.bytes(omission.what.as_bytes());
        }
        to.finish()
    }

    /// Reads canonical bytes and refuses all others.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut from = Reader::new(bytes);
        let count = from.count("omissions", bytes.len(), 2)?;
        let mut omissions: Vec<GitOmission> = Vec::with_capacity(count);
        for _ in 0..count {
            let number = from.byte()?;
            let reason = GitOmitReason::ALL
                .into_iter()
                .find(|&reason| reason as u8 == number)
                .ok_or(DecodeError::Unknown { what: "reason", value: number.into() })?;
            let what = from.text("omission", MAX_WHAT)?.to_owned();
            let omission = GitOmission { what, reason };
            if omissions.last().is_some_and(|last| *last >= omission) {
                return Err(DecodeError::Order { what: "omissions" });
            }
            omissions.push(omission);
        }
        from.finish()?;
        Ok(Self(omissions))
    }
}
