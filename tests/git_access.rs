//! What runs may do at a git host with what their user gave the node for it, and what they never see of that: with the real
//! git on both sides, and a host of our own on loopback.

#![expect(clippy::disallowed_methods, reason = "a test has the file system itself")]

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::support::cloud::{Cloud, arg, text};
use crate::support::git::git;
use crate::support::git_host::{GitHost, base64};
use crate::support::home::TestHome;
use crate::support::walker::files_with;

/// A value that stands nowhere else.
const TOKEN: &str = "tok-7e2a90c4b1-of-a-git-host";

/// What the host takes.
fn password() -> String {
    format!("x-access-token:{TOKEN}")
}

/// A node that believes a host, and a home that has joined it.
struct Scene {
    cloud: Cloud,
    home: TestHome,
    host: GitHost,
    tree: PathBuf,
    repository: PathBuf,
}

impl Scene {
    fn new(config: &str) -> Self {
        let host = GitHost::new(Some(&password()));
        let node = TestHome::new();
        std::fs::create_dir_all(node.baton_home()).unwrap();
        let config =
            format!("[serve]\ngit_authorities = ['{}']\n{config}", host.authority().display());
        std::fs::write(node.baton_home().join("config.toml"), config).unwrap();
        let cloud = Cloud::in_home(node);
        let home = cloud.device();
        let tree = home.folder("work");
        git(&tree, &["init", "-q", "-b", "main"]);
        git(&tree, &["config", "user.name", "Ann"]);
        git(&tree, &["config", "user.email", "ann@example.org"]);
        std::fs::write(tree.join("file"), "one\n").unwrap();
        git(&tree, &["add", "."]);
        git(&tree, &["commit", "-qm", "one"]);
        let repository = host.repository("team/project.git", &tree);
        git(&tree, &["remote", "add", "origin", &host.url("team/project.git")]);
        Self { cloud, home, host, tree, repository }
    }

    fn set(&self, args: &[&str]) -> Value {
        let name = format!("git:{}", self.host.name);
        let args = [&["secret", "set", "--json", &name], args].concat();
        let output = self.home.baton_with_input(&args, format!("{TOKEN}\n").as_bytes());
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Runs a script to its end; returns how it ended and what it wrote.
    fn run(&self, script: &str) -> (Value, String) {
        let answer = self.home.json(&["handoff", arg(&self.tree), "--", "sh", "-c", script]);
        let run = text(&answer["runs"][0], "run").to_owned();
        self.home.baton(&["run", "wait", &run]);
        let lines = self.home.json_lines(&["logs", &run], 0);
        let written = lines.iter().filter(|line| line["stream"] != "node");
        (self.home.json(&["run", "show", &run]), written.map(|line| text(line, "text")).collect())
    }

    /// Every ref of the host's repository.
    fn refs(&self) -> String {
        git(&self.repository, &["for-each-ref", "--format=%(objectname) %(refname)"])
    }
}

fn own_branch(run: &Value) -> String {
    format!("refs/heads/handoff/{}", &text(run, "run")[..8])
}

#[test]
fn a_run_fetches_and_pushes_its_own_branch_and_the_token_is_nowhere_in_its_room() {
    let scene = Scene::new("");
    let kept = scene.set(&[]);
    let name = format!("git:{}", scene.host.name);
    assert_eq!(kept["secrets"], json!([{"name": name, "agent": null, "push": "run"}]));
    // Somebody else has gone on meanwhile.
    let tip = git(&scene.tree, &["commit-tree", "-p", "HEAD", "-m", "two", "HEAD^{tree}"]);
    let repository = arg(&scene.repository);
    git(&scene.tree, &["push", "-q", repository, &format!("{}:refs/heads/main", tip.trim())]);

    let script = r#"
        set -e
        git fetch -q origin
        git log --format=%s -1 origin/main
        git clone -q "$(git config remote.origin.url)" "$HOME/clone" 2>&1
        git -C "$HOME/clone" config remote.origin.url > url
        echo more >> file
        git commit -qam three
        head -c 3000000 /dev/urandom > large && git add large && git commit -qm large
        git push -q origin "HEAD:refs/heads/$BATON_BRANCH" 2>&1
        git push -q --force origin "HEAD~1:refs/heads/$BATON_BRANCH" 2>&1
        git push -q origin "HEAD:refs/heads/$BATON_BRANCH" 2>&1
        # Whatever could be looked at, in pieces, so that this script is not what is found.
        mkdir seen
        env > seen/env
        git config --list --show-origin > seen/config
        cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline > seen/processes 2> /dev/null || true
        GIT_TRACE=1 GIT_TRACE_CURL=1 GIT_CURL_VERBOSE=1 git ls-remote origin > seen/trace 2>&1
        cp -r .git seen/repository
        mv "$HOME/clone/.git" seen/clone
        cp -r "$HOME" seen 2> /dev/null || true
        mkdir seen/other && cp -r "$BATON_ATTACHMENTS" "$BATON_RECEIPT" "$(dirname "$GIT_SSH")" seen/other
        echo done
    "#;
    let (shown, said) = scene.run(script);
    assert_eq!((text(&shown, "state"), said.as_str()), ("succeeded", "two\ndone\n"), "{shown}");
    let refs = scene.refs();
    assert!(refs.contains(&format!("{} refs/heads/main\n", tip.trim())), "{refs}");
    assert_eq!(refs.lines().count(), 2, "{refs}");
    let own = own_branch(&shown);
    let pushed = git(&scene.repository, &["log", "--format=%s", &own]);
    assert_eq!(pushed, "large\nthree\none\n");

    // The checkout as the node has it, with all that the run could see.
    let checkout = PathBuf::from(text(&shown, "checkout"));
    assert!(checkout.join("seen/trace").exists() && checkout.join("seen/env").exists());
    let address = std::fs::read_to_string(checkout.join("seen/env")).unwrap();
    assert!(address.contains("Authorization: Bearer "), "the run's own key is what it has");
    assert_eq!(
        std::fs::read_to_string(checkout.join("url")).unwrap().trim(),
        scene.host.url("team/project.git")
    );
    let encoded = base64(password().as_bytes());
    let folders = [scene.cloud.home.root(), scene.home.root()];
    for what in [TOKEN, &encoded, &base64(TOKEN.as_bytes())] {
        for folder in folders {
            let found = files_with(folder, what);
            let kept = scene.cloud.home.baton_home().join("secrets");
            assert!(found.iter().all(|path| path.starts_with(&kept)), "{what}: {found:?}");
        }
    }
    // And the host was spoken to by the node alone, with it.
    let asked = scene.host.asked();
    let expected = format!("Basic {encoded}");
    assert!(asked.iter().all(|asked| asked.authorization.as_ref() == Some(&expected)), "{asked:?}");
    assert!(asked.iter().any(|asked| asked.line.ends_with("/git-receive-pack")));

    let name = format!("git:{}", scene.host.name);
    assert_eq!(scene.home.json(&["secret", "rm", &name])["secrets"], json!([]));
}

#[test]
fn a_push_elsewhere_is_refused_with_the_reason_until_it_is_allowed() {
    let scene = Scene::new("");
    scene.set(&[]);
    let before = scene.refs();
    let script = r#"
        git commit -q --allow-empty -m more
        own="HEAD:refs/heads/$BATON_BRANCH"
        for refs in HEAD:main "HEAD:refs/heads/other" "HEAD:refs/tags/v1" ":refs/heads/main" \
            "$own HEAD:main" "--force $own HEAD:refs/heads/main" "--atomic $own HEAD:main" "-o merge=main $own" \
            "HEAD:refs/heads/$BATON_BRANCH-2" "HEAD:refs/heads/$BATON_BRANCH/x" "HEAD:refs/for/main"
        do
            git push origin $refs > said 2>&1 && echo "pushed $refs"
            cat said >> all
            grep -q 'remote rejected' said || { echo "no reason for $refs"; cat said; }
        done
        cat all
    "#;
    let (shown, said) = scene.run(script);
    assert_eq!(text(&shown, "state"), "succeeded", "{said}");
    let own = own_branch(&shown);
    for wanted in [
        "! [remote rejected] HEAD -> main (not the branch of this run)",
        "(the push has other refs, too)",
        "(pushes with push options are not passed on to one branch only)",
        &format!("git push REMOTE HEAD:{own}"),
        &format!("baton secret set git:{} --push any", scene.host.name),
        &format!("baton pull {}", &text(&shown, "run")[..8]),
    ] {
        assert!(said.contains(wanted), "{wanted} is missing in\n{said}");
    }
    assert!(!said.contains("pushed ") && !said.contains("no reason"), "{said}");
    assert_eq!(scene.refs(), before);
    let written = scene.host.asked().into_iter().filter(|asked| asked.line.starts_with("POST"));
    assert_eq!(written.count(), 0, "the host was asked for something");

    let kept = scene.set(&["--push", "any"]);
    assert_eq!(kept["secrets"][0]["push"], "any");
    let (shown, said) = scene.run(
        "git commit -q --allow-empty -m more; git push -q origin HEAD:main HEAD:refs/tags/v1 2>&1",
    );
    assert_eq!((text(&shown, "state"), said.as_str()), ("succeeded", ""));
    assert_eq!(git(&scene.repository, &["log", "--format=%s", "main"]), "more\none\n");
    assert!(scene.refs().contains("refs/tags/v1"));
    // To say it again without is to take it back.
    assert_eq!(scene.set(&[])["secrets"][0]["push"], "run");
}

#[test]
fn without_a_credential_git_names_the_two_ways_and_asks_nobody() {
    let scene = Scene::new("");
    // For others than plain commands, and for another host.
    scene.set(&["--agent", "claude"]);
    let output =
        scene.home.baton_with_input(&["secret", "set", "git:localhost:1"], TOKEN.as_bytes());
    assert!(output.status.success());
    let before = scene.refs();
    let script = r#"
        export GIT_SSL_NO_VERIFY=1
        git push origin HEAD:main < /dev/null; echo "push $?"
        git fetch origin < /dev/null; echo "fetch $?"
        git push ssh://git@localhost:1/team/project.git HEAD:main; echo "ssh $?"
        git push ssh://git@127.0.0.1:1/team/project.git HEAD:main; echo "ssh $?"
    "#;
    let (shown, said) = scene.run(script);
    let run = &text(&shown, "run")[..8];
    for wanted in ["push 128\n", "fetch 128\n", "ssh 128\n"] {
        assert!(said.contains(wanted), "{wanted} is missing in\n{said}");
    }
    let (host, pull) = (&scene.host.name, format!("baton pull {run} "));
    assert_eq!(
        said.matches(&format!("this run has no credential for {host}.")).count(),
        2,
        "{said}"
    );
    assert_eq!(said.matches(&format!("baton secret set git:{host} ")).count(), 2, "{said}");
    assert_eq!(said.matches("this run has no credential for 127.0.0.1.").count(), 1, "{said}");
    assert_eq!(said.matches("this run has a credential for localhost:1,").count(), 1, "{said}");
    assert_eq!(said.matches("https://localhost:1/OWNER/REPOSITORY ").count(), 1, "{said}");
    assert_eq!(said.matches(&pull).count(), 3, "{said}");
    assert_eq!(scene.refs(), before);
    let asked = scene.host.asked();
    assert!(
        !asked.is_empty() && asked.iter().all(|asked| asked.authorization.is_none()),
        "{asked:?}"
    );
}

#[test]
fn no_other_host_gets_anything_and_no_redirect_is_followed() {
    let scene = Scene::new("");
    scene.set(&[]);
    let other = GitHost::new(None);
    other.repository("team/project.git", &scene.tree);
    scene.host.move_to(&other.url(""));
    let script = format!(
        r#"
        export GIT_SSL_NO_VERIFY=1
        git ls-remote '{}' 2>&1; echo "moved $?"
        git push '{}' HEAD:main 2>&1; echo "moved $?"
        git ls-remote '{}' | cut -f 2; echo "other $?"
        "#,
        scene.host.url("moved/team/project.git"),
        scene.host.url("moved/team/project.git"),
        other.url("team/project.git"),
    );
    let (_, said) = scene.run(&script);
    assert_eq!(said.matches("moved 128").count(), 2, "{said}");
    assert_eq!(said.matches("is for nobody else").count(), 2, "{said}");
    assert!(said.contains("refs/heads/main\nother 0\n"), "{said}");
    // What the other one was asked, the run has asked, and without a word of what is kept.
    let asked = other.asked();
    assert_eq!(asked.iter().filter(|asked| asked.line.starts_with("GET")).count(), 1, "{asked:?}");
    assert!(asked.iter().all(|asked| asked.authorization.is_none()), "{asked:?}");
}

#[test]
fn an_expired_token_and_a_missing_repository_are_told_apart() {
    let scene = Scene::new("");
    let name = format!("git:{}", scene.host.name);
    let output = scene.home.baton_with_input(&["secret", "set", &name], b"ann:an-old-one-of-hers");
    assert!(output.status.success());
    let (_, said) = scene.run("git push origin HEAD:refs/heads/$BATON_BRANCH 2>&1");
    assert!(said.contains("does not accept what is kept for it (status 401)"), "{said}");
    assert!(!said.contains("an-old-one"), "{said}");
    scene.set(&[]);
    let script = format!("git ls-remote '{}' 2>&1", scene.host.url("team/none.git"));
    let (_, said) = scene.run(&script);
    assert!(said.contains("has no /team/none.git that what is kept for it may see"), "{said}");
}

#[test]
fn a_run_without_a_network_has_no_way_to_a_host() {
    let scene = Scene::new("[agents.command]\nnetwork = false\n");
    scene.set(&[]);
    let script = "env | grep -c GIT_CONFIG; git ls-remote origin > said 2>&1; echo $?";
    let tried = scene.home.baton(&["handoff", arg(&scene.tree), "--", "true"]);
    if !tried.status.success() {
        let said = String::from_utf8_lossy(&tried.stderr);
        assert!(said.contains("its runs are not isolated"), "{said}");
        eprintln!("not tested: without walls such a run is refused");
        return;
    }
    let (shown, said) = scene.run(script);
    assert_eq!((text(&shown, "state"), said.as_str()), ("succeeded", "0\n128\n"));
    assert_eq!(scene.host.asked().len(), 0);
}

#[test]
fn what_cannot_be_for_a_git_host_is_refused() {
    let home = TestHome::new();
    for name in
        ["git:", "git:GitHub.com", "git:https://github.com", "git:github.com/owner", "git:a:0"]
    {
        let output = home.baton(&["secret", "set", name]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{name}: {said}");
        assert!(said.contains("git:HOST") && said.contains("lower case"), "{said}");
    }
    for args in [["TOKEN", "any"], ["git:github.com", "all"]] {
        let output = home.baton(&["secret", "set", args[0], "--push", args[1]]);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
    }
    let output = home.baton_with_input(&["secret", "set", "git:github.com"], b"two words\n");
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("TOKEN or USER:TOKEN") && !said.contains("two words"), "{said}");
}
