//! Directories seen through one another, by the overlay file system of Linux.
//!
//! Directories can be renamed, for which the upper layer notes where they come from (`redirect_dir`); what is changed is
//! copied up whole, so that the upper layer alone says what was (`metacopy`); and no lower layer is tied to an upper one
//! (`index`), so that many can share it.
//!
//! What a folder of the upper layer says of those below it stands in an attribute, whose kind is that of the [`Marks`]. Only
//! root has those that no run can write; those that a user has are kept from runs by the file system itself, which gives
//! what they write another name. With them directories of lower layers cannot be renamed, only copied.
//!
//! **Invariant:** a lower layer is never written. Each has its own descriptor, so that neither the length of a path nor
//! what is in it matters.

use std::path::{Path, PathBuf};

use rustix::io::Errno;

use crate::checkout::remove_made;
use crate::fs::{self, Context, FsError};

/// Whose attributes say what a folder shows of the layers below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Marks {
    /// Those of root: `trusted.overlay.*`.
    Trusted,
    /// Those of a user, in a namespace of their own: `user.overlay.*`.
    User,
}

impl Marks {
    /// Both kinds.
    pub const ALL: [Self; 2] = [Self::Trusted, Self::User];

    /// Set on a directory that hides the one below it.
    pub const fn opaque(self) -> &'static str {
        match self {
            Self::Trusted => "trusted.overlay.opaque",
            Self::User => "user.overlay.opaque",
        }
    }

    /// Set on a directory below which another one is shown than that of its name.
    pub const fn redirect(self) -> &'static str {
        match self {
            Self::Trusted => "trusted.overlay.redirect",
            Self::User => "user.overlay.redirect",
        }
    }

    /// Whether directories of lower layers can be renamed.
    pub const fn rename(self) -> bool {
        matches!(self, Self::Trusted)
    }
}

/// Folders for a trial.
const TRIAL: &str = "overlay-trial";
const TRIAL_BELOW: &str = "overlay-trial-below";

/// Lower layers, a writable one, and where they are seen together.
#[derive(Clone, Debug)]
pub struct Overlay<'a> {
    /// The topmost first.
    pub lower: &'a [PathBuf],
    /// What is written goes here.
    pub upper: &'a Path,
    /// An empty folder beside it, on the same file system.
    pub work: &'a Path,
    /// An empty folder.
    pub at: &'a Path,
    /// What the layers are marked with.
    pub marks: Marks,
}

#[cfg(target_os = "linux")]
mod linux {
    use std::ffi::CString;
    use std::os::fd::{AsRawFd, OwnedFd};

    use rustix::fs::{CWD, Mode, OFlags, StatxAttributes, StatxFlags};
    use rustix::mount::{MountFlags, UnmountFlags};

    use super::super::mounter::as_mounter;
    use super::{Context, Errno, FsError, Marks, Overlay, Path, PathBuf};

    /// Opens a folder to name it by its descriptor.
    fn open(path: &Path) -> Result<OwnedFd, FsError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::open(path, flags, Mode::empty()).context("opening", path)
    }

    fn name(fd: &OwnedFd) -> String {
        format!("/proc/self/fd/{}", fd.as_raw_fd())
    }

    /// What is said of directories that moved.
    fn renames(marks: Marks, how: &str) -> String {
        match marks {
            Marks::Trusted => format!(",redirect_dir={how}"),
            Marks::User => ",userxattr".to_owned(),
        }
    }

    pub(super) fn mount(overlay: &Overlay<'_>, how: &str) -> Result<(), FsError> {
        let (upper, work) = (open(overlay.upper)?, open(overlay.work)?);
        let renames = renames(overlay.marks, how);
        let writable = format!(",upperdir={},workdir={}{renames}", name(&upper), name(&work));
        mount_over(overlay.lower, &writable, MountFlags::empty(), overlay.at)
    }

    pub(super) fn mount_view(layers: &[PathBuf], at: &Path, marks: Marks) -> Result<(), FsError> {
        mount_over(layers, &renames(marks, "follow"), MountFlags::RDONLY, at)
    }

    fn mount_over(
        lower: &[PathBuf],
        options: &str,
        flags: MountFlags,
        at: &Path,
    ) -> Result<(), FsError> {
        let lower = lower.iter().map(|path| open(path)).collect::<Result<Vec<_>, _>>()?;
        let names: Vec<_> = lower.iter().map(name).collect();
        let options = format!("lowerdir={}{options},metacopy=off,index=off", names.join(":"));
        let options = CString::new(options).map_err(|_| Errno::INVAL);
        let flags = flags | MountFlags::NODEV | MountFlags::NOSUID;
        let place = at.to_owned();
        let mounted = options.and_then(|options| {
            as_mounter(move || {
                rustix::mount::mount("baton", &place, "overlay", flags, options.as_c_str())
            })
        });
        mounted.context("mounting an overlay at", at)
    }

    pub(super) fn unmount(at: &Path) -> Result<(), FsError> {
        let place = at.to_owned();
        let flags = UnmountFlags::DETACH | UnmountFlags::NOFOLLOW;
        as_mounter(move || rustix::mount::unmount(&place, flags)).context("unmounting", at)
    }

    pub(super) fn is_mounted(at: &Path) -> Result<bool, Errno> {
        let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW | rustix::fs::AtFlags::NO_AUTOMOUNT;
        let found = rustix::fs::statx(CWD, at, flags, StatxFlags::BASIC_STATS);
        match found {
            Ok(found) => Ok(found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT)),
            Err(Errno::NOENT) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod linux {
    use super::{Context, Errno, FsError, Marks, Overlay, Path, PathBuf};

    pub(super) fn mount(overlay: &Overlay<'_>, _renames: &str) -> Result<(), FsError> {
        Err(Errno::NOSYS).context("mounting an overlay at", overlay.at)
    }

    pub(super) fn mount_view(_layers: &[PathBuf], at: &Path, _marks: Marks) -> Result<(), FsError> {
        Err(Errno::NOSYS).context("mounting an overlay at", at)
    }

    pub(super) fn unmount(at: &Path) -> Result<(), FsError> {
        Err(Errno::NOSYS).context("unmounting", at)
    }

    pub(super) fn is_mounted(_at: &Path) -> Result<bool, Errno> {
        Ok(false)
    }
}

/// Shows the layers at their place, until they are [taken away](unmount).
pub fn mount(overlay: &Overlay<'_>) -> Result<(), FsError> {
    linux::mount(overlay, "on")
}

/// The same, but directories of the lower layers cannot be renamed, only copied: what is written says all of itself, and
/// can lie over other layers later.
pub fn mount_for_keeping(overlay: &Overlay<'_>) -> Result<(), FsError> {
    linux::mount(overlay, "follow")
}

/// Shows layers, the topmost first, at a place where nobody can write. One of them may be what an overlay writes to, as
/// long as nobody writes.
pub fn mount_view(layers: &[PathBuf], at: &Path, marks: Marks) -> Result<(), FsError> {
    linux::mount_view(layers, at, marks)
}

/// Takes away all that is shown at a place. Who has it open keeps it as long.
pub fn unmount(at: &Path) -> Result<(), FsError> {
    while is_mounted(at)? {
        linux::unmount(at)?;
    }
    Ok(())
}

/// Whether something is shown at a place.
pub fn is_mounted(at: &Path) -> Result<bool, FsError> {
    linux::is_mounted(at).context("looking at", at)
}

/// Finds out by trying which overlays can be mounted over what is in one folder, with what is written in another one, and
/// hold what a run may do to them. Both are left as they were.
pub fn try_in(below: &Path, above: &Path) -> Result<Marks, FsError> {
    let failed = match try_with(below, above, Marks::Trusted) {
        Ok(()) => return Ok(Marks::Trusted),
        Err(error) => error,
    };
    // What keeps from the one kind is mostly what keeps from the other.
    try_with(below, above, Marks::User).map(|()| Marks::User).map_err(|_| failed)
}

/// The same with one kind of marks.
pub fn try_with(below: &Path, above: &Path, marks: Marks) -> Result<(), FsError> {
    let (lower, trial) = (below.join(TRIAL_BELOW), above.join(TRIAL));
    let [upper, work, merged] = ["upper", "work", "merged"].map(|name| trial.join(name));
    // An earlier daemon may have been killed meanwhile.
    unmount(&merged)?;
    for folder in [&lower, &trial] {
        remove_made(folder)?;
    }
    for path in [&lower.join("below"), &upper, &work, &merged] {
        fs::create_dir_all(path)?;
    }
    let lower = [lower];
    let overlay = Overlay { lower: &lower, upper: &upper, work: &work, at: &merged, marks };
    let tried = mount(&overlay).and_then(|()| {
        let changed = change(&merged, &upper, marks);
        // Old kernels do not say what is mounted, and what one does not see one cannot take away.
        let seen = is_mounted(&merged);
        linux::unmount(&merged)?;
        changed?;
        if seen? { Ok(()) } else { Err(Errno::NOSYS).context("looking for the mount at", &merged) }
    });
    let [lower] = lower;
    for folder in [&lower, &trial] {
        remove_made(folder)?;
    }
    tried
}

/// What a run may do that depends on the system: a directory is renamed, or made again.
fn change(merged: &Path, upper: &Path, marks: Marks) -> Result<(), FsError> {
    let below = merged.join("below");
    if marks.rename() {
        return fs::rename_unsynced(&below, &merged.join("renamed"));
    }
    fs::remove_dir_all(&below)?;
    fs::create_dir_all(&below)?;
    let hidden = upper.join("below");
    let marked = rustix::fs::lgetxattr(&hidden, marks.opaque(), &mut [0u8; 1]);
    marked.map(drop).context("looking at the marks of", &hidden)
}
