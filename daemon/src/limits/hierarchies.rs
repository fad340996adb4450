//! The hierarchies of control groups that are mounted here, and where this process stands in each.
//!
//! A machine has one of version 2, or several of version 1, or both, where version 2 then has only what version 1 does
//! not. Only folders are found here; nothing is changed.

use std::path::{Path, PathBuf};

use baton_store::fs::{self, FsError};

/// Longest list of mounts that is read.
const MAX_MOUNTS: u64 = 16 * 1024 * 1024;

/// One mounted hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hierarchy {
    /// What it can limit: of version 1 as it was mounted, of version 2 nothing, because that differs from group to group.
    pub(super) controllers: Vec<String>,
    /// Whether it is of version 2.
    pub(super) unified: bool,
    /// Where it is mounted.
    pub(super) root: PathBuf,
    /// The group of this process.
    pub(super) own: PathBuf,
}

/// Those that can be seen from here.
pub(super) fn mounted() -> Result<Vec<Hierarchy>, FsError> {
    let read = |path: &str| -> Result<String, FsError> {
        let bytes = fs::read_if_exists(Path::new(path), MAX_MOUNTS)?.unwrap_or_default();
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    Ok(parse(&read("/proc/self/mountinfo")?, &read("/proc/self/cgroup")?))
}

fn parse(mounts: &str, groups: &str) -> Vec<Hierarchy> {
    let mut found: Vec<Hierarchy> = Vec::new();
    for line in mounts.lines() {
        // ID PARENT DEVICE ROOT PLACE OPTIONS... - TYPE SOURCE OPTIONS
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let left: Vec<&str> = left.split(' ').collect();
        let right: Vec<&str> = right.split(' ').collect();
        let (Some(&shown), Some(&place), Some(&kind)) = (left.get(3), left.get(4), right.first())
        else {
            continue;
        };
        let unified = match kind {
            "cgroup2" => true,
            "cgroup" => false,
            _ => continue,
        };
        let options = right.get(2).copied().unwrap_or_default();
        let Some(own) = own_group(groups, unified, options) else { continue };
        let root = PathBuf::from(unescaped(place));
        // A container may see a part of a hierarchy, and be told a path from the top of all.
        let shown = unescaped(shown);
        let below =
            Path::new(own).strip_prefix(&shown).or_else(|_| Path::new(own).strip_prefix("/"));
        let below = below.unwrap_or(Path::new("")).components();
        let own = below.fold(root.clone(), |above, part| above.join(part));
        let own = if own.is_dir() { own } else { root.clone() };
        let known = ["memory", "pids", "cpu", "freezer"];
        let named = options.split(',').filter(|name| !unified && known.contains(name));
        let controllers: Vec<_> = named.map(str::to_owned).collect();
        if (unified || !controllers.is_empty()) && !found.iter().any(|it| it.root == root) {
            found.push(Hierarchy { controllers, unified, root, own });
        }
    }
    found
}

/// The path of this process in the hierarchy that was mounted with these options.
fn own_group<'a>(groups: &'a str, unified: bool, options: &str) -> Option<&'a str> {
    groups.lines().find_map(|line| {
        // NUMBER:CONTROLLER,CONTROLLER:PATH, and 0::PATH for version 2.
        let mut parts = line.splitn(3, ':');
        let (number, names, path) = (parts.next()?, parts.next()?, parts.next()?);
        let mounted = |name: &str| options.split(',').any(|option| option == name);
        let is_it = if unified {
            number == "0"
        } else {
            !names.is_empty() && names.split(',').all(mounted)
        };
        is_it.then_some(path)
    })
}

/// Blanks and their like in a path of the list of mounts stand as `\` and three octal digits.
fn unescaped(path: &str) -> String {
    let mut text = String::new();
    let mut rest = path;
    while let Some((before, after)) = rest.split_once('\\') {
        text.push_str(before);
        let byte = after.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        if let Some(byte) = byte.filter(u8::is_ascii) {
            text.push(char::from(byte));
            rest = after.get(3..).unwrap_or_default();
        } else {
            text.push('\\');
            rest = after;
        }
    }
    text + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_hierarchy_is_found_with_our_place_in_it() {
        let folder = tempfile::tempdir().unwrap();
        let top = folder.path();
        for group in ["memory/a/b", "cpu,cpuacct/c", "unified/user.slice", "my pids"] {
            fs::create_dir_all(&top.join(group)).unwrap();
        }
        let top = top.display();
        let mounts = format!(
            "20 1 0:5 / /proc rw - proc proc rw\n\
             30 1 0:26 / {top}/memory rw,nosuid shared:9 - cgroup cgroup rw,memory\n\
             31 1 0:27 / {top}/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
             32 1 0:28 /docker/1 {top}/my\\040pids rw - cgroup cgroup rw,pids\n\
             33 1 0:29 / {top}/devices rw - cgroup cgroup rw,devices\n\
             34 1 0:30 / {top}/unified rw - cgroup2 cgroup2 rw,nsdelegate\n"
        );
        let groups =
            "4:memory:/a/b\n3:pids:/docker/1\n2:cpu,cpuacct:/c\n1:name=systemd:/\n0::/user.slice\n";
        let all = parse(&mounts, groups);
        let shown: Vec<_> = all
            .iter()
            .map(|it| (it.controllers.join(","), it.unified, it.own.display().to_string()))
            .collect();
        let expected = [
            ("memory".to_owned(), false, format!("{top}/memory/a/b")),
            ("cpu".to_owned(), false, format!("{top}/cpu,cpuacct/c")),
            ("pids".to_owned(), false, format!("{top}/my pids")),
            (String::new(), true, format!("{top}/unified/user.slice")),
        ];
        assert_eq!(shown, expected);
        assert_eq!(parse("nonsense\n1 2 - cgroup\n", groups), []);
    }
}
