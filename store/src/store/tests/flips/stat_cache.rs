//! The same with a stat cache: whatever is left of it, the next scan finds the tree that is there.

use super::*;
use crate::objects::memory::MemoryObjects;
use crate::scan::{Progress, ScanOptions, Scanned, scan};
use crate::stat_cache::StatCache;

/// How much of what was left of it the next scan believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Believed {
    All,
    PartOrNothing,
}

fn look(root: &Path, cache: &StatCache) -> Scanned {
    // Long after everything that is there was written.
    let options = ScanOptions { started_at_ns: i64::MAX, ..ScanOptions::default() };
    let objects = MemoryObjects::default();
    let scanned = scan(root, cache, &objects, &options, &Progress::default()).unwrap();
    cache.end_scan();
    scanned
}

fn write(root: &Path, name: &str, bytes: &[u8]) {
    let path = root.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write_whole(&path, bytes, 0o600).unwrap();
}

#[test]
fn whatever_happens_to_a_stat_cache_no_scan_finds_a_wrong_tree() {
    let folder = scratch();
    let root = folder.path().join("tree");
    for at in 0..400u64 {
        // One wide folder, and several small ones.
        let name = if at < 300 { format!("wide/f{at}") } else { format!("d{}/e/f{at}", at % 9) };
        write(&root, &name, &noise(at, 20 + at as usize % 50));
    }
    let path = folder.path().join("cache");
    let cache = StatCache::open(&path);
    let truth = look(&root, &cache);
    assert_eq!(truth.hashed_files, 400);
    cache.set_repository(Some(&noise(1, 200)));
    cache.flush();
    assert_eq!(look(&root, &cache).hashed_files, 0);
    drop(cache);
    let files = Files::from([("cache".into(), bytes_of(&path))]);

    let ends = each(&files, |place, _| {
        let cache = StatCache::open(&place.join("cache"));
        let repository = cache.repository();
        assert!(repository.is_none_or(|bytes| bytes == noise(1, 200)));
        let found = look(&root, &cache);
        assert_eq!((found.root, found.sums), (truth.root, truth.sums));
        // What the scan has left is as good.
        let second = look(&root, &cache);
        assert_eq!((second.root, second.sums), (truth.root, truth.sums));
        if found.hashed_files == 0 { Believed::All } else { Believed::PartOrNothing }
    });
    let again = |((_, believed), _): (&(Harm, Believed), _)| *believed == Believed::PartOrNothing;
    assert!(ends.iter().any(again));
}
