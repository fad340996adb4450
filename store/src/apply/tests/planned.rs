//! Plans of random trees: they end, lose nothing, and are what each side's changes ask for.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::apply::testing::{Node, is_nightly};
use crate::snapshot::load_blob;

fn form_of(objects: &MemoryObjects, node: &Node) -> Form {
    let put = |bytes: &[u8]| crate::chunk::store_bytes(bytes, objects).unwrap();
    match node {
        Node::File(mode, content) => Form::File { mode: *mode, blob: put(content) },
        Node::Link(target) => Form::Link { target: put(target) },
        Node::Directory(mode) => Form::Directory { mode: *mode },
    }
}

fn node_of(objects: &MemoryObjects, form: Form) -> Node {
    let get = |blob| load_blob(objects, blob, 1 << 20).unwrap();
    match form {
        Form::File { mode, blob } => Node::File(mode, get(blob)),
        Form::Link { target } => Node::Link(get(target)),
        Form::Directory { mode } => Node::Directory(mode),
    }
}

/// What a plan makes of a tree; each step must find what it expects.
pub(super) fn carried_out(plan: &Plan, here: &Model, objects: &MemoryObjects) -> Model {
    let mut model = here.clone();
    for step in &plan.steps {
        let path = step.path.as_bytes().to_vec();
        let found = model.0.get(&path).map(|node| form_of(objects, node));
        assert_eq!(found, step.from, "{:?}", step.path);
        assert_ne!(step.from, step.to, "{:?}", step.path);
    }
    for step in &plan.steps {
        let path = step.path.as_bytes().to_vec();
        match step.to {
            Some(form) => drop(model.0.insert(path, node_of(objects, form))),
            None => drop(model.0.remove(&path)),
        }
    }
    for path in model.0.keys() {
        if let Some(at) = path.iter().rposition(|&byte| byte == b'/') {
            let above = model.0.get(&path[..at]);
            assert!(above.is_some_and(Node::is_directory), "{}", String::from_utf8_lossy(path));
        }
    }
    model
}

fn contents(model: &Model) -> BTreeSet<&[u8]> {
    let file = |node| match node {
        &Node::File(_, ref content) | &Node::Link(ref content) => Some(content.as_slice()),
        Node::Directory(_) => None,
    };
    model.0.values().filter_map(file).collect()
}

/// Checks a plan against what must be true of every one; says whether there was anything to do.
fn check(case: &Case, objects: &MemoryObjects) -> bool {
    let plan = case.plan(objects);
    let Case { base, here, there } = case;
    let result = carried_out(&plan, here, objects);
    if here == base {
        assert_eq!(result, *there, "nothing was done here");
        assert!(
            plan.actions
                .iter()
                .all(|action| { matches!(action.outcome, Outcome::Taken | Outcome::Removed) })
        );
    }
    if there == base || here == there {
        assert_eq!(plan.steps, [], "nothing was done there");
        assert_eq!(plan.actions, []);
    }
    let told: BTreeMap<&[u8], &Action> =
        plan.actions.iter().map(|action| (action.path.as_bytes(), action)).collect();
    let moved: BTreeSet<&[u8]> = plan
        .actions
        .iter()
        .filter_map(|action| action.moved_from.as_ref().map(RelPath::as_bytes))
        .collect();
    let is_told = |path: &[u8]| {
        if moved.contains(path) {
            return true;
        }
        let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
        ends.chain([path.len()]).any(|end| {
            told.get(&path[..end]).is_some_and(|action| {
                matches!(action.outcome, Outcome::Merged | Outcome::Kept(_) | Outcome::Conflict(_))
            })
        })
    };
    let left = contents(&result);
    for (mine, is_ours) in [(here, true), (there, false)] {
        for (path, node) in &mine.0 {
            let (Node::File(_, content) | Node::Link(content)) = node else { continue };
            // What neither side made is anywhere, or nowhere.
            let is_same = contents(base).contains(content.as_slice());
            // What somebody made is there, or is in a merge, or people are told of it.
            let is_there = left.contains(content.as_slice()) || is_told(path);
            assert!(
                is_same || is_there,
                "{} was lost ({})",
                String::from_utf8_lossy(path),
                if is_ours { "ours" } else { "theirs" }
            );
        }
    }
    // Where one side alone did something, that is what there is.
    for (path, node) in &result.0 {
        if node.is_directory() {
            continue;
        }
        let [ours, theirs] = [here, there].map(|model| model.0.get(path));
        if ours == theirs && ours.is_some() {
            assert_eq!(Some(node), ours);
        }
    }
    // Again there is nothing more to do; unless an edit followed a file, and looks like none by now, or what
    // was a conflict looks like a move by now.
    let is_conflict = |action: &Action| matches!(action.outcome, Outcome::Conflict(_));
    if moved.is_empty() && !plan.actions.iter().any(is_conflict) {
        let again = Case { base: base.clone(), here: result.clone(), there: there.clone() };
        let twice = carried_out(&again.plan(objects), &result, objects);
        assert_eq!(twice, result, "the second time");
    }
    !plan.steps.is_empty()
}

#[test]
fn random_plans_end_and_lose_nothing() {
    let rounds = if is_nightly() { 1_000_000 } else { 10_000 };
    let mut rng = Rng::new(1);
    let mut busy = 0;
    for round in 0..rounds {
        let case = Case::random(&mut rng);
        let objects = MemoryObjects::default();
        let checked =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| check(&case, &objects)));
        match checked {
            Ok(is_busy) => busy += usize::from(is_busy),
            Err(cause) => panic!(
                "round {round} {cause:?}\nbase {:#?}\nhere {:#?}\nthere {:#?}\nplan {:#?}",
                case.base,
                case.here,
                case.there,
                case.plan(&objects)
            ),
        }
    }
    assert!(busy > rounds / 4, "{busy} of {rounds} had anything to do");
}
