//! Patterns for the paths of a tree: names with `*` and `?` in them, and `**` for any folders.
//!
//! **Invariant:** only folders that a pattern could lead into are gone into, and every step of a comparison is counted, so
//! that whoever looks through a tree can end it.

/// Longest pattern in bytes.
const MAX_LEN: usize = 256;

/// Most `**` of a pattern: each is looked for in every folder below.
const MAX_ANYWHERE: usize = 2;

/// A pattern that cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GlobError {
    /// It has no names, or too many bytes.
    #[error("a pattern has 1 to {MAX_LEN} bytes")]
    Length,
    /// It leads out of the tree, or nowhere.
    #[error("a pattern is a path within the tree, without `.`, `..` and empty names")]
    Path,
    /// It has signs that mean more elsewhere.
    #[error("a pattern has `*`, `?` and `**` as a whole name, and nothing else that is special")]
    Sign,
    /// It may lead anywhere from anywhere.
    #[error("a pattern has at most {MAX_ANYWHERE} `**`")]
    Anywhere,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    /// Any number of folders, or none.
    Folders,
    /// One name.
    Name(Vec<u8>),
}

/// A pattern for paths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glob(Vec<Part>);

impl Glob {
    /// Reads it.
    pub fn parse(text: &str) -> Result<Self, GlobError> {
        if text.is_empty() || text.len() > MAX_LEN {
            return Err(GlobError::Length);
        }
        let part = |name: &str| match name {
            "" | "." | ".." => Err(GlobError::Path),
            "**" => Ok(Part::Folders),
            name if name.contains("**") || name.contains(['[', ']', '{', '}', '\\', '!', '\0']) => {
                Err(GlobError::Sign)
            }
            name => Ok(Part::Name(name.as_bytes().to_vec())),
        };
        let mut parts = text.split('/').map(part).collect::<Result<Vec<_>, _>>()?;
        // As often as one likes in a row, it means the same.
        parts.dedup_by(|a, b| (&*a, &*b) == (&Part::Folders, &Part::Folders));
        if parts.iter().filter(|part| **part == Part::Folders).count() > MAX_ANYWHERE {
            return Err(GlobError::Anywhere);
        }
        if parts.last() == Some(&Part::Folders) {
            parts.push(Part::Name(b"*".to_vec()));
        }
        Ok(Self(parts))
    }
}

/// How far several patterns have come in a folder.
#[derive(Clone, Debug)]
pub struct Globs<'a> {
    all: &'a [Glob],
    /// The pattern, and its next part; each once.
    at: Vec<(usize, usize)>,
}

impl<'a> Globs<'a> {
    /// At the top of a tree.
    pub fn at_top(all: &'a [Glob]) -> Self {
        let mut globs = Self { all, at: Vec::new() };
        (0..all.len()).for_each(|glob| globs.reach(glob, 0));
        globs
    }

    /// Whether a file of this name is one of those that are meant. Adds to `steps` how long that took.
    pub fn mean(&self, name: &[u8], steps: &mut u64) -> bool {
        self.at.iter().any(|&(glob, part)| {
            *steps = steps.saturating_add(1);
            let parts = self.parts(glob);
            part + 1 == parts.len()
                && matches!(parts.get(part), Some(Part::Name(wanted)) if fits(wanted, name, steps))
        })
    }

    /// Whether there may be something in a folder of this name.
    pub fn lead_into(&self, name: &[u8], steps: &mut u64) -> bool {
        self.at.iter().any(|&(glob, part)| {
            *steps = steps.saturating_add(1);
            let parts = self.parts(glob);
            match parts.get(part) {
                Some(Part::Folders) => true,
                Some(Part::Name(wanted)) => part + 1 < parts.len() && fits(wanted, name, steps),
                None => false,
            }
        })
    }

    /// The same in a folder of this name.
    #[must_use]
    pub fn below(&self, name: &[u8], steps: &mut u64) -> Self {
        let mut below = Self { all: self.all, at: Vec::new() };
        for &(glob, part) in &self.at {
            *steps = steps.saturating_add(1);
            let parts = self.parts(glob);
            match parts.get(part) {
                Some(Part::Folders) => below.reach(glob, part),
                Some(Part::Name(wanted)) if part + 1 < parts.len() && fits(wanted, name, steps) => {
                    below.reach(glob, part + 1);
                }
                _ => {}
            }
        }
        // Each adds two at most.
        below.at.sort_unstable();
        below.at.dedup();
        below
    }

    fn parts(&self, glob: usize) -> &'a [Part] {
        self.all.get(glob).map_or(&[], |glob| glob.0.as_slice())
    }

    fn reach(&mut self, glob: usize, part: usize) {
        self.at.push((glob, part));
        if self.parts(glob).get(part) == Some(&Part::Folders) {
            self.reach(glob, part + 1);
        }
    }
}

/// Whether a name is one that a pattern without slashes stands for.
fn fits(pattern: &[u8], name: &[u8], steps: &mut u64) -> bool {
    let (mut at, mut from) = (0, 0);
    // The last `*`, and how much of the name it has taken.
    let mut star: Option<(usize, usize)> = None;
    while let Some(&byte) = name.get(from) {
        *steps = steps.saturating_add(1);
        match pattern.get(at) {
            Some(b'*') => {
                star = Some((at, from));
                at += 1;
                continue;
            }
            Some(&wanted) if wanted == b'?' || wanted == byte => {
                at += 1;
                from += 1;
                continue;
            }
            _ => {}
        }
        let Some((begun, taken)) = star else { return false };
        star = Some((begun, taken + 1));
        at = begun + 1;
        from = taken + 1;
    }
    pattern.get(at..).unwrap_or_default().iter().all(|&byte| byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn means(pattern: &str, path: &str) -> bool {
        let all = [Glob::parse(pattern).unwrap()];
        let mut globs = Globs::at_top(&all);
        let (mut names, mut steps) = (path.split('/').peekable(), 0);
        while let Some(name) = names.next() {
            if names.peek().is_none() {
                return globs.mean(name.as_bytes(), &mut steps);
            }
            if !globs.lead_into(name.as_bytes(), &mut steps) {
                return false;
            }
            globs = globs.below(name.as_bytes(), &mut steps);
        }
        false
    }

    #[test]
    fn patterns_stand_for_paths() {
        for (pattern, path) in [
            ("package-lock.json", "package-lock.json"),
            ("*.lock", "Cargo.lock"),
            ("**/go.sum", "go.sum"),
            ("**/go.sum", "a/b/go.sum"),
            ("packages/*/package.json", "packages/a/package.json"),
            ("a/**/b/**/c", "a/b/b/x/c"),
            ("scripts/**", "scripts/a/b"),
            ("a?c*", "abcd"),
            ("*a*a*b", "aaaaaab"),
        ] {
            assert!(means(pattern, path), "{pattern} {path}");
        }
        for (pattern, path) in [
            ("package-lock.json", "a/package-lock.json"),
            ("*.lock", "a/Cargo.lock"),
            ("packages/*/package.json", "packages/a/b/package.json"),
            ("scripts/**", "scripts"),
            ("a?c", "ac"),
            ("**/a/b", "a/x/b"),
        ] {
            assert!(!means(pattern, path), "{pattern} {path}");
        }
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        let long = "x".repeat(MAX_LEN + 1);
        for (text, error) in [
            ("", GlobError::Length),
            (long.as_str(), GlobError::Length),
            ("/etc/passwd", GlobError::Path),
            ("../x", GlobError::Path),
            ("a//b", GlobError::Path),
            ("a/", GlobError::Path),
            ("a**", GlobError::Sign),
            ("[ab]", GlobError::Sign),
            ("**/a/**/b/**/c", GlobError::Anywhere),
        ] {
            assert_eq!(Glob::parse(text), Err(error), "{text}");
        }
    }

    #[test]
    fn many_stars_take_no_time() {
        let pattern = format!("{}b", "*a".repeat(100));
        assert!(!means(&pattern, &"a".repeat(200)));
        let deep = vec!["a"; 1000].join("/");
        assert!(!means("**/a/**/b", &deep));
        let all = vec![Glob::parse(&format!("**{}", "/*".repeat(127))).unwrap(); 64];
        let mut globs = Globs::at_top(&all);
        for _ in 0..200 {
            globs = globs.below(b"a", &mut 0);
        }
        // Each part of each pattern once, however it was come to.
        assert!(globs.at.len() <= 64 * 128);
    }
}
