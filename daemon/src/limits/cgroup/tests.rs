//! Groups of this machine, where it lets us make some.

use std::process::{Child, Command, Stdio};

use super::*;

/// Groups of a folder of their own, where this machine lets us make some.
fn limits(folder: &Path) -> Option<CgroupLimits> {
    match CgroupLimits::choose(folder) {
        Ok(limits) => Some(limits),
        Err(why) => {
            eprintln!("not tested: {why}");
            None
        }
    }
}

/// A shell that enters a group and then does what it is told.
fn start(group: &dyn Group, script: &str) -> Child {
    let enter =
        "while [ \"$1\" != -- ]; do echo 0 > \"$1\" || exit 126; shift; done; shift; eval \"$1\"";
    Command::new("sh")
        .args(["-c", enter, "sh"])
        .args(group.entrances())
        .args(["--", script])
        .stdin(Stdio::null())
        .spawn()
        .unwrap()
}

fn eventually(what: impl Fn() -> bool) {
    for _ in 0..6000 {
        if what() {
            return;
        }
        std::thread::sleep(ROUND);
    }
    panic!("it never came");
}

fn folders(limits: &CgroupLimits) -> Vec<PathBuf> {
    limits.places.iter().map(|place| place.base.clone()).collect()
}

#[test]
fn what_is_in_a_group_ends_with_it_whatever_it_did_to_hide() {
    let folder = tempfile::tempdir().unwrap();
    let Some(limits) = limits(folder.path()) else { return };
    let group = limits.open("run", &Allowance::default()).unwrap();
    // A grandchild in a session of its own, with nothing in its environment.
    let mut child = start(&*group, "env -i setsid sh -c 'sleep 317 & sleep 318' & wait");
    eventually(|| group.processes().len() == 4);
    assert!(group.kill());
    child.wait().unwrap();
    assert!(group.processes().is_empty());
    group.close().unwrap();
    for base in folders(&limits) {
        assert_eq!(fs::list_dir(&base).unwrap().iter().filter(|name| *name == "run").count(), 0);
    }
    // To close it once more does no harm.
    group.close().unwrap();
    limits.shut_down();
    assert!(folders(&limits).iter().all(|base| !base.exists()));
    assert!(fs::list_dir(folder.path()).unwrap().is_empty());
}

#[test]
fn what_a_killed_daemon_left_is_taken_away_by_the_next_one() {
    let folder = tempfile::tempdir().unwrap();
    let Some(first) = limits(folder.path()) else { return };
    let group = first.open("run", &Allowance::default()).unwrap();
    let mut child = start(&*group, "exec env -i sleep 319");
    eventually(|| group.processes().contains(&child.id().cast_signed()));
    let second = limits(folder.path()).unwrap();
    assert!(!child.wait().unwrap().success());
    assert!(group.processes().is_empty());
    second.shut_down();
    assert!(folders(&first).iter().all(|base| !base.exists()));
    // Folders that are not of this daemon, or no groups, are left alone, whatever the record says.
    let other = folder.path().join("other");
    let named = folder.path().join(first.record.key());
    for path in [&other, &named] {
        fs::create_dir_all(path).unwrap();
    }
    let record = format!("{{\"groups\":[{other:?},{named:?}]}}");
    fs::write_atomic(&folder.path().join("control-groups.json"), record.as_bytes(), 0o600).unwrap();
    limits(folder.path()).unwrap().shut_down();
    assert!(other.is_dir() && named.is_dir());
}

#[test]
fn limits_of_memory_and_processes_are_kept_and_counted() {
    let folder = tempfile::tempdir().unwrap();
    let Some(limits) = limits(folder.path()) else { return };
    let allowance = Allowance {
        memory: Some(32 << 20),
        processes: Some(20),
        milli_cpus: Some(500),
        disk: None,
    };
    let force = limits.in_force();
    let group = limits.open("run", &allowance).unwrap();
    if force.processes {
        let forks = "i=0; while [ $i -lt 40 ]; do sleep 320 & i=$((i + 1)); done";
        let mut child = start(&*group, forks);
        child.wait().unwrap();
        assert!(group.met().refused_processes > 0);
        assert!(group.processes().len() <= 20);
        assert!(group.kill());
    }
    group.close().unwrap();
    let group = limits.open("run", &allowance).unwrap();
    assert_eq!(group.met(), Met::default());
    if force.memory {
        let mut child = start(&*group, "x=$(head -c 200000000 /dev/zero | tr '\\0' x); echo ${#x}");
        child.wait().unwrap();
        assert!(group.met().memory_kills > 0);
    }
    group.close().unwrap();
    limits.shut_down();
}

#[test]
fn each_version_is_told_in_its_own_words() {
    let folder = tempfile::tempdir().unwrap();
    let top = folder.path().join("run");
    fs::create_dir_all(&top).unwrap();
    let all = ["memory", "pids", "cpu"].map(str::to_owned).to_vec();
    let allowance = Allowance {
        memory: Some(1 << 30),
        processes: Some(99),
        milli_cpus: Some(1500),
        disk: None,
    };
    let told = |unified: bool, files: &[&str]| -> Vec<String> {
        for file in files {
            fs::write_atomic(&top.join(file), b"", 0o644).unwrap();
        }
        let place = Place::for_test(unified, all.clone(), folder.path().to_owned());
        set_limits(&place, &top, &allowance).unwrap();
        files.iter().map(|file| read(&top.join(file)).unwrap()).collect()
    };
    let files = ["memory.max", "memory.oom.group", "memory.swap.max", "pids.max", "cpu.max"];
    assert_eq!(told(true, &files), ["1073741824", "1", "0", "99", "150000 100000"]);
    let files = ["memory.limit_in_bytes", "pids.max", "cpu.cfs_period_us", "cpu.cfs_quota_us"];
    assert_eq!(told(false, &files), ["1073741824", "99", "100000", "150000"]);
    // A file that has to be there and is not.
    fs::remove_file(&top.join("pids.max")).unwrap();
    let place = Place::for_test(true, all, folder.path().to_owned());
    assert!(set_limits(&place, &top, &allowance).is_err());
}
