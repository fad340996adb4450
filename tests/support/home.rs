//! The real binary in a home of its own: nothing of the user's environment gets in, nothing that was
//! started stays behind, and no wait is without an end.
//!
//! What a program writes goes to files, not pipes: a daemon that it starts may inherit them, and the
//! end of a pipe would never come.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// Longest time that one command may take. Far above what any needs, on a slow machine, too.
const COMMAND: Duration = Duration::from_mins(2);

/// Longest time until a node is ready.
const READY: Duration = Duration::from_mins(1);

/// Longest time in which a program ends that was asked to.
const END: Duration = Duration::from_secs(20);

/// How often something is looked at that cannot be waited for.
const LOOK: Duration = Duration::from_millis(10);

/// A home, a user's home around it, and the processes that belong to it.
#[derive(Debug)]
pub(crate) struct TestHome {
    dir: tempfile::TempDir,
    program: PathBuf,
    /// Stands before the arguments of each command.
    script: Option<PathBuf>,
    /// Variables beside those that every home has.
    variables: Vec<(String, String)>,
}

impl TestHome {
    /// A home that nothing has used.
    pub(crate) fn new() -> Self {
        Self::with_program(Path::new(env!("CARGO_BIN_EXE_baton")), None)
    }

    /// The same, in which every program lives in a network namespace of its own.
    pub(crate) fn in_network(namespace: &str) -> Self {
        let mut home = Self::with_program(Path::new("/bin/sh"), None);
        let script = home.root().join("tmp/in-network");
        let program = env!("CARGO_BIN_EXE_baton");
        std::fs::write(&script, format!("exec ip netns exec {namespace} {program} \"$@\"\n"))
            .unwrap();
        home.script = Some(script);
        home
    }

    /// The same, whose daemon and node are started under `strace` while [`inject`](Self::inject) says so; not a daemon
    /// that a command starts by itself.
    pub(crate) fn under_strace() -> Self {
        let mut home = Self::with_program(Path::new("/bin/sh"), None);
        let (script, rules) = (home.root().join("tmp/traced"), home.root().join("tmp/rules"));
        let (program, rules) = (env!("CARGO_BIN_EXE_baton"), rules.display());
        let text = format!(
            "case \"$1\" in serve|daemon) [ \"$2\" = status ] || [ ! -e {rules} ] ||\n\
             exec strace -f -qq --seccomp-bpf -o {rules}.log $(cat {rules}) {program} \"$@\";; esac\n\
             exec {program} \"$@\"\n"
        );
        std::fs::write(&script, text).unwrap();
        home.script = Some(script);
        home
    }

    /// Options of `strace` for what is started from here on, or none of it.
    pub(crate) fn inject(&self, options: Option<&str>) {
        let rules = self.root().join("tmp/rules");
        match options {
            Some(options) => std::fs::write(rules, options).unwrap(),
            None => drop(std::fs::remove_file(rules)),
        }
    }

    /// What `strace` wrote last.
    pub(crate) fn traced(&self) -> String {
        std::fs::read_to_string(self.root().join("tmp/rules.log")).unwrap_or_default()
    }

    /// The same, in which every program is that of a user who is not root and owns all of it; nothing where the tests cannot
    /// become one.
    pub(crate) fn of_user(user: u32) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            return Some(Self::new());
        }
        let setpriv = Command::new("setpriv").arg("--version").output();
        if !setpriv.is_ok_and(|output| output.status.success()) {
            return None;
        }
        let mut home = Self::with_program(Path::new("/bin/sh"), None);
        let (script, program) = (home.root().join("tmp/as-user"), home.root().join("program"));
        // Where it was built need not be open to others.
        std::fs::copy(env!("CARGO_BIN_EXE_baton"), &program).unwrap();
        let become_user = format!("setpriv --reuid {user} --regid {user} --clear-groups");
        let text = format!("exec {become_user} {} \"$@\"\n", program.display());
        std::fs::write(&script, text).unwrap();
        home.script = Some(script);
        let own = format!("{user}:{user}");
        let given = Command::new("chown").args(["-hR", &own]).arg(home.root()).status();
        assert!(given.unwrap().success());
        Some(home)
    }

    fn with_program(program: &Path, script: Option<PathBuf>) -> Self {
        // Short: the paths of sockets are bounded to 107 bytes.
        let dir = tempfile::Builder::new().prefix("b").tempdir().unwrap();
        for name in ["user", "run", "tmp"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        Self { dir, program: program.to_owned(), script, variables: Vec::new() }
    }

    /// The folder of everything.
    pub(crate) fn root(&self) -> &Path {
        self.dir.path()
    }

    /// What `BATON_HOME` says.
    pub(crate) fn baton_home(&self) -> PathBuf {
        self.root().join("baton")
    }

    /// What `HOME` says.
    pub(crate) fn user_home(&self) -> PathBuf {
        self.root().join("user")
    }

    /// Makes a folder in the user's home, as a workspace.
    pub(crate) fn folder(&self, name: &str) -> PathBuf {
        let path = self.user_home().join(name);
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    /// Sets a variable for all programs started from here on, daemons included.
    pub(crate) fn set(&mut self, name: &str, value: &str) {
        self.variables.push((name.into(), value.into()));
    }

    /// The program with its environment, not started; for what the other methods do not do.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.script);
        self.dress(&mut command);
        command
    }

    /// Another program that the user of this home has.
    pub(crate) fn other(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        self.dress(&mut command);
        command
    }

    fn dress(&self, command: &mut Command) {
        let root = self.root();
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin".into()))
            .env("HOME", self.user_home())
            .env("BATON_HOME", self.baton_home())
            .env("XDG_CONFIG_HOME", root.join("user/.config"))
            .env("XDG_DATA_HOME", root.join("user/.local/share"))
            .env("XDG_STATE_HOME", root.join("user/.local/state"))
            .env("XDG_CACHE_HOME", root.join("user/.cache"))
            .env("XDG_RUNTIME_DIR", root.join("run"))
            .env("CLAUDE_CONFIG_DIR", root.join("user/.claude"))
            .env("CODEX_HOME", root.join("user/.codex"))
            .env("TMPDIR", root.join("tmp"))
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_GLOBAL", root.join("user/.gitconfig"))
            .env("LANG", "C.UTF-8")
            .env("TZ", "UTC")
            .env("TERM", "dumb")
            .env("NO_COLOR", "1")
            .env("RUST_BACKTRACE", "1")
            .current_dir(self.user_home())
            .stdin(Stdio::null());
        for (name, value) in &self.variables {
            command.env(name, value);
        }
    }

    /// Runs `baton` with these arguments to its end.
    pub(crate) fn baton<S: AsRef<OsStr>>(&self, args: &[S]) -> Output {
        let mut command = self.command();
        command.args(args);
        run(command, COMMAND)
    }

    /// The same in another folder.
    pub(crate) fn baton_in<S: AsRef<OsStr>>(&self, folder: &Path, args: &[S]) -> Output {
        let mut command = self.command();
        command.args(args).current_dir(folder);
        run(command, COMMAND)
    }

    /// The same with bytes on standard input.
    pub(crate) fn baton_with_input<S: AsRef<OsStr>>(&self, args: &[S], input: &[u8]) -> Output {
        let path = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(path.path(), input).unwrap();
        let mut command = self.command();
        command.args(args).stdin(File::open(path.path()).unwrap());
        run(command, COMMAND)
    }

    /// Runs `baton … --json`, which must succeed, and reads its one object.
    pub(crate) fn json<S: AsRef<OsStr>>(&self, args: &[S]) -> Value {
        self.json_exit(args, 0)
    }

    /// The same where another exit code is expected.
    pub(crate) fn json_exit<S: AsRef<OsStr>>(&self, args: &[S], code: i32) -> Value {
        let mut lines = self.json_lines(args, code);
        let args: Vec<_> = args.iter().map(AsRef::as_ref).collect();
        assert_eq!(lines.len(), 1, "{args:?} prints one object on one line: {lines:?}");
        lines.remove(0)
    }

    /// The same for a command that streams: an object a line.
    pub(crate) fn json_lines<S: AsRef<OsStr>>(&self, args: &[S], code: i32) -> Vec<Value> {
        let mut command = self.command();
        // What stands after `--` is for another program.
        let own = args.iter().take_while(|arg| arg.as_ref() != "--").count();
        command.args(&args[..own]).arg("--json").args(&args[own..]);
        let output = run(command, COMMAND);
        assert_eq!(output.status.code(), Some(code), "{}", describe(args, &output));
        let lines = output.stdout.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
        lines
            .map(|line| {
                let read = serde_json::from_slice(line);
                read.unwrap_or_else(|error| panic!("{error}: {}", describe(args, &output)))
            })
            .collect()
    }

    /// Starts a node on a free port of loopback, in the foreground, and waits until it is ready.
    pub(crate) fn serve(&self) -> Serve {
        self.serve_on("127.0.0.1:0", &[])
    }

    /// The same on a given address, with further arguments: a node that comes back.
    pub(crate) fn serve_on(&self, listen: &str, args: &[&str]) -> Serve {
        let mut command = self.command();
        command.args(["serve", "--listen", listen, "--json"]).args(args);
        Serve::start(command, &self.root().join("tmp"))
    }

    /// Ids of the living processes of this home: those that name its folder, which is like no other,
    /// in their environment or their arguments.
    pub(crate) fn processes(&self) -> Vec<Pid> {
        let root = self.root().as_os_str().as_encoded_bytes();
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc").unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name();
            let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
            // A process of another user, or one that has just ended, cannot be ours.
            let ours = ["environ", "cmdline"].iter().any(|file| {
                let text = std::fs::read(entry.path().join(file)).unwrap_or_default();
                text.split(|&byte| byte == 0).any(|part| names_folder(part, root))
            });
            if ours && !is_ended(&entry.path()) {
                found.extend(Pid::from_raw(pid));
            }
        }
        found
    }

    /// Kills every process of this home, as a power cut would end them, and waits until they are
    /// gone.
    pub(crate) fn kill(&self) {
        let end = Instant::now() + END;
        loop {
            let left = self.processes();
            if left.is_empty() {
                return;
            }
            if Instant::now() >= end {
                // A second panic would hide the first.
                assert!(std::thread::panicking(), "{left:?} outlived SIGKILL");
                return;
            }
            for pid in left {
                // It may have ended since.
                let _ = kill_process(pid, Signal::KILL);
            }
            std::thread::sleep(LOOK);
        }
    }
}

impl Drop for TestHome {
    fn drop(&mut self) {
        if !self.processes().is_empty() {
            let mut stop = self.command();
            stop.args(["daemon", "stop"]);
            drop(try_run(stop, END));
        }
        self.kill();
    }
}

/// Whether `text` holds this path, or one below it.
fn names_folder(text: &[u8], folder: &[u8]) -> bool {
    text.windows(folder.len()).enumerate().any(|(at, window)| {
        let end = text.get(at + folder.len());
        window == folder && end.is_none_or(|&byte| !byte.is_ascii_alphanumeric())
    })
}

/// A zombie has an environment no longer, but its entry is there between the two.
fn is_ended(process: &Path) -> bool {
    let Ok(stat) = std::fs::read_to_string(process.join("stat")) else { return true };
    stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with(['Z', 'X']))
}

fn describe<S: AsRef<OsStr>>(args: &[S], output: &Output) -> String {
    let args: Vec<_> = args.iter().map(AsRef::as_ref).collect();
    format!(
        "{args:?} ended with {}\nstdout: {}\nstderr: {}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// Runs a program to its end; one that does not end is killed and fails the test.
pub(crate) fn run(command: Command, limit: Duration) -> Output {
    let shown = format!("{command:?}");
    try_run(command, limit).unwrap_or_else(|written| {
        panic!("{shown} did not end within {limit:?}\n{}", String::from_utf8_lossy(&written))
    })
}

/// What the program wrote, as an error where it had to be killed.
fn try_run(mut command: Command, limit: Duration) -> Result<Output, Vec<u8>> {
    let folder = tempfile::tempdir().unwrap();
    let [stdout, stderr] = ["stdout", "stderr"].map(|name| folder.path().join(name));
    let mut child = command
        .stdout(File::create(&stdout).unwrap())
        .stderr(File::create(&stderr).unwrap())
        .spawn()
        .unwrap_or_else(|error| panic!("starting {command:?}: {error}"));
    let status = wait(&mut child, limit);
    let [stdout, stderr] = [stdout, stderr].map(|path| std::fs::read(path).unwrap());
    match status {
        Some(status) => Ok(Output { status, stdout, stderr }),
        None => Err([stdout, stderr].concat()),
    }
}

/// Waits for a child's end; kills it and returns nothing where that does not come.
fn wait(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let end = Instant::now() + limit;
    while Instant::now() < end {
        if let Some(status) = child.try_wait().unwrap() {
            return Some(status);
        }
        std::thread::sleep(LOOK);
    }
    child.kill().unwrap();
    child.wait().unwrap();
    None
}

/// Waits until something is so.
pub(crate) fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + COMMAND;
    while !is_so() {
        assert!(Instant::now() < end, "{what} did not come within {COMMAND:?}");
        std::thread::sleep(LOOK);
    }
}

/// A node in the foreground; ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Serve {
    child: Child,
    lines: Receiver<String>,
    stderr: PathBuf,
    /// Where it listens.
    pub(crate) listening: SocketAddr,
    /// What its tickets say.
    pub(crate) advertised: Vec<String>,
    pub(crate) node_id: String,
    /// Good for one device of the user `owner`.
    pub(crate) ticket: String,
}

impl Serve {
    fn start(mut command: Command, folder: &Path) -> Self {
        let stderr = tempfile::Builder::new().prefix("serve-").tempfile_in(folder).unwrap();
        let (stderr_file, stderr) = stderr.keep().unwrap();
        let mut child = command.stdout(Stdio::piped()).stderr(stderr_file).spawn().unwrap();
        let (to, lines) = channel();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        // Ends with the pipe. Reads on, so that the node is never held up by it.
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                drop(to.send(line));
            }
        });
        let mut serve = Self {
            child,
            lines,
            stderr,
            listening: SocketAddr::from(([0; 4], 0)),
            advertised: Vec::new(),
            node_id: String::new(),
            ticket: String::new(),
        };
        let first = serve.line(READY).unwrap_or_else(|| {
            panic!("the node did not get ready\n{}", serve.written());
        });
        let ready: Value = serde_json::from_str(&first)
            .unwrap_or_else(|error| panic!("{error} in {first}\n{}", serve.written()));
        let text = |field: &str| {
            let value = ready[field].as_str();
            value.unwrap_or_else(|| panic!("no {field} in {first}")).to_owned()
        };
        serve.listening = text("listening").parse().unwrap();
        serve.node_id = text("node_id");
        serve.ticket = text("ticket");
        let advertised = ready["advertised"].as_array().unwrap();
        serve.advertised =
            advertised.iter().map(|address| address.as_str().unwrap().to_owned()).collect();
        serve
    }

    /// The next line of its standard output, or nothing where none comes.
    pub(crate) fn line(&self, limit: Duration) -> Option<String> {
        self.lines.recv_timeout(limit).ok()
    }

    /// Its standard error so far.
    pub(crate) fn written(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.stderr).unwrap_or_default()).into_owned()
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed()).unwrap()
    }

    /// Ends it as the user would, and waits.
    pub(crate) fn stop(mut self) -> ExitStatus {
        let _ = kill_process(self.pid(), Signal::TERM);
        let status = wait(&mut self.child, END);
        status.unwrap_or_else(|| panic!("the node did not end on SIGTERM\n{}", self.written()))
    }

    /// Ends it as a power cut would, and waits.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Serve {
    fn drop(&mut self) {
        if let Ok(Some(_)) = self.child.try_wait() {
            return;
        }
        let _ = kill_process(self.pid(), Signal::TERM);
        wait(&mut self.child, END);
        if std::thread::panicking() {
            eprintln!("--- the node wrote\n{}---", self.written());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A home whose `baton` is this shell script. The shell reads it: a file that was just written
    /// cannot always be executed, because another test may have forked while it was open.
    fn scripted(script: &str) -> (tempfile::TempDir, TestHome) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("baton");
        std::fs::write(&path, format!("{script}\n")).unwrap();
        let home = TestHome::with_program(Path::new("/bin/sh"), Some(path));
        (dir, home)
    }

    const SERVE: &str = r#"echo '{"listening":"127.0.0.1:4319","advertised":["h:1"],"node_id":"ab","ticket":"baton1x"}'"#;

    #[test]
    fn a_program_sees_its_home_and_nothing_else() {
        let (_dir, mut home) = scripted(r#"env; echo "args $*"; cat; exit 3"#);
        home.set("EXTRA", "1");
        let output = home.baton_with_input(&["a", "b"], b"input");
        assert_eq!(output.status.code(), Some(3));
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains("args a b\ninput"), "{text}");
        assert!(text.contains("EXTRA=1"));
        for line in text.lines().filter(|line| line.contains('/')) {
            let (name, value) = line.split_once('=').unwrap();
            let ours = ["PATH", "_"].contains(&name) || Path::new(value).starts_with(home.root());
            assert!(ours, "{line}");
        }
    }

    #[test]
    fn json_is_one_object_and_the_exit_code_counts() {
        let (_dir, home) = scripted(r#"echo "{\"last\": \"$2\"}"; exit $1"#);
        assert_eq!(home.json(&["0"])["last"], "--json");
        assert_eq!(home.json(&["0", "--", "x"])["last"], "--json");
        assert_eq!(home.json_exit(&["4"], 4)["last"], "--json");
        assert!(std::panic::catch_unwind(|| home.json(&["4"])).is_err());
        let (_dir, two) = scripted("echo '{}'; echo '{}'");
        assert!(std::panic::catch_unwind(|| two.json(&["0"])).is_err());
    }

    #[test]
    fn a_program_that_does_not_end_is_killed() {
        let (_dir, home) = scripted("echo started; exec sleep 1000");
        let written = try_run(home.command(), Duration::from_millis(500)).unwrap_err();
        assert_eq!(written, b"started\n");
        assert_eq!(home.processes(), []);
    }

    #[test]
    fn a_process_that_was_given_another_environment_is_ours_by_its_arguments() {
        let (_dir, home) =
            scripted("exec env -i /bin/sh -c 'sleep 1000; :' sh --home=\"$BATON_HOME\" &");
        assert!(home.baton(&["start"]).status.success());
        eventually("the process", || !home.processes().is_empty());
        assert!(names_folder(b"--home=/tmp/b1/baton", b"/tmp/b1"));
        assert!(names_folder(b"/tmp/b1", b"/tmp/b1"));
        assert!(!names_folder(b"/tmp/b12/baton", b"/tmp/b1"));
        home.kill();
        assert_eq!(home.processes(), []);
    }

    #[test]
    fn what_a_command_leaves_behind_does_not_hold_it_up_and_ends_with_the_home() {
        let (_dir, home) = scripted("[ \"$1\" = daemon ] && exit 0\nsleep 1000 & echo $!");
        let output = home.baton(&["start"]);
        let pid: i32 = String::from_utf8(output.stdout).unwrap().trim().parse().unwrap();
        assert_eq!(home.processes(), [Pid::from_raw(pid).unwrap()]);
        let other = scripted("true");
        assert_eq!(other.1.processes(), []);
        drop(home);
        let gone = is_ended(&Path::new("/proc").join(pid.to_string()));
        assert!(gone, "{pid} is still there");
    }

    #[test]
    fn a_node_is_ready_when_it_says_so_and_ends_with_its_guard() {
        let (_dir, home) = scripted(&format!("{SERVE}\necho more\necho log >&2\nexec sleep 1000"));
        let serve = home.serve();
        assert_eq!(serve.listening, "127.0.0.1:4319".parse().unwrap());
        assert_eq!((serve.node_id.as_str(), serve.ticket.as_str()), ("ab", "baton1x"));
        assert_eq!(serve.advertised, ["h:1"]);
        assert_eq!(serve.line(END).as_deref(), Some("more"));
        eventually("the log", || serve.written() == "log\n");
        assert_eq!(home.processes(), [serve.pid()]);
        drop(serve);
        assert_eq!(home.processes(), []);
        assert!(!home.serve().stop().success());
        home.serve().kill();
        assert_eq!(home.processes(), []);
    }

    #[test]
    fn a_node_that_does_not_get_ready_fails_the_test_with_what_it_wrote() {
        let (_dir, home) = scripted("echo 'address in use' >&2; exit 1");
        let panic = std::panic::catch_unwind(|| home.serve()).unwrap_err();
        let text = panic.downcast_ref::<String>().unwrap();
        assert!(text.contains("address in use"), "{text}");
    }

    #[test]
    fn the_real_program_serves_is_joined_and_leaves_nothing_behind() {
        let (cloud, laptop) = (TestHome::new(), TestHome::new());
        let serve = cloud.serve();
        assert!(serve.ticket.starts_with("baton1"));
        let joined = laptop.json(&["join", &serve.ticket]);
        assert_eq!(joined["node_id"], serve.node_id.as_str());
        assert_eq!(laptop.processes().len(), 1, "a daemon of its own");
        assert_eq!(laptop.json(&["daemon", "status"])["running"], true);
        laptop.kill();
        assert_eq!(laptop.json(&["daemon", "status"])["running"], false);
        assert!(serve.stop().success());
        assert_eq!(cloud.processes(), []);
    }
}
