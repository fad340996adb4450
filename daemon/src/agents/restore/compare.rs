//! What is there against what would be, by their bytes.

use std::fs::File;
use std::io::{self, Read};

const BUFFER: usize = 64 * 1024;

/// How a new file is to the one that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Relation {
    /// They have the same bytes.
    Same,
    /// The new one goes on after all that is there.
    Longer,
    /// The one that is there goes on after all of the new one.
    Shorter,
    /// They have different bytes somewhere.
    Differs,
}

/// Compares two files from where they stand, of these lengths.
pub(super) fn relation(
    new: &mut File,
    length: u64,
    there: &mut File,
    old: u64,
) -> io::Result<Relation> {
    let common = length.min(old);
    let (mut new, mut there) = (new.take(common), there.take(common));
    let (mut a, mut b) = (vec![0; BUFFER], vec![0; BUFFER]);
    let mut seen = 0u64;
    loop {
        let read = new.read(&mut a)?;
        let Some(bytes) = a.get(..read).filter(|bytes| !bytes.is_empty()) else { break };
        let other = b.get_mut(..read).unwrap_or_default();
        match there.read_exact(other) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Ok(Relation::Differs);
            }
            read => read?,
        }
        if bytes != other {
            return Ok(Relation::Differs);
        }
        seen += read as u64;
    }
    Ok(match length.cmp(&old) {
        _ if seen != common => Relation::Differs,
        std::cmp::Ordering::Equal => Relation::Same,
        std::cmp::Ordering::Greater => Relation::Longer,
        std::cmp::Ordering::Less => Relation::Shorter,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_on_is_told_from_what_differs() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, bytes: &[u8]| {
            let path = folder.path().join(name);
            baton_store::fs::write_atomic(&path, bytes, 0o600).unwrap();
            (baton_store::fs::open(&path).unwrap(), bytes.len() as u64)
        };
        let long = vec![b'x'; BUFFER * 2 + 7];
        let longer = [long.as_slice(), b"y"].concat();
        let mut other = longer.clone();
        other[BUFFER + 3] = b'z';
        for (new, there, expected) in [
            (&b""[..], &b""[..], Relation::Same),
            (b"a", b"", Relation::Longer),
            (&long, &long, Relation::Same),
            (&longer, &long, Relation::Longer),
            (&long, &longer, Relation::Shorter),
            (&longer, &other, Relation::Differs),
            (&long, &other, Relation::Differs),
        ] {
            let ((mut a, length), (mut b, old)) = (file("a", new), file("b", there));
            assert_eq!(relation(&mut a, length, &mut b, old).unwrap(), expected);
        }
    }
}
