//! The room of a run, from the configuration of a node to what a hostile run leaves.

#![expect(clippy::disallowed_methods, reason = "a test has the file system itself")]

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::cloud::{Cloud, arg, list, omitted, refused, text};
use crate::support::home::{TestHome, eventually};

fn configured(config: &str) -> TestHome {
    let home = TestHome::new();
    std::fs::create_dir_all(home.baton_home()).unwrap();
    std::fs::write(home.baton_home().join("config.toml"), config).unwrap();
    home
}

fn check(home: &TestHome, name: &str) -> Value {
    let output = home.baton(&["doctor", "--json"]);
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    let found = list(&answer, "checks").iter().find(|check| check["name"] == name);
    found.unwrap_or_else(|| panic!("no {name} in {answer}")).clone()
}

fn workspace(home: &TestHome) -> PathBuf {
    let tree = home.folder("work");
    std::fs::write(tree.join("kept"), "kept\n").unwrap();
    tree
}

/// A run of a script to its end.
fn run(home: &TestHome, tree: &Path, script: &str) -> Value {
    let handed = home.json(&["handoff", arg(tree), "--", "sh", "-c", script]);
    let run = text(&handed["runs"][0], "run").to_owned();
    home.baton(&["run", "wait", &run]);
    home.json(&["run", "show", &run])
}

fn said(home: &TestHome, run: &Value) -> String {
    let lines = home.json_lines(&["logs", text(run, "run")], 0);
    let of_program = lines.iter().filter(|line| line["stream"] != "node");
    of_program.map(|line| text(line, "text")).collect()
}

/// Groups of the runs of a node that are there.
fn groups(home: &TestHome) -> Vec<PathBuf> {
    let record = home.baton_home().join("runs/control-groups.json");
    let Ok(record) = std::fs::read(record) else { return Vec::new() };
    let record: Value = serde_json::from_slice(&record).unwrap();
    let bases = list(&record, "groups").iter().map(|base| PathBuf::from(base.as_str().unwrap()));
    let runs = bases.flat_map(|base| std::fs::read_dir(base).unwrap());
    runs.map(|run| run.unwrap().path()).filter(|path| path.is_dir()).collect()
}

fn lives(mark: &str) -> bool {
    let line = format!("sleep\0{mark}\0");
    let mut all = std::fs::read_dir("/proc").unwrap();
    all.any(|entry| {
        let path = entry.unwrap().path().join("cmdline");
        std::fs::read(path).is_ok_and(|read| read == line.as_bytes())
    })
}

#[test]
fn toolchains_of_the_nodes_user_are_used_and_what_they_log_in_with_is_hidden() {
    let node = configured("");
    for (path, content, mode) in [
        (".cargo/bin/tool", "#!/bin/sh\necho \"tool in $RUSTUP_HOME\"\n", 0o755),
        (".cargo/credentials.toml", "a token\n", 0o644),
        (".rustup/settings.toml", "default\n", 0o644),
        (".npmrc", "a token\n", 0o644),
    ] {
        let path = node.user_home().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    }
    let cloud = Cloud::in_home(node);
    let (user, home) = (cloud.home.user_home(), cloud.device());
    let shown = check(&cloud.home, "toolchains");
    assert!(text(&shown, "detail").contains("rustup ("), "{shown}");
    let script = format!(
        "tool; cat '{0}/.cargo/credentials.toml' '{0}/.npmrc' 2> /dev/null; \
         (: > '{0}/.cargo/bin/new') 2> /dev/null && echo wrote; true",
        user.display()
    );
    let shown = run(&home, &workspace(&home), &script);
    let first = format!("tool in {}/.rustup\n", user.display());
    if shown["isolated"] == true {
        assert_eq!(said(&home, &shown), first);
    } else {
        assert!(said(&home, &shown).starts_with(&first));
        let isolation = check(&cloud.home, "isolation");
        assert_eq!(isolation["ok"], false);
        assert!(text(&isolation, "detail").starts_with("runs are not isolated: "), "{isolation}");
    }
}

/// An agent's own installer puts its program into a home, and so does npm; nothing is configured.
#[test]
fn programs_of_agents_are_found_in_the_nodes_home_and_nothing_beside_them_is() {
    let mut node = TestHome::new();
    let user = node.user_home();
    let script = "#!/bin/sh\nat=$(readlink -f \"$0\"); echo \"$at $*\"; cat \"${at%/*}/lib/own\"\n";
    for (path, content) in [
        (".local/share/claude/versions/2.1.330", "#!/bin/sh\necho claude\n"),
        (".local/share/claude/versions/2.1.197", "#!/bin/sh\necho old\n"),
        (".local/share/claude/token", "a token\n"),
        (".local/share/keyrings/login", "a token\n"),
        (".local/bin/other", "#!/bin/sh\necho other\n"),
        ("npm/lib/node_modules/@openai/codex/codex.sh", script),
        ("npm/lib/node_modules/@openai/codex/lib/own", "of the package\n"),
        ("npm/lib/node_modules/@openai/codex/package.json", "{}"),
        ("npm/lib/node_modules/other/package.json", "{}"),
        ("npm/.npmrc", "a token\n"),
        ("own agents/mine", "#!/bin/sh\necho mine\n"),
    ] {
        let path = user.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    std::fs::create_dir(user.join("npm/bin")).unwrap();
    for (at, to) in [
        (".local/bin/claude", "../share/claude/versions/2.1.330"),
        ("npm/bin/codex", "../lib/node_modules/@openai/codex/codex.sh"),
    ] {
        std::os::unix::fs::symlink(to, user.join(at)).unwrap();
    }
    let bin = user.join(".local/bin");
    node.set("PATH", &format!("{}:{}/npm/bin:/usr/bin:/bin", bin.display(), user.display()));
    std::fs::create_dir_all(node.baton_home()).unwrap();
    let config = format!("[agents.mine]\nprogram = '{}/own agents/mine'\n", user.display());
    std::fs::write(node.baton_home().join("config.toml"), config).unwrap();
    let cloud = Cloud::in_home(node);
    let home = cloud.device();
    let handed = home.json(&["handoff", arg(&workspace(&home)), "--agent", "mine", "-p", "x"]);
    let mine = text(&handed["runs"][0], "run").to_owned();
    home.baton(&["run", "wait", &mine]);
    let mine = home.json(&["run", "show", &mine]);
    assert_eq!(said(&home, &mine), "mine\n");

    let tree = home.folder("work");
    let show = format!(
        "claude; codex x; cd '{}'; find . -type f -o -type l | sort; readlink .local/bin/claude; true",
        user.display()
    );
    let shown = run(&home, &tree, &show);
    if shown["isolated"] != true {
        return;
    }
    let package = "npm/lib/node_modules/@openai/codex";
    let first = format!("claude\n{}/{package}/codex.sh x\nof the package\n", user.display());
    let seen = [
        "./.local/bin/claude",
        "./.local/share/claude/versions/2.1.330",
        "./npm/bin/codex",
        &format!("./{package}/codex.sh"),
        &format!("./{package}/lib/own"),
        &format!("./{package}/package.json"),
        "./own agents/mine",
    ];
    let link = format!("{}/.local/share/claude/versions/2.1.330\n", user.display());
    let said_first = said(&home, &shown);
    assert_eq!(said_first, first.clone() + &seen.join("\n") + "\n" + &link);

    // It renews itself while the node runs.
    std::fs::remove_file(bin.join("claude")).unwrap();
    std::os::unix::fs::symlink("../share/claude/versions/2.1.197", bin.join("claude")).unwrap();
    assert_eq!(said(&home, &run(&home, &tree, "claude")), "old\n");
    let shown = run(&home, &tree, &format!("echo > '{}'; echo $?", bin.join("claude").display()));
    assert!(said(&home, &shown).lines().any(|line| line == "2"), "{}", said(&home, &shown));
}

#[test]
fn what_is_private_stays_hidden_in_what_is_exposed() {
    let node = TestHome::new();
    let user = node.user_home();
    for (path, content) in [
        (".cargo/bin/tool", "#!/bin/sh\necho used\n"),
        (".cargo/credentials.toml", "a token\n"),
        (".cargo/registry/.netrc", "a token\n"),
        (".ssh/id", "a key\n"),
    ] {
        let path = user.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    std::fs::create_dir_all(node.baton_home()).unwrap();
    let config = format!("[serve]\nexpose = ['~/.cargo', '{}']\n", user.display());
    std::fs::write(node.baton_home().join("config.toml"), config).unwrap();
    let cloud = Cloud::in_home(node);
    let home = cloud.device();
    let shown = check(&cloud.home, "toolchains");
    assert!(text(&shown, "detail").contains("which is private"), "{shown}");
    let script = format!(
        "tool; cd '{}'; cat .cargo/credentials.toml .cargo/registry/.netrc .ssh/id 2> /dev/null; true",
        user.display()
    );
    let shown = run(&home, &workspace(&home), &script);
    if shown["isolated"] == true {
        assert_eq!(said(&home, &shown), "used\n");
    }
}

#[test]
fn without_bubblewrap_all_say_so_and_what_takes_walls_is_refused() {
    let mut node = configured("[agents.command]\nnetwork = false\n");
    let bin = node.folder("bin");
    for program in ["sh", "git", "true", "cat"] {
        let found = ["/usr/bin", "/bin"].map(|folder| Path::new(folder).join(program));
        let found = found.iter().find(|path| path.exists()).unwrap();
        std::os::unix::fs::symlink(found, bin.join(program)).unwrap();
    }
    node.set("PATH", arg(&bin));
    let mut cloud = Cloud::in_home(node);
    let home = cloud.device();
    let tree = workspace(&home);
    let isolation = check(&cloud.home, "isolation");
    assert_eq!((&isolation["ok"], text(&isolation, "fix").is_empty()), (&false.into(), false));
    let why = refused(&home, &["handoff", arg(&tree), "--", "true"], 1, "refused");
    assert!(why.contains("no network") && why.contains("not isolated"), "{why}");

    // One that may use it is run, and its receipt says where.
    let address = cloud.stop();
    std::fs::write(cloud.home.baton_home().join("config.toml"), "").unwrap();
    cloud.start(address);
    let shown = run(&home, &tree, "cat \"$BATON_RECEIPT\"");
    assert_eq!((&shown["isolated"], &shown["state"]), (&false.into(), &"succeeded".into()));
    let receipt: Value = serde_json::from_str(&said(&home, &shown)).unwrap();
    assert_eq!(receipt["isolated"], false);
}

#[test]
fn limits_of_the_configuration_end_a_run_with_their_reason() {
    let config = "[serve]\nrun_memory = '64MiB'\nrun_disk = '8MiB'\nrun_processes = 100\n";
    let cloud = Cloud::in_home(configured(config));
    let home = cloud.device();
    let tree = workspace(&home);
    let limits = check(&cloud.home, "limits");
    let detail = text(&limits, "detail");
    for each in ["64 MiB of memory", "100 processes", "8 MiB on the disk"] {
        assert!(detail.contains(each), "{detail}");
    }
    let eats = "x=$(head -c 400000000 /dev/zero | tr '\\0' x); sleep 300";
    let fills = "head -c 30000000 /dev/urandom > x; sleep 300";
    for (script, why) in [
        (eats, "the run was ended: it used more than its 64 MiB of memory"),
        (fills, "the run was ended: it used more than its disk quota of 8 MiB"),
    ] {
        let shown = run(&home, &tree, script);
        assert_eq!((text(&shown, "state"), text(&shown, "reason")), ("failed", why));
        // What it did is kept all the same.
        assert!(shown["result"].is_string(), "{shown}");
    }
    assert_eq!(text(&run(&home, &tree, "true"), "state"), "succeeded");
}

#[test]
fn a_node_that_is_killed_leaves_no_process_and_no_group() {
    let mut cloud = Cloud::in_home(configured(""));
    let home = cloud.device();
    let tree = workspace(&home);
    let mark = format!("4{}", std::process::id());
    let hides =
        format!("env -i setsid sleep {mark} > /dev/null 2>&1 & echo ready > made; sleep 300");
    let handed = home.json(&["handoff", arg(&tree), "--", "sh", "-c", &hides]);
    eventually("the run is at work", || lives(&mark));
    let held = !groups(&cloud.home).is_empty();
    let shown = home.json(&["run", "show", text(&handed["runs"][0], "run")]);
    let address = cloud.kill();
    cloud.start(address);
    if held || shown["isolated"] == true {
        assert!(!lives(&mark));
    }
    assert!(groups(&cloud.home).is_empty());
    home.baton(&["run", "wait", text(&handed["runs"][0], "run")]);
    let shown = home.json(&["run", "show", text(&handed["runs"][0], "run")]);
    assert_eq!(text(&shown, "state"), "interrupted");
    assert_eq!(text(&run(&home, &tree, "true"), "state"), "succeeded");
    // A node that is stopped takes all of its groups with it.
    cloud.stop();
    assert!(!cloud.home.baton_home().join("runs/control-groups.json").exists());
}

#[test]
fn what_a_hostile_run_leaves_is_sealed_for_what_it_is() {
    let cloud = Cloud::new();
    let home = cloud.device();
    let tree = workspace(&home);
    let key = cloud.home.baton_home().join("keys");
    let script = format!(
        "mkfifo pipe; ln -s '{0}' keys; ln -s / top; ln -s \"$PWD\" self; mknod whiteout c 0 0 2> /dev/null; \
         perl -MIO::Socket::UNIX -e 'IO::Socket::UNIX->new(Local => \"socket\", Listen => 1) or die' ; \
         mkdir -p .git && rm -rf .git && ln -s '{0}' .git; \
         mkdir deep && cd deep && perl -e 'for (1..2500) {{ mkdir \"d\"; chdir \"d\" or exit }}'; true",
        key.display()
    );
    let shown = run(&home, &tree, &script);
    assert!(shown["result"].is_string(), "{shown}");
    let into = home.root().join("pulled");
    let pulled = home.json(&["pull", text(&shown, "run"), "--into", arg(&into)]);
    let left_out = omitted(&pulled["receipt"]);
    for special in ["pipe", "socket"] {
        let wanted = (special.to_owned(), "special".to_owned());
        assert!(left_out.contains(&wanted), "{special}: {left_out:?}");
        assert!(!into.join(special).exists());
    }
    assert_eq!(std::fs::read_link(into.join("keys")).unwrap(), key);
    assert_eq!(std::fs::read_link(into.join("top")).unwrap(), Path::new("/"));
    assert!(into.join("self").symlink_metadata().unwrap().is_symlink());
    assert!(into.join("kept").exists() && !into.join("whiteout").exists());
    // Nothing of what the links led to is in it.
    assert!(into.join(".git").symlink_metadata().is_err() || !into.join(".git").is_dir());
    assert_eq!(text(&run(&home, &tree, "true"), "state"), "succeeded");
}
