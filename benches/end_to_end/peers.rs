//! The tools of today: how each does the steps.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::processes::Scratch;
use crate::samples::Step;

/// A tool.
pub(crate) struct Peer {
    pub(crate) name: &'static str,
    script: fn(&Place<'_>) -> Script,
}

/// Where a peer works: the tree, a folder for what it keeps, and one to restore into.
pub(crate) struct Place<'a> {
    pub(crate) scratch: &'a Scratch,
    pub(crate) tree: &'a Path,
    pub(crate) folder: PathBuf,
    pub(crate) restored: PathBuf,
}

/// All that a peer does, in order.
pub(crate) struct Script {
    /// What grows by what is kept.
    pub(crate) store: PathBuf,
    pub(crate) acts: Vec<Act>,
}

pub(crate) enum Act {
    /// Not measured.
    Prepare(Vec<Command>),
    /// Measured, under this name.
    Measure { step: Step, who: &'static str, commands: fn(&Place<'_>) -> Vec<Command> },
}

pub(crate) const ALL: [Peer; 7] = [
    Peer { name: "tar", script: tar },
    Peer { name: "cp", script: cp },
    Peer { name: "rsync", script: rsync },
    Peer { name: "restic", script: restic },
    Peer { name: "rustic", script: rustic },
    Peer { name: "borg", script: borg },
    Peer { name: "git", script: git },
];

impl Peer {
    /// Whether it is on the `PATH`.
    pub(crate) fn is_here(&self, scratch: &Scratch) -> bool {
        scratch.run(scratch.command("which").arg(self.name)).status.success()
    }

    /// What it prints of itself.
    pub(crate) fn version(&self, scratch: &Scratch) -> String {
        let flag = if self.name == "restic" { "version" } else { "--version" };
        let ran = scratch.run(scratch.command(self.name).arg(flag));
        let text = String::from_utf8_lossy(&ran.stdout).into_owned();
        let first = text.lines().next().unwrap_or(self.name);
        first.split(" compiled").next().unwrap_or(first).trim().to_owned()
    }

    pub(crate) fn script(&self, place: &Place<'_>) -> Script {
        (self.script)(place)
    }
}

impl Place<'_> {
    fn command(&self, program: &str, args: &[&str]) -> Command {
        let mut command = self.scratch.command(program);
        command.args(args).env("HOME", &self.folder);
        command
    }

    fn kept(&self) -> PathBuf {
        self.folder.join("kept")
    }

    fn archive(&self) -> PathBuf {
        self.folder.join("tree.tar")
    }

    fn inside(&self) -> PathBuf {
        self.tree.join(".")
    }

    fn restic(&self, args: &[&str]) -> Command {
        let mut command = self.command("restic", &["-q", "-r"]);
        command
            .env("RESTIC_PASSWORD", "x")
            .env("RESTIC_CACHE_DIR", self.folder.join("cache"))
            .arg(self.kept())
            .args(args);
        command
    }

    fn rustic(&self, args: &[&str]) -> Command {
        let mut command = self.command("rustic", &["--no-progress", "--log-level", "error"]);
        command.args(["--password", "x", "--no-cache", "-r"]).arg(self.kept()).args(args);
        command
    }

    fn borg(&self, args: &[&str]) -> Command {
        let mut command = self.command("borg", args);
        command
            .env("BORG_BASE_DIR", self.folder.join("base"))
            .env("BORG_REPO", self.kept())
            .env("BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK", "yes")
            .env("BORG_RELOCATED_REPO_ACCESS_IS_OK", "yes")
            .current_dir(self.tree);
        command
    }

    fn git(&self, args: &[&str]) -> Command {
        let mut command = self.command("git", args);
        command
            .env("GIT_DIR", self.kept())
            .env("GIT_WORK_TREE", self.tree)
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .current_dir(self.tree);
        command
    }
}

fn with(mut command: Command, path: &Path) -> Vec<Command> {
    command.arg(path);
    vec![command]
}

fn measure(step: Step, who: &'static str, commands: fn(&Place<'_>) -> Vec<Command>) -> Act {
    Act::Measure { step, who, commands }
}

fn tar(place: &Place<'_>) -> Script {
    let acts = vec![
        measure(Step::First, "tar", |place| {
            let mut command = place.command("tar", &["-cf"]);
            command.arg(place.archive()).arg("-C");
            let mut command = with(command, place.tree);
            command[0].arg(".");
            command
        }),
        measure(Step::Restore, "tar x", |place| {
            let mut command = place.command("tar", &["-xf"]);
            command.arg(place.archive()).arg("-C");
            with(command, &place.restored)
        }),
    ];
    Script { store: place.archive(), acts }
}

fn cp(place: &Place<'_>) -> Script {
    let acts = vec![
        measure(Step::First, "cp -a", |place| {
            let mut command = place.command("cp", &["-a"]);
            command.arg(place.tree);
            with(command, &place.kept())
        }),
        measure(Step::Restore, "cp -a", |place| {
            let mut command = place.command("cp", &["-a"]);
            command.arg(place.kept());
            with(command, &place.restored.join("tree"))
        }),
    ];
    Script { store: place.kept(), acts }
}

fn rsync(place: &Place<'_>) -> Script {
    let again = |place: &Place<'_>| {
        let mut command = place.command("rsync", &["-a", "--stats"]);
        command.arg(place.inside());
        with(command, &place.kept())
    };
    let acts = [Step::First, Step::Nothing, Step::One, Step::Hundred]
        .map(|step| measure(step, "rsync -a", again));
    Script { store: place.kept(), acts: acts.into() }
}

fn restic(place: &Place<'_>) -> Script {
    let again = |place: &Place<'_>| with(place.restic(&["backup"]), place.tree);
    let mut acts = vec![Act::Prepare(vec![place.restic(&["init"])])];
    acts.extend(
        [Step::First, Step::Nothing, Step::One, Step::Hundred]
            .map(|step| measure(step, "restic", again)),
    );
    acts.push(measure(Step::Restore, "restic", |place| {
        with(place.restic(&["restore", "latest", "--target"]), &place.restored)
    }));
    Script { store: place.kept(), acts }
}

fn rustic(place: &Place<'_>) -> Script {
    let again = |place: &Place<'_>| with(place.rustic(&["backup"]), place.tree);
    let mut acts = vec![Act::Prepare(vec![place.rustic(&["init"])])];
    acts.extend(
        [Step::First, Step::Nothing, Step::One, Step::Hundred]
            .map(|step| measure(step, "rustic", again)),
    );
    acts.push(measure(Step::Restore, "rustic", |place| {
        with(place.rustic(&["restore", "latest"]), &place.restored)
    }));
    Script { store: place.kept(), acts }
}

fn borg(place: &Place<'_>) -> Script {
    // A name for each archive: the time of day.
    let again =
        |place: &Place<'_>| vec![place.borg(&["create", "-C", "zstd,3", "::{utcnow}", "."])];
    let mut acts = vec![Act::Prepare(vec![place.borg(&["init", "-e", "none"])])];
    acts.extend(
        [Step::First, Step::Nothing, Step::One, Step::Hundred]
            .map(|step| measure(step, "borg", again)),
    );
    acts.push(Act::Prepare(vec![place.borg(&["create", "-C", "zstd,3", "::last", "."])]));
    acts.push(measure(Step::Restore, "borg", |place| {
        let mut command = place.borg(&["extract", "::last"]);
        command.current_dir(&place.restored);
        vec![command]
    }));
    Script { store: place.kept(), acts }
}

fn git(place: &Place<'_>) -> Script {
    let add = |place: &Place<'_>| vec![place.git(&["add", "-A", "-f"])];
    let tree =
        |place: &Place<'_>| vec![place.git(&["add", "-A", "-f"]), place.git(&["write-tree"])];
    let push = |place: &Place<'_>| {
        vec![
            place.git(&["add", "-A", "-f"]),
            place.git(&["commit", "-q", "-m", "x"]),
            place.git(&["push", "-q", "there", "main"]),
        ]
    };
    let there = place.folder.join("there");
    let mut bare = place.command("git", &["init", "-q", "--bare", "-b", "main"]);
    bare.arg(&there);
    let mut acts = vec![Act::Prepare(vec![
        place.git(&["init", "-q", "-b", "main"]),
        place.git(&["config", "gc.auto", "0"]),
        place.git(&["config", "user.name", "b"]),
        place.git(&["config", "user.email", "b@b"]),
        bare,
        place.git(&["remote", "add", "there", &there.to_string_lossy()]),
    ])];
    acts.push(measure(Step::First, "git add", add));
    acts.push(Act::Prepare(vec![
        place.git(&["commit", "-q", "-m", "x"]),
        // Not measured, so without the search for deltas, which takes minutes.
        place.git(&["-c", "pack.window=0", "push", "-q", "there", "main"]),
    ]));
    acts.push(measure(Step::Nothing, "git status", |place| vec![place.git(&["status", "-s"])]));
    acts.push(measure(Step::One, "git add, write-tree", tree));
    acts.push(measure(Step::One, "git add, commit, push (same disk)", push));
    acts.push(measure(Step::Hundred, "git add, write-tree", tree));
    acts.push(measure(Step::Hundred, "git add, commit, push (same disk)", push));
    acts.push(measure(Step::Restore, "git checkout-index", |place| {
        let mut command = place.git(&["checkout-index", "-a"]);
        command.env("GIT_WORK_TREE", &place.restored).current_dir(&place.restored);
        vec![command]
    }));
    Script { store: place.kept(), acts }
}
