//! Moves between a checkout and the folder of an apply.
//!
//! **Invariant:** no move replaces anything: two names change places, or the new one was free. Where the
//! file system can do neither as one step, nothing is moved.

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
}

impl Abilities {
    /// What most can do.
    pub(super) const ALL: Self = Self { new: true, exchange: true };

    /// Tries both in a folder of our own.
    #[cfg(target_os = "linux")]
    pub(super) fn of(folder: BorrowedFd<'_>) -> Result<Self, Errno> {
        use rustix::fs::{Mode, OFlags, RenameFlags, openat, renameat_with, unlinkat};
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
        for name in ["probe-a", "probe-b", "probe-c"] {
            match unlinkat(folder, name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Self { new, exchange })
    }

    /// None of them can be asked for.
    #[cfg(not(target_os = "linux"))]
    pub(super) fn of(_folder: BorrowedFd<'_>) -> Result<Self, Errno> {
        Ok(Self { new: false, exchange: false })
    }

    /// Renames to a name that nothing has. A directory goes only where that is one step.
    pub(super) fn rename_new(
        self,
        (from, name): (BorrowedFd<'_>, &[u8]),
        (to, new): (BorrowedFd<'_>, &[u8]),
    ) -> Result<(), Errno> {
        #[cfg(target_os = "linux")]
        if self.new {
            let flags = rustix::fs::RenameFlags::NOREPLACE;
            return rustix::fs::renameat_with(from, name, to, new, flags);
        }
        // A second name is made only where there is none.
        rustix::fs::linkat(from, name, to, new, AtFlags::empty())?;
        rustix::fs::unlinkat(from, name, AtFlags::empty())
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
        let _unused = (from, name, to, other);
        Err(Errno::NOSYS)
    }
}
