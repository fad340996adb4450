//! What was installed goes without a trace, and nothing goes unsaid that is nowhere else.

#![expect(clippy::disallowed_methods, reason = "a test has the file system itself")]

use std::path::Path;

use crate::support::cloud::{Cloud, arg, list, refused, text};
use crate::support::home::TestHome;

/// Every path below a folder, with the bytes of files.
fn everything(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut all = Vec::new();
    let mut open = vec![folder.to_owned()];
    while let Some(at) = open.pop() {
        for entry in std::fs::read_dir(&at).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(folder).unwrap().to_string_lossy().into_owned();
            if path.is_dir() {
                all.push((name, Vec::new()));
                open.push(path);
            } else {
                all.push((name, std::fs::read(&path).unwrap_or_default()));
            }
        }
    }
    all.sort();
    all
}

#[test]
fn what_was_set_up_goes_and_what_is_the_users_stays_to_the_byte() {
    let cloud = Cloud::new();
    let home = cloud.device();
    let settings = home.user_home().join(".claude/settings.json");
    std::fs::create_dir_all(settings.parent().unwrap()).unwrap();
    std::fs::write(&settings, "{\n  // mine\n  \"model\": \"x\"\n}\n").unwrap();
    let tree = home.folder("work");
    std::fs::write(tree.join("file"), "one\n").unwrap();
    let completions = home.user_home().join(".local/share/bash-completion/completions/baton");
    std::fs::create_dir_all(completions.parent().unwrap()).unwrap();
    let own = home.user_home().join(".zfunc/_baton");
    std::fs::create_dir_all(own.parent().unwrap()).unwrap();
    std::fs::write(&own, "# by hand\n").unwrap();
    let unit = home.user_home().join(".config/systemd/user/baton.service");
    std::fs::create_dir_all(unit.parent().unwrap()).unwrap();
    let before = everything(&home.user_home());

    std::fs::write(&completions, home.baton(&["completions", "bash"]).stdout).unwrap();
    home.json(&["agent", "setup", "claude"]);
    home.json(&["service", "install"]);
    assert!(unit.exists());
    home.json(&["push", arg(&tree)]);

    let gone = home.json(&["uninstall"]);
    let removed: Vec<_> =
        list(&gone, "removed").iter().map(|path| path.as_str().unwrap().to_owned()).collect();
    for path in [&settings, &unit, &completions] {
        assert!(removed.iter().any(|removed| removed == arg(path)), "{path:?}: {removed:?}");
    }
    assert_eq!(text(&list(&gone, "left")[0], "path"), arg(&own));
    assert_eq!(everything(&home.user_home()), before);
    assert!(home.processes().is_empty(), "the daemon is gone");
    // The data is still there, and a second time there is nothing to do.
    assert!(home.baton_home().join("catalog.db").exists());
    assert_eq!(list(&home.json(&["uninstall"]), "removed").len(), 0);
    assert_eq!(text(&home.json(&["push", arg(&tree)]), "state"), "acked");

    let purged = home.json(&["uninstall", "--purge"]);
    assert!(!list(&purged, "removed").is_empty());
    assert!(!home.baton_home().exists(), "{purged}");
    assert_eq!(everything(&home.user_home()), before);
    assert!(home.processes().is_empty());
}

#[test]
fn what_is_nowhere_else_is_named_first_and_nothing_is_changed() {
    let mut cloud = Cloud::new();
    let home = cloud.device();
    let tree = home.folder("work");
    std::fs::write(tree.join("file"), "one\n").unwrap();
    home.json(&["push", arg(&tree)]);
    home.json(&["agent", "setup", "claude"]);
    let address = cloud.stop();
    std::fs::write(tree.join("file"), "two\n").unwrap();
    home.json_exit(&["push", arg(&tree)], 3);
    let before = everything(&home.user_home());
    for args in [&["uninstall"][..], &["uninstall", "--purge"]] {
        let told = home.json_exit(args, 4);
        assert_eq!(list(&told, "removed").len(), 0);
        let kinds: Vec<_> =
            list(&told, "unsent").iter().map(|one| text(one, "kind").to_owned()).collect();
        assert_eq!(kinds, ["queued", "workspace"], "{told}");
        assert_eq!(everything(&home.user_home()), before);
    }
    let name = text(&list(&home.json(&["remote", "list"]), "remotes")[0], "name").to_owned();
    let said = refused(&home, &["remote", "remove", &name], 4, "unsent");
    assert!(said.contains("push"), "{said}");
    assert_eq!(list(&home.json(&["queue"]), "queue").len(), 1, "it still waits");

    // It arrives, and then there is nothing to say.
    cloud.start(address);
    crate::support::home::eventually("an empty queue", || {
        list(&home.json(&["queue"]), "queue").is_empty()
    });
    home.json(&["remote", "remove", &name]);
    // Now the snapshots are only here.
    let told = home.json_exit(&["uninstall", "--purge"], 4);
    assert_eq!(text(&list(&told, "unsent")[0], "kind"), "workspace");
    home.json(&["uninstall", "--purge", "--force"]);
    assert!(!home.baton_home().exists());
    assert_eq!(std::fs::read_to_string(tree.join("file")).unwrap(), "two\n");
}

#[test]
fn a_node_names_whose_snapshots_it_keeps() {
    let cloud = Cloud::new();
    let home = cloud.device_with(&["--user", "ann"]);
    let tree = home.folder("work");
    std::fs::write(tree.join("file"), "one\n").unwrap();
    home.json(&["push", arg(&tree)]);
    let told = cloud.home.json_exit(&["uninstall", "--purge"], 4);
    let other = list(&told, "unsent").iter().find(|one| text(one, "kind") == "device");
    assert_eq!(text(other.unwrap_or_else(|| panic!("{told}")), "user"), "ann");
    assert_eq!(text(&home.json(&["push", arg(&tree)]), "state"), "acked");
}

#[test]
fn where_nothing_was_ever_used_nothing_is_started() {
    let home = TestHome::new();
    assert_eq!(list(&home.json(&["uninstall", "--purge"]), "removed").len(), 0);
    assert!(!home.baton_home().exists() && home.processes().is_empty());
}
