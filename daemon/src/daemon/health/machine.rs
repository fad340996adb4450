//! What `doctor` looks at on the machine, each as a function of a folder or a number.
//!
//! **Invariant:** a check that fails says what to type; one that cannot tell says so, and does not
//! frighten.

use std::ffi::OsStr;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use baton_store::fs;

use crate::api::control::DoctorCheck;
use crate::clock::rfc3339;

/// Free space below which `doctor` warns: a gigabyte.
const LEAST_FREE: u64 = 1 << 30;

/// Free inodes below which it does: as many as a large checkout has files.
const LEAST_INODES: u64 = 100_000;

/// A clock before this was never set: 2026-01-01.
const EARLIEST_MS: u64 = 1_767_225_600_000;

/// A clock after this was set wrongly: 2100-01-01.
const LATEST_MS: u64 = 4_102_444_800_000;

/// How far the times of files may be from the clock: what a network file system's server may be off.
const FILE_CLOCK_MS: u64 = 5_000;

/// Directories of one user that can be watched, below which a large tree is not watched whole.
const LEAST_WATCHES: u64 = 65_536;

/// Users of inotify at once; every editor and daemon takes one or more.
const LEAST_INSTANCES: u64 = 128;

/// A check with its verdict; `fix` is said only where it failed.
pub(super) fn verdict(name: &str, ok: bool, detail: String, fix: &str) -> DoctorCheck {
    let fix = (!ok && !fix.is_empty()).then(|| fix.to_owned());
    DoctorCheck { name: name.to_owned(), ok, detail, fix }
}

pub(super) fn clock(now_ms: u64) -> DoctorCheck {
    let ok = (EARLIEST_MS..LATEST_MS).contains(&now_ms);
    verdict("clock", ok, format!("it is {}", rfc3339(now_ms)), "timedatectl set-ntp true")
}

/// Whether a file that is written now has the time of now: what was changed is told by times of files.
pub(super) fn file_clock(folder: &Path, now_ms: u64) -> DoctorCheck {
    let name = "file times";
    let probe = folder.join("clock-probe");
    let written = fs::write_atomic(&probe, b"", 0o600).map_err(|error| error.source);
    let time = written.and_then(|()| std::fs::metadata(&probe)).map(|found| {
        let seconds = u64::try_from(found.mtime()).unwrap_or(0);
        seconds.saturating_mul(1000) + u64::try_from(found.mtime_nsec()).unwrap_or(0) / 1_000_000
    });
    drop(fs::remove_file(&probe));
    match time {
        Ok(time) => {
            let off = time.abs_diff(now_ms);
            let detail = format!("files of the home are {off} ms off the clock");
            let fix = "timedatectl set-ntp true, here and on the machine that has the files";
            verdict(name, off <= FILE_CLOCK_MS, detail, fix)
        }
        Err(error) => {
            let fix = format!("ls -ld {}; the home must be writable", folder.display());
            verdict(name, false, format!("nothing can be written in the home: {error}"), &fix)
        }
    }
}

/// Free space and inodes of the file system that a folder is on.
pub(super) fn space(folder: &Path) -> Vec<DoctorCheck> {
    let shown = folder.display();
    let found = match rustix::fs::statvfs(folder) {
        Ok(found) => found,
        Err(error) => {
            let fix = format!("df -h {shown}");
            return vec![verdict("disk", false, format!("cannot tell: {error}"), &fix)];
        }
    };
    let free = found.f_bavail.saturating_mul(found.f_frsize);
    let detail = format!("{} MB free in the home", free / 1_000_000);
    let fix = format!("df -h {shown}; free some space there, or move the home to another disk");
    let disk = verdict("disk", free >= LEAST_FREE, detail, &fix);
    // Some file systems make inodes as they need them, and count none.
    let inodes = if found.f_files == 0 {
        verdict("inodes", true, "no limit on this file system".to_owned(), "")
    } else {
        let fix = format!("df -i {shown}; remove files that nobody needs there");
        let detail = format!("{} inodes free in the home", found.f_favail);
        verdict("inodes", found.f_favail >= LEAST_INODES, detail, &fix)
    };
    vec![disk, inodes]
}

/// How many directories of this user may be watched, and by how many watchers; `folder` is
/// `/proc/sys/fs/inotify`.
pub(super) fn watches(folder: &Path) -> Vec<DoctorCheck> {
    let limit = |name: &str| {
        let bytes = fs::read_if_exists(&folder.join(name), 64).ok().flatten()?;
        String::from_utf8(bytes).ok()?.trim().parse::<u64>().ok()
    };
    let check = |name: &str, key: &str, least: u64, wanted: u64, what: &str| {
        let Some(limit) = limit(key) else {
            return verdict(name, true, "no inotify limit on this system".to_owned(), "");
        };
        let fix = format!(
            "echo fs.inotify.{key}={wanted} | sudo tee /etc/sysctl.d/60-baton-{key}.conf && \
             sudo sysctl --system"
        );
        verdict(name, limit >= least, format!("{limit} {what}"), &fix)
    };
    vec![
        check("watches", "max_user_watches", LEAST_WATCHES, 524_288, "directories can be watched"),
        check("watchers", "max_user_instances", LEAST_INSTANCES, 1024, "programs can watch"),
    ]
}

/// Whether the private keys are for their owner only.
pub(super) fn keys(folder: &Path, node: &str) -> DoctorCheck {
    let wrong = |path: &Path, is_folder: bool| {
        let mode = std::fs::metadata(path).ok()?.permissions().mode() & 0o777;
        let right = if is_folder { 0o700 } else { 0o600 };
        (mode & 0o077 != 0).then(|| {
            let detail = format!("{} has mode {mode:03o}", path.display());
            (detail, format!("chmod {right:03o} {}", path.display()))
        })
    };
    let files = fs::list_dir(folder).unwrap_or_default();
    let mut files = files.iter().map(|name| folder.join(name));
    let found = wrong(folder, true).or_else(|| files.find_map(|path| wrong(&path, false)));
    match found {
        Some((detail, fix)) => verdict("keys", false, detail, &fix),
        None => verdict("keys", true, format!("node {node}, for their owner only"), ""),
    }
}

/// Whether a machine that may be closed can be kept awake; `power` is `/sys/class/power_supply`, `path`
/// where programs are looked up.
pub(super) fn sleep(power: &Path, path: &OsStr) -> DoctorCheck {
    let name = "sleep";
    let batteries = fs::list_dir(power).unwrap_or_default();
    if !cfg!(target_os = "macos")
        && !batteries.iter().any(|it| it.as_encoded_bytes().starts_with(b"BAT"))
    {
        return verdict(name, true, "no battery: nobody closes this machine".to_owned(), "");
    }
    let program = if cfg!(target_os = "macos") { "caffeinate" } else { "systemd-inhibit" };
    let found = std::env::split_paths(path).any(|folder| folder.join(program).is_file());
    let detail = if found {
        format!("{program} keeps this machine awake until a handoff is durable")
    } else {
        format!("{program} is missing: this machine may fall asleep before a handoff is durable")
    };
    verdict(name, found, detail, "apt install systemd")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failing(check: &DoctorCheck, words: &str) {
        let fix = check.fix.as_deref().unwrap_or_default();
        assert!(!check.ok && fix.contains(words), "{check:?}");
    }

    #[test]
    fn clocks_that_were_never_set_are_seen() {
        assert!(clock(EARLIEST_MS + 1).ok && clock(EARLIEST_MS + 1).fix.is_none());
        failing(&clock(0), "timedatectl");
        failing(&clock(u64::MAX), "timedatectl");
        let folder = tempfile::tempdir().unwrap();
        let now = crate::clock::Clock::system().now_ms();
        assert!(file_clock(folder.path(), now).ok);
        failing(&file_clock(folder.path(), now + 3_600_000), "timedatectl");
        failing(&file_clock(&folder.path().join("gone"), now), "ls -ld");
        assert!(folder.path().read_dir().unwrap().next().is_none(), "nothing is left behind");
    }

    #[test]
    fn limits_of_watching_name_the_line_and_its_file() {
        let folder = tempfile::tempdir().unwrap();
        assert!(watches(folder.path()).iter().all(|check| check.ok), "no inotify here");
        for (name, value) in [("max_user_watches", "8192\n"), ("max_user_instances", "128\n")] {
            fs::write_atomic(&folder.path().join(name), value.as_bytes(), 0o600).unwrap();
        }
        let checks = watches(folder.path());
        failing(&checks[0], "fs.inotify.max_user_watches=524288 | sudo tee /etc/sysctl.d/60-baton");
        assert!(checks[1].ok && checks[0].detail.starts_with("8192 "));
    }

    #[test]
    fn keys_that_others_may_read_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let keys_dir = folder.path().join("keys");
        fs::create_dir_all(&keys_dir).unwrap();
        let file = keys_dir.join("identity");
        fs::write_atomic(&file, b"x", 0o600).unwrap();
        assert!(keys(&keys_dir, "ab").ok);
        let mode = |path: &Path, mode| {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        mode(&file, 0o640);
        failing(&keys(&keys_dir, "ab"), &format!("chmod 600 {}", file.display()));
        mode(&keys_dir, 0o755);
        failing(&keys(&keys_dir, "ab"), &format!("chmod 700 {}", keys_dir.display()));
    }

    #[test]
    fn only_a_machine_that_can_be_closed_needs_to_be_kept_awake() {
        let folder = tempfile::tempdir().unwrap();
        let (power, bin) = (folder.path().join("power"), folder.path().join("bin"));
        assert!(sleep(&power, bin.as_os_str()).ok);
        fs::create_dir_all(&power.join("BAT0")).unwrap();
        failing(&sleep(&power, bin.as_os_str()), "apt install systemd");
        fs::create_dir_all(&bin).unwrap();
        fs::write_atomic(&bin.join("systemd-inhibit"), b"", 0o755).unwrap();
        assert!(sleep(&power, bin.as_os_str()).ok);
    }

    #[test]
    fn space_is_told_of_the_folders_file_system() {
        let folder = tempfile::tempdir().unwrap();
        let names: Vec<_> = space(folder.path()).into_iter().map(|check| check.name).collect();
        assert_eq!(names, ["disk", "inodes"]);
        failing(&space(&folder.path().join("gone"))[0], "df -h");
    }
}
