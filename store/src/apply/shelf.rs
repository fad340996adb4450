//! The folder of an apply: what is new waits in it, and what came out of the checkout stays in it.
//!
//! It is on the file system of the checkout: in the home where that is the same one, else beside the checkout,
//! else in it, where git is told to ignore it. It belongs to no tree.
//!
//! ```text
//! making/N   a new file that is being written
//! new/N      one that is whole, or what came out when it went to its place
//! out/N      what came out of the checkout at step N
//! paths      which path each number stands for
//! ```
//!
//! **Invariant:** what is in `new` is whole and durable before the first of it is used, and nothing that came
//! out of a checkout is removed from here but with the folder itself, when its time is over.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use super::ApplyError;
use super::crash;
use super::ground::{DIRECTORY, Ground, Mount};
use super::look::Looker;
use super::moves::{Abilities, take};
use super::plan::Step;
use crate::checkout::remove::remove_contents;
use crate::checkout::{RestoreOptions, fill};
use crate::fs::{self, Context};
use crate::ignore::SHELF;
use crate::objects::ObjectSource;
use crate::scan::Progress;
use crate::scan::directory::list;

/// Bytes of the checkout's name in that of a folder beside it, so that it fits a name.
const NAME_KEPT: usize = 180;

/// Files that are synced one by one; of more, the whole file system is, which costs once.
pub(super) const SYNCED_ALONE: usize = 64;

/// Which way a checkout is being changed: each has places of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pass {
    Apply,
    Undo,
}

impl Pass {
    fn name(self, what: &str) -> String {
        match self {
            Self::Apply => what.to_owned(),
            Self::Undo => format!("undo-{what}"),
        }
    }
}

/// The folder of an apply.
#[derive(Debug)]
pub(super) struct Shelf {
    area: OwnedFd,
    path: PathBuf,
    pass: Pass,
    new: OwnedFd,
    out: OwnedFd,
    /// What the file system can do.
    pub(super) abilities: Abilities,
}

/// Chooses where the folder will be; nothing is made. `own` is where it is in the home.
pub(super) fn choose_area(ground: &Ground, own: &Path, id: &str) -> Result<PathBuf, ApplyError> {
    let is_same = |folder: &Path| {
        let fd = rustix::fs::open(folder, DIRECTORY, Mode::empty())?;
        Ok::<_, Errno>(Mount::of(fd.as_fd())? == ground.mount())
    };
    let home = own.parent().and_then(Path::parent);
    if let Some(home) = home
        && is_same(home).context("looking at", home)?
    {
        return Ok(own.to_owned());
    }
    let at = &ground.at;
    if let (Some(above), Some(name)) = (at.parent(), at.file_name()) {
        let fd = rustix::fs::open(above, DIRECTORY, Mode::empty());
        if fd.is_ok_and(|fd| may_change(fd.as_fd())) && is_same(above) == Ok(true) {
            let kept = name.as_bytes();
            let mut beside = OsString::from(".");
            beside.push(OsStr::from_bytes(kept.get(..NAME_KEPT).unwrap_or(kept)));
            beside.push(format!("{SHELF}{id}"));
            return Ok(above.join(beside));
        }
    }
    Ok(at.join(format!("{SHELF}{id}")))
}

/// Whether entries of a directory may be listed, made and taken away.
pub(super) fn may_change(directory: BorrowedFd<'_>) -> bool {
    use rustix::fs::Access;
    let access = Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK;
    rustix::fs::accessat(directory, ".", access, AtFlags::EACCESS).is_ok()
}

/// Where what came out stays, in a folder.
pub(super) fn out_path(area: &Path, pass: Pass) -> PathBuf {
    area.join(pass.name("out"))
}

/// Takes away what was staged, where nothing of it can have been used yet.
pub(super) fn discard_staged(area: &Path, pass: Pass) -> Result<(), ApplyError> {
    remove_area(&area.join(pass.name("new")))
}

/// Takes the folder away, with all that is in it.
pub(super) fn remove_area(path: &Path) -> Result<(), ApplyError> {
    let (Some(above), Some(name)) = (path.parent(), path.file_name()) else { return Ok(()) };
    let removed = || {
        let above = rustix::fs::open(above, DIRECTORY, Mode::empty())?;
        let area = rustix::fs::openat(&above, name, DIRECTORY | OFlags::NOFOLLOW, Mode::empty())?;
        rustix::fs::fchmod(&area, Mode::RWXU)?;
        remove_contents(area.as_fd())?;
        rustix::fs::unlinkat(&above, name, AtFlags::REMOVEDIR)
    };
    match removed() {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Ok(Err(error).context("removing", path)?),
    }
}

impl Shelf {
    /// Makes the folder, and opens it.
    pub(super) fn make(ground: &Ground, path: &Path, pass: Pass) -> Result<Self, ApplyError> {
        fs::create_dir_all(path)?;
        Self::open(ground, path, pass)
    }

    /// Opens the folder. One that is missing is not made: with it, what is half done would be forgotten.
    pub(super) fn open(ground: &Ground, path: &Path, pass: Pass) -> Result<Self, ApplyError> {
        if path.symlink_metadata().is_err() {
            return Err(ApplyError::NoShelf(path.to_owned()));
        }
        if path.starts_with(&ground.at) {
            fs::write_atomic(&path.join(".gitignore"), b"*\n", 0o600)?;
        }
        let flags = DIRECTORY | OFlags::NOFOLLOW;
        let area = rustix::fs::open(path, flags, Mode::empty()).context("opening", path)?;
        let abilities = Abilities::of(area.as_fd()).context("trying out", path)?;
        let folder = |name: &str| {
            match rustix::fs::mkdirat(&area, name, Mode::RWXU) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error),
            }
            rustix::fs::openat(&area, name, flags, Mode::empty())
        };
        let (new, out) = (pass.name("new"), pass.name("out"));
        let new = folder(&new).context("creating", &path.join(&new))?;
        let out = folder(&out).context("creating", &path.join(&out))?;
        Ok(Self { area, path: path.to_owned(), pass, new, out, abilities })
    }

    /// Where what is new waits.
    pub(super) fn new_folder(&self) -> BorrowedFd<'_> {
        self.new.as_fd()
    }

    /// Where what came out stays.
    pub(super) fn out_folder(&self) -> BorrowedFd<'_> {
        self.out.as_fd()
    }

    /// The path of the latter.
    pub(super) fn out_path(&self) -> PathBuf {
        out_path(&self.path, self.pass)
    }

    /// Writes what these steps need, all of it verified; durable when this returns.
    pub(super) fn stage<S: ObjectSource + ?Sized>(
        &self,
        source: &S,
        steps: &[(usize, &Step)],
        (options, progress): (RestoreOptions, &Progress),
    ) -> Result<(), ApplyError> {
        let name = self.pass.name("making");
        let path = self.path.join(&name);
        remove_area(&path)?;
        fs::create_dir_all(&path)?;
        let flags = DIRECTORY | OFlags::NOFOLLOW;
        let making = rustix::fs::openat(&self.area, &name, flags, Mode::empty())
            .context("opening", &path)?;
        let entries = steps.iter().filter_map(|(number, step)| {
            Some((
                number.to_string().into_bytes(),
                step.to.filter(|to| !to.is_directory())?.entry(),
            ))
        });
        fill(source, entries, (making.as_fd(), &path), options.threads, progress)?;
        for (number, step) in steps {
            if let Some(super::form::Form::Directory { mode }) = step.to {
                let made = make_directory(making.as_fd(), number.to_string().as_bytes(), mode);
                made.context("creating", &path.join(number.to_string()))?;
            }
        }
        sync(making.as_fd(), &path, steps)?;
        for (name, _) in list(making.as_fd()).context("listing", &path)? {
            crash::point();
            take((making.as_fd(), &name), (self.new_folder(), &name))
                .context("renaming to", &path)?;
        }
        remove_area(&path)
    }

    /// Puts what came out of the checkout where it stays, under the number of its step.
    pub(super) fn keep(&self, number: usize) -> Result<(), Errno> {
        let name = number.to_string();
        let mut kept = name.clone();
        let mut again = 0;
        loop {
            crash::point();
            let from = (self.new_folder(), name.as_bytes());
            match take(from, (self.out_folder(), kept.as_bytes())) {
                Err(Errno::EXIST) => {
                    again += 1;
                    kept = format!("{name}.{again}");
                }
                done => return done,
            }
        }
    }

    /// Says in a file what is what on the shelf, for people.
    pub(super) fn list(&self, steps: &[Step]) -> Result<(), ApplyError> {
        let mut text = Vec::new();
        for (name, _) in list(self.out_folder()).context("listing", &self.path)? {
            let number = name.split(|&byte| byte == b'.').next().unwrap_or_default();
            let number = std::str::from_utf8(number).ok().and_then(|text| text.parse().ok());
            if let Some(step) = number.and_then(|number: usize| steps.get(number)) {
                text.extend_from_slice(&name);
                text.push(b'\t');
                text.extend_from_slice(step.path.as_bytes());
                text.push(b'\n');
            }
        }
        Ok(fs::write_atomic(&self.path.join(self.pass.name("paths")), &text, 0o600)?)
    }

    /// Takes away what was staged and is not needed any more. What came out stays, wherever it is.
    pub(super) fn clear(&self, steps: &[Step]) -> Result<(), ApplyError> {
        let mut looker = Looker::default();
        for (name, _) in list(self.new_folder()).context("listing", &self.path)? {
            let number = std::str::from_utf8(&name).ok().and_then(|text| text.parse().ok());
            let Some(number): Option<usize> = number else { continue };
            let to = steps.get(number).and_then(|step| step.to);
            // A directory in which something is was in the checkout meanwhile.
            if to.is_some_and(|to| to.is_directory()) {
                match rustix::fs::unlinkat(self.new_folder(), name.as_slice(), AtFlags::REMOVEDIR) {
                    Ok(()) => {}
                    Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR) => {
                        self.keep(number).context("renaming to", &self.path)?;
                    }
                    Err(error) => Err(error).context("removing", &self.path)?,
                }
                continue;
            }
            // What cannot be looked at is not known to be ours.
            if to.is_none() || looker.is(self.new_folder(), &name, to) != Ok(true) {
                self.keep(number).context("renaming to", &self.path)?;
            }
        }
        for what in ["new", "making"] {
            remove_area(&self.path.join(self.pass.name(what)))?;
        }
        Ok(())
    }
}

/// Makes a directory with more rights for its owner than it will have, where it has few.
pub(super) fn make_directory(above: BorrowedFd<'_>, name: &[u8], mode: u16) -> Result<(), Errno> {
    rustix::fs::mkdirat(above, name, Mode::RWXU)?;
    let directory = crate::scan::directory::open_in(above, name)?;
    rustix::fs::fchmod(directory, Mode::from_raw_mode((mode | 0o700).into()))
}

/// Makes everything on a file system durable; false where that cannot be asked for.
#[cfg(target_os = "linux")]
pub(super) fn sync_all(fd: BorrowedFd<'_>) -> Result<bool, Errno> {
    rustix::fs::syncfs(fd).map(|()| true)
}

/// Makes everything on a file system durable; false where that cannot be asked for.
#[cfg(not(target_os = "linux"))]
pub(super) fn sync_all(_fd: BorrowedFd<'_>) -> Result<bool, Errno> {
    Ok(false)
}

/// Makes what was staged durable.
fn sync(making: BorrowedFd<'_>, path: &Path, steps: &[(usize, &Step)]) -> Result<(), ApplyError> {
    if steps.len() > SYNCED_ALONE && sync_all(making).context("syncing", path)? {
        return Ok(());
    }
    for (number, step) in steps {
        if !matches!(step.to, Some(super::form::Form::File { .. })) {
            continue;
        }
        let name = number.to_string();
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let synced = match rustix::fs::openat(making, &name, flags, Mode::empty()) {
            Ok(file) => rustix::fs::fsync(file),
            // Its mode keeps us out: then all is synced.
            Err(Errno::ACCESS) => sync_all(making).map(drop),
            Err(error) => Err(error),
        };
        synced.context("syncing", &path.join(&name))?;
    }
    Ok(())
}
