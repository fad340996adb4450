//! Moves between a checkout and the folder of an apply.
//!
//! **Invariant:** no move replaces anything in the checkout: two names change places, or the new one was free,
//! and that is one step for the system. The folder is ours alone, so what is free there stays free.

use std::os::fd::BorrowedFd;

use rustix::fs::AtFlags;
use rustix::io::Errno;

/// What the file system can do as one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Abilities {
    /// Renaming to a name that nothing has.
    pub(super) new: bool,
    /// Two names changing places.
    pub(super) exchange: bool,
    /// A second name for a file.
    pub(super) link: bool,
}

impl Abilities {
    /// Tries them in a folder of our own.
    pub(super) fn of(folder: BorrowedFd<'_>) -> Result<Self, Errno> {
        #[cfg(test)]
        if let Some(limited) = LIMITED.get() {
            return Ok(limited);
        }
        Self::try_out(folder)
    }

    #[cfg(target_os = "linux")]
    fn try_out(folder: BorrowedFd<'_>) -> Result<Self, Errno> {
        use rustix::fs::{Mode, OFlags, RenameFlags, openat, renameat_with, unlinkat};
        let clean = || {
            for name in ["probe-a", "probe-b", "probe-c"] {
                match unlinkat(folder, name, AtFlags::empty()) {
                    Ok(()) | Err(Errno::NOENT) => {}
                    Err(error) => return Err(error),
                }
            }
            Ok(())
        };
        // A crash may have left some.
        clean()?;
        let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC;
        for name in ["probe-a", "probe-b"] {
            drop(openat(folder, name, flags, Mode::RUSR | Mode::WUSR)?);
        }
        let can = |from: &str, to: &str, flags| match renameat_with(folder, from, folder, to, flags)
        {
            Ok(()) => Ok(true),
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => Ok(false),
            Err(error) => Err(error),
        };
        let exchange = can("probe-a", "probe-b", RenameFlags::EXCHANGE)?;
        let new = can("probe-a", "probe-c", RenameFlags::NOREPLACE)?;
        clean()?;
        let link = can_link(folder)?;
        Ok(Self { new, exchange, link })
    }

    /// Only a second name can be asked for.
    #[cfg(not(target_os = "linux"))]
    fn try_out(folder: BorrowedFd<'_>) -> Result<Self, Errno> {
        Ok(Self { new: false, exchange: false, link: can_link(folder)? })
    }

    /// Whether a file can be put where nothing is, without replacing what came there meanwhile.
    pub(super) const fn can_put(self) -> bool {
        self.new || self.link
    }

    /// Moves from the folder to a name of the checkout that nothing has. A directory goes only where that can
    /// be asked for.
    pub(super) fn put(
        self,
        (folder, number): (BorrowedFd<'_>, &[u8]),
        (directory, name): (BorrowedFd<'_>, &[u8]),
    ) -> Result<(), Errno> {
        #[cfg(test)]
        if FAILS_AT.get() == Some(0) {
            FAILS_AT.set(None);
            return Err(Errno::PERM);
        }
        #[cfg(test)]
        FAILS_AT.set(FAILS_AT.get().map(|left| left - 1));
        #[cfg(target_os = "linux")]
        if self.new {
            let flags = rustix::fs::RenameFlags::NOREPLACE;
            return rustix::fs::renameat_with(folder, number, directory, name, flags);
        }
        if !self.link {
            return Err(Errno::PERM);
        }
        // A second name is made only where there is none, and the first one is ours to take away.
        rustix::fs::linkat(folder, number, directory, name, AtFlags::empty())?;
        rustix::fs::unlinkat(folder, number, AtFlags::empty())
    }

    /// Lets two names change places; `NOSYS` where that cannot be one step.
    pub(super) fn exchange(
        self,
        (from, name): (BorrowedFd<'_>, &[u8]),
        (to, other): (BorrowedFd<'_>, &[u8]),
    ) -> Result<(), Errno> {
        #[cfg(target_os = "linux")]
        if self.exchange {
            let flags = rustix::fs::RenameFlags::EXCHANGE;
            return rustix::fs::renameat_with(from, name, to, other, flags);
        }
        #[cfg(not(target_os = "linux"))]
        let _unused = (from, name, to, other);
        Err(Errno::NOSYS)
    }
}

/// Whether a file of this file system can have a second name.
fn can_link(folder: BorrowedFd<'_>) -> Result<bool, Errno> {
    use rustix::fs::{Mode, OFlags, linkat, openat, unlinkat};
    let clean = || {
        for name in ["probe-d", "probe-e"] {
            match unlinkat(folder, name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    };
    clean()?;
    let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC;
    drop(openat(folder, "probe-d", flags, Mode::RUSR | Mode::WUSR)?);
    let linked = linkat(folder, "probe-d", folder, "probe-e", AtFlags::empty());
    clean()?;
    match linked {
        Ok(()) => Ok(true),
        Err(Errno::PERM | Errno::NOSYS | Errno::OPNOTSUPP | Errno::ACCESS | Errno::MLINK) => {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// Moves to a name of the folder that nothing has.
pub(super) fn take(
    from: (BorrowedFd<'_>, &[u8]),
    (folder, number): (BorrowedFd<'_>, &[u8]),
) -> Result<(), Errno> {
    match rustix::fs::statat(folder, number, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => rustix::fs::renameat(from.0, from.1, folder, number),
        Ok(_) => Err(Errno::EXIST),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
thread_local! {
    /// What file systems can do, as far as this thread is told.
    pub(super) static LIMITED: std::cell::Cell<Option<Abilities>> =
        const { std::cell::Cell::new(None) };

    /// The system refuses to put something at its place, after so many that it does not.
    pub(super) static FAILS_AT: std::cell::Cell<Option<u64>> = const { std::cell::Cell::new(None) };
}
