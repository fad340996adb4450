//! How much of the machine one run may take, and what is said of one that takes more.
//!
//! **Invariant:** what nobody set has a limit that one run alone never needs on a machine of that size, or none.

use std::fmt;

use crate::machine;

/// Of the memory of the machine, a run may take this many hundredths.
const MEMORY_SHARE: u64 = 75;

/// Processes and threads of a run for each processor, and at least and at most so many in all.
const PROCESSES_EACH: u64 = 512;
const LEAST_PROCESSES: u64 = 2048;
const MOST_PROCESSES: u64 = 16_384;

/// Of the space that is free when a run starts, it may fill this many hundredths.
const DISK_SHARE: u64 = 50;

/// What one run may take; nothing where there is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Allowance {
    /// Bytes of memory.
    pub memory: Option<u64>,
    /// Processors at once, in thousandths.
    pub milli_cpus: Option<u64>,
    /// Processes and threads at once.
    pub processes: Option<u64>,
    /// Bytes that it writes to its checkout, its home and its `/tmp`. Nothing: half of what is free when it starts.
    pub disk: Option<u64>,
}

impl Allowance {
    /// What is set, and of memory and processes the share of a machine that a run has otherwise.
    #[must_use]
    pub fn or_of_machine(self) -> Self {
        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let processes = (processors as u64).saturating_mul(PROCESSES_EACH);
        let processes = processes.clamp(LEAST_PROCESSES, MOST_PROCESSES);
        Self {
            memory: self.memory.or_else(|| machine::memory().map(|all| share(all, MEMORY_SHARE))),
            processes: self.processes.or(Some(processes)),
            ..self
        }
    }

    /// Bytes that a run may write where so many are free.
    pub fn disk_of(&self, free: u64) -> u64 {
        self.disk.unwrap_or_else(|| share(free, DISK_SHARE))
    }
}

const fn share(all: u64, hundredths: u64) -> u64 {
    all / 100 * hundredths
}

/// Which limit of its own a run went beyond.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exceeded {
    /// Bytes of memory.
    Memory(u64),
    /// Processes and threads.
    Processes(u64),
    /// Bytes on the disk.
    Disk(u64),
    /// It filled the disk of the node up to what is kept free; so many bytes.
    Reserve(u64),
    /// It took the inodes of that disk up to those that are kept free.
    Inodes(u64),
    /// The disk of the node filled up, nobody is known to have done it, and this is the one that may have.
    Unknown(u64),
}

impl fmt::Display for Exceeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the run was ended: it ")?;
        match *self {
            Self::Memory(limit) => write!(f, "used more than its {} of memory", Size(limit)),
            Self::Processes(limit) => write!(f, "had more than its {limit} processes"),
            Self::Disk(limit) => write!(f, "used more than its disk quota of {}", Size(limit)),
            Self::Reserve(free) => write!(
                f,
                "filled the node's disk, of which {} stay free, and had written the most",
                Size(free)
            ),
            Self::Inodes(free) => write!(
                f,
                "took the inodes of the node's disk, of which {free} stay free, and had written the most"
            ),
            Self::Unknown(free) => write!(
                f,
                "may have filled the node's disk, of which {} stay free, with what cannot be counted",
                Size(free)
            ),
        }
    }
}

/// A number of bytes as people write it.
#[derive(Clone, Copy, Debug)]
pub struct Size(pub u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(u64, &str); 3] = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
        let unit = UNITS.into_iter().find(|&(unit, _)| self.0 >= unit);
        let Some((unit, name)) = unit else { return write!(f, "{} bytes", self.0) };
        let tenths = self.0.saturating_mul(10) / unit;
        match tenths % 10 {
            0 => write!(f, "{} {name}", tenths / 10),
            tenth => write!(f, "{}.{tenth} {name}", tenths / 10),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_set_stays_and_the_rest_is_a_share_of_the_machine() {
        let set = Allowance { memory: Some(7), processes: Some(8), ..Allowance::default() };
        assert_eq!(set.or_of_machine(), set);
        assert_eq!((set.disk_of(1000), set.milli_cpus), (500, None));
        assert_eq!(Allowance { disk: Some(9), ..set }.disk_of(1000), 9);
        let own = Allowance::default().or_of_machine();
        assert!(own.processes.unwrap() >= LEAST_PROCESSES);
        if cfg!(target_os = "linux") {
            assert!(own.memory.unwrap() < machine::memory().unwrap());
        }
    }

    #[test]
    fn reasons_name_the_limit_as_people_write_it() {
        let said = Exceeded::Memory(4 << 30).to_string();
        assert_eq!(said, "the run was ended: it used more than its 4 GiB of memory");
        let said = Exceeded::Disk(3 << 19).to_string();
        assert_eq!(said, "the run was ended: it used more than its disk quota of 1.5 MiB");
        assert_eq!(Size(17).to_string(), "17 bytes");
        assert_eq!(Size(u64::MAX).to_string(), "1717986918.3 GiB");
    }
}
