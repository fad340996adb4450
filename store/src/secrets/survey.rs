//! What the rules find in trees that hold no secrets, and how fast: the measure by which the set is
//! kept. Run by hand over folders of source code:
//!
//! ```sh
//! BATON_SURVEY=/usr/src/linux:$HOME/.cargo/registry/src cargo test -p baton-store \
//!     --config 'profile.dev.package.baton-store.opt-level=3' -- --ignored --nocapture survey
//! ```

#![expect(clippy::disallowed_methods, reason = "a measurement by hand: folders, and the time")]

use std::collections::BTreeMap;
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use super::*;

#[derive(Default)]
struct Survey {
    files: u64,
    bytes: u64,
    took: Duration,
    found: BTreeMap<&'static str, Vec<String>>,
}

impl Survey {
    fn walk(&mut self, rules: &SecretRules, folder: &Path, top: &Path) {
        let Ok(entries) = std::fs::read_dir(folder) else { return };
        for entry in entries.flatten() {
            let path = entry.path();
            let Ok(kind) = entry.file_type() else { continue };
            if kind.is_dir() {
                self.walk(rules, &path, top);
            } else if kind.is_file() {
                let mut bytes = Vec::new();
                let Ok(file) = std::fs::File::open(&path) else { continue };
                if file.take(LOOKED_AT as u64).read_to_end(&mut bytes).is_err() {
                    continue;
                }
                let name = path.strip_prefix(top).unwrap().as_os_str().as_bytes();
                let started = Instant::now();
                let found = rules.scan(name, &bytes);
                self.took += started.elapsed();
                self.files += 1;
                self.bytes += bytes.len() as u64;
                if let Some(Finding { rule, line, .. }) = found {
                    self.found.entry(rule).or_default().push(format!("{}:{line}", path.display()));
                }
            }
        }
    }
}

#[test]
#[ignore = "a measurement by hand, over the folders in BATON_SURVEY"]
fn survey() {
    let rules = SecretRules::standard().unwrap();
    println!("{} rules, tables of {} bytes", rules.count(), rules.words.memory_usage());
    let folders = std::env::var("BATON_SURVEY").unwrap();
    for folder in folders.split(':').map(Path::new) {
        let mut survey = Survey::default();
        survey.walk(&rules, folder, folder);
        let Survey { files, bytes, took, found } = survey;
        let rate = u128::from(bytes) / took.as_micros().max(1);
        println!("{}: {files} files, {bytes} bytes, {rate} MB/s", folder.display());
        for (rule, places) in found {
            println!("  {rule}: {}", places.len());
            places.iter().take(12).for_each(|place| println!("    {place}"));
        }
    }
}
