//! Gets a program from the npm registry, once.
//!
//! Nothing is installed for the machine or its user: the folder of a program is below the target folder, and appears whole or not at
//! all. Scripts of packages are not run; what is used of a package is the program in it.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};

use super::super::home::run;
use super::table::Program;

/// Longest time of an installation: some 170 MB.
const LIMIT: Duration = Duration::from_mins(10);

/// Programs that could not be got, so that each is tried once.
static FAILED: Mutex<Vec<&str>> = Mutex::new(Vec::new());

/// Whether the tests must not do without.
fn is_required(program: &Program) -> bool {
    let named = std::env::var("BATON_REQUIRE_AGENTS").unwrap_or_default();
    named.split(',').any(|name| name == program.agent)
}

/// The folder that holds the program.
pub(super) fn get(program: &'static Program) -> Option<PathBuf> {
    let is_nightly = std::env::var_os("BATON_NIGHTLY").is_some();
    if !program.is_standard && !is_nightly && !is_required(program) {
        return None;
    }
    let mut failed = FAILED.lock().unwrap_or_else(PoisonError::into_inner);
    if failed.contains(&program.agent) {
        return None;
    }
    match install(program) {
        Ok(bin) => Some(bin),
        Err(why) => {
            failed.push(program.agent);
            let Program { agent, version, .. } = program;
            eprintln!(
                "!!! {agent} {version} is not here: conversations of the real {agent} are NOT TESTED. {why}"
            );
            drop(failed);
            assert!(!is_required(program), "{agent} has to be tested: {why}");
            None
        }
    }
}

fn install(program: &Program) -> Result<PathBuf, String> {
    let top = Path::new(env!("CARGO_TARGET_TMPDIR")).join("agents");
    std::fs::create_dir_all(&top).unwrap();
    // Another run of the tests may be at it.
    let lock = File::create(top.join("lock")).unwrap();
    flock(&lock, FlockOperation::LockExclusive).unwrap();
    let Program { agent, package, version, .. } = program;
    let folder = top.join(format!("{agent}-{version}"));
    let bin = folder.join("bin");
    if !folder.exists() {
        let new = top.join("new");
        drop(std::fs::remove_dir_all(&new));
        std::fs::create_dir_all(new.join("bin")).unwrap();
        let begun = Instant::now();
        npm(&new, &format!("{package}@{version}"))?;
        let at = find(&new.join("node_modules"), program)?;
        std::os::unix::fs::symlink(Path::new("..").join(at), new.join("bin").join(agent)).unwrap();
        std::fs::rename(&new, &folder).unwrap();
        eprintln!("installed {agent} {version} in {:.1} s", begun.elapsed().as_secs_f64());
    }
    says_its_version(&bin.join(agent), version)?;
    Ok(bin)
}

fn npm(new: &Path, what: &str) -> Result<(), String> {
    let found = Command::new("npm").arg("--version").output();
    if !found.is_ok_and(|output| output.status.success()) {
        return Err("There is no npm: install nodejs and npm".to_owned());
    }
    let mut command = Command::new("npm");
    command
        .args(["install", "--ignore-scripts", "--no-audit", "--no-fund", "--no-save"])
        .args(["--no-update-notifier", "--loglevel", "error", "--prefix"])
        .arg(new)
        .arg("--cache")
        .arg(new.join("cache"))
        .arg(what)
        .current_dir(new);
    let output = run(command, LIMIT);
    std::fs::remove_dir_all(new.join("cache")).unwrap();
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said: Vec<_> = said.lines().take(4).collect();
    Err(format!("npm could not install {what}: {}", said.join("; ")))
}

/// From the folder above `node_modules`.
fn find(modules: &Path, program: &Program) -> Result<PathBuf, String> {
    let arch = std::env::consts::ARCH;
    let cpu = match arch {
        "x86_64" => "x64",
        "aarch64" => "arm64",
        other => other,
    };
    let mut all = program.at.iter().map(|at| at.replace("{cpu}", cpu).replace("{arch}", arch));
    let found = all.find(|at| modules.join(at).is_file());
    let at = found.ok_or_else(|| format!("{} has no program for {arch}", program.package))?;
    Ok(Path::new("node_modules").join(at))
}

/// A program that does not start here says why.
fn says_its_version(program: &Path, version: &str) -> Result<(), String> {
    let mut command = Command::new(program);
    let home = tempfile::tempdir().unwrap();
    let path = std::env::var_os("PATH").unwrap_or_default();
    command.arg("--version").env_clear().env("PATH", path).env("HOME", home.path());
    command.current_dir(home.path()).stdin(std::process::Stdio::null());
    let output = run(command, LIMIT);
    let said = String::from_utf8_lossy(&output.stdout);
    if said.contains(version) {
        return Ok(());
    }
    let error = String::from_utf8_lossy(&output.stderr);
    Err(format!("it says {said:?} and {:?} instead of its version", error.lines().next()))
}
