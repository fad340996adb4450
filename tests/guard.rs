//! Nothing secret leaves by itself: what is held back is named without its content, and let through only
//! by who says so.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use baton_protocol::id::WorkspaceId;
use baton_store::catalog::Catalog;
use baton_store::catalog::held::HeldFinding;
use baton_store::fs;
use baton_store::secrets::SecretRules;

use crate::support::cloud::{arg, refused, text};
use crate::support::home::TestHome;

/// A token in the form of a code host's, put together so that no scanner stumbles over this file.
fn token() -> String {
    format!("gh{}{}", "p_", "q7Zt9Lp2Xk4Vb8NmR3wSc5Yd1HfJ6gKa0TuE")
}

/// Notes in the catalog what a scan would hold back.
fn hold(home: &TestHome, tree: &Path, name: &str) -> HeldFinding {
    let catalog = Catalog::open(&home.baton_home().join("catalog.db")).unwrap();
    let workspace = catalog.workspace_by_root(tree.as_os_str().as_bytes()).unwrap().unwrap().id;
    let text = format!("A=1\nTOKEN={}\n", token());
    let finding = SecretRules::standard().unwrap().scan(name.as_bytes(), text.as_bytes()).unwrap();
    let held = HeldFinding::new(name.as_bytes(), &finding, 1);
    let mut all = catalog.held(workspace).unwrap();
    all.push(held.clone());
    catalog.set_held(workspace, &all).unwrap();
    held
}

fn allowed(home: &TestHome, workspace: &str) -> baton_store::catalog::held::Allowed {
    let catalog = Catalog::open(&home.baton_home().join("catalog.db")).unwrap();
    catalog.allowed(workspace.parse::<WorkspaceId>().unwrap()).unwrap()
}

#[test]
fn status_names_what_is_held_and_allow_lets_it_through_until_it_is_revoked() {
    let home = TestHome::new();
    let tree = home.folder("work").canonicalize().unwrap();
    let file = tree.join(".env");
    fs::write_atomic(&file, b"A=1\n", 0o600).unwrap();
    home.json(&["snapshot", arg(&tree)]);
    let held = hold(&home, &tree, ".env");
    hold(&home, &tree, "gone.env");

    let status = home.json(&["status"]);
    let entry = &status["workspaces"][0];
    assert_eq!(entry["held"][0]["path"], ".env");
    assert_eq!(
        (&entry["held"][0]["rule"], &entry["held"][0]["line"]),
        (&"github-token".into(), &2.into())
    );
    assert_eq!(entry["held"][0]["finding"], held.id());
    let said = home.baton(&["status"]);
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(said.contains("~/work") && said.contains("2 held back"), "{said}");
    assert!(said.contains(&format!("baton allow {}", &held.id()[..8])), "{said}");
    assert!(!said.contains(&token()) && !status.to_string().contains(&token()));

    // A file: by its name, from wherever it is typed.
    let workspace = text(entry, "workspace").to_owned();
    let rules = SecretRules::standard().unwrap();
    let finding = rules.scan(b".env", format!("\n{}", token()).as_bytes()).unwrap();
    let output = home.baton_in(&tree, &["allow", ".env", "--json"]);
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&answer["allowed"][0]["path"], &answer["allowed"][0]["workspace"]),
        (&".env".into(), &entry["workspace"])
    );
    assert!(answer["allowed"][0]["finding"].is_null());
    assert!(allowed(&home, &workspace).permits(b".env", &finding));
    assert!(!allowed(&home, &workspace).permits(b"gone.env", &finding));
    home.json(&["allow", "--revoke", arg(&file)]);
    assert!(!allowed(&home, &workspace).permits(b".env", &finding));
    refused(&home, &["allow", "--revoke", arg(&file)], 1, "not-found");
    // One that is held, though it is not there any more.
    home.json(&["allow", arg(&tree.join("gone.env"))]);

    // A finding: in every file.
    let answer = home.json(&["allow", &held.id()[..8]]);
    assert_eq!(answer["allowed"][0]["finding"], held.id());
    assert_eq!(answer["allowed"][0]["rule"], "github-token");
    assert!(allowed(&home, &workspace).permits(b"any/other", &finding));
    let answer = home.json(&["allow", "--revoke", &held.id()]);
    assert_eq!(answer["revoked"][0]["finding"], held.id());
    assert!(!allowed(&home, &workspace).permits(b"any/other", &finding));
}

#[test]
fn what_cannot_be_allowed_says_why() {
    let home = TestHome::new();
    let tree = home.folder("work").canonicalize().unwrap();
    fs::create_dir_all(&tree.join("folder")).unwrap();
    fs::write_atomic(&tree.join("deadbeef"), b"", 0o600).unwrap();
    refused(&home, &["allow", arg(&tree.join("deadbeef"))], 1, "no-workspace");
    home.json(&["snapshot", arg(&tree)]);
    refused(&home, &["allow", "0123456789abcdef"], 1, "not-found");
    refused(&home, &["allow", arg(&tree.join("nothing"))], 1, "not-found");
    refused(&home, &["allow", arg(&tree.join("folder"))], 1, "not-a-file");
    // A file whose name looks like a finding is the file.
    let output = home.baton_in(&tree, &["allow", "deadbeef", "--json"]);
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer["allowed"][0]["path"], "deadbeef");
    // The same secret in two workspaces is asked about, unless one of them is where it is typed.
    let other = home.folder("other").canonicalize().unwrap();
    home.json(&["snapshot", arg(&other)]);
    let held = hold(&home, &tree, "a");
    hold(&home, &other, "b");
    refused(&home, &["allow", &held.id()], 1, "ambiguous");
    let output = home.baton_in(&other, &["allow", &held.id(), "--json"]);
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer["allowed"][0]["root"], other.to_str().unwrap());
}
