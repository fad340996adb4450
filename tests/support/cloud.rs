//! A cloud node and the homes that joined it, and what a command that must fail says.

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

use serde_json::Value;

use super::home::{Serve, TestHome, eventually};
use super::walker::{Listing, differences, walk};

/// A snapshot comes back from the node, into a folder of this name in the root of a home, as it was listed.
pub(crate) fn comes_back(home: &TestHome, name: &str, (snapshot, listing): &(String, Listing)) {
    let into = home.root().join(name);
    home.json(&["restore", snapshot, "--into", arg(&into)]);
    assert_eq!(differences(listing, &walk(&into), &[]), [""; 0], "{name}");
}

/// A node in a home of its own.
#[derive(Debug)]
pub(crate) struct Cloud {
    /// Nothing only while it is being started again.
    serve: Option<Serve>,
    pub(crate) home: TestHome,
}

impl Cloud {
    pub(crate) fn new() -> Self {
        Self::in_home(TestHome::new())
    }

    pub(crate) fn in_home(home: TestHome) -> Self {
        Self { serve: Some(home.serve()), home }
    }

    /// The same on an address of another network.
    pub(crate) fn listening(address: &str) -> Self {
        let home = TestHome::new();
        Self { serve: Some(home.serve_on(address, &[])), home }
    }

    pub(crate) fn serve(&self) -> &Serve {
        self.serve.as_ref().unwrap()
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.serve().listening
    }

    /// A fresh ticket.
    pub(crate) fn ticket(&self, args: &[&str]) -> String {
        let answer = self.home.json(&[&["ticket"], args].concat());
        answer["ticket"].as_str().unwrap().to_owned()
    }

    /// A new home, joined with a ticket of its own.
    pub(crate) fn device(&self) -> TestHome {
        self.device_with(&[])
    }

    /// The same with a ticket for another user, or with a lesser role.
    pub(crate) fn device_with(&self, args: &[&str]) -> TestHome {
        let home = TestHome::new();
        home.json(&["join", &self.ticket(args)]);
        home
    }

    /// Ends the node as a power cut would.
    pub(crate) fn kill(&mut self) -> SocketAddr {
        let serve = self.serve.take().unwrap();
        let address = serve.listening;
        serve.kill();
        address
    }

    /// Ends the node as a user would.
    pub(crate) fn stop(&mut self) -> SocketAddr {
        let serve = self.serve.take().unwrap();
        let address = serve.listening;
        assert!(serve.stop().success());
        address
    }

    /// Starts it again where it was.
    pub(crate) fn start(&mut self, address: SocketAddr) {
        self.serve = Some(self.home.serve_on(&address.to_string(), &[]));
    }
}

/// Text of a field.
pub(crate) fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_else(|| panic!("no {field} in {value}"))
}

/// The elements of a field.
pub(crate) fn list<'a>(value: &'a Value, field: &str) -> &'a Vec<Value> {
    value[field].as_array().unwrap_or_else(|| panic!("no {field} in {value}"))
}

/// Runs a command that must fail in this way; returns what it said, which names what was wrong and
/// what to type next.
pub(crate) fn refused<S: AsRef<OsStr>>(
    home: &TestHome,
    args: &[S],
    exit: i32,
    code: &str,
) -> String {
    let answer = home.json_exit(args, exit);
    let error = &answer["error"];
    let shown = args.iter().map(|arg| arg.as_ref().to_string_lossy()).collect::<Vec<_>>().join(" ");
    assert_eq!(error["code"], code, "{shown}: {error}");
    assert!(!text(error, "message").trim().is_empty(), "{shown}: {error}");
    let hint = error["hint"].as_str().unwrap_or_default();
    assert!(!hint.is_empty(), "{shown} says what is wrong, and not what to do: {error}");
    format!("{}\n{hint}", text(error, "message"))
}

/// Sorted omissions of an answer or a receipt.
pub(crate) fn omitted(answer: &Value) -> Vec<(String, String)> {
    let entry = |one: &Value| (text(one, "path").to_owned(), text(one, "reason").to_owned());
    let mut all: Vec<_> = list(answer, "omitted").iter().map(entry).collect();
    all.sort();
    all
}

/// A path as an argument.
pub(crate) fn arg(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A command in the background, whose output can be read while it runs. Killed when dropped.
#[derive(Debug)]
pub(crate) struct Background {
    child: Child,
    stdout: tempfile::NamedTempFile,
    stderr: tempfile::NamedTempFile,
}

impl Background {
    pub(crate) fn start(mut command: Command) -> Self {
        let [stdout, stderr] = [(); 2].map(|()| tempfile::NamedTempFile::new().unwrap());
        let child = command
            .stdin(Stdio::null())
            .stdout(stdout.reopen().unwrap())
            .stderr(stderr.reopen().unwrap())
            .spawn()
            .unwrap();
        Self { child, stdout, stderr }
    }

    pub(crate) fn stdout(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.stdout.path()).unwrap()).into_owned()
    }

    pub(crate) fn stderr(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.stderr.path()).unwrap()).into_owned()
    }

    /// Waits until it has written this to its standard output.
    pub(crate) fn says(&mut self, what: &str) {
        eventually(what, || {
            let ended = self.is_ended();
            let said = self.stdout().contains(what);
            assert!(said || !ended, "{what} is missing in\n{}{}", self.stdout(), self.stderr());
            said
        });
    }

    pub(crate) fn is_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Waits for its end.
    pub(crate) fn end(&mut self) -> ExitStatus {
        eventually("the end of a command", || self.is_ended());
        self.child.wait().unwrap()
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        // Both fail only where it has ended.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
