//! What is kept comes back after a restart, to its vault and agent only; what others may read is refused.

use std::os::unix::fs::PermissionsExt;

use baton_protocol::message::secrets::PushScope;

use super::*;

const ANN: VaultId = VaultId::from_bytes([1; 16]);
const BOB: VaultId = VaultId::from_bytes([2; 16]);
const RUN: RunId = RunId::from_bytes([3; 16]);

fn secret(name: &str, agent: Option<&str>, value: &[u8]) -> SetSecret {
    let value = SecretValue::new(value.to_vec());
    SetSecret { name: name.to_owned(), agent: agent.map(str::to_owned), value, push: None }
}

fn entry(name: &str, agent: Option<&str>) -> SecretEntry {
    SecretEntry { name: name.to_owned(), agent: agent.map(str::to_owned), push: None }
}

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

fn given(secrets: &Secrets, vault: VaultId, agent: &str) -> Vec<(String, Vec<u8>)> {
    let given = secrets.give(vault, RUN, agent).unwrap();
    let plain = |(name, value): &(OsString, OsString)| {
        (name.to_str().unwrap().to_owned(), value.as_bytes().to_vec())
    };
    given.variables.iter().map(plain).collect()
}

#[test]
fn what_is_kept_is_given_to_runs_of_its_vault_and_agent() {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("secrets");
    let secrets = Secrets::new(folder.clone());
    assert_eq!((secrets.list(ANN).unwrap().len(), secrets.check().unwrap()), (0, 0));
    assert!(!folder.exists(), "a node without secrets has no folder of them");
    let odd = b"\xff two\nlines \n";
    secrets.set(ANN, &secret("TOKEN", None, b"of all agents")).unwrap();
    secrets.set(ANN, &secret("TOKEN", Some("claude"), b"of claude")).unwrap();
    secrets.set(ANN, &secret("ODD", Some("command"), odd)).unwrap();
    secrets.set(BOB, &secret("TOKEN", None, b"of bob")).unwrap();

    // As the next process finds it.
    let secrets = Secrets::new(folder.clone());
    let all = [entry("ODD", Some("command")), entry("TOKEN", None), entry("TOKEN", Some("claude"))];
    assert_eq!(secrets.list(ANN).unwrap(), all);
    let pair = |name: &str, value: &[u8]| (name.to_owned(), value.to_vec());
    let of_command = [pair("ODD", odd), pair("TOKEN", b"of all agents")];
    assert_eq!(given(&secrets, ANN, "command"), of_command);
    assert_eq!(given(&secrets, ANN, "claude"), [pair("TOKEN", b"of claude")]);
    assert_eq!(given(&secrets, BOB, "command"), [pair("TOKEN", b"of bob")]);
    assert_eq!(given(&secrets, VaultId::from_bytes([9; 16]), "command"), []);

    let rest = secrets.set(ANN, &secret("TOKEN", None, b"another")).unwrap();
    assert_eq!(rest, all);
    assert_eq!(given(&secrets, ANN, "command")[1], pair("TOKEN", b"another"));
    let rest = secrets.remove(ANN, &entry("TOKEN", None)).unwrap();
    assert_eq!(rest, [entry("ODD", Some("command")), entry("TOKEN", Some("claude"))]);
    // Safe to repeat.
    assert_eq!(secrets.remove(ANN, &entry("TOKEN", None)).unwrap(), rest);
    assert_eq!(secrets.list(BOB).unwrap(), [entry("TOKEN", None)]);

    for path in [folder.clone(), folder.join(format!("{ANN}.json"))] {
        let mode = path.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, if path.is_dir() { 0o700 } else { 0o600 }, "{}", path.display());
    }
    assert_eq!(fs::list_dir(&folder).unwrap().len(), 2, "nothing else is left there");
}

#[test]
fn a_run_at_work_keeps_what_it_was_given() {
    let home = tempfile::tempdir().unwrap();
    let secrets = Secrets::new(home.path().join("secrets"));
    secrets.set(ANN, &secret("A", None, b"the first value")).unwrap();
    secrets.set(ANN, &secret("B", Some("claude"), b"of another agent")).unwrap();
    secrets.give(ANN, RUN, "command").unwrap();
    secrets.remove(ANN, &entry("A", None)).unwrap();
    let knows = |text: &[u8]| {
        let known = secrets.known(ANN, RUN).unwrap();
        known.is_some_and(|known| known.find(text).is_some())
    };
    assert!(knows(b"the first value") && knows(b"of another agent"));
    secrets.take_back(RUN);
    assert!(!knows(b"the first value") && knows(b"of another agent"));

    // One that was given nothing, because that could not be read, has nothing of it.
    let file = home.path().join("secrets").join(format!("{ANN}.json"));
    set_mode(&file, 0o644);
    assert!(secrets.known(ANN, RUN).is_err());
    secrets.give(ANN, RUN, "command").unwrap_err();
    assert!(secrets.known(ANN, RUN).unwrap().is_none());
}

#[test]
fn what_others_may_read_or_write_is_refused_and_left_alone() {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("secrets");
    let secrets = Secrets::new(folder.clone());
    let swordfish = secret("A", None, b"swordfish");
    secrets.set(ANN, &swordfish).unwrap();
    let file = folder.join(format!("{ANN}.json"));
    let kept = fs::read_if_exists(&file, 4096).unwrap();
    let refused = |secrets: &Secrets| {
        let errors = [
            secrets.list(ANN).unwrap_err(),
            secrets.give(ANN, RUN, "command").unwrap_err(),
            secrets.set(ANN, &swordfish).unwrap_err(),
        ];
        for error in errors {
            assert_eq!(error.refusal().code, RefusalCode::Internal);
            let said = format!("{error} {error:?} {}", error.refusal());
            assert!(
                !said.contains("swordfish") && !error.refusal().message.contains('/'),
                "{said}"
            );
        }
    };
    for (path, modes, right) in
        [(&file, [0o640, 0o604, 0o620], 0o600), (&folder, [0o750, 0o705, 0o770], 0o700)]
    {
        for mode in modes {
            set_mode(path, mode);
            assert!(matches!(secrets.list(ANN), Err(SecretsError::Exposed { .. })));
            assert!(matches!(secrets.check(), Err(SecretsError::Exposed { .. })));
            refused(&secrets);
        }
        set_mode(path, right);
        assert_eq!((secrets.list(ANN).unwrap().len(), secrets.check().unwrap()), (1, 1));
    }
    assert_eq!(fs::read_if_exists(&file, 4096).unwrap(), kept);

    let elsewhere = home.path().join("elsewhere");
    fs::write_atomic(&elsewhere, &kept.unwrap(), 0o600).unwrap();
    fs::remove_file(&file).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &file).unwrap();
    refused(&secrets);
}

#[test]
fn what_is_forgotten_is_in_no_file_that_a_crash_has_left() {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("secrets");
    let secrets = Secrets::new(folder.clone());
    secrets.set(ANN, &secret("A", None, b"swordfish")).unwrap();
    let name = format!("{ANN}.json");
    std::fs::copy(folder.join(&name), folder.join(format!("{name}.77.tmp"))).unwrap();
    assert_eq!(secrets.list(ANN).unwrap().len(), 1);
    secrets.remove(ANN, &entry("A", None)).unwrap();
    assert_eq!(fs::list_dir(&folder).unwrap(), [OsString::from(name)]);
}

#[test]
fn a_file_that_is_not_understood_is_not_written_over() {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("secrets");
    let secrets = Secrets::new(folder.clone());
    let one = secret("A", None, b"swordfish");
    secrets.set(ANN, &one).unwrap();
    let file = folder.join(format!("{ANN}.json"));
    let row = |name: &str, value: &str| {
        format!(r#"{{"version":1,"secrets":[{{"name":"{name}","agent":null,"value":"{value}"}}]}}"#)
    };
    fs::write_atomic(&file, row("A", "c3dvcmRmaXNo").as_bytes(), 0o600).unwrap();
    assert_eq!(given(&secrets, ANN, "x"), [("A".to_owned(), b"swordfish".to_vec())]);
    let long = "A".repeat(1 << 21);
    for damaged in [
        "",
        "{}",
        "swordfish",
        r#"{"version":2,"secrets":[]}"#,
        r#"{"version":1,"secrets":[],"more":1}"#,
        &row("A", "c3dvcmRmaXN"),
        &row("A", ""),
        &row("A", "AA=="),
        &row("LD_PRELOAD", "c3dvcmRmaXNo"),
        &row("a=b", "c3dvcmRmaXNo"),
        &long,
    ] {
        fs::write_atomic(&file, damaged.as_bytes(), 0o600).unwrap();
        let error = secrets.set(ANN, &one).unwrap_err();
        let said = format!("{error} {error:?}");
        assert!(!said.contains("swordfish") && !said.contains("c3dv"), "{said}");
        assert_eq!(fs::read_if_exists(&file, 1 << 22).unwrap().unwrap(), damaged.as_bytes());
    }
}

#[test]
fn what_no_run_can_be_given_and_too_much_is_refused() {
    let home = tempfile::tempdir().unwrap();
    let secrets = Secrets::new(home.path().join("secrets"));
    for wrong in [
        secret("LD_PRELOAD", None, b"x"),
        secret("A", Some("A b"), b"x"),
        secret("A", None, b"\0"),
        secret("A", None, b""),
    ] {
        let refused = secrets.set(ANN, &wrong).unwrap_err().refusal();
        assert_eq!(refused.code, RefusalCode::Malformed, "{refused}");
    }
    assert!(secrets.remove(ANN, &entry("../x", None)).is_err());
    let long = vec![b'x'; 60 * 1024];
    secrets.set(ANN, &secret("A", None, &long)).unwrap();
    secrets.set(ANN, &secret("B", None, &long)).unwrap();
    assert_eq!(
        secrets.set(ANN, &secret("C", None, &long)).unwrap_err().refusal().code,
        RefusalCode::Limit
    );
    // To replace one is not to have one more.
    secrets.set(ANN, &secret("A", None, &long)).unwrap();
    for number in 0..MAX_SECRETS {
        secrets.set(BOB, &secret(&format!("A{number}"), None, b"x")).unwrap();
    }
    assert!(matches!(secrets.set(BOB, &secret("B", None, b"x")), Err(SecretsError::TooMany)));
    assert_eq!(secrets.list(BOB).unwrap().len(), MAX_SECRETS);
    assert!(secrets.give(ANN, RUN, "command").unwrap().known.is_some());
}

#[test]
fn what_is_for_a_git_host_is_no_variable_and_is_known_in_every_form() {
    let home = tempfile::tempdir().unwrap();
    let secrets = Secrets::new(home.path().join("secrets"));
    let any = SetSecret {
        push: Some(PushScope::Any),
        ..secret("git:h.org", Some("command"), b"ann:the-token-of-ann")
    };
    secrets.set(ANN, &secret("git:h.org", None, b"the-token-of-all")).unwrap();
    secrets.set(ANN, &any).unwrap();
    secrets
        .set(ANN, &secret("git:other.org:8443", Some("claude"), b"of another agent"))
        .unwrap_err();
    secrets.set(ANN, &secret("git:other.org:8443", Some("claude"), b"of-another-agent")).unwrap();
    // As the next process finds it.
    let secrets = Secrets::new(home.path().join("secrets"));
    let given = secrets.give(ANN, RUN, "command").unwrap();
    assert_eq!(given.variables, []);
    let hosts: Vec<_> = given.hosts.iter().map(|host| (host.host(), host.push())).collect();
    assert_eq!(hosts, [("h.org", PushScope::Any)]);
    let pair = "YW5uOnRoZS10b2tlbi1vZi1hbm4=";
    assert_eq!(given.hosts[0].authorization(), format!("Basic {pair}"));
    let shown = format!("{given:?} {:?}", given.hosts);
    assert!(shown.contains("git:h.org") && !shown.contains("YW5u"), "{shown}");
    let known = given.known.as_ref().unwrap();
    for form in ["ann:the-token-of-ann", "the-token-of-ann", "the-token-of-all", pair] {
        assert!(known.find(form.as_bytes()).is_some(), "{form}");
    }

    let of_others = secrets.give(ANN, RUN, "other").unwrap();
    let pair = "Basic eC1hY2Nlc3MtdG9rZW46dGhlLXRva2VuLW9mLWFsbA==";
    assert_eq!(
        of_others.hosts[0].authorization(),
        pair,
        "a token alone goes with a user that hosts know"
    );
    assert_eq!(of_others.hosts[0].push(), PushScope::Run);

    // The same once more, without more rights; and gone, whatever is said of its rights.
    let held = secrets.set(ANN, &SetSecret { push: None, ..any.clone() }).unwrap();
    assert_eq!(held.len(), 3);
    assert_eq!(secrets.give(ANN, RUN, "command").unwrap().hosts[0].push(), PushScope::Run);
    let left = secrets.remove(ANN, &entry("git:h.org", Some("command"))).unwrap();
    assert_eq!(left.len(), 2);
}
