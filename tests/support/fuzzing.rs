//! Damaged input for whatever reads what others wrote: seeded, on stable Rust, short by default.
//!
//! A test starts from valid values and from what is kept for it in `corpus/<its name>/` of its crate, damages them (flips,
//! cuts, splices, lengths that lie), and takes what is still accepted as the start of further damage.
//!
//! `BATON_FUZZ_SECONDS=60` lets each test run that long; `BATON_FUZZ_SEED=n` starts elsewhere; `BATON_FUZZ_KEEP=1` writes what
//! failed, or what was accepted last, beside what is kept. A failure prints the seed and the input.

#![allow(dead_code, reason = "each crate uses the part it needs")]

#[path = "fuzzing/allocations.rs"]
mod allocations;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// Inputs of each test where no time is given.
const INPUTS: u64 = 3000;

/// Values that a corpus starts with, and grows to.
pub(crate) const CORPUS: usize = 40;

/// Longest input.
const MOST: usize = 4 << 20;

/// Longest input that is kept because it was accepted.
const SMALL: usize = 2048;

/// xorshift64*: enough for choosing damage, and the same everywhere.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// The choices that go with an input: one that is kept goes the same way each time.
    pub(crate) fn of(input: &[u8]) -> Self {
        let mix = |seed: u64, byte: &u8| (seed ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        Self::new(input.iter().fold(0xcbf2_9ce4_8422_2325, mix))
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Below `limit`, which is not zero.
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        ((self.next() >> 16) % limit as u64) as usize
    }

    pub(crate) fn pick<'a>(&mut self, corpus: &'a [Vec<u8>]) -> &'a [u8] {
        &corpus[self.below(corpus.len())]
    }
}

/// A corpus of texts.
pub(crate) fn texts(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

/// A member of the corpus with one to four kinds of damage: every second time one of those that were given, of which what was
/// accepted later may have lost the point.
fn damaged(random: &mut Random, corpus: &[Vec<u8>], given: usize) -> Vec<u8> {
    const ODD: [u8; 8] = [0, 1, 0x7f, 0x80, 0x81, 0xfe, 0xff, b'/'];
    let from = if random.below(2) == 0 { &corpus[..given] } else { corpus };
    let mut bytes = random.pick(from).to_vec();
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len() + 1);
        let to = (at + random.below(12)).min(bytes.len());
        match random.below(10) {
            0 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            1 if at < bytes.len() => bytes[at] = random.next() as u8,
            2 if at < bytes.len() => bytes[at] = ODD[random.below(ODD.len())],
            // A length one more or less, as a decoder that is off by one would like it.
            3 if at < bytes.len() => {
                bytes[at] = bytes[at].wrapping_add(if random.below(2) == 0 { 1 } else { 0xff });
            }
            4 => bytes.truncate(at),
            5 => drop(bytes.drain(at..to)),
            6 => {
                let piece = bytes[at..to].to_vec();
                drop(bytes.splice(at..at, piece));
            }
            7 => {
                let other = random.pick(corpus);
                let from = random.below(other.len() + 1);
                bytes.truncate(at);
                bytes.extend_from_slice(&other[from..]);
            }
            8 => {
                let huge = [0xff; 10];
                drop(bytes.splice(at..to, huge[..=random.below(9)].iter().copied()));
            }
            _ => bytes.insert(at, random.next() as u8),
        }
        bytes.truncate(MOST);
    }
    bytes
}

/// What the environment says, or nothing.
fn setting(name: &str) -> Option<u64> {
    #[expect(clippy::disallowed_methods, reason = "a test, told how long to run")]
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

/// The folder of what is kept for the test that runs: of its name.
fn corpus_folder() -> std::path::PathBuf {
    let thread = std::thread::current();
    let name = thread.name().and_then(|name| name.rsplit("::").next()).unwrap_or("main");
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name)
}

/// What is kept for the test that runs.
#[expect(clippy::disallowed_methods, reason = "a test has the file system itself")]
fn kept() -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let Ok(found) = std::fs::read_dir(corpus_folder()) else { return Vec::new() };
    let mut paths: Vec<_> = found.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.into_iter().map(|path| (path.clone(), std::fs::read(path).unwrap())).collect()
}

/// Keeps an input where that is asked for.
#[expect(clippy::disallowed_methods, reason = "a test has the file system itself")]
fn keep(input: &[u8]) {
    if setting("BATON_FUZZ_KEEP").is_none() {
        return;
    }
    let mut hasher = std::hash::DefaultHasher::new();
    std::hash::Hasher::write(&mut hasher, input);
    let name = format!("{:016x}", std::hash::Hasher::finish(&hasher));
    std::fs::create_dir_all(corpus_folder()).unwrap();
    std::fs::write(corpus_folder().join(name), input).unwrap();
}

#[expect(clippy::disallowed_methods, reason = "how long a test runs is no part of what it finds")]
fn now() -> std::time::Instant {
    std::time::Instant::now()
}

/// Damages members of `corpus` until the inputs or the seconds are used up. `check` says whether it
/// accepted an input, and panics where it should not have.
pub(crate) fn fuzz(corpus: Vec<Vec<u8>>, check: impl FnMut(&mut Random, &[u8]) -> bool) {
    fuzz_with(INPUTS, corpus, check);
}

/// The same with so many inputs where no time is given: for what makes files of each.
pub(crate) fn fuzz_with(
    inputs: u64,
    mut corpus: Vec<Vec<u8>>,
    mut check: impl FnMut(&mut Random, &[u8]) -> bool,
) {
    let seconds = setting("BATON_FUZZ_SECONDS").map(std::time::Duration::from_secs);
    let first = setting("BATON_FUZZ_SEED").unwrap_or(1);
    let start = now();
    let (mut tried, mut accepted, mut last) = (0u64, 0u64, Vec::new());
    for (name, input) in kept() {
        let outcome = catch_unwind(AssertUnwindSafe(|| check(&mut Random::new(first), &input)));
        if let Err(panic) = outcome {
            eprintln!("what failed is {}", name.display());
            resume_unwind(panic);
        }
        corpus.push(input);
    }
    let given = corpus.len();
    for seed in first.. {
        let done = match seconds {
            Some(seconds) => seed % 100 == 0 && start.elapsed() >= seconds,
            None => seed - first >= inputs,
        };
        if done {
            break;
        }
        tried += 1;
        let mut random = Random::new(seed);
        let input = damaged(&mut random, &corpus, given);
        let outcome = catch_unwind(AssertUnwindSafe(|| check(&mut random, &input)));
        match outcome {
            Ok(true) => {
                accepted += 1;
                if input.len() <= SMALL && !corpus.contains(&input) {
                    last.clone_from(&input);
                }
                if input.len() < 64 * 1024 {
                    let at = given + random.below(2 * CORPUS);
                    match corpus.get_mut(at) {
                        Some(member) => *member = input,
                        None => corpus.push(input),
                    }
                }
            }
            Ok(false) => {}
            Err(panic) => {
                keep(&input);
                let hex =
                    input.iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"));
                eprintln!("fuzzing from seed {first} failed at seed {seed}; the input was\n{hex}");
                resume_unwind(panic);
            }
        }
    }
    println!("{tried} inputs from seed {first}, {accepted} of them accepted");
    if !last.is_empty() {
        keep(&last);
    }
    assert!(accepted > 0, "no damage was ever accepted: the check shows nothing");
}

/// Runs a decoder and checks what it allocated at its peak: so much for each byte of input, and so
/// much whatever the input.
pub(crate) fn within<T>(
    input: &[u8],
    each: usize,
    fixed: usize,
    decode: impl FnOnce(&[u8]) -> T,
) -> T {
    let (value, peak) = allocations::peak(|| decode(input));
    let limit = each * input.len() + fixed;
    assert!(peak <= limit, "{peak} bytes were allocated for an input of {}", input.len());
    value
}
