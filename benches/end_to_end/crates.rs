//! Releases of ten well-known crates, and what differs between two of them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::processes::Scratch;

/// Crate, what its versions begin with, and the patches of which those that exist are taken.
const RELEASES: [(&str, &str, std::ops::Range<u32>); 10] = [
    ("anyhow", "1.0", 60..99),
    ("cc", "1.0", 68..103),
    ("clap_builder", "4.5", 0..41),
    ("libc", "0.2", 140..175),
    ("proc-macro2", "1.0", 56..96),
    ("rustls", "0.23", 0..34),
    ("serde", "1.0", 185..220),
    ("serde_json", "1.0", 100..135),
    ("syn", "2.0", 50..85),
    ("thiserror", "1.0", 36..70),
];

/// Releases of each crate that are looked at: 30 differences.
const OF_EACH: usize = 31;

/// What cargo leaves in a release, and its authors did not write.
const NOT_THEIRS: &str = ".cargo-ok";

/// Has cargo download the releases that are not in `into`.
pub(crate) fn fetch(into: &Path, scratch: &Scratch) {
    let cargo = scratch.path("cargo");
    std::fs::create_dir(&cargo).unwrap();
    for (name, version, patches) in RELEASES {
        let mut have = 0;
        for patch in patches.rev() {
            let version = format!("{version}.{patch}");
            let target = into.join(name).join(&version);
            if have == OF_EACH {
                break;
            }
            if !target.exists() {
                // `cargo info` downloads and unpacks the one release that it is asked about.
                let mut command = scratch.command("cargo");
                command
                    .env("CARGO_HOME", &cargo)
                    .current_dir(&cargo)
                    .args(["info", "-q", "--registry", "crates-io"])
                    .arg(format!("{name}@{version}"));
                let unpacked = format!("{name}-{version}");
                let found = scratch.run(&mut command).status.success();
                // A version may never have been, or have been taken back.
                let Some(from) = found.then(|| below(&cargo, &unpacked)).flatten() else {
                    continue;
                };
                std::fs::create_dir_all(into.join(name)).unwrap();
                scratch.must(scratch.command("cp").arg("-a").arg(from).arg(&target));
            }
            have += 1;
        }
        assert!(have > 1, "cargo could not download {name}");
    }
}

/// Where cargo unpacked a release: in a folder of its registry.
fn below(cargo: &Path, release: &str) -> Option<PathBuf> {
    let registries = std::fs::read_dir(cargo.join("registry/src")).ok()?;
    registries.flatten().map(|entry| entry.path().join(release)).find(|path| path.exists())
}

/// The releases of each crate in a folder, the oldest first, at most [`OF_EACH`] of the newest.
pub(crate) fn releases(folder: &Path) -> BTreeMap<String, Vec<PathBuf>> {
    let mut found = BTreeMap::new();
    for (name, path) in folders(folder) {
        let mut versions = folders(&path);
        versions.sort_by_key(|(version, _)| numbers(version));
        let skip = versions.len().saturating_sub(OF_EACH);
        found.insert(name, versions.into_iter().skip(skip).map(|(_, path)| path).collect());
    }
    found
}

fn folders(folder: &Path) -> Vec<(String, PathBuf)> {
    let entries =
        std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let paths = entries.map(|entry| entry.unwrap().path()).filter(|path| path.is_dir());
    paths
        .map(|path| (path.file_name().unwrap_or_default().to_string_lossy().into_owned(), path))
        .collect()
}

fn numbers(version: &str) -> Vec<u64> {
    version.split(['.', '-', '+']).map(|part| part.parse().unwrap_or(0)).collect()
}

/// Contents by path.
pub(crate) type Files = BTreeMap<PathBuf, Vec<u8>>;

/// All files of a release.
pub(crate) fn read(release: &Path) -> Files {
    let mut files = Files::new();
    crate::ground::walk(release, &mut |path, meta| {
        let name = path.strip_prefix(release).unwrap();
        if meta.is_file() && name != Path::new(NOT_THEIRS) {
            files.insert(name.to_owned(), std::fs::read(path).unwrap());
        }
    });
    files
}
