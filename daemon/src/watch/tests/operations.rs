//! One change at a time: each is done, drained, and compared.

#![expect(clippy::disallowed_methods, reason = "a test, which works on a tree of its own")]

use std::ffi::OsStr;
use std::fs::{
    self, File, OpenOptions, create_dir, create_dir_all, hard_link, remove_dir_all, remove_file,
    rename,
};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

use baton_store::scan::dirty::Depth;

use super::super::WatchOptions;
use super::keeper::Keeper;
use super::{ALL, Backend};

pub(super) fn write(path: impl AsRef<Path>, bytes: &[u8]) {
    fs::write(path, bytes).unwrap();
}

pub(super) fn append(path: impl AsRef<Path>, bytes: &[u8]) {
    OpenOptions::new().append(true).open(path).unwrap().write_all(bytes).unwrap();
}

/// Two files on the top, and `a/b/c` with one in each.
pub(super) fn fill(root: &Path) {
    create_dir_all(root.join("a/b/c")).unwrap();
    create_dir(root.join("d")).unwrap();
    create_dir_all(root.join("ignored/below")).unwrap();
    for file in ["one", "two", "a/one", "a/b/one", "a/b/c/one", "d/one", "ignored/below/one"] {
        write(root.join(file), file.as_bytes());
    }
    symlink("one", root.join("link")).unwrap();
}

fn on_all(test: impl Fn(&mut Keeper)) {
    for backend in ALL {
        test(&mut Keeper::new(*backend, &WatchOptions::default(), fill));
    }
}

fn is_told(keeper: &Keeper) -> bool {
    keeper.backend != Backend::Sweep
}

#[test]
fn files_that_change() {
    on_all(|keeper| {
        keeper.check("create", |root| write(root.join("a/new"), b"x"));
        let dirty = keeper.check("append", |root| append(root.join("a/one"), b"more"));
        assert!(!is_told(keeper) || dirty.covers(b"a/one", Depth::Read));
        assert!(!is_told(keeper) || !dirty.covers(b"a/b/one", Depth::Look));
        keeper.check("truncate", |root| {
            OpenOptions::new().write(true).open(root.join("one")).unwrap().set_len(1).unwrap();
        });
        keeper.check("same size", |root| write(root.join("two"), b"owt"));
        keeper.check("chmod", |root| {
            fs::set_permissions(root.join("one"), fs::Permissions::from_mode(0o751)).unwrap();
        });
        keeper.check("chmod of a directory", |root| {
            fs::set_permissions(root.join("a/b"), fs::Permissions::from_mode(0o751)).unwrap();
        });
        keeper.check("chmod of the root", |root| {
            fs::set_permissions(root, fs::Permissions::from_mode(0o751)).unwrap();
        });
        keeper.check("times", |root| {
            let time = std::time::UNIX_EPOCH;
            File::open(root.join("two")).unwrap().set_modified(time).unwrap();
        });
        keeper.check("remove", |root| remove_file(root.join("a/one")).unwrap());
        keeper.check("again", |root| write(root.join("a/one"), b"new"));
    });
}

#[test]
fn nothing_is_dirty_while_nothing_changes() {
    on_all(|keeper| {
        keeper.check("look", |root| {
            for path in ["one", "a/b/one", "link"] {
                let mut text = Vec::new();
                File::open(root.join(path)).unwrap().read_to_end(&mut text).unwrap();
                assert!(root.join("a").read_dir().unwrap().count() > 0);
            }
        });
        let dirty = keeper.seal();
        assert!(!is_told(keeper) || dirty.is_empty(), "{dirty:?}");
        // What does not belong to the tree is not told, though its name is.
        let dirty = keeper.check("ignored", |root| {
            write(root.join("ignored/below/new"), b"x");
            create_dir_all(root.join("ignored/more/and/more")).unwrap();
        });
        assert!(!is_told(keeper) || !dirty.covers(b"ignored/below/new", Depth::Look));
    });
}

#[test]
fn files_that_move() {
    on_all(|keeper| {
        let outside = keeper.outside();
        keeper.check("within", |root| rename(root.join("one"), root.join("uno")).unwrap());
        keeper.check("elsewhere", |root| rename(root.join("uno"), root.join("a/uno")).unwrap());
        keeper.check("over", |root| rename(root.join("a/uno"), root.join("a/b/one")).unwrap());
        keeper.check("out", |root| rename(root.join("two"), outside.join("two")).unwrap());
        append(outside.join("two"), b"more");
        keeper.check("in", |root| rename(outside.join("two"), root.join("a/two")).unwrap());
        keeper.check("to an ignored place", |root| {
            rename(root.join("a/two"), root.join("ignored/two")).unwrap();
        });
        keeper.check("and back", |root| {
            append(root.join("ignored/two"), b"more");
            rename(root.join("ignored/two"), root.join("a/two")).unwrap();
        });
        keeper.check("atomic save", |root| {
            write(root.join("a/.two.swp"), b"saved");
            rename(root.join("a/two"), root.join("a/two~")).unwrap();
            rename(root.join("a/.two.swp"), root.join("a/two")).unwrap();
            remove_file(root.join("a/two~")).unwrap();
        });
    });
}

#[test]
fn links() {
    on_all(|keeper| {
        keeper.check("swap a symlink", |root| {
            symlink("two", root.join("next")).unwrap();
            rename(root.join("next"), root.join("link")).unwrap();
        });
        keeper.check("a symlink for a file", |root| {
            remove_file(root.join("one")).unwrap();
            symlink("a/one", root.join("one")).unwrap();
        });
        keeper.check("a symlink to a directory", |root| {
            symlink("a", root.join("alias")).unwrap();
            write(root.join("alias/through"), b"x");
        });
        keeper.check("a symlink for a directory", |root| {
            remove_dir_all(root.join("d")).unwrap();
            symlink("a/b", root.join("d")).unwrap();
            write(root.join("d/through"), b"x");
        });
        keeper.check("a hard link", |root| {
            hard_link(root.join("two"), root.join("a/b/hard")).unwrap();
        });
        keeper.check("write by the other name", |root| append(root.join("a/b/hard"), b"more"));
        keeper.check("write by the first name", |root| append(root.join("two"), b"more"));
    });
}

#[test]
fn directories_that_come_and_go() {
    on_all(|keeper| {
        keeper.check("mkdir", |root| create_dir(root.join("new")).unwrap());
        keeper.check("in the new one", |root| write(root.join("new/x"), b"x"));
        keeper.check("a chain", |root| {
            create_dir_all(root.join("p/q/r/s/t")).unwrap();
            write(root.join("p/q/r/s/t/x"), b"x");
            write(root.join("p/q/x"), b"x");
        });
        keeper.check("in the chain", |root| append(root.join("p/q/r/s/t/x"), b"more"));
        keeper.check("rm -rf", |root| remove_dir_all(root.join("a")).unwrap());
        keeper.check("the same name", |root| {
            create_dir_all(root.join("a/b")).unwrap();
            write(root.join("a/b/one"), b"again");
        });
        keeper.check("in the same name", |root| append(root.join("a/b/one"), b"more"));
        for i in 0..5 {
            keeper.check("gone and there again", |root| {
                remove_dir_all(root.join("a")).unwrap();
                create_dir_all(root.join("a/b")).unwrap();
                write(root.join("a/b/one"), format!("{i}").as_bytes());
            });
            keeper.check("in it", |root| append(root.join("a/b/one"), b"more"));
        }
        keeper.check("a file for a directory", |root| {
            remove_dir_all(root.join("a")).unwrap();
            write(root.join("a"), b"file");
        });
        keeper.check("a directory for a file", |root| {
            remove_file(root.join("a")).unwrap();
            create_dir_all(root.join("a/b")).unwrap();
            write(root.join("a/b/one"), b"x");
        });
        keeper.check("in the directory", |root| append(root.join("a/b/one"), b"more"));
        keeper.check("made ready elsewhere", |root| {
            create_dir_all(root.join("ignored/ready/deep")).unwrap();
            write(root.join("ignored/ready/deep/one"), b"x");
            rename(root.join("ignored/ready"), root.join("ready")).unwrap();
        });
        keeper.check("in what was moved in", |root| append(root.join("ready/deep/one"), b"more"));
        keeper.check("to where it is ignored", |root| {
            rename(root.join("ready"), root.join("ignored/ready")).unwrap();
        });
        let dirty = keeper.check("in the ignored one", |root| {
            append(root.join("ignored/ready/deep/one"), b"more");
        });
        assert!(!is_told(keeper) || dirty.is_empty(), "{dirty:?}");
    });
}

#[test]
fn directories_that_move_with_what_is_in_them() {
    on_all(|keeper| {
        let outside = keeper.outside();
        let dirty = keeper.check("rename", |root| rename(root.join("a"), root.join("z")).unwrap());
        #[cfg(target_os = "linux")]
        if keeper.backend == Backend::Inotify {
            assert_eq!(dirty.moves(), [(b"a".to_vec(), b"z".to_vec())]);
        }
        let dirty = keeper.check("write in it", |root| append(root.join("z/b/c/one"), b"more"));
        assert!(!is_told(keeper) || dirty.covers(b"z/b/c/one", Depth::Read));
        assert!(!is_told(keeper) || !dirty.covers(b"a/b/c/one", Depth::Look));
        let dirty = keeper.check("before, between and after", |root| {
            append(root.join("z/b/c/one"), b"1");
            rename(root.join("z/b"), root.join("y")).unwrap();
            append(root.join("y/c/one"), b"2");
            append(root.join("y/one"), b"2");
            rename(root.join("y"), root.join("d/x")).unwrap();
            append(root.join("d/x/c/one"), b"3");
            write(root.join("d/x/c/new"), b"3");
        });
        for path in [b"d/x/c/one".as_slice(), b"d/x/one"] {
            assert!(!is_told(keeper) || dirty.covers(path, Depth::Read));
        }
        keeper.check("over an empty one", |root| {
            create_dir(root.join("empty")).unwrap();
            rename(root.join("d/x"), root.join("empty")).unwrap();
        });
        keeper.check("write in it", |root| append(root.join("empty/c/one"), b"more"));
        keeper.check("out", |root| rename(root.join("empty"), outside.join("out")).unwrap());
        append(outside.join("out/c/one"), b"more");
        let dirty = keeper.seal();
        assert!(!is_told(keeper) || dirty.is_empty(), "{dirty:?}");
        keeper.check("in", |root| rename(outside.join("out"), root.join("in")).unwrap());
        keeper.check("write in it", |root| append(root.join("in/c/one"), b"more"));
        keeper.check("out and in", |root| {
            rename(root.join("in"), outside.join("out")).unwrap();
            append(outside.join("out/c/one"), b"more");
            rename(outside.join("out"), root.join("in")).unwrap();
        });
        keeper.check("write in it", |root| append(root.join("in/c/one"), b"more"));
        keeper.check("in a circle", |root| {
            create_dir_all(root.join("one_way/below")).unwrap();
            rename(root.join("in"), root.join("w")).unwrap();
            rename(root.join("d"), root.join("in")).unwrap();
            rename(root.join("w"), root.join("d")).unwrap();
        });
        keeper.check("write in both", |root| {
            append(root.join("d/c/one"), b"more");
            write(root.join("in/new"), b"x");
        });
        keeper.check("inside out", |root| {
            rename(root.join("d/c"), root.join("c")).unwrap();
            rename(root.join("d"), root.join("c/d")).unwrap();
        });
        keeper.check("write in both", |root| {
            append(root.join("c/one"), b"more");
            append(root.join("c/d/one"), b"more");
        });
    });
}

#[cfg(target_os = "linux")]
#[test]
fn directories_that_change_places() {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    on_all(|keeper| {
        let top = keeper.root();
        let exchange = |a: &str, b: &str| {
            renameat_with(CWD, top.join(a), CWD, top.join(b), RenameFlags::EXCHANGE).unwrap();
        };
        let touch = |root: &Path| {
            for path in super::keeper::disk(root).keys() {
                let path = root.join(OsStr::from_bytes(path));
                if path.is_dir() {
                    write(path.join("touched"), b"x");
                }
            }
        };
        keeper.check("two directories", |_| exchange("a/b", "d"));
        keeper.check("write in both", |root| {
            write(root.join("a/b/one"), b"new");
            write(root.join("d/c/one"), b"new");
        });
        keeper.check("a file and a directory", |_| exchange("a/b/one", "d"));
        keeper.check("write in all", touch);
        keeper.check("back", |_| exchange("a/b/one", "d"));
        keeper.check("write in all", |root| write(root.join("d/c/one"), b"newer"));
        // Two with nothing below, whichever of them the keeper comes to first.
        keeper.check("two that are empty", |root| {
            for name in ["x", "y", "z"] {
                create_dir(root.join(name)).unwrap();
            }
        });
        for (first, second) in [("x", "y"), ("z", "y"), ("y", "x")] {
            keeper.check("exchanged", |_| exchange(first, second));
            keeper.check("write in the first", |root| write(root.join(first).join("new"), b"x"));
            keeper.check("write in the second", |root| write(root.join(second).join("new"), b"x"));
        }
        keeper.check("and two again", |_| exchange("a", "d"));
        keeper.check("write in all", |root| {
            write(root.join("a/c/one"), b"newest");
            write(root.join("d/b/one"), b"newest");
            write(root.join("d/one"), b"newest");
        });
    });
}

#[test]
fn names_of_all_kinds() {
    on_all(|keeper| {
        let names: [&[u8]; 8] = [
            b"new\nline",
            b"not \xff utf-8 \xc3",
            b" ",
            b"-rf",
            b"...",
            "\u{202e}txt".as_bytes(),
            &[b'x'; 255],
            b"back\\slash",
        ];
        for name in names {
            let name = OsStr::from_bytes(name);
            keeper.check("a file", |root| write(root.join("a").join(name), b"x"));
            keeper.check("write", |root| append(root.join("a").join(name), b"more"));
            keeper.check("a directory", |root| create_dir(root.join("d").join(name)).unwrap());
            keeper.check("a file in it", |root| write(root.join("d").join(name).join(name), b"x"));
            keeper.check("rename it", |root| {
                rename(root.join("d").join(name), root.join(name)).unwrap();
            });
            keeper.check("write in it", |root| append(root.join(name).join(name), b"more"));
        }
    });
}

#[test]
fn many_names_and_deep_places() {
    on_all(|keeper| {
        keeper.check("many names", |root| {
            for i in 0..3000 {
                write(root.join("d").join(format!("file {i}")), b"x");
            }
        });
        keeper.check("one of many", |root| append(root.join("d/file 1234"), b"more"));
        keeper.check("all but one", |root| {
            for i in 1..3000 {
                remove_file(root.join("d").join(format!("file {i}"))).unwrap();
            }
        });
        let levels = |some: std::ops::Range<u32>| {
            some.map(|i| format!("level-{i}")).collect::<Vec<_>>().join("/")
        };
        let (deep, middle) = (levels(0..100), levels(0..50));
        keeper.check("deep", |root| {
            create_dir_all(root.join("a").join(&deep)).unwrap();
            write(root.join("a").join(&deep).join("bottom"), b"x");
        });
        keeper.check("at the bottom", |root| {
            append(root.join("a").join(&deep).join("bottom"), b"more");
        });
        keeper.check("moved in the middle", |root| {
            rename(root.join("a").join(&middle), root.join("d/half")).unwrap();
        });
        keeper.check("at the bottom", |root| {
            append(root.join("d/half").join(levels(50..100)).join("bottom"), b"more");
        });
    });
}

#[cfg(target_os = "linux")]
#[test]
fn a_queue_that_overflows_loses_nothing() {
    for backend in [Backend::Inotify, Backend::Notify] {
        let mut keeper = Keeper::new(backend, &WatchOptions::default(), fill);
        keeper.check("10,000 names", |root| {
            for i in 0..10_000 {
                write(root.join("d").join(format!("{i}")), b"x");
            }
            // For this the queue has no room any more.
            append(root.join("a/one"), b"more");
        });
        keeper.check("one more", |root| append(root.join("d/one"), b"more"));
        keeper.check("and another", |root| write(root.join("a/b/c/new"), b"x"));
    }
}

#[test]
fn a_store_through_a_mapping_is_read_when_it_is_unmapped() {
    const SCRIPT: &str = "
import mmap, os, sys
f = os.open(sys.argv[1], os.O_RDWR)
m = mmap.mmap(f, 4096)
os.close(f)
def step(): print('done', flush=True); sys.stdin.readline()
m[0:1] = b'1'; m.flush(); step()
m[0:1] = b'2'; m.close(); step()
";
    for backend in ALL.iter().filter(|backend| **backend != Backend::Sweep) {
        let fill = |root: &Path| write(root.join("file"), &[b'0'; 4096]);
        let mut keeper = Keeper::new(*backend, &WatchOptions::default(), fill);
        let mut command = Command::new("python3");
        command.args(["-c", SCRIPT]).arg(keeper.root().join("file"));
        let Ok(mut child) = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn() else {
            println!("!!! skipped: no python3 to map a file with");
            return;
        };
        let mut says = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut stdin = child.stdin.take().unwrap();
        assert_eq!(says.next().unwrap().unwrap(), "done");
        // What is visible by now is nobody's to tell: it is looked at, so that only the second counts.
        keeper.learn_all();
        keeper.seal();
        let dirty = keeper.check("the second store", |_| {
            stdin.write_all(b"\n").unwrap();
            assert_eq!(says.next().unwrap().unwrap(), "done");
        });
        assert!(dirty.covers(b"file", Depth::Read));
        stdin.write_all(b"\n").unwrap();
        assert!(child.wait().unwrap().success());
    }
}

#[test]
fn git_goes_from_branch_to_branch() {
    on_all(|keeper| {
        let git = |root: &Path, arguments: &[&str]| {
            let mut command = Command::new("git");
            command.current_dir(root).args(["-c", "user.name=n", "-c", "user.email=e@x"]);
            command.args(arguments).env("GIT_CONFIG_GLOBAL", "/dev/null").stdin(Stdio::null());
            let output = command.env("GIT_CONFIG_NOSYSTEM", "1").output().unwrap();
            assert!(output.status.success(), "{output:?}");
        };
        keeper.check("a repository", |root| {
            git(root, &["init", "-q", "-b", "main"]);
            git(root, &["add", "-A"]);
            git(root, &["commit", "-qm", "first"]);
        });
        keeper.check("a branch", |root| {
            git(root, &["checkout", "-qb", "other"]);
            git(root, &["mv", "a", "moved"]);
            write(root.join("moved/b/one"), b"changed");
            create_dir_all(root.join("new/er")).unwrap();
            write(root.join("new/er/x"), b"x");
            git(root, &["rm", "-rq", "d"]);
            write(root.join("d"), b"a file");
            git(root, &["add", "-A"]);
            git(root, &["commit", "-qm", "second"]);
        });
        for _ in 0..3 {
            keeper.check("back", |root| git(root, &["checkout", "-q", "main"]));
            keeper.check("there", |root| git(root, &["checkout", "-q", "other"]));
        }
        keeper.check("clean", |root| {
            write(root.join("new/er/y"), b"y");
            git(root, &["stash", "-u"]);
        });
    });
}
