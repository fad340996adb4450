//! Where a daemon makes its groups: in which hierarchies, and which groups earlier daemons have left there.
//!
//! **Invariant:** only a group of which this process is the only one, and that was handed to it, is changed beside its
//! own ones.

use std::path::{Path, PathBuf};

use baton_store::fs::{self, FsError};
use serde::{Deserialize, Serialize};

use super::super::hierarchies::{Hierarchy, mounted};
use super::{kill_below, make_folder, read, remove, write};
use crate::home::short_hash;

/// What is wanted of a hierarchy of version 2.
const WANTED: [&str; 3] = ["memory", "pids", "cpu"];

/// Folders that a record may name; each daemon that was started elsewhere adds some.
const MAX_NOTED: usize = 256;

/// Longest record that is read.
const MAX_RECORD: u64 = 1024 * 1024;

/// Which file systems are control groups: of version 1 and 2 (`CGROUP_SUPER_MAGIC`, `CGROUP2_SUPER_MAGIC`).
const KINDS: [u64; 2] = [0x0027_e0eb, 0x6367_7270];

/// The folder of a daemon in one hierarchy.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) unified: bool,
    /// Which limits groups in it keep.
    pub(super) controllers: Vec<String>,
    /// Where the group of each run is made.
    pub(super) base: PathBuf,
    /// Where this process went to make room, and where it was before.
    moved: Option<(PathBuf, PathBuf)>,
}

impl Place {
    #[cfg(test)]
    pub(super) fn for_test(unified: bool, controllers: Vec<String>, base: PathBuf) -> Self {
        Self { unified, controllers, base, moved: None }
    }

    /// Whether groups in it keep a limit.
    pub(super) fn keeps(&self, controller: &str) -> bool {
        self.controllers.iter().any(|name| name == controller)
    }

    /// Kills what is in it, and takes it away.
    pub(super) fn take_away(&self) {
        take_away(&self.base);
        if let Some((new, old)) = &self.moved {
            // A group with processes may not hand controllers down.
            drop(hand_down(old, &self.controllers, '-'));
            let back = write(&old.join("cgroup.procs"), "0").and_then(|()| remove(new));
            if let Err(error) = back {
                tracing::debug!(%error, "the group of the daemon stays");
            }
        }
    }
}

fn take_away(base: &Path) {
    if !kill_below(&[base]) {
        tracing::error!(group = %base.display(), "processes of runs cannot be killed");
    } else if let Err(error) = remove(base) {
        tracing::warn!(%error, "a control group stays behind");
    }
}

/// The folders of the daemon with this key, and why some cannot be made.
pub(super) fn find(key: &str) -> (Vec<Place>, Vec<String>) {
    let (mut places, mut refused): (Vec<Place>, Vec<String>) = (Vec::new(), Vec::new());
    let all = match mounted() {
        Ok(all) => all,
        Err(error) => return (places, vec![error.to_string()]),
    };
    if all.is_empty() {
        refused.push("none are mounted".to_owned());
    }
    for hierarchy in &all {
        let made = if hierarchy.unified {
            of_version_2(hierarchy, key)
        } else {
            of_version_1(hierarchy, key)
        };
        match made {
            Ok(place) => places.push(place),
            Err(error) => {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                refused.push(match cause {
                    Some(cause) => format!("{error}: {cause}"),
                    None => error.to_string(),
                });
            }
        }
    }
    (places, refused)
}

fn of_version_1(hierarchy: &Hierarchy, key: &str) -> Result<Place, FsError> {
    let base = hierarchy.own.join(key);
    make_folder(&base)?;
    let controllers = hierarchy.controllers.clone();
    Ok(Place { unified: false, controllers, base, moved: None })
}

/// In version 2 a group hands controllers down only where it has no processes itself.
fn of_version_2(hierarchy: &Hierarchy, key: &str) -> Result<Place, FsError> {
    let own = &hierarchy.own;
    let wanted = wanted(own);
    let base = own.join(key);
    make_folder(&base)?;
    let place = |base: PathBuf, moved| -> Result<Place, FsError> {
        hand_down(&base, &wanted, '+')?;
        Ok(Place { unified: true, controllers: wanted.clone(), base, moved })
    };
    if wanted.iter().all(|name| handed_down(own).contains(name))
        || hand_down(own, &wanted, '+').is_ok()
    {
        return place(base, None);
    }
    // A service to which its group was handed is alone in it, and goes into one of its own.
    let node = own.join(format!("{key}.node"));
    let moved = is_alone(own).then(|| -> Result<(), FsError> {
        make_folder(&node)?;
        write(&node.join("cgroup.procs"), "0")?;
        hand_down(own, &wanted, '+')
    });
    match moved {
        Some(Ok(())) => return place(base, Some((node, own.clone()))),
        Some(Err(_)) => {
            drop(write(&own.join("cgroup.procs"), "0"));
            drop(remove(&node));
        }
        None => {}
    }
    remove(&base)?;
    // Root may make one at the top, as others do that run containers.
    let base = hierarchy.root.join(key);
    let wanted = self::wanted(&hierarchy.root);
    if own != &hierarchy.root
        && wanted.iter().all(|name| handed_down(&hierarchy.root).contains(name))
    {
        make_folder(&base)?;
        hand_down(&base, &wanted, '+')?;
        return Ok(Place { unified: true, controllers: wanted, base, moved: None });
    }
    // Still of use to kill what is in it.
    let base = own.join(key);
    make_folder(&base)?;
    Ok(Place { unified: true, controllers: Vec::new(), base, moved: None })
}

fn wanted(folder: &Path) -> Vec<String> {
    let there = words(&folder.join("cgroup.controllers"));
    WANTED.into_iter().map(str::to_owned).filter(|name| there.contains(name)).collect()
}

fn handed_down(folder: &Path) -> Vec<String> {
    words(&folder.join("cgroup.subtree_control"))
}

fn words(path: &Path) -> Vec<String> {
    read(path).unwrap_or_default().split_ascii_whitespace().map(str::to_owned).collect()
}

fn hand_down(folder: &Path, controllers: &[String], sign: char) -> Result<(), FsError> {
    controllers.iter().try_for_each(|name| {
        write(&folder.join("cgroup.subtree_control"), &format!("{sign}{name}"))
    })
}

/// Whether this process is the only one of a group.
fn is_alone(folder: &Path) -> bool {
    let own = rustix::process::getpid().as_raw_pid().to_string();
    let text = read(&folder.join("cgroup.procs")).unwrap_or_default();
    text.lines().collect::<std::collections::BTreeSet<_>>() == [own.as_str()].into()
}

/// Which folders a daemon has made, in the folder of its runs: the next one may be started elsewhere, by another
/// service or from a terminal, and must find them.
#[derive(Debug)]
pub(super) struct Record {
    file: PathBuf,
    key: String,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Noted {
    groups: Vec<PathBuf>,
}

impl Record {
    /// Of the runs in a folder.
    pub(super) fn of(runs: &Path) -> Self {
        let key = format!("baton.{}", short_hash(runs));
        Self { file: runs.join("control-groups.json"), key }
    }

    /// What the folders of this daemon are called.
    pub(super) fn key(&self) -> &str {
        &self.key
    }

    fn read(&self) -> Vec<PathBuf> {
        let bytes = fs::read_if_exists(&self.file, MAX_RECORD).ok().flatten().unwrap_or_default();
        let noted: Noted = serde_json::from_slice(&bytes).unwrap_or_default();
        let ours = |path: &PathBuf| path.file_name().is_some_and(|name| name == self.key.as_str());
        noted.groups.into_iter().filter(ours).take(MAX_NOTED).collect()
    }

    fn write(&self, groups: Vec<PathBuf>) -> Result<(), FsError> {
        if groups.is_empty() {
            return fs::remove_file(&self.file);
        }
        let json = serde_json::to_vec(&Noted { groups }).unwrap_or_default();
        fs::write_atomic(&self.file, &json, 0o600)
    }

    /// Kills what earlier daemons have left, and takes their folders away.
    pub(super) fn take_away_leftovers(&self) {
        let noted = self.read();
        if noted.is_empty() {
            return;
        }
        for base in noted.iter().filter(|base| base.is_dir() && is_group(base)) {
            tracing::info!(group = %base.display(), "taking away what an earlier daemon left");
            take_away(base);
        }
        let left = noted.into_iter().filter(|base| base.is_dir()).collect();
        if let Err(error) = self.write(left) {
            tracing::warn!(%error, "the record of control groups is not brought up to date");
        }
    }

    /// Writes down which folders there are, beside those that could not be taken away.
    pub(super) fn note(&self, places: &[Place]) -> Result<(), FsError> {
        let mut all = self.read();
        all.extend(places.iter().map(|place| place.base.clone()));
        all.sort();
        all.dedup();
        self.write(all)
    }

    /// Forgets those that are gone.
    pub(super) fn forget_what_is_gone(&self, places: &[Place]) {
        let left = self.read().into_iter().chain(places.iter().map(|place| place.base.clone()));
        let mut left: Vec<_> = left.filter(|base| base.is_dir()).collect();
        left.sort();
        left.dedup();
        if let Err(error) = self.write(left) {
            tracing::warn!(%error, "the record of control groups is not brought up to date");
        }
    }
}

/// Whether a folder is a control group, and nothing that somebody has put there.
fn is_group(folder: &Path) -> bool {
    rustix::fs::statfs(folder).is_ok_and(|found| is_kind(found.f_type))
}

/// The type of the number differs from system to system.
fn is_kind(kind: impl TryInto<u64>) -> bool {
    kind.try_into().is_ok_and(|kind| KINDS.contains(&kind))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzz::fuzzing::{fuzz_with, texts, within};

    #[test]
    fn notes_of_groups() {
        let folder = crate::fuzz::scratch();
        let record = Record::of(folder.path());
        // A folder of that name which is no group stays, whatever is noted.
        let here = folder.path().join(record.key());
        fs::create_dir_all(&here.join("in")).unwrap();
        let corpus = texts(&[
            r#"{"groups":["/@FOLDER/@KEY","/sys/fs/cgroup/@KEY","/other"]}"#,
            r#"{"groups":["/@FOLDER/@KEY/../@KEY","@KEY"]}"#,
            r#"{"groups":[]}"#,
        ]);
        let place = folder.path().to_str().unwrap();
        fuzz_with(1000, corpus, |_, input| {
            let text = String::from_utf8_lossy(input).replace("@KEY", record.key());
            let text = text.replace("/@FOLDER", place);
            fs::write_whole(&record.file, text.as_bytes(), 0o600).unwrap();
            let noted = within(text.as_bytes(), 32, 65_536, |_| record.read());
            assert!(noted.iter().all(|base| base.ends_with(record.key())));
            assert!(noted.len() <= MAX_NOTED);
            record.take_away_leftovers();
            record.forget_what_is_gone(&[]);
            assert!(here.join("in").is_dir());
            assert!(record.read().iter().all(|base| base.is_dir()));
            !noted.is_empty()
        });
    }
}
