//! What an environment depends on beside its tree: the system and its programs, for which it was installed.
//!
//! **Invariant:** nothing is started to find that out: a program is the one that it was as long as its path, its size and
//! its time are.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use baton_store::fs;

/// Where the system says which one it is, and how long that is.
const RELEASE: (&str, u64) = ("/etc/os-release", 64 * 1024);

/// Programs for whose versions others are installed.
const PROGRAMS: [&str; 16] = [
    "node", "npm", "bun", "deno", "python3", "python", "uv", "ruby", "php", "go", "java", "rustc",
    "cargo", "elixir", "dart", "cc",
];

/// Describes them, as they are found in the folders of `path`.
pub fn system(path: &OsStr) -> String {
    let release = fs::read_if_exists(Path::new(RELEASE.0), RELEASE.1).ok().flatten();
    let release = release.unwrap_or_default();
    let (system, processor) = (std::env::consts::OS, std::env::consts::ARCH);
    let release = String::from_utf8_lossy(&release);
    let mut all = vec![system.to_owned(), processor.to_owned(), release.into_owned()];
    let folders = path.as_bytes().split(|&byte| byte == b':').map(OsStr::from_bytes);
    for program in PROGRAMS {
        let found = folders.clone().map(|folder| Path::new(folder).join(program));
        // Of a link it is what it leads to that is another one.
        let found = found.filter_map(|path| Some((path.metadata().ok()?, path)));
        let mut found = found.filter(|(stat, _)| stat.is_file());
        all.extend(found.next().map(|(stat, path)| {
            let (size, time) = (stat.size(), (stat.mtime(), stat.mtime_nsec()));
            format!("{program} {} {size} {time:?}", path.display())
        }));
    }
    all.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_version_of_a_program_is_another_system() {
        let folder = tempfile::tempdir().unwrap();
        let (first, second) = (folder.path().join("first"), folder.path().join("second"));
        for folder in [&first, &second] {
            fs::create_dir_all(folder).unwrap();
        }
        let path = [first.as_os_str(), second.as_os_str()].join(OsStr::new(":"));
        let without = system(&path);
        fs::write_atomic(&second.join("node"), b"20", 0o755).unwrap();
        let old = system(&path);
        fs::write_atomic(&second.join("other"), b"x", 0o755).unwrap();
        assert_eq!(system(&path), old);
        fs::write_atomic(&second.join("node"), b"22.1", 0o755).unwrap();
        let new = system(&path);
        fs::write_atomic(&first.join("node"), b"22.1", 0o755).unwrap();
        let other = system(&path);
        assert!(without != old && old != new && new != other);
    }
}
