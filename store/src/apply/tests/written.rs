//! Random plans carried out on the disk, put back, and cut off at every write.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::planned::carried_out;
use super::*;
use crate::apply::crash::{self, Cut};
use crate::apply::moves::{Abilities, FAILS_AT, LIMITED};
use crate::apply::testing::{Node, folder, is_nightly};

/// A checkout on the disk, beside the folder of the applies.
struct Ground {
    folder: tempfile::TempDir,
    applies: Applies,
}

impl Ground {
    fn new(here: &Model) -> Self {
        let folder = folder();
        here.write(&folder.path().join("tree"));
        let applies = Applies::new(&folder.path().join("applies"));
        Self { folder, applies }
    }

    fn root(&self) -> std::path::PathBuf {
        self.folder.path().join("tree")
    }

    fn tree(&self) -> Model {
        Model::read(&self.root())
    }

    fn apply(&self, objects: &MemoryObjects, plan: &Plan) -> Result<Applied, ApplyError> {
        let request = request(&self.root(), 3);
        self.applies.apply(objects, &request, plan, None, options(), &Progress::default())
    }

    /// Goes on with whatever was cut off, and says whether anything was.
    fn resume(&self, objects: &MemoryObjects) {
        for known in self.applies.list().unwrap() {
            self.applies.resume(objects, known.record.id, &self.root()).unwrap();
        }
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        use std::os::fd::{AsFd, OwnedFd};
        let fd: OwnedFd = crate::fs::open(self.folder.path()).unwrap().into();
        crate::checkout::remove::remove_contents(fd.as_fd()).unwrap();
    }
}

/// Random cases in which there is something to do.
fn cases(seed: u64, count: usize) -> impl Iterator<Item = (Case, MemoryObjects, Plan)> {
    let mut rng = Rng::new(seed);
    let found = std::iter::from_fn(move || {
        loop {
            let case = Case::random(&mut rng);
            let objects = MemoryObjects::default();
            let plan = case.plan(&objects);
            if !plan.steps.is_empty() {
                return Some((case, objects, plan));
            }
        }
    });
    found.take(count)
}

fn carry_out_and_put_back(seed: u64, count: usize) {
    for (number, (case, objects, plan)) in cases(seed, count).enumerate() {
        let ground = Ground::new(&case.here);
        let applied = ground.apply(&objects, &plan).unwrap();
        let is_done = applied.done.iter().all(|done| done.is_so());
        assert!(is_done, "case {number}: {:?}\n{plan:#?}", applied.done);
        assert_eq!(ground.tree(), carried_out(&plan, &case.here, &objects), "case {number}");
        let undone = ground.applies.undo(&objects, applied.id.unwrap(), &ground.root()).unwrap();
        assert_eq!(undone.kept, [], "case {number}: {plan:#?}");
        assert_eq!(ground.tree(), case.here, "case {number}");
    }
}

#[test]
fn plans_are_carried_out_and_put_back_to_the_byte() {
    carry_out_and_put_back(2, if is_nightly() { 20_000 } else { 300 });
}

#[test]
fn so_they_are_where_names_cannot_change_places() {
    let count = if is_nightly() { 5_000 } else { 100 };
    for limited in [(true, false), (false, false)] {
        LIMITED.set(Some(Abilities { new: limited.0, exchange: limited.1, link: true }));
        carry_out_and_put_back(4, count);
    }
    LIMITED.set(None);
}

/// Runs something that is cut off after so many writes; true where it was.
pub(super) fn cut_off(after: u64, work: impl FnOnce()) -> bool {
    crash::arm(Some(after));
    let ended = catch_unwind(AssertUnwindSafe(work));
    crash::arm(None);
    match ended {
        Ok(()) => false,
        Err(cause) => {
            if !cause.is::<Cut>() {
                std::panic::resume_unwind(cause);
            }
            true
        }
    }
}

fn cut_off_everywhere(seed: u64, count: usize) -> u64 {
    let mut cuts = 0;
    for (number, (case, objects, plan)) in cases(seed, count).enumerate() {
        let result = carried_out(&plan, &case.here, &objects);
        for after in 0.. {
            let ground = Ground::new(&case.here);
            let is_cut = cut_off(after, || drop(ground.apply(&objects, &plan).unwrap()));
            ground.resume(&objects);
            let tree = ground.tree();
            let known = ground.applies.list().unwrap();
            let what = || format!("case {number} cut after {after}\n{:?}\n{plan:#?}", case.here);
            match known.first() {
                None => assert_eq!(tree, case.here, "{}", what()),
                Some(known) => {
                    assert_eq!(known.stage, Stage::Applied, "{}", what());
                    assert_eq!(tree, result, "{}", what());
                    let undone =
                        ground.applies.undo(&objects, known.record.id, &ground.root()).unwrap();
                    assert_eq!(undone.kept, [], "{}", what());
                    assert_eq!(ground.tree(), case.here, "{}", what());
                }
            }
            if !is_cut {
                break;
            }
            cuts += 1;
        }
        // The way back can be cut off, too.
        for after in 0.. {
            let ground = Ground::new(&case.here);
            let id = ground.apply(&objects, &plan).unwrap().id.unwrap();
            let is_cut =
                cut_off(after, || drop(ground.applies.undo(&objects, id, &ground.root()).unwrap()));
            // It is asked for again, or the next start goes on with it.
            if is_cut && after % 2 == 0 {
                match ground.applies.undo(&objects, id, &ground.root()) {
                    Ok(undone) => assert_eq!(undone.kept, [], "case {number} after {after}"),
                    Err(error) => assert!(matches!(error, ApplyError::Undone(_)), "{error}"),
                }
                assert_eq!(ground.tree(), case.here, "case {number} after {after}");
            }
            ground.resume(&objects);
            let what = || format!("case {number} undo cut after {after}\n{plan:#?}");
            let stage = ground.applies.list().unwrap()[0].stage;
            let expected = if stage == Stage::Undone { &case.here } else { &result };
            assert_eq!(ground.tree(), *expected, "{}", what());
            if !is_cut {
                assert_eq!(stage, Stage::Undone);
                break;
            }
            cuts += 1;
        }
    }
    cuts
}

#[test]
fn cut_off_anywhere_it_is_gone_on_with_and_can_be_put_back() {
    let cuts = cut_off_everywhere(5, if is_nightly() { 500 } else { 25 });
    assert!(cuts > 500, "{cuts}");
}

#[test]
fn so_it_is_where_names_cannot_change_places() {
    LIMITED.set(Some(Abilities { new: true, exchange: false, link: true }));
    cut_off_everywhere(6, if is_nightly() { 200 } else { 8 });
    LIMITED.set(None);
}

/// Cuts applies off anywhere, and puts them back as they are: with nothing in the store but what was there before.
/// Says how many were on their way.
fn put_back_from_anywhere(seed: u64, count: usize) -> usize {
    let mut on_the_way = 0;
    let mut rng = Rng::new(seed);
    for (number, (case, objects, plan)) in cases(seed, count).enumerate() {
        let before = MemoryObjects::default();
        case.here.store(&before);
        for after in 0.. {
            let ground = Ground::new(&case.here);
            if !cut_off(after, || drop(ground.apply(&objects, &plan).unwrap())) {
                break;
            }
            let what = || format!("case {number} cut after {after}\n{:?}\n{plan:#?}", case.here);
            let Some(known) = ground.applies.list().unwrap().pop() else { continue };
            on_the_way += usize::from(known.stage == Stage::Begun && ground.tree() != case.here);
            let undo = || ground.applies.undo(&before, known.record.id, &ground.root());
            // That can be cut off, too.
            let is_cut = cut_off(rng.next() % 40, || drop(undo()));
            match undo() {
                Ok(undone) => assert_eq!(undone.kept, [], "{}", what()),
                Err(ApplyError::Undone(_)) => {}
                Err(ApplyError::Unknown(_)) if known.stage == Stage::Planned => {}
                Err(error) => panic!("{error}: {is_cut} {}", what()),
            }
            assert_eq!(ground.tree(), case.here, "{}", what());
            assert!(ground.applies.list().unwrap().iter().all(|one| one.stage == Stage::Undone));
        }
    }
    on_the_way
}

#[test]
fn one_that_cannot_be_gone_on_with_is_put_back_from_where_it_is() {
    let count = if is_nightly() { 300 } else { 5 };
    let mut on_the_way = put_back_from_anywhere(10, count);
    LIMITED.set(Some(Abilities { new: true, exchange: false, link: true }));
    on_the_way += put_back_from_anywhere(11, count);
    LIMITED.set(Some(Abilities { new: false, exchange: false, link: true }));
    on_the_way += put_back_from_anywhere(12, count);
    LIMITED.set(None);
    assert!(on_the_way > 50, "{on_the_way}");
}

#[cfg(target_os = "linux")]
#[test]
fn directories_that_keep_their_owner_out_do_not_keep_it_from_its_end() {
    use crate::apply::testing::as_plain_owner;
    /// What nobody may list cannot be known to be empty: of that an undo leaves what it is.
    fn is_told(plan: &Plan) -> bool {
        let is_closed =
            |form: &Form| matches!(form, Form::Directory { mode } if mode & 0o500 != 0o500);
        plan.steps.iter().any(|step| {
            step.from.is_some_and(|from| !from.is_directory())
                && step.to.as_ref().is_some_and(is_closed)
        })
    }
    let mut rng = Rng::new(9);
    let (mut seen, mut cuts) = (0, 0);
    while seen < if is_nightly() { 300 } else { 10 } {
        let mut case = Case::random(&mut rng);
        case.there = case.there.closed(&mut rng);
        let objects = MemoryObjects::default();
        let plan = case.plan(&objects);
        if plan.steps.is_empty() || is_told(&plan) {
            continue;
        }
        seen += 1;
        let result = carried_out(&plan, &case.here, &objects);
        let what = |after| format!("case {seen} cut after {after}\n{:?}\n{plan:#?}", case.here);
        for after in 0.. {
            let ground = Ground::new(&case.here);
            let work = || drop(ground.apply(&objects, &plan).unwrap());
            let Some(is_cut) = as_plain_owner(|| cut_off(after, work)) else { return };
            // It is gone on with, or put back from where it is.
            let known = ground.applies.list().unwrap().pop();
            match known.filter(|known| known.stage == Stage::Begun && after % 2 == 0) {
                Some(known) => drop(as_plain_owner(|| {
                    ground.applies.undo(&objects, known.record.id, &ground.root()).unwrap()
                })),
                None => drop(as_plain_owner(|| ground.resume(&objects))),
            }
            let known = ground.applies.list().unwrap().pop();
            if let Some(known) = known.filter(|known| known.stage != Stage::Undone) {
                assert_eq!(known.stage, Stage::Applied, "{}", what(after));
                assert_eq!(ground.tree(), result, "{}", what(after));
                let id = known.record.id;
                as_plain_owner(|| drop(ground.applies.undo(&objects, id, &ground.root()).unwrap()));
            }
            assert_eq!(ground.tree(), case.here, "{}", what(after));
            if !is_cut {
                break;
            }
            cuts += 1;
        }
        for after in 0.. {
            let ground = Ground::new(&case.here);
            let id = as_plain_owner(|| ground.apply(&objects, &plan).unwrap().id.unwrap()).unwrap();
            let undo = || drop(ground.applies.undo(&objects, id, &ground.root()).unwrap());
            let is_cut = as_plain_owner(|| cut_off(after, undo)).unwrap();
            as_plain_owner(|| ground.resume(&objects));
            if ground.applies.list().unwrap()[0].stage == Stage::Applied {
                assert_eq!(ground.tree(), result, "undo: {}", what(after));
                as_plain_owner(undo);
            }
            assert_eq!(ground.tree(), case.here, "undo: {}", what(after));
            if !is_cut {
                break;
            }
            cuts += 1;
        }
    }
    assert!(cuts > 100, "{cuts}");
}

/// One that is cut off in the middle of its writes.
fn half_done() -> (Case, MemoryObjects, Plan, Ground) {
    let (case, objects, plan) = cases(7, 1000).find(|(_, _, plan)| plan.steps.len() > 4).unwrap();
    for after in 0.. {
        let ground = Ground::new(&case.here);
        assert!(cut_off(after, || drop(ground.apply(&objects, &plan).unwrap())));
        let is_begun =
            ground.applies.list().unwrap().first().is_some_and(|one| one.stage == Stage::Begun);
        if is_begun && ground.tree() != case.here {
            return (case, objects, plan, ground);
        }
    }
    unreachable!("it has writes")
}

#[test]
fn another_folder_in_the_place_of_the_checkout_is_left_alone() {
    let (case, objects, plan, ground) = half_done();
    let id = ground.applies.list().unwrap()[0].record.id;
    let (root, moved) = (ground.root(), ground.folder.path().join("moved"));
    std::fs::rename(&root, &moved).unwrap();
    let refused = |result: Result<(), ApplyError>| {
        let error = result.unwrap_err();
        assert!(matches!(error, ApplyError::OtherCheckout { .. }), "{error}");
    };
    let resume = |root: &Path| ground.applies.resume(&objects, id, root).map(drop);
    let undo = |root: &Path| ground.applies.undo(&objects, id, root).map(drop);
    // It is gone, and then there is another one.
    refused(resume(&root));
    std::fs::create_dir(&root).unwrap();
    refused(resume(&root));
    refused(undo(&root));
    assert_eq!(ground.tree(), Model::default());
    // Nor is the place made anew in which the rest waits.
    let area = ground.folder.path().join("applies").join(id.to_string()).join("area");
    let aside = ground.folder.path().join("aside");
    std::fs::rename(&area, &aside).unwrap();
    let error = resume(&moved).unwrap_err();
    assert!(matches!(error, ApplyError::NoShelf(_)), "{error}");
    std::fs::rename(&aside, &area).unwrap();
    // Where it is now it is gone on with; and put back where it is then.
    resume(&moved).unwrap();
    assert_eq!(Model::read(&moved), carried_out(&plan, &case.here, &objects));
    refused(undo(&root));
    undo(&moved).unwrap();
    assert_eq!(Model::read(&moved), case.here);
    assert_eq!(ground.tree(), Model::default());
}

#[test]
fn one_that_is_forgotten_does_not_come_back() {
    let (case, objects, plan) = cases(8, 1).next().unwrap();
    let mut left = 0;
    for after in 0.. {
        let ground = Ground::new(&case.here);
        let id = ground.apply(&objects, &plan).unwrap().id.unwrap();
        ground.applies.undo(&objects, id, &ground.root()).unwrap();
        let later = u64::MAX;
        let is_cut = cut_off(after, || drop(ground.applies.purge(later).unwrap()));
        let folder = ground.folder.path().join("applies");
        // It is known whole, or not at all.
        let whole = ["begun", "plan", "undoing", "undone", "applied"];
        let is_known = folder.join(id.to_string()).exists();
        assert!(
            !is_known || whole.iter().all(|name| folder.join(id.to_string()).join(name).exists())
        );
        let gone = folder.join(format!("{id}.gone"));
        left += usize::from(gone.exists());
        assert_eq!(ground.applies.list().unwrap().len(), usize::from(is_known));
        ground.applies.purge(later).unwrap();
        assert!(!folder.join(id.to_string()).exists() && !gone.exists());
        if !is_cut {
            break;
        }
    }
    assert!(left > 0, "it was never cut off in between");
}

#[test]
fn what_came_out_is_kept_for_a_week_from_the_last_change() {
    let (case, objects, plan) = cases(8, 1).next().unwrap();
    let ground = Ground::new(&case.here);
    let id = ground.apply(&objects, &plan).unwrap().id.unwrap();
    // It was asked for long before it was done, and put back long after.
    let ended = |stage: &str, at: u64| {
        let path = ground.folder.path().join("applies").join(id.to_string()).join(stage);
        let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
        file.set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_millis(at)).unwrap();
    };
    let forgotten = |now| ground.applies.purge(now).unwrap();
    ended("applied", 1_000 + KEPT_MS);
    assert_eq!(forgotten(999 + 2 * KEPT_MS), []);
    ground.applies.undo(&objects, id, &ground.root()).unwrap();
    ended("undone", 1_000 + 2 * KEPT_MS);
    assert_eq!(forgotten(999 + 3 * KEPT_MS), []);
    assert_eq!(forgotten(1_000 + 3 * KEPT_MS), [id]);
}

#[test]
fn what_cannot_be_put_in_its_place_leaves_what_was_there() {
    let node = |content: &[u8]| Node::File(0o644, content.to_vec());
    let here = [(&b"a"[..], node(b"1")), (b"d", Node::Directory(0o755)), (b"gone", node(b"3"))];
    let there = [(&b"a"[..], node(b"2")), (b"d", node(b"a file now"))];
    let [here, there] = [&here[..], &there[..]].map(|nodes| {
        Model(nodes.iter().map(|(path, node)| (path.to_vec(), node.clone())).collect())
    });
    let case = Case { base: here.clone(), here, there };
    let objects = MemoryObjects::default();
    let plan = case.plan(&objects);
    // A file system that can do nothing of it: nothing is begun that could not be put back.
    LIMITED.set(Some(Abilities { new: false, exchange: false, link: false }));
    let ground = Ground::new(&case.here);
    let applied = ground.apply(&objects, &plan).unwrap();
    assert_eq!(applied.done, [Done::Refused; 3]);
    assert_eq!(ground.tree(), case.here);
    // One that refuses it now and then.
    LIMITED.set(Some(Abilities { new: true, exchange: false, link: true }));
    for (after, path) in [(0, &b"a"[..]), (1, b"d")] {
        let ground = Ground::new(&case.here);
        FAILS_AT.set(Some(after));
        let applied = ground.apply(&objects, &plan).unwrap();
        FAILS_AT.set(None);
        for (step, done) in plan.steps.iter().zip(&applied.done) {
            let expected = if step.path.as_bytes() == path { Done::Refused } else { Done::Made };
            assert_eq!(*done, expected, "{}", step.path.display());
        }
        assert_eq!(ground.tree().0.get(path), case.here.0.get(path));
        ground.applies.undo(&objects, applied.id.unwrap(), &ground.root()).unwrap();
        assert_eq!(ground.tree(), case.here);
    }
    LIMITED.set(None);
}
