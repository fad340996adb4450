//! Every row of the contract exists, and what this version lacks says so with exit 2.

use super::place::Place;

#[test]
fn every_command_of_this_version_has_help_with_its_flags() {
    let place = Place::new();
    let rows = [
        ("serve", "--listen --advertise"),
        ("ticket", "--user --role --expires --uses"),
        ("join", "--name"),
        ("remote", "list default remove leave"),
        ("leave", "NAME"),
        ("device", "list revoke"),
        ("allow", "PATH|FINDING --revoke"),
        ("status", "PATH"),
        ("snapshot", "PATH --message --no-daemon"),
        ("push", "PATH --wait"),
        ("log", "PATH"),
        ("diff", "--patch"),
        ("restore", "SNAPSHOT --into"),
        (
            "handoff",
            "PATH --prompt --prompt-file --agent --model --permissions --variants --attach --conversation --dry-run --follow \
             --nested --expires COMMAND",
        ),
        ("run", "list show logs wait cancel diff"),
        ("run diff", "--patch"),
        ("follow-up", "--prompt --prompt-file --attach --fork --expires COMMAND"),
        ("runs", "--remote"),
        ("agent", "list check setup remove"),
        ("agent list", "PATH"),
        ("agent check", "AGENT"),
        ("agent setup", "AGENT"),
        ("agent remove", "AGENT"),
        ("logs", "--follow"),
        ("pull", "RUN --into --apply --only --conflicts --dry-run"),
        ("undo", "ID"),
        ("queue", "cancel"),
        ("queue cancel", "ID"),
        ("check", "--data"),
        ("doctor", "--home"),
        ("daemon", "run status stop"),
        ("service", "install remove"),
        ("service install", "--serve"),
        ("config", "show"),
        ("config show", "--origin"),
        ("completions", "SHELL"),
        ("man", "COMMAND"),
    ];
    let overview = place.line("--help").out;
    for (command, words) in rows {
        let ran = place.line(&format!("{command} --help"));
        assert_eq!(ran.code, 0, "{ran:?}");
        let name = command.split(' ').next().unwrap();
        assert!(overview.lines().any(|line| line.trim_start().starts_with(name)), "{name}");
        for word in words.split_whitespace().chain(["--home", "--json", "--remote"]) {
            assert!(ran.out.contains(word), "{command} --help lacks {word}:\n{}", ran.out);
        }
    }
    assert!(place.is_untouched());
}

#[test]
fn help_is_a_command_too() {
    let place = Place::new();
    for command in ["handoff", "run logs"] {
        let asked = place.line(&format!("help {command}"));
        assert_eq!((asked.code, asked.err.as_str()), (0, ""), "{asked:?}");
        assert_eq!(asked.out, place.line(&format!("{command} --help")).out);
    }
    assert!(place.is_untouched());
}

#[test]
fn what_this_version_lacks_says_so_and_starts_nothing() {
    let place = Place::new();
    let lines = [
        "pull 0123456789abcdef --into x --conflicts markers",
        "pull 0123456789abcdef --into x --dry-run",
        "--json pull 0123456789abcdef --into x --dry-run",
    ];
    for line in lines {
        let ran = place.line(line);
        assert_eq!((ran.code, ran.out.as_str()), (2, ""), "{line}: {ran:?}");
        assert!(ran.err.contains("not in this version\nhint: "), "{line}: {ran:?}");
    }
    assert!(place.is_untouched());
}

#[test]
fn wrong_usage_exits_2_with_nothing_on_stdout() {
    let place = Place::new();
    let lines = [
        "",
        "frobnicate",
        "push --frobnicate",
        "restore 0123456789abcdef",
        "diff",
        "run",
        "run show",
        "ticket --expires soon",
        "ticket --uses 0",
        "ticket --role king",
        "handoff --expires soon -- make",
        "queue cancel",
        "secret",
        "secret set",
        "secret set LD_PRELOAD",
        "secret rm A-B",
        "pull 0123456789abcdef --apply --into x",
        "pull 0123456789abcdef --apply --conflicts ours",
        "undo a b",
        "handoff --variants 0 -- make",
        "handoff --agent command",
        "handoff --agent command -p x",
        "handoff --agent claude",
        "handoff --agent claude -- make",
        "handoff --agent claude -p x --permissions much",
        "handoff --agent claude -p x --model -v",
        "pull 0123456789abcdef --apply --exec",
        "handoff --conversation 0123 -- make",
        "handoff --conversation ../../x -- make",
        "agent",
        "agent check nobody",
        "handoff -f",
        "handoff -p x --prompt-file y -- make",
        "serve --listen nowhere:port",
        "completions klingon",
        "man frobnicate",
        "join",
        "ticket --remote box",
        "--json restore 0123456789abcdef",
    ];
    for line in lines {
        let ran = place.line(line);
        assert_eq!((ran.code, ran.out.as_str()), (2, ""), "{line}: {ran:?}");
        assert!(!ran.err.is_empty(), "{line}");
    }
    let empty = place.run(["handoff", "-p", " ", "--", "make"]);
    assert_eq!((empty.code, empty.out.as_str()), (2, ""), "{empty:?}");
    assert!(place.is_untouched());
}

#[test]
fn the_version_is_one_line() {
    let ran = Place::new().line("--version");
    assert_eq!(ran.out, format!("baton {}\n", env!("CARGO_PKG_VERSION")));
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
}

#[test]
fn completions_and_manual_pages_are_made_for_everything() {
    let place = Place::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let ran = place.line(&format!("completions {shell}"));
        assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{ran:?}");
        assert!(ran.out.contains("handoff") && ran.out.contains("into"), "{shell}");
    }
    let page = place.line("man").out;
    assert!(page.starts_with(".ie") && page.contains(".TH baton 1") && page.contains("BATON_HOME"));
    let page = place.line("man run logs").out;
    assert!(page.contains(".TH baton-run-logs 1") && page.contains("follow"), "{page}");
    assert!(place.is_untouched());
}

#[test]
fn the_configuration_is_shown_with_its_origin_and_its_errors() {
    let place = Place::new();
    let ran = place.line("config show");
    assert!(ran.out.contains("serve.listen = \"[::]:4319\"\n"), "{ran:?}");
    place.write("home/config.toml", "[serve]\nlisten = \"127.0.0.1:9\"\n");
    let json = place.line("config show --json").json();
    let listen =
        json["settings"].as_array().unwrap().iter().find(|one| one["key"] == "serve.listen");
    let listen = listen.unwrap();
    assert_eq!(
        (&listen["value"], &listen["origin"]),
        (&"127.0.0.1:9".into(), &"config.toml".into())
    );
    let ran = place.line("config show --origin");
    assert!(ran.out.contains("serve.listen = \"127.0.0.1:9\"  # config.toml\n"), "{ran:?}");
    place.write("home/config.toml", "[serve]\nlisen = \"127.0.0.1:9\"\n");
    let ran = place.line("config show --json");
    assert_eq!((ran.code, &ran.json()["error"]["code"]), (1, &"config".into()), "{ran:?}");
    assert!(ran.err.contains("serve.lisen") && ran.err.contains("serve.listen"), "{ran:?}");
}
