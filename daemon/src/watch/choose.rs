//! Which way to watch a root.
//!
//! Not here: watching.
//!
//! 1. A file system on which others write without telling this machine is swept.
//! 2. On Linux a file is made and removed, and inotify has to tell of it: there are file systems that
//!    take a watch and never say a word. If it does not, the root is swept.
//! 3. Elsewhere `notify`, which finds out at each drain.

use std::path::Path;

use super::sweep::SweepWatch;
use super::{Watch, WatchError, WatchOptions};

/// Opens a root in the best way there is. Nothing is watched before it is [added](Watch::add).
pub fn open(root: &Path, options: &WatchOptions) -> Result<Box<dyn Watch>, WatchError> {
    #[cfg(target_os = "linux")]
    return linux::open(root, options);
    #[cfg(not(target_os = "linux"))]
    match super::notify::NotifyWatch::open(root, options) {
        Ok(watch) => Ok(Box::new(watch)),
        Err(error) => sweep(root, &format!("the system does not watch it: {error}")),
    }
}

fn sweep(root: &Path, why: &str) -> Result<Box<dyn Watch>, WatchError> {
    let note = format!("{why}; each snapshot looks at every file");
    tracing::warn!(root = %root.display(), why, "a folder is not watched");
    Ok(Box::new(SweepWatch::open(root, Some(note))?))
}

#[cfg(target_os = "linux")]
mod linux {
    use std::path::Path;

    use super::super::inotify::{self, InotifyWatch};
    use super::super::{Watch, WatchError, WatchOptions};
    use super::sweep;

    /// File systems on which inotify tells only of what this machine does, by the numbers of
    /// `statfs(2)` and `linux/magic.h`.
    const SILENT: [(u32, &str); 12] = [
        (0x0000_6969, "NFS"),
        (0xff53_4d42, "CIFS"),
        (0xfe53_4d42, "SMB2"),
        (0x0000_517b, "SMB"),
        (0x0102_1997, "9p"),
        (0x6573_5546, "FUSE"),
        (0x5346_414f, "AFS"),
        (0x6b41_4653, "kAFS"),
        (0x00c3_6400, "Ceph"),
        (0x7375_7245, "Coda"),
        (0x0000_564c, "NCP"),
        (0x786f_4256, "a shared folder of VirtualBox"),
    ];

    pub(super) fn open(root: &Path, options: &WatchOptions) -> Result<Box<dyn Watch>, WatchError> {
        let failed = |errno: rustix::io::Errno| WatchError::System {
            root: root.to_owned(),
            source: errno.into(),
        };
        let kind = rustix::fs::statfs(root).map_err(failed)?.f_type;
        let silent = SILENT.iter().find(|(magic, _)| is_kind(kind, *magic));
        if let Some((_, name)) = silent {
            return sweep(root, &format!("it is on {name}, where others may write unnoticed"));
        }
        match inotify::is_told(root, options) {
            Ok(true) => {}
            Ok(false) => return sweep(root, "its file system tells of no changes"),
            Err(error) => return sweep(root, &format!("inotify is not to be had: {error}")),
        }
        Ok(Box::new(InotifyWatch::open(root, options)?))
    }

    /// The numbers are of 32 bits, in a field whose width and sign differ between machines.
    #[allow(
        clippy::allow_attributes,
        clippy::unnecessary_cast,
        clippy::cast_sign_loss,
        reason = "the type differs between systems"
    )]
    fn is_kind(kind: rustix::fs::FsWord, magic: u32) -> bool {
        kind as u32 == magic
    }
}
