//! Where a chunk ends: FastCDC v2020 with 16, 64 and 256 KiB, normalisation level 2, seed 0.
//!
//! **Invariant:** cut points are part of the format. Another implementation, version or parameter is
//! another format; the golden test below says when that happened.

use std::sync::LazyLock;

use baton_protocol::object::MAX_CHUNK;
use fastcdc::v2020::{FastCDC, Normalization};

use super::{ZEROS, is_zero};

const MIN: usize = 16 * 1024;
const AVERAGE: usize = 64 * 1024;

/// Length of the first chunk of `window`, which has at least [`MAX_CHUNK`] bytes unless the content
/// ends with it.
pub(super) fn cut(window: &[u8]) -> usize {
    // Nothing but the window decides, so a run of zeros always ends at the same place. Comparing is
    // ten times faster than rolling the hash: a disk image is mostly zeros.
    static ZERO_CUT: LazyLock<usize> = LazyLock::new(|| roll(&ZEROS));
    let window = window.get(..MAX_CHUNK).unwrap_or(window);
    if window.len() == MAX_CHUNK && is_zero(window) { *ZERO_CUT } else { roll(window) }
}

fn roll(window: &[u8]) -> usize {
    let cdc =
        FastCDC::with_level_and_seed(window, MIN, AVERAGE, MAX_CHUNK, Normalization::Level2, 0);
    let (_, end) = cdc.cut(0, window.len());
    end
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// The same bytes on every machine and in every version.
    pub(in crate::chunk) fn noise(len: usize) -> Vec<u8> {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut bytes = Vec::with_capacity(len + 8);
        while bytes.len() < len {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            bytes.extend_from_slice(&state.to_le_bytes());
        }
        bytes.truncate(len);
        bytes
    }

    /// Lengths of all chunks of content that is in memory, as the library cuts it.
    pub(in crate::chunk) fn whole(bytes: &[u8]) -> Vec<usize> {
        let level = Normalization::Level2;
        let cdc = FastCDC::with_level_and_seed(bytes, MIN, AVERAGE, MAX_CHUNK, level, 0);
        cdc.map(|chunk| chunk.length).collect()
    }

    fn ends(bytes: &[u8]) -> Vec<usize> {
        let mut ends = Vec::new();
        let mut start = 0;
        while start < bytes.len() {
            start += cut(&bytes[start..]);
            ends.push(start);
        }
        ends
    }

    #[test]
    fn cut_points_are_those_of_the_format() {
        assert_eq!(
            ends(&noise(1 << 20)),
            [
                44_750, 141_777, 175_684, 246_037, 324_353, 393_237, 460_529, 547_861, 621_105,
                687_566, 764_466, 861_407, 957_578, 1_024_823, 1_048_576
            ]
        );
        let mut text = Vec::new();
        for line in 0..40_000 {
            text.extend_from_slice(format!("{line}: {}\n", line * line % 977).as_bytes());
        }
        assert_eq!(ends(&text), [113_822, 177_250, 253_367, 295_248, 337_674, 419_806, 424_067]);
    }

    #[test]
    fn zeros_end_where_the_rolling_hash_ends_them() {
        let mut bytes = vec![0; 3 * MAX_CHUNK];
        assert_eq!(cut(&bytes), roll(&bytes[..MAX_CHUNK]));
        bytes[MAX_CHUNK - 1] = 1;
        assert_eq!(cut(&bytes), roll(&bytes[..MAX_CHUNK]));
        assert_eq!(cut(&[0; 100]), 100);
    }
}
