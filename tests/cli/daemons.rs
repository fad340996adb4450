//! How a command finds its daemon, and what it does with one of another version.

use std::os::unix::net::UnixListener;

use baton_daemon::api::control::{Answer, Command, DaemonAnswer};

use super::fake::{Fake, done, failed};
use super::place::{Place, Ran};

fn answer(serving: bool) -> DaemonAnswer {
    DaemonAnswer {
        running: true,
        pid: None,
        version: Some("0.0.0-old".into()),
        home: "/h".into(),
        serving,
    }
}

#[test]
fn asking_whether_a_daemon_runs_starts_none() {
    let place = Place::new();
    let home = place.home();
    let out = format!("not running, home {}\n", home.display());
    for line in ["daemon status", "daemon stop"] {
        assert_eq!(place.line(line), Ran { code: 0, out: out.clone(), err: String::new() });
    }
    let json = place.line("daemon status --json").json();
    assert_eq!(json["running"], false);
    assert!(json["pid"].is_null() && json["version"].is_null());
    assert_eq!(json["home"], home.to_str().unwrap());
    assert!(place.is_untouched());
}

#[test]
fn a_dead_socket_is_nobody() {
    let place = Place::new();
    baton_store::fs::create_dir_all(&place.home()).unwrap();
    drop(UnixListener::bind(place.socket()).unwrap());
    assert_eq!(place.line("daemon status --json").json()["running"], false);
}

#[test]
fn the_home_flag_beats_the_variable() {
    let place = Place::new();
    let _fake = Fake::answering(&place, Answer::Daemon(answer(false)));
    assert_eq!(place.line("daemon status --json").json()["running"], true);
    let other = place.path("other");
    let ran = place.run(["daemon", "status", "--json", "--home", other.to_str().unwrap()]);
    assert_eq!(ran.json()["running"], false);
    assert_eq!(ran.json()["home"], other.to_str().unwrap());
}

#[test]
fn a_daemon_that_cannot_start_shows_why() {
    let place = Place::new();
    place.write("home/config.toml", "[serve]\nlisen = 1\n");
    place.write("home/daemon.log", "of an earlier start\n");
    let ran = place.line("push --json");
    assert_eq!((ran.code, &ran.json()["error"]["code"]), (1, &"daemon-start".into()), "{ran:?}");
    assert!(ran.err.contains("unknown key serve.lisen") && ran.err.contains("hint: "), "{ran:?}");
    assert!(!ran.err.contains("earlier"), "{ran:?}");
    let json = place.line("doctor --json").json();
    assert_eq!(json["checks"][0]["name"], "daemon");
    assert_eq!(json["checks"][0]["ok"], false);
}

#[test]
fn a_home_that_is_no_folder_is_named() {
    let place = Place::new();
    let home = place.write("home", "a file where the home should be");
    let ran = place.line("push --json");
    assert_eq!((ran.code, &ran.json()["error"]["code"]), (1, &"daemon-unreachable".into()));
    assert!(ran.err.contains(home.to_str().unwrap()) && ran.err.contains("hint: "), "{ran:?}");
}

#[test]
fn stopping_waits_until_the_daemon_is_gone() {
    let place = Place::new();
    let fake = Fake::answering(&place, Answer::Stopped(answer(false)));
    let ran = place.line("daemon stop");
    assert_eq!(ran, Ran { code: 0, out: "not running, home /h\n".into(), err: String::new() });
    assert!(matches!(fake.seen()[..], [Command::Stop { if_idle: false }]));
    assert!(!place.socket().exists());
}

#[test]
fn a_daemon_of_another_version_is_stopped_if_it_is_idle() {
    let place = Place::new();
    let fake = Fake::of_version(&place, "0.0.0-old", |command| match command {
        Command::Ping => vec![done(Answer::Daemon(answer(false)))],
        _ => vec![done(Answer::Stopped(answer(false)))],
    });
    // What follows is a real daemon of this version; here only that the old one gave way counts.
    drop(place.line("remote list"));
    let seen = fake.seen();
    assert!(matches!(seen[..], [Command::Ping, Command::Stop { if_idle: true }]), "{seen:?}");
    drop(place.line("daemon stop"));
}

#[test]
fn a_busy_or_serving_daemon_of_another_version_is_left_alone() {
    let place = Place::new();
    let fake = Fake::of_version(&place, "0.0.0-old", |command| match command {
        Command::Ping => vec![done(Answer::Daemon(answer(false)))],
        _ => vec![failed("busy", "a run is live", None, 1)],
    });
    let ran = place.line("remote list --json");
    assert_eq!((ran.code, &ran.json()["error"]["code"]), (1, &"daemon-version".into()), "{ran:?}");
    assert!(ran.err.contains("a run is live") && ran.err.contains("hint: "), "{ran:?}");
    drop(fake);

    let script = |_: &Command| vec![done(Answer::Daemon(answer(true)))];
    let fake = Fake::of_version(&place, "0.0.0-old", script);
    let ran = place.line("remote list");
    assert!(
        ran.code == 1 && ran.err.contains("0.0.0-old") && ran.err.contains("baton serve"),
        "{ran:?}"
    );
    assert!(matches!(fake.seen()[..], [Command::Ping]));
}

#[test]
fn a_second_serve_of_a_home_is_refused() {
    let place = Place::new();
    let _fake = Fake::answering(&place, Answer::Daemon(answer(true)));
    let ran = place.line("serve --listen 127.0.0.1:0 --json");
    assert_eq!((ran.code, &ran.json()["error"]["code"]), (1, &"home-in-use".into()), "{ran:?}");
}
