//! What the git of a run is told, so that it asks the node instead of a host, and what it says where nobody can help.
//!
//! It is told by variables, as if each `git` had been given `-c`: files of the run, and what is written into its repositories,
//! stay as they are, and a result has nothing of it.

/// The settings for some hosts, each of which is asked for at `base`.
pub(super) fn of<'a>(
    base: &str,
    key: &str,
    hosts: impl Iterator<Item = &'a str>,
) -> Vec<(String, String)> {
    let mut all = vec![
        // Git shows it in no trace.
        (format!("http.{base}/.extraHeader"), format!("Authorization: Bearer {key}")),
        // A proxy of the run's environment has no way to here.
        (format!("http.{base}/.proxy"), String::new()),
    ];
    for host in hosts {
        let mut instead = vec![format!("https://{host}/")];
        // With a port it is one server of several there, and only it is known to be meant.
        if !host.contains(':') {
            instead.extend([
                format!("http://{host}/"),
                format!("git@{host}:"),
                format!("ssh://git@{host}/"),
            ]);
        }
        let of = |from| (format!("url.{base}/{host}/.insteadOf"), from);
        all.extend(instead.into_iter().map(of));
    }
    all
}

/// A program that git asks instead of a person. Nobody is there: it says what can be done.
pub fn asking(run: &str) -> String {
    let ways = ways(run);
    format!(
        r"#!/bin/sh
host=${{1#*://}}
host=${{host%%[/\']*}}
host=${{host##*@}}
{ways}
exit 1
"
    )
}

/// A program that git starts instead of `ssh`: the same, which asks nobody, and says what can be done where it fails.
pub fn reaching(run: &str) -> String {
    let ways = ways(run);
    format!(
        r#"#!/bin/sh
ssh -o BatchMode=yes "$@"
code=$?
case $code in 127|255) ;; *) exit "$code" ;; esac
for word; do host=$last last=$word; done
host=${{host##*@}}
{ways}
exit "$code"
"#
    )
}

fn ways(run: &str) -> String {
    format!(
        r#"printf '%s\n' >&2 \
    "baton: this run has no credential for $host. There are two ways on:" \
    "baton:   baton secret set git:$host    at home; runs that start from then on push to their own branch there" \
    "baton:   baton pull {run}    at home; it takes the work there, to be pushed as you always do""#
    )
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn said(script: &str, args: &[&str]) -> (Option<i32>, String) {
        let output = Command::new("/bin/sh")
            .args(["-c", script, "sh"])
            .args(args)
            .env("PATH", "/nowhere")
            .output()
            .unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    }

    #[test]
    fn who_is_asked_names_the_two_ways_and_ends() {
        for prompt in [
            "Username for 'https://git.example.org': ",
            "Password for 'https://ann@git.example.org': ",
            "Username for 'https://git.example.org/o/r.git': ",
        ] {
            let (code, said) = said(&asking("12345678"), &[prompt]);
            assert_eq!(code, Some(1));
            assert!(said.contains("no credential for git.example.org."), "{said}");
            assert!(said.contains("baton secret set git:git.example.org "), "{said}");
            assert!(said.contains("baton pull 12345678 "), "{said}");
        }
        // A host is not obeyed.
        let (_, said) = said(&asking("1"), &["Username for 'https://$(echo x)`y`': "]);
        assert!(said.contains("for $(echo x)`y`."), "{said}");
    }

    #[test]
    fn an_ssh_that_fails_names_them_too() {
        let args =
            ["-o", "SendEnv=GIT_PROTOCOL", "-p", "22", "git@h.org", "git-receive-pack 'o/r'"];
        let (code, said) = said(&reaching("12345678"), &args);
        assert_eq!(code, Some(127), "there is none in this PATH");
        assert!(said.contains("no credential for h.org."), "{said}");
    }

    #[test]
    fn every_way_to_write_a_host_leads_to_the_node() {
        let all = of("http://127.0.0.1:9", "k", ["h.org", "h.org:8443"].into_iter());
        let from = |base: &str| -> Vec<_> {
            let key = format!("url.{base}/.insteadOf");
            all.iter().filter(|(name, _)| *name == key).map(|(_, from)| from.as_str()).collect()
        };
        let plain = ["https://h.org/", "http://h.org/", "git@h.org:", "ssh://git@h.org/"];
        assert_eq!(from("http://127.0.0.1:9/h.org"), plain);
        assert_eq!(from("http://127.0.0.1:9/h.org:8443"), ["https://h.org:8443/"]);
        assert_eq!(all[0].1, "Authorization: Bearer k");
    }
}
