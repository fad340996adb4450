//! Whoever is named in `[notify]` hears how a run ended, and nothing of what was in it.

#![expect(clippy::disallowed_methods, reason = "a test has the file system itself")]

use std::path::Path;

use serde_json::Value;

use crate::support::cloud::{Cloud, arg, text};
use crate::support::home::{TestHome, eventually};

/// The notices in a file, once there are so many.
fn told(file: &Path, count: usize) -> Vec<Value> {
    let mut notices = Vec::new();
    eventually("a notice", || {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        let whole = text.lines().filter(|line| line.ends_with('}'));
        notices = whole.map(|line| serde_json::from_str(line).unwrap()).collect();
        notices.len() >= count
    });
    notices
}

#[test]
fn a_program_hears_how_runs_ended_and_nothing_of_what_was_in_them() {
    let home = TestHome::new();
    std::fs::create_dir_all(home.baton_home()).unwrap();
    let file = home.root().join("told");
    // The first attempt fails.
    let script = format!(
        "cd {}; if [ -e tried ]; then cat >> told; env > environment; else touch tried; exit 1; fi",
        arg(home.root())
    );
    let config = format!("[notify]\ncommand = [\"sh\", \"-c\", '{script}']\n");
    std::fs::write(home.baton_home().join("config.toml"), config).unwrap();
    let mut cloud = Cloud::in_home(home);
    let here = cloud.device();
    let output = here.baton_with_input(&["secret", "set", "TOKEN"], b"swordfish-token");
    assert!(output.status.success());
    let tree = here.folder("confidential-tree");
    std::fs::write(tree.join("confidential-file"), "first\n").unwrap();
    let hand_off = |script: &str| {
        let answer = here.json(&["handoff", arg(&tree), "--", "sh", "-c", script]);
        text(&answer["runs"][0], "run").to_owned()
    };
    let good = hand_off("echo confidential output $TOKEN");
    here.json_exit(&["run", "wait", &good], 0);
    assert_eq!(told(&file, 1)[0]["state"], "succeeded");
    let bad = hand_off("exit 3");
    here.json_exit(&["run", "wait", &bad], 3);
    let notices = told(&file, 2);
    let shown = here.json(&["run", "show", &bad]);
    assert_eq!(text(&notices[0], "run"), good);
    assert_eq!((text(&notices[1], "run"), text(&notices[1], "state")), (bad.as_str(), "failed"));
    for (field, of) in [("thread", "thread"), ("time", "ended_at")] {
        assert_eq!(notices[1][field], shown[of], "{shown}");
    }
    assert_eq!(text(&notices[1], "user"), "owner");
    let fields: Vec<_> = notices[1].as_object().unwrap().keys().collect();
    assert_eq!(fields, ["run", "state", "thread", "time", "user", "workspace"]);

    let environment = std::fs::read_to_string(cloud.home.root().join("environment")).unwrap();
    assert!(
        !environment.contains("swordfish") && !environment.contains("BATON_RUN"),
        "{environment}"
    );
    let all = std::fs::read_to_string(&file).unwrap();
    assert!(!all.contains("confidential") && !all.contains("swordfish"), "{all}");

    // What a node that ends interrupts is told, too.
    let endless = hand_off("echo > begun; exec sleep 300");
    let checkout = cloud.home.baton_home().join("runs").join(&endless).join("checkout/begun");
    eventually("the run", || checkout.exists());
    cloud.stop();
    let notice = told(&file, 3).remove(2);
    assert_eq!((text(&notice, "run"), text(&notice, "state")), (endless.as_str(), "interrupted"));
}
