//! The compressed bitmaps of a split index: words of 64 bits, runs of equal words as a count.

/// The bits that are set, ascending, and the bytes behind the bitmap. Nothing where it is malformed or has
/// more bits than `limit`.
pub(super) fn read(bytes: &[u8], limit: usize) -> Option<(Vec<usize>, &[u8])> {
    let (bits, rest) = take_u32(bytes)?;
    let (count, rest) = take_u32(rest)?;
    if bits as usize > limit {
        return None;
    }
    let (words, rest) = rest.split_at_checked((count as usize).checked_mul(8)?)?;
    // Where the last marker stands, which only a writer needs.
    let (_, rest) = take_u32(rest)?;
    let mut words = words
        .chunks_exact(8)
        .map(|word| word.iter().fold(0u64, |value, &byte| value << 8 | u64::from(byte)));
    let mut set = Vec::new();
    let mut at = 0usize;
    while let Some(marker) = words.next() {
        let is_set = marker & 1 == 1;
        let run = (marker >> 1 & 0xffff_ffff) as usize * 64;
        let literals = (marker >> 33) as usize;
        // A run may go over the end of the last word, and no further.
        let end = at.checked_add(run).filter(|&end| end < limit + 64)?;
        if is_set {
            set.extend((at..end).take_while(|&bit| bit < bits as usize));
        }
        at = end;
        for _ in 0..literals {
            let word = words.next()?;
            let found = (0..64).filter(|bit| word >> bit & 1 == 1).map(|bit| at + bit);
            set.extend(found.take_while(|&bit| bit < bits as usize));
            at = at.checked_add(64).filter(|&end| end < limit + 128)?;
        }
    }
    Some((set, rest))
}

fn take_u32(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let (value, rest) = bytes.split_first_chunk::<4>()?;
    Some((u32::from_be_bytes(*value), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bitmap(bits: u32, words: &[u64]) -> Vec<u8> {
        let mut bytes = [bits.to_be_bytes(), (words.len() as u32).to_be_bytes()].concat();
        bytes.extend(words.iter().flat_map(|word| word.to_be_bytes()));
        bytes.extend_from_slice(&[0; 4]);
        bytes.push(b'!');
        bytes
    }

    #[test]
    fn runs_and_words_are_read() {
        let literal = 1u64 << 33;
        let bytes = bitmap(70, &[2 * literal, 0b101, 1]);
        let (set, rest) = read(&bytes, 70).unwrap();
        assert_eq!((set, rest), (vec![0, 2, 64], &b"!"[..]));
        let run_of_ones = 1 | 1 << 1;
        let bytes = bitmap(66, &[run_of_ones | literal, 0b10]);
        let (set, _) = read(&bytes, 100).unwrap();
        assert_eq!(set, (0..64).chain([65]).collect::<Vec<_>>());
        assert_eq!(read(&bitmap(0, &[]), 0).unwrap().0, [0; 0]);
    }

    #[test]
    fn what_would_take_memory_is_refused() {
        let huge = u64::MAX;
        assert!(read(&bitmap(u32::MAX, &[huge]), 10).is_none());
        assert!(read(&bitmap(10, &[huge >> 32]), 10).is_none());
        assert!(read(&bitmap(10, &[1 << 33]), 10).is_none());
        assert!(read(&bitmap(10, &[1])[..10], 10).is_none());
        assert!(read(b"", 10).is_none());
    }
}
