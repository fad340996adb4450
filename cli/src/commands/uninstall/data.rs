//! The files of a home, by their names, and nothing beside them.

use std::path::{Path, PathBuf};

use baton_daemon::home::Home;
use baton_store::fs::{self, FsError};

use crate::error::{CliError, chain};

/// Folders of a home.
const FOLDERS: [&str; 9] =
    ["store", "keys", "secrets", "runs", "applies", "sessions", "cache", "scratch", "environments"];

/// Files of a home, beside the numbered ones of the audit log.
const FILES: [&str; 8] = [
    "catalog.db",
    "catalog.db-wal",
    "catalog.db-shm",
    "daemon.log",
    "daemon.lock",
    "daemon.sock",
    "audit.log",
    "daemon.log.old",
];

/// What stays, and why.
pub(super) type Stays = Vec<(String, String)>;

/// Whether a home has ever been used.
pub(super) fn is_there(home: &Home) -> bool {
    fs::modified_ms(&home.catalog()).is_ok_and(|at| at.is_some())
}

/// Takes the data of a home away; what went, and what stays and why.
pub(super) fn remove(home: &Home) -> Result<(Vec<String>, Stays), CliError> {
    let failed = |error: FsError| {
        CliError::caused("purge", "taking the data away", &error)
            .hint("correct that, then baton uninstall --purge again")
    };
    let (mut removed, mut left) = (Vec::new(), Vec::new());
    let names = match fs::list_dir(&home.state_dir) {
        Err(error) if error.is_not_found() => Vec::new(),
        names => names.map_err(failed)?,
    };
    let mounts = mounts();
    // The catalog last: while it is there the home is one, and a purge that was cut off goes on.
    let (last, first): (Vec<_>, Vec<_>) = names
        .into_iter()
        .filter(|name| is_ours(&name.to_string_lossy()))
        .partition(|name| name.to_string_lossy().starts_with("catalog.db"));
    for name in first.into_iter().chain(last) {
        let path = home.state_dir.join(name);
        if let Some(mount) = mounts.iter().find(|mount| mount.starts_with(&path)) {
            let why = format!("something is mounted at {}", mount.display());
            left.push((shown(&path), why));
            continue;
        }
        let is_dir = std::fs::symlink_metadata(&path).is_ok_and(|it| it.is_dir());
        let gone = if is_dir { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        gone.map_err(failed)?;
        removed.push(shown(&path));
    }
    for path in [&home.config_file, &home.socket] {
        if std::fs::symlink_metadata(path).is_err() {
            continue;
        }
        match fs::remove_file(path) {
            Ok(()) => removed.push(shown(path)),
            Err(error) => left.push((shown(path), chain(&error))),
        }
    }
    let folders = [Some(home.state_dir.as_path()), home.config_file.parent()];
    let mut folders: Vec<&Path> = folders.into_iter().flatten().collect();
    folders.dedup();
    for folder in folders {
        // Only where nothing of anybody else is in it.
        match std::fs::remove_dir(folder) {
            Ok(()) => removed.push(shown(folder)),
            Err(error) if error.kind() == std::io::ErrorKind::DirectoryNotEmpty => {
                left.push((shown(folder), "there is more in it".to_owned()));
            }
            Err(_) => {}
        }
    }
    Ok((removed, left))
}

fn is_ours(name: &str) -> bool {
    FOLDERS.contains(&name)
        || FILES.contains(&name)
        || name.strip_prefix("audit.log.").is_some_and(|rest| rest.parse::<u32>().is_ok())
}

/// Where something is mounted; nothing where the system does not tell.
fn mounts() -> Vec<PathBuf> {
    let text = fs::read_if_exists(Path::new("/proc/self/mounts"), 1 << 24).ok().flatten();
    let text = String::from_utf8_lossy(&text.unwrap_or_default()).into_owned();
    text.lines().filter_map(|line| line.split(' ').nth(1)).map(PathBuf::from).collect()
}

fn shown(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_home_has_is_taken_and_a_folder_with_more_stays() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::single(&folder.path().join("home"), folder.path());
        home.create().unwrap();
        for name in ["catalog.db", "catalog.db-wal", "audit.log", "audit.log.2", "daemon.log"] {
            fs::write_atomic(&home.state_dir.join(name), b"x", 0o600).unwrap();
        }
        for name in ["store/vaults", "keys"] {
            fs::create_dir_all(&home.state_dir.join(name)).unwrap();
        }
        fs::write_atomic(&home.config_file, b"", 0o600).unwrap();
        // Of somebody else, whatever it is called.
        let theirs = ["notes.txt", "audit.log.old", "store2"];
        for name in theirs {
            fs::write_atomic(&home.state_dir.join(name), b"mine", 0o600).unwrap();
        }
        assert!(is_there(&home));
        let (removed, left) = remove(&home).unwrap();
        assert!(!is_there(&home) && !removed.is_empty());
        let mut names = fs::list_dir(&home.state_dir).unwrap();
        names.sort();
        assert_eq!(names, ["audit.log.old", "notes.txt", "store2"]);
        assert_eq!(left.len(), 1, "{left:?}");
        for name in theirs {
            fs::remove_file(&home.state_dir.join(name)).unwrap();
        }
        assert_eq!(remove(&home).unwrap().1, []);
        assert!(!home.state_dir.exists());
    }
}
