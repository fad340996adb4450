//! A namespace of this process, in which a user who is not root may mount.
//!
//! The process stays the same user, with the rights of that user to all that is outside of it. What it mounts is seen by itself
//! and by those that it starts, and ends with the last of them. One thread keeps the right to mount; all others, and every
//! program that is started, have none that they did not have before.
//!
//! Not here: whether it is worth it, which is found out by trying in another process (`daemon`): there is no way back.
//!
//! **Invariant:** nobody is taken for the user of this process who is another one: users without a number in a namespace
//! all look like one and the same, and that user stays outside.

/// Whether a process is in a namespace of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Namespace {
    /// It needs none, or nobody asked for one.
    #[default]
    Outside,
    /// It is.
    Own,
    /// It cannot be, and why.
    Refused(String),
}

/// Why this process has no namespace of its own.
#[derive(Debug, thiserror::Error)]
pub enum NamespaceError {
    /// It would be taken for others, and others for it.
    #[error("the user {0} stands for all that have no number in a namespace: serve as another one")]
    Overflow(u32),
    /// The system does not permit it; the process is where it was.
    #[error("leaving the namespace of the system")]
    Refused(#[source] std::io::Error),
    /// The process is in one, but not as it has to be: with rights that nothing should have, or as another user.
    #[error("{doing}")]
    Halfway {
        /// What was done, as a participle.
        doing: &'static str,
        /// Why it failed.
        source: std::io::Error,
    },
}

impl NamespaceError {
    /// Whether the process is what it was before.
    pub fn stayed(&self) -> bool {
        !matches!(self, Self::Halfway { .. })
    }
}

/// Moves this process into a namespace of its own. It must have one thread only. It goes on after an error only if it
/// [`stayed`](NamespaceError::stayed) what it was.
#[cfg(target_os = "linux")]
pub fn enter() -> Result<(), NamespaceError> {
    use rustix::thread::{CapabilitySet, CapabilitySets, UnshareFlags, set_capabilities};

    let (user, group) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    if user == stand_in() {
        return Err(NamespaceError::Overflow(user));
    }
    // No descriptors are unshared, which is what makes the call unsafe in general.
    #[expect(
        deprecated,
        reason = "the one that replaces it is unsafe for the sake of a flag that is not set"
    )]
    let unshared = rustix::thread::unshare(UnshareFlags::NEWUSER | UnshareFlags::NEWNS);
    unshared.map_err(|error| NamespaceError::Refused(error.into()))?;
    for (file, text) in [
        ("setgroups", "deny".to_owned()),
        ("uid_map", format!("{user} {user} 1")),
        ("gid_map", format!("{group} {group} 1")),
    ] {
        use std::io::Write as _;
        let opened = std::fs::OpenOptions::new().write(true).open(format!("/proc/self/{file}"));
        opened
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .map_err(halfway("keeping the user in a namespace"))?;
    }
    baton_store::layers::keep_mounter().map_err(halfway("starting the thread that mounts"))?;
    let none = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })
        .map_err(|error| halfway("giving up what a namespace permits")(error.into()))
}

/// Only Linux has them.
#[cfg(not(target_os = "linux"))]
pub fn enter() -> Result<(), NamespaceError> {
    Err(NamespaceError::Refused(std::io::ErrorKind::Unsupported.into()))
}

#[cfg(target_os = "linux")]
fn halfway(doing: &'static str) -> impl Fn(std::io::Error) -> NamespaceError {
    move |source| NamespaceError::Halfway { doing, source }
}

/// The user that is seen in the place of those that have no number.
#[cfg(target_os = "linux")]
fn stand_in() -> u32 {
    const USUAL: u32 = 65534;
    let path = std::path::Path::new("/proc/sys/kernel/overflowuid");
    let read = baton_store::fs::read_if_exists(path, 64).ok().flatten().unwrap_or_default();
    String::from_utf8_lossy(&read).trim().parse().unwrap_or(USUAL)
}
