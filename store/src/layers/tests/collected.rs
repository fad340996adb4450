//! What of layers goes, and what stays.

use std::sync::atomic::AtomicBool;

use super::*;
use crate::fs::list_dir;

fn sweep(layers: &Layers) {
    layers.sweep(&AtomicBool::new(false)).unwrap();
}

#[test]
fn a_stack_that_is_high_is_built_over_its_base_and_what_nobody_uses_goes() {
    let Some(ground) = Ground::new() else { return };
    let plain = ground.folder.path().join("plain");
    system::create_dir_all(&plain).unwrap();
    for number in 0..100 {
        system::write(plain.join(format!("file-{number}")), "before").unwrap();
    }
    let mut heights = Vec::new();
    for number in 0..20 {
        system::write(plain.join(format!("file-{number}")), "after").unwrap();
        let snapshot = ground.snapshot(&plain);
        let stack = ground.stack(&snapshot, &format!("user-{number}"));
        heights.push(stack.layers.len());
        assert_eq!(stack, ground.stack(&snapshot, "another"));
        let noted = ground.layers.noted("another", &snapshot, "b").unwrap();
        assert_eq!(noted, Some(stack));
    }
    let snapshot = ground.snapshot(&plain);
    let expected: Vec<usize> = (1..=16).chain([2, 3, 4, 5]).collect();
    assert_eq!(heights, expected);
    let collect = |users: &[&str], boot: &str| {
        ground.layers.collect(|user| users.contains(&user), boot).unwrap()
    };
    // An old snapshot is not what the note stands for.
    let other = Snapshot { root_mode: 0o700, ..snapshot.clone() };
    assert_eq!(ground.layers.noted("user-19", &other, "b").unwrap(), None);
    // The newest stack is 17 to 20 over the base.
    assert_eq!(collect(&["user-3", "user-19"], "b"), (5..=16).collect::<Vec<_>>());
    assert_eq!(collect(&["user-19"], "b"), [2, 3, 4]);
    // After another start of the machine none of them can be relied on.
    assert_eq!(ground.layers.noted("user-19", &snapshot, "c").unwrap(), None);
    assert_eq!(ground.try_stack(&snapshot, "user-19", "c").unwrap().layers, [21]);
    assert_eq!(collect(&["user-19"], "c"), [1, 17, 18, 19, 20]);
    let folder = ground.folder.path().join("layers");
    assert!(list_dir(&folder).unwrap().len() > 2);
    sweep(&ground.layers);
    assert_eq!(list_dir(&folder).unwrap(), ["21", "users"]);
    assert_eq!(list_dir(&folder.join("users")).unwrap(), ["user-19"]);
}

#[test]
fn layers_of_an_earlier_start_of_the_machine_go_though_somebody_has_them() {
    let Some(ground) = Ground::new() else { return };
    let plain = ground.folder.path().join("plain");
    system::create_dir_all(&plain).unwrap();
    let snapshot = ground.snapshot(&plain);
    assert_eq!(ground.stack(&snapshot, "user").layers, [1]);
    assert_eq!(ground.layers.collect(|_| true, "c").unwrap(), [1]);
    assert_eq!(ground.try_stack(&snapshot, "user", "c").unwrap().layers, [1]);
    assert_eq!(ground.layers.collect(|_| true, "c").unwrap(), [0; 0]);
}

#[test]
fn a_record_that_is_damaged_is_of_no_layer_and_in_nobodys_way() {
    let Some(ground) = Ground::new() else { return };
    let plain = ground.folder.path().join("plain");
    system::create_dir_all(&plain).unwrap();
    let snapshot = ground.snapshot(&plain);
    let before = ground.mount(&snapshot, "before");
    let record = ground.folder.path().join("layers/1/record");
    system::write(&record, "harmed").unwrap();
    assert_eq!(ground.layers.noted("before", &snapshot, "b").unwrap(), None);
    let again = ground.mount(&snapshot, "again");
    assert_eq!(again.stack.layers, [2]);
    // It may be shown yet.
    assert_eq!(ground.layers.collect(|_| true, "b").unwrap(), [0; 0]);
    drop(before);
    assert_eq!(ground.layers.collect(|user| user == "again", "b").unwrap(), [1]);
}

#[test]
fn who_comes_while_others_are_looked_for_keeps_its_layers() {
    let Some(ground) = Ground::new() else { return };
    let plain = ground.folder.path().join("plain");
    // Too unlike for one to be a layer over the other.
    let snapshots = ["one", "two"].map(|name| {
        system::create_dir_all(plain.join(name)).unwrap();
        for number in 0..1100 {
            system::write(plain.join(name).join(number.to_string()), "").unwrap();
        }
        let snapshot = ground.snapshot(&plain);
        ground.stack(&snapshot, name);
        system::remove_dir_all(plain.join(name)).unwrap();
        snapshot
    });
    let (begun, is_begun) = std::sync::mpsc::channel();
    let stack = std::thread::scope(|scope| {
        let (layers, objects, repository) = (&ground.layers, &ground.objects, ground.repository());
        let (snapshot, marks) = (&snapshots[0], ground.marks);
        let late = scope.spawn(move || {
            is_begun.recv().unwrap();
            try_stack(layers, objects, (&repository, marks), snapshot, "late", "b").unwrap()
        });
        let begun = std::cell::Cell::new(Some(begun));
        let is_there = |_: &str| {
            // While it is asked who is there, somebody comes.
            begun.take().into_iter().for_each(|begun| begun.send(()).unwrap());
            std::thread::sleep(std::time::Duration::from_millis(20));
            false
        };
        ground.layers.collect(is_there, "b").unwrap();
        late.join().unwrap()
    });
    let noted = ground.layers.noted("late", &snapshots[0], "b").unwrap();
    assert_eq!(noted, Some(stack.clone()));
    assert!(stack.trees.iter().all(|tree| tree.exists()), "{stack:?}");
    assert_eq!(ground.layers.collect(|user| user == "late", "b").unwrap(), [2]);
    assert!(stack.trees.iter().all(|tree| tree.exists()), "{stack:?}");
}

#[test]
fn a_layer_that_was_not_finished_goes() {
    let Some(ground) = Ground::new() else { return };
    let folder = ground.folder.path().join("layers");
    for name in ["new-7/tree/below", "new-7/work", "new-7/merged", "gone-3/tree", "5/tree"] {
        system::create_dir_all(folder.join(name)).unwrap();
    }
    // Shown when it was cut off.
    let lower = [folder.join("5/tree")];
    let (upper, work) = (folder.join("new-7/tree"), folder.join("new-7/work"));
    let at = folder.join("new-7/merged");
    let overlay =
        Overlay { lower: &lower, upper: &upper, work: &work, at: &at, marks: ground.marks };
    overlay::mount(&overlay).unwrap();
    let layers = Layers::open(&folder).unwrap();
    sweep(&layers);
    assert_eq!(list_dir(&folder).unwrap(), ["5"]);
    // One without a record is none.
    assert_eq!(layers.collect(|_| true, "b").unwrap(), [5]);
    sweep(&layers);
    assert_eq!(list_dir(&folder).unwrap(), [""; 0]);

    // Cut off by a panic, and tried again by the same daemon.
    let plain = ground.folder.path().join("plain");
    system::create_dir_all(&plain).unwrap();
    for name in ["new-1/lower", "new-1/tree", "new-1/work", "new-1/merged"] {
        system::create_dir_all(folder.join(name)).unwrap();
    }
    let lower = [folder.join("new-1/lower")];
    let (upper, work) = (folder.join("new-1/tree"), folder.join("new-1/work"));
    let at = folder.join("new-1/merged");
    let overlay =
        Overlay { lower: &lower, upper: &upper, work: &work, at: &at, marks: ground.marks };
    overlay::mount(&overlay).unwrap();
    assert_eq!(ground.stack(&ground.snapshot(&plain), "user").layers, [1]);
    sweep(&ground.layers);
    assert_eq!(list_dir(&folder).unwrap(), ["1", "users"]);
}

#[test]
fn what_is_in_the_way_of_notes_is_in_nobodys_way() {
    let Some(ground) = Ground::new() else { return };
    let plain = ground.folder.path().join("plain");
    system::create_dir_all(&plain).unwrap();
    let snapshot = ground.snapshot(&plain);
    ground.stack(&snapshot, "user");
    let folder = ground.folder.path().join("layers");
    system::create_dir_all(folder.join("users/stray/below")).unwrap();
    system::write(folder.join("users/old"), "1").unwrap();
    assert_eq!(ground.layers.collect(|user| user == "user", "b").unwrap(), [0; 0]);
    assert_eq!(list_dir(&folder.join("users")).unwrap(), ["stray", "user"]);
    // Somebody made room.
    system::remove_dir_all(&folder).unwrap();
    assert_eq!(ground.layers.noted("user", &snapshot, "b").unwrap(), None);
    assert_eq!(ground.stack(&snapshot, "user").layers, [1]);
}

#[test]
fn over_what_the_store_has_not_any_more_a_layer_is_made_whole() {
    let Some(ground) = Ground::new() else { return };
    let plain = ground.folder.path().join("plain");
    system::create_dir_all(plain.join("folder")).unwrap();
    for number in 0..50 {
        system::write(plain.join(format!("folder/{number}")), "before").unwrap();
    }
    let before = ground.snapshot(&plain);
    assert_eq!(ground.stack(&before, "before").layers, [1]);
    system::write(plain.join("folder/1"), "after").unwrap();
    let after = ground.snapshot(&plain);
    assert!(ground.objects.0.lock().unwrap().remove(&before.root.into()).is_some());
    assert_eq!(ground.stack(&after, "after").layers, [2], "it stands on nothing");
    // What is missing of the snapshot itself is still an error of the store.
    system::write(plain.join("folder/1"), "later").unwrap();
    let later = ground.snapshot(&plain);
    assert!(ground.objects.0.lock().unwrap().remove(&later.root.into()).is_some());
    assert!(ground.try_stack(&later, "later", "b").is_err());
}
