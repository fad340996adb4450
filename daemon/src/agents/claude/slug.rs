//! The folder in which Claude Code keeps the conversations of a project.
//!
//! The name is made of the path of the working folder and cannot be read back: where a conversation was held is in its
//! lines.

/// Longest name that is not cut.
const MOST: usize = 200;

/// The name of the folder for a path without links.
pub(super) fn slug(path: &str) -> String {
    // As the program counts: in units of UTF-16.
    let name = dashed(path);
    match name.get(..MOST) {
        Some(begin) if name.len() > MOST => format!("{begin}-{}", hash(path)),
        _ => name,
    }
}

/// Whether a folder may be the one of a path, or of something below it.
pub(super) fn could_be_in(name: &[u8], of_root: &str) -> bool {
    let root = of_root.get(..MOST).unwrap_or(of_root).as_bytes();
    name.strip_prefix(root)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with(b"-") || root.len() == MOST)
}

fn dashed(path: &str) -> String {
    let mut name = String::with_capacity(path.len());
    for c in path.chars() {
        if c.is_ascii_alphanumeric() {
            name.push(c);
        } else {
            (0..c.len_utf16()).for_each(|_| name.push('-'));
        }
    }
    name
}

/// Thirty-two bits of the path, in base 36.
fn hash(path: &str) -> String {
    let sum = path
        .encode_utf16()
        .fold(0i32, |sum, unit| sum.wrapping_mul(31).wrapping_add(i32::from(unit)));
    let mut rest = sum.unsigned_abs();
    let mut digits = Vec::new();
    while rest > 0 || digits.is_empty() {
        digits.push(char::from_digit(rest % 36, 36).unwrap_or('0'));
        rest /= 36;
    }
    digits.iter().rev().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_that_the_program_makes() {
        assert_eq!(slug("/tmp/ho work/proj.a_b"), "-tmp-ho-work-proj-a-b");
        // The rule by which 2.1.330 cuts.
        let a = "a".repeat(100);
        let long = format!("/home/ann/{a}/{a}_é😀/x y");
        let expected = format!("-home-ann-{a}-{}-5lsey9", "a".repeat(89));
        assert_eq!(slug(&long), expected);
        assert_eq!(slug("é😀"), "---");
    }

    #[test]
    fn folders_below_the_root_are_looked_at_and_others_not() {
        assert!(could_be_in(b"-a-b", "-a-b") && could_be_in(b"-a-b-c", "-a-b"));
        assert!(!could_be_in(b"-a-bc", "-a-b") && !could_be_in(b"-a", "-a-b"));
        let root = slug(&format!("/{}", "x".repeat(300)));
        let below = slug(&format!("/{}/y", "x".repeat(300)));
        assert_ne!(root, below);
        assert!(could_be_in(below.as_bytes(), &root));
    }
}
