//! A cache against what was put into it.

use baton_protocol::id::{ChunkId, ManifestId};
use baton_protocol::object::{Blob, Content, MAX_CHUNK};

mod damaged;

use super::*;
use crate::fs;

fn stat(size: u64) -> FileStat {
    FileStat {
        dev: 7,
        ino: 1 << 40,
        mode: 0o100_644,
        size,
        mtime: -5,
        ctime: 1_700_000_000_123_456_789,
    }
}

fn blob(size: u64) -> Blob {
    let content = if size <= MAX_CHUNK as u64 {
        Content::Chunk(ChunkId::of(b"c"))
    } else {
        Content::Manifest(ManifestId::of(b"m"))
    };
    Blob { size, content }
}

fn file(name: &str, size: u64) -> CachedFile {
    CachedFile::new(name.as_bytes(), stat(size), &blob(size))
}

fn directory(files: Vec<CachedFile>) -> CachedDirectory {
    CachedDirectory { inode: Some(Inode { dev: 1, ino: 2 }), files, ..CachedDirectory::default() }
}

const PATHS: [&[u8]; 4] = [b"", b"a", b"a/\xff\n", b"z"];

fn fill(cache: &StatCache) {
    for path in PATHS {
        let after = directory(vec![file("one", 1), file("two", 300_000)]);
        cache.replace(path, &CachedDirectory::default(), &after);
    }
    cache.flush();
}

fn check(cache: &StatCache) {
    assert_eq!(cache.len(), 8);
    assert_eq!(cache.directories(), PATHS);
    for path in PATHS {
        let directory = cache.directory(path);
        assert_eq!(directory.inode, Some(Inode { dev: 1, ino: 2 }));
        assert_eq!(cache.inode(path), directory.inode);
        let blob_of = |name: &[u8], stat: &FileStat| directory.file(name)?.blob(stat);
        assert_eq!(blob_of(b"one", &stat(1)), Some(blob(1)));
        assert_eq!(blob_of(b"two", &stat(300_000)), Some(blob(300_000)));
        assert_eq!(blob_of(b"one", &stat(2)), None);
        assert_eq!(blob_of(b"one", &FileStat { ctime: 5, ..stat(1) }), None);
        assert_eq!(cache.file(path, b"two").as_ref(), directory.file(b"two"));
        assert_eq!(cache.file(path, b"three"), None);
    }
    assert!(cache.directory(b"b").files.is_empty());
}

#[test]
fn what_is_written_is_what_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cache");
    let cache = StatCache::open(&path);
    fill(&cache);
    check(&cache);
    drop(cache);
    let cache = StatCache::open(&path);
    check(&cache);
    cache.clear();
    drop(cache);
    assert!(StatCache::open(&path).is_empty());
}

#[test]
fn what_a_scan_without_an_end_has_written_is_not_trusted() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cache");
    let cache = StatCache::open(&path);
    assert!(cache.is_trusted());
    cache.begin_scan();
    assert!(!cache.is_trusted());
    drop(cache);
    // It had written nothing.
    let cache = StatCache::open(&path);
    assert!(cache.is_trusted());
    cache.begin_scan();
    fill(&cache);
    cache.flush();
    drop(cache);
    let cache = StatCache::open(&path);
    assert!(!cache.is_trusted());
    // What another scan finds as it was written is kept with what that scan writes.
    cache.begin_scan();
    cache.end_scan();
    assert!(cache.is_trusted());
    drop(cache);
    assert!(StatCache::open(&path).is_trusted());
    // Rows that were written before a scan began and not kept may be found by it as they are.
    let cache = StatCache::open(&path);
    cache.set(PATHS[0], b"one", None);
    cache.flush();
    cache.begin_scan();
    cache.flush();
    drop(cache);
    let cache = StatCache::open(&path);
    assert!(!cache.is_trusted());
    cache.begin_scan();
    cache.end_scan();
    drop(cache);
    // Forgetting everything forgets that too, and the next row says it again.
    let cache = StatCache::open(&path);
    cache.begin_scan();
    cache.clear();
    fill(&cache);
    cache.flush();
    drop(cache);
    assert!(!StatCache::open(&path).is_trusted());
}

#[test]
fn a_damaged_or_foreign_file_is_an_empty_cache() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cache");
    fill(&StatCache::open(&path));
    let bytes = fs::read_if_exists(&path, 1 << 20).unwrap().unwrap();
    for damaged in
        [bytes[..100].to_vec(), vec![7; 5000], b"BATONSC\x01 of an older version".to_vec()]
    {
        fs::write_atomic(&path, &damaged, 0o600).unwrap();
        assert!(StatCache::open(&path).is_empty());
    }
    let foreign = dir.path().join("foreign");
    let db = Connection::open(&foreign).unwrap();
    db.execute_batch("PRAGMA application_id = 5; CREATE TABLE x(y)").unwrap();
    drop(db);
    assert!(StatCache::open(&foreign).is_empty());
    // It can be used all the same.
    let cache = StatCache::open(&foreign);
    fill(&cache);
    check(&cache);
}

#[test]
fn wide_directories_are_edited_name_by_name() {
    let cache = StatCache::default();
    let mut wanted = directory((0..3000).map(|i| file(&format!("{i:05}"), i)).collect());
    cache.replace(b"wide", &CachedDirectory::default(), &wanted);
    assert_eq!(cache.directory(b"wide"), wanted);
    for i in (0..3000).step_by(3) {
        cache.set(b"wide", format!("{i:05}").as_bytes(), None);
    }
    wanted.files.retain(|file| !stat_number(file).is_multiple_of(3));
    assert_eq!(cache.directory(b"wide"), wanted);
    for i in 3000..6000 {
        let name = format!("{i:05}");
        cache.set(b"wide", name.as_bytes(), Some(file(&name, i)));
        wanted.files.push(file(&name, i));
    }
    assert_eq!(cache.directory(b"wide"), wanted);
    assert_eq!(cache.file(b"wide", b"04567"), Some(file("04567", 4567)));
    for i in 0..6000 {
        cache.set(b"wide", format!("{i:05}").as_bytes(), None);
    }
    assert_eq!(cache.directory(b"wide"), directory(Vec::new()));
    // A file of a directory that is not known is not remembered.
    cache.set(b"unknown", b"x", Some(file("x", 1)));
    assert!(cache.directory(b"unknown").files.is_empty());
}

fn stat_number(file: &CachedFile) -> u64 {
    file.stat.size
}

#[test]
fn directories_go_elsewhere_and_away_with_all_below_them() {
    let cache = StatCache::default();
    let one = || directory(vec![file("f", 1)]);
    for path in [&b""[..], b"a", b"a/b", b"a/b/c", b"a.x", b"a0", b"d", b"d/e"] {
        cache.replace(path, &CachedDirectory::default(), &one());
    }
    cache.rename(b"a", b"d");
    assert_eq!(cache.directories(), [&b""[..], b"a.x", b"a0", b"d", b"d/b", b"d/b/c"]);
    assert_eq!(cache.directory(b"d/b/c"), one());
    cache.remove_below(b"d/b");
    assert_eq!(cache.directories(), [&b""[..], b"a.x", b"a0", b"d"]);
    cache.retain_below(b"", &[b"".to_vec(), b"d".to_vec()]);
    assert_eq!(cache.directories(), [&b""[..], b"d"]);
    let found = cache.names_of(&[(7, 1 << 40)].into());
    assert_eq!(found, [(b"".to_vec(), b"f".to_vec()), (b"d".to_vec(), b"f".to_vec())]);
}
