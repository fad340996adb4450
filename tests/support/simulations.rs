//! What simulations have in common: which seeds they run, and where.

/// Those that `BATON_SEEDS=from..to` asks for; unless it does the first `few`, or with `BATON_NIGHTLY` the first `many`.
#[expect(clippy::disallowed_methods, reason = "how many is for whoever runs the tests")]
pub(crate) fn seeds(few: u64, many: u64) -> std::ops::Range<u64> {
    let Ok(asked) = std::env::var("BATON_SEEDS") else {
        return 0..if std::env::var_os("BATON_NIGHTLY").is_some() { many } else { few };
    };
    let (from, to) = asked.split_once("..").unwrap_or_else(|| panic!("BATON_SEEDS=from..to"));
    from.parse().unwrap()..to.parse().unwrap()
}

/// A folder for a simulation: who works faster than a disk writes needs none.
pub(crate) fn scratch() -> tempfile::TempDir {
    let memory = std::path::Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap()
}
