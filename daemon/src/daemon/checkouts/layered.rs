//! Checkouts that share what they have in common, each with a layer of its own for what its run changes.
//!
//! ```text
//! LAYER/upper    what the run changed
//! LAYER/work     for the system
//! LAYER/open-M   M is a mark, which stands in an attribute of `upper`, too
//! LAYER/sealed   the same file, once what the run left is in a snapshot
//! ```
//!
//! What a folder shows of the layers below it stands in attributes. A copy that was made without them looks like a run
//! that has removed everything: it lacks the mark, too.
//!
//! **Invariant:** the layer of a run that is not sealed is never taken away, and stays where it can be seen. One that is
//! not as the system wrote it is not sealed.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use baton_protocol::id::{RunId, VaultId, WorkspaceId};
use baton_protocol::object::Snapshot;
use baton_store::additions::{AdditionsError, are_tracked, hidden, unchanged, unchanged_in_layer};
use baton_store::checkout::{
    RepositoryOptions, RestoreError, RestoreOptions, RestoredRepository, put_aside, remove_made,
    restore,
};
use baton_store::fs::{self, Context, FsError};
use baton_store::layers::overlay::{self, Marks, Overlay};
use baton_store::layers::{LayerError, LayerOptions, Layers, Stack, changed, has_moved, left_out};
use baton_store::scan::{Made as MadeTree, Progress, ScanError, ScanOptions, Scanned, seal_made};
use baton_store::trees;
use baton_store::vault::{Intake, Vault};
use rustix::fs::XattrFlags;
use rustix::io::Errno;

use super::Made;
use crate::environments::cache::Kept;
use crate::runs::checkout::Place;
use crate::runs::environment::Folders;
use crate::workspace::random;

const OPEN: &str = "open-";
const SEALED: &str = "sealed";

const VIEW: &str = "view";

/// Beside a checkout, where it has an environment: which one; and, where it shares no layers, that what its run left is in
/// a snapshot.
const NOTE: &str = "environment";
const NOTE_SEALED: &str = "environment-sealed";

/// The attribute of a writable layer in which its mark stands. No run can write it.
const fn attribute(marks: Marks) -> &'static str {
    match marks {
        Marks::Trusted => "trusted.baton",
        // The file system keeps the names that it might need itself from all who write through it.
        Marks::User => "user.overlay.baton",
    }
}

/// Below the folder of all layers: those with the marks of a user.
const OF_USERS: &str = "users";

/// Bytes of a mark, and digits.
const MARK_LEN: usize = 16;
const MARK_DIGITS: usize = 2 * MARK_LEN;

/// Where the system says which start of the machine this is, and how long that is.
const BOOT: (&str, u64) = ("/proc/sys/kernel/random/boot_id", 64);

/// Layers of all workspaces of a node.
#[derive(Debug)]
pub struct SharedLayers {
    folder: PathBuf,
    /// Has one folder for each run.
    runs: PathBuf,
    boot: String,
    /// What new ones are marked with.
    marks: Marks,
    open: Mutex<HashMap<(VaultId, WorkspaceId, Marks), Arc<Layers>>>,
    /// Whether those of every workspace have been opened.
    has_opened_all: AtomicBool,
}

/// A checkout that shares layers could not be made or read.
#[derive(Debug, thiserror::Error)]
pub(super) enum SharedError {
    #[error(transparent)]
    Layer(#[from] LayerError),
    #[error(transparent)]
    Fs(#[from] FsError),
    #[error(transparent)]
    Store(#[from] baton_store::error::StoreError),
    #[error(transparent)]
    Scan(#[from] ScanError),
    #[error(transparent)]
    Additions(#[from] AdditionsError),
    #[error(transparent)]
    Restore(#[from] RestoreError),
    #[error("what is below it cannot be told from what it did while it is at work")]
    AtWork,
    #[error(
        "what the run changed is in {0}, and this machine cannot mount overlays any more: baton doctor says why"
    )]
    NoOverlays(PathBuf),
    #[error("the layers of {0} are not there any more")]
    NoLayers(PathBuf),
    #[error(
        "{0} is not as the system wrote it, or root did: it was copied without its extended attributes, in which the rest of what the run changed stands, or this node has to be started by root as before"
    )]
    Altered(PathBuf),
}

impl SharedLayers {
    /// Layers in a folder, if this machine can mount them there: why not, otherwise.
    pub fn choose(folder: PathBuf, runs: PathBuf) -> Result<Self, FsError> {
        fs::create_dir_all(&folder)?;
        let marks = overlay::try_in(&folder, &runs)?;
        Self::with(folder, runs, marks)
    }

    fn with(folder: PathBuf, runs: PathBuf, marks: Marks) -> Result<Self, FsError> {
        let boot = boot()?;
        Ok(Self {
            folder,
            runs,
            boot,
            marks,
            open: Mutex::default(),
            has_opened_all: AtomicBool::new(false),
        })
    }

    /// The same, with one kind of marks.
    #[cfg(test)]
    pub(super) fn choose_with(
        folder: PathBuf,
        runs: PathBuf,
        marks: Marks,
    ) -> Result<Self, FsError> {
        fs::create_dir_all(&folder)?;
        overlay::try_with(&folder, &runs, marks)?;
        Self::with(folder, runs, marks)
    }

    /// The same, after another start of the machine.
    #[cfg(test)]
    pub(super) fn started_at(self, boot: &str) -> Self {
        Self { boot: boot.to_owned(), ..self }
    }

    /// What new layers are marked with.
    pub fn marks(&self) -> Marks {
        self.marks
    }

    fn making<'a>(&'a self, repository: &'a RepositoryOptions, marks: Marks) -> LayerOptions<'a> {
        let restore = RestoreOptions::default();
        LayerOptions { restore, repository, boot: &self.boot, marks }
    }

    /// Layers can be seen through those with the same marks only.
    fn layers(
        &self,
        vault: VaultId,
        workspace: WorkspaceId,
        marks: Marks,
    ) -> Result<Arc<Layers>, FsError> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(layers) = open.get(&(vault, workspace, marks)) {
            return Ok(Arc::clone(layers));
        }
        let folder = self.folder_of(marks).join(vault.to_string()).join(workspace.to_string());
        let layers = Arc::new(Layers::open(&folder)?);
        open.insert((vault, workspace, marks), Arc::clone(&layers));
        Ok(layers)
    }

    fn folder_of(&self, marks: Marks) -> PathBuf {
        match marks {
            Marks::Trusted => self.folder.clone(),
            Marks::User => self.folder.join(OF_USERS),
        }
    }

    /// Makes a checkout of a snapshot.
    pub(super) fn prepare(
        &self,
        place: &Place,
        vault: &Vault,
        snapshot: &Snapshot,
        repository: &RepositoryOptions,
    ) -> Result<Made, SharedError> {
        let marks = self.marks;
        let layers = self.layers(place.vault, place.workspace, marks)?;
        // Who has layers is there from before it asks for them.
        fs::create_dir_all(&place.layer)?;
        let (user, intake) = (place.run.to_string(), vault.intake());
        let options = self.making(repository, marks);
        let stack = layers.stack(&intake, snapshot, &user, &options, &Progress::default())?;
        let upper = place.layer.join("upper");
        for folder in [&upper, &place.layer.join("work"), &place.checkout] {
            fs::create_dir_all(folder)?;
        }
        mark(&place.layer, marks)?;
        // The writable layer decides about the root of the tree.
        fs::set_mode(&upper, snapshot.root_mode.into())?;
        show(place, &stack, marks)?;
        let below = trees::sums_of(vault, snapshot.root)?;
        let repository = stack.told.map_or(RestoredRepository::Absent, RestoredRepository::Rebuilt);
        let Stack { not_carried, .. } = stack;
        Ok(Made { files: below.files, bytes: below.bytes, not_carried, repository })
    }

    /// Whether a run that is at work can be looked at without touching anything that it sees.
    pub(super) fn check_at_work(
        &self,
        place: &Place,
        before: &Snapshot,
    ) -> Result<(), SharedError> {
        let marks = marks_of(place)?;
        let layers = self.layers(place.vault, place.workspace, marks)?;
        let noted = layers.noted(&place.run.to_string(), before, &self.boot)?;
        let is_shown = noted.is_some() && overlay::is_mounted(&place.checkout)?;
        if is_shown { Ok(()) } else { Err(SharedError::AtWork) }
    }

    /// What a run has left, found in its own layer.
    pub(super) fn scan(
        &self,
        place: &Place,
        before: &Snapshot,
        intake: &Intake,
        repository: &RepositoryOptions,
        options: &mut ScanOptions,
        (environment, is_at_work): (Option<&Kept>, bool),
    ) -> Result<Scanned, SharedError> {
        let marks = marks_of(place)?;
        let layers = self.layers(place.vault, place.workspace, marks)?;
        let user = place.run.to_string();
        let stack = if let Some(stack) = layers.noted(&user, before, &self.boot)? {
            stack
        } else {
            // The machine was started again meanwhile, or somebody made room: what was below is made again, and is
            // the same. What is shown now may lack it.
            overlay::unmount(&place.checkout)?;
            let options = self.making(repository, marks);
            layers.stack(intake, before, &user, &options, &Progress::default())?
        };
        if !overlay::is_mounted(&place.checkout)? {
            fs::create_dir_all(&place.checkout)?;
            match environment {
                Some(kept) => show_with(place, (&stack, marks), kept, intake, before)?,
                None => show(place, &stack, marks)?,
            }
        }
        let upper = place.layer.join("upper");
        let made = MadeTree {
            root: before.root,
            omitted: left_out(intake, before)?,
            repository: stack.repository(),
            dirty: changed(&upper, marks)?,
        };
        let Some(kept) = environment else {
            return Ok(seal_made(&place.checkout, made, intake, options, &Progress::default())?);
        };
        // What has another name now, or is tracked, is the run's, and is found in the environment only. What somebody is at
        // work in is looked at where it is seen: its layer cannot be a part of two views at once.
        if is_at_work || has_moved(&upper, marks)? || are_tracked(&kept.tree, &place.checkout)? {
            options.exclude = unchanged(intake, before.root, &kept.tree, &place.checkout)?;
            return Ok(seal_made(&place.checkout, made, intake, options, &Progress::default())?);
        }
        // Without its environment, which is beside what is in its tree; nor is what was only touched a change.
        let own = (upper.as_path(), marks);
        options.exclude =
            unchanged_in_layer(intake, before.root, &kept.tree, own, &place.checkout)?;
        let view = place.layer.join(VIEW);
        overlay::unmount(&view)?;
        fs::create_dir_all(&view)?;
        let layers = [&[upper], stack.trees.as_slice()].concat();
        overlay::mount_view(&layers, &view, marks)?;
        let sealed = seal_made(&view, made, intake, options, &Progress::default());
        overlay::unmount(&view)?;
        Ok(sealed?)
    }

    /// The layers that a checkout has which is prepared.
    pub(super) fn stack_of(
        &self,
        place: &Place,
        snapshot: &Snapshot,
    ) -> Result<(Stack, Marks), SharedError> {
        let marks = marks_of(place)?;
        let layers = self.layers(place.vault, place.workspace, marks)?;
        let stack = layers.noted(&place.run.to_string(), snapshot, &self.boot)?;
        let stack = stack.ok_or_else(|| SharedError::NoLayers(place.checkout.clone()))?;
        Ok((stack, marks))
    }

    /// Opens the layers of every workspace that has some. One that cannot be opened is in no other one's way.
    fn open_all(&self) -> Result<(), FsError> {
        let mut opened = Ok(());
        for marks in Marks::ALL {
            let folder = self.folder_of(marks);
            for vault in fs::list_dir(&folder)? {
                let inner = fs::list_dir(&folder.join(&vault)).unwrap_or_default();
                let Some(vault) = vault.to_str().and_then(|name| name.parse().ok()) else {
                    continue;
                };
                for workspace in inner.iter().filter_map(|name| name.to_str()?.parse().ok()) {
                    opened = opened.and(self.layers(vault, workspace, marks).map(drop));
                }
            }
        }
        opened
    }

    /// Takes away what nobody uses, until it is told to `stop`.
    pub(super) fn sweep(&self, stop: &AtomicBool) -> Result<(), FsError> {
        let mut swept = Ok(());
        if !self.has_opened_all.load(Ordering::SeqCst) {
            swept = self.open_all();
            self.has_opened_all.store(swept.is_ok(), Ordering::SeqCst);
        }
        let open: Vec<_> = {
            let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
            open.values().cloned().collect()
        };
        let is_there = |user: &str| {
            user.parse::<RunId>().is_ok_and(|run| !is_gone(&Folders::of(&self.runs, run).layer()))
        };
        for layers in open.iter().take_while(|_| !stop.load(Ordering::Relaxed)) {
            let collected = layers.collect(is_there, &self.boot).map(drop);
            swept = swept.and(collected.and_then(|()| layers.sweep(stop)));
        }
        swept
    }
}

/// Names this start of the machine. Without, layers could not be told from those of an earlier one, of which files may be
/// missing.
pub(super) fn boot() -> Result<String, FsError> {
    let (path, len) = BOOT;
    let read = fs::read_if_exists(Path::new(path), len)?.unwrap_or_default();
    let boot = String::from_utf8_lossy(&read).trim().to_owned();
    if boot.is_empty() {
        return Err(std::io::Error::from(std::io::ErrorKind::NotFound))
            .context("reading", Path::new(path));
    }
    Ok(boot)
}

/// Where it is said which environment a checkout has.
pub(super) fn note(place: &Place) -> PathBuf {
    place.checkout.with_file_name(NOTE)
}

/// Whether a path is known to be free. What cannot be looked at is not.
pub(super) fn is_gone(path: &Path) -> bool {
    path.symlink_metadata().is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound)
}

fn show(place: &Place, stack: &Stack, marks: Marks) -> Result<(), FsError> {
    let (upper, work) = (place.layer.join("upper"), place.layer.join("work"));
    let (lower, at) = (&stack.trees, &place.checkout);
    overlay::mount(&Overlay { lower, upper: &upper, work: &work, at, marks })
}

/// Shows a checkout with its environment.
pub(super) fn show_with(
    place: &Place,
    (stack, marks): (&Stack, Marks),
    kept: &Kept,
    intake: &Intake,
    snapshot: &Snapshot,
) -> Result<(), SharedError> {
    let mut lower = Vec::new();
    if let Some(tree) = hidden(intake, snapshot.root, &kept.tree)? {
        let over = place.layer.join("over");
        remove_made(&over)?;
        let (options, progress) = (RestoreOptions::default(), Progress::default());
        restore(intake, tree, snapshot.root_mode, &over, &options, &progress)?;
        lower.push(over);
    }
    lower.push(kept.tree.clone());
    lower.extend(stack.trees.iter().cloned());
    overlay::unmount(&place.checkout)?;
    let (upper, work) = (place.layer.join("upper"), place.layer.join("work"));
    let at = &place.checkout;
    let overlay = Overlay { lower: &lower, upper: &upper, work: &work, at, marks };
    Ok(overlay::mount(&overlay)?)
}

/// Whether a checkout shares layers.
pub(super) fn is_shared(layer: &Path) -> bool {
    !is_gone(layer)
}

/// Whether what was in a layer is in a snapshot.
pub(super) fn is_sealed(layer: &Path) -> bool {
    layer.join(SEALED).exists()
}

/// Notes that what is in a layer is in a snapshot, too. That takes no room, for there may be none.
pub(super) fn note_sealed(layer: &Path) {
    if !is_shared(layer) {
        // One of its own stays, unless it holds an environment.
        let (has, sealed) = (layer.with_file_name(NOTE), layer.with_file_name(NOTE_SEALED));
        if !is_gone(&has)
            && is_gone(&sealed)
            && let Err(error) = fs::create_new(&sealed)
        {
            tracing::warn!(%error, "the checkout of a run stays");
        }
        return;
    }
    if is_sealed(layer) {
        return;
    }
    let noted = marks(layer).and_then(|marks| match marks.first() {
        Some(mark) => fs::rename(&layer.join(format!("{OPEN}{mark}")), &layer.join(SEALED)),
        None => fs::write_atomic(&layer.join(SEALED), b"", 0o600),
    });
    if let Err(error) = noted {
        tracing::warn!(%error, "the layer of a run stays");
    }
}

/// Marks a writable layer as the one of its run. The mark is a name, which is there whole or not at all, and from before
/// all that the run writes.
fn mark(layer: &Path, marks: Marks) -> Result<(), SharedError> {
    let (upper, mark) = (layer.join("upper"), random::<MARK_LEN>()?);
    let mark = format!("{:032x}", u128::from_be_bytes(mark));
    fs::create_new(&layer.join(format!("{OPEN}{mark}")))?;
    rustix::fs::lsetxattr(&upper, attribute(marks), mark.as_bytes(), XattrFlags::empty())
        .context("marking", &upper)?;
    Ok(())
}

fn marks(layer: &Path) -> Result<Vec<String>, FsError> {
    let names = fs::list_dir(layer)?;
    Ok(names
        .iter()
        .filter_map(|name| Some(name.to_str()?.strip_prefix(OPEN)?.to_owned()))
        .collect())
}

/// What the layers of a checkout are marked with: those that root made stay those of root.
fn marks_of(place: &Place) -> Result<Marks, SharedError> {
    let marks = marked(&place.layer)?;
    marks.ok_or_else(|| SharedError::Altered(place.layer.join("upper")))
}

/// What a writable layer is marked with, if it is what its run has left.
fn marked(layer: &Path) -> Result<Option<Marks>, FsError> {
    let (upper, mut found) = (layer.join("upper"), [0; MARK_DIGITS]);
    for kind in Marks::ALL {
        match rustix::fs::lgetxattr(&upper, attribute(kind), &mut found) {
            Ok(MARK_DIGITS) => {
                let is_mark = |mark: &String| mark.as_bytes() == found;
                return Ok(marks(layer)?.iter().any(is_mark).then_some(kind));
            }
            Ok(_) | Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::RANGE | Errno::NOENT) => {}
            Err(error) => return Err(error).context("looking at", &upper),
        }
    }
    Ok(None)
}

/// Puts a checkout aside, whatever kind it is.
pub(super) fn release(checkout: &Path, layer: &Path, aside: &Path) -> Result<(), FsError> {
    overlay::unmount(&layer.join(VIEW))?;
    overlay::unmount(checkout)?;
    fs::create_dir_all(aside)?;
    // First the checkout: one that is empty and has no layer beside it would be taken for what a run left.
    put_aside(checkout, aside, "")?;
    put_aside(layer, aside, "")
}

/// Puts a checkout aside that shares layers, or holds an environment, and is sealed.
pub(super) fn let_go(checkout: &Path, layer: &Path, aside: &Path) -> Result<(), FsError> {
    let is_copy_sealed = !is_shared(layer) && !is_gone(&layer.with_file_name(NOTE_SEALED));
    if is_sealed(layer) || is_copy_sealed { release(checkout, layer, aside) } else { Ok(()) }
}
