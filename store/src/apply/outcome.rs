//! What becomes of a path, and why.

/// What is done with a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It becomes what it is there.
    Taken,
    /// It goes away, as it did there.
    Removed,
    /// It was deleted here and edited there: it comes back.
    Restored,
    /// Both changes are brought together.
    Merged,
    /// It stays as it is here, though it was changed there.
    Kept(Kept),
    /// Both changed it, and only people can tell what it should be.
    Conflict(Clash),
}

/// Why a path stays as it is here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kept {
    /// It was edited here and deleted there.
    EditedHere,
    /// It is below a conflict, at this path.
    BelowConflict(Vec<u8>),
    /// It is not among the paths that were asked for.
    NotAsked,
    /// It is missing there because that snapshot could not take it, and not because it was deleted.
    NotCarried,
    /// It is new there, and the rules of the checkout leave it out of snapshots; so is all that is below it.
    Ignored,
}

/// Why two changes cannot be brought together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clash {
    /// The same lines were changed, or a link's target.
    Content,
    /// The same, and the file now has markers where.
    Marked,
    /// Both changed it, and it is no text, or a very long one.
    Binary,
    /// Both made a file there.
    BothAdded,
    /// A file, a link and a directory do not go together.
    Kind,
    /// Both changed its permissions.
    Mode,
    /// What is here is not in the safety copy, so it is not touched.
    NotSealed,
}

impl Kept {
    /// The word used in reports.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::EditedHere => "edited-here",
            Self::BelowConflict(_) => "below-conflict",
            Self::NotAsked => "not-asked",
            Self::NotCarried => "not-carried",
            Self::Ignored => "ignored",
        }
    }
}

impl Clash {
    /// The word used in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Content => "content",
            Self::Marked => "marked",
            Self::Binary => "binary",
            Self::BothAdded => "both-added",
            Self::Kind => "kind",
            Self::Mode => "mode",
            Self::NotSealed => "not-sealed",
        }
    }
}

impl Outcome {
    /// The word used in reports.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Taken => "taken",
            Self::Removed => "removed",
            Self::Restored => "restored",
            Self::Merged => "merged",
            Self::Kept(_) => "kept",
            Self::Conflict(_) => "conflict",
        }
    }
}
