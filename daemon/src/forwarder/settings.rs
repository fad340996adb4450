//! What the git of a run is told, so that it asks the node instead of a host, and what it says where nobody can help.
//!
//! It is told by variables, as if each `git` had been given `-c`: files of the run, and the settings of its repositories, stay as
//! they are. What git writes about a remote by the address that it spoke to has the node's: `FETCH_HEAD`, and the subject of a
//! merge that `git pull` makes.

/// Names the hosts that a run has something for, with a space between them.
pub const HOSTS: &str = "BATON_GIT_HOSTS";

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
    let ways = ways(run, "$one");
    format!(
        r"#!/bin/sh
code=1
host=${{1#*://}}
host=${{host%%[/\']*}}
host=${{host##*@}}
{ways}
"
    )
}

/// A program that git starts instead of `ssh`: the same, which asks nobody, and says what can be done where it fails.
pub fn reaching(run: &str) -> String {
    // The port of `ssh` says nothing of which server is meant.
    let ways = ways(run, "${one%%:*}");
    format!(
        r#"#!/bin/sh
ssh -o BatchMode=yes "$@"
code=$?
case $code in 127|255) ;; *) exit "$code" ;; esac
for word; do host=$last last=$word; done
host=${{host##*@}}
{ways}
"#
    )
}

/// What is said of a host, after which the script ends: where the run has something for it, that it was written in a way that
/// no setting of [`of`] knows.
fn ways(run: &str, one: &str) -> String {
    format!(
        r#"lower=$(printf %s "$host" | tr A-Z a-z 2>/dev/null) || lower=$host
lower=${{lower%:443}}
for one in ${HOSTS}; do
    if [ "$lower" = "{one}" ]; then
        printf '%s\n' >&2 \
            "baton: this run has a credential for $one, which is not used for a remote that is written like this. Write it as" \
            "baton:   https://$one/OWNER/REPOSITORY    in lower case, without a user, and without a port that is not in it here"
        exit "$code"
    fi
done
printf '%s\n' >&2 \
    "baton: this run has no credential for $host. There are two ways on:" \
    "baton:   baton secret set git:$host    at home; runs that start from then on push to their own branch there" \
    "baton:   baton pull {run}    at home; it takes the work there, to be pushed as you always do"
exit "$code""#
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
            .env(HOSTS, "own.org other.org:8443")
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
    fn where_there_is_a_credential_they_name_the_form_that_uses_it() {
        for prompt in
            ["Username for 'https://own.org': ", "Password for 'https://ann@own.org:443': "]
        {
            let (code, said) = said(&asking("1"), &[prompt]);
            assert_eq!(code, Some(1));
            assert!(said.contains("as\nbaton:   https://own.org/OWNER/REPOSITORY "), "{said}");
            assert!(!said.contains("secret set"), "{said}");
        }
        let (_, said_of_a_port) = said(&asking("1"), &["Username for 'https://own.org:8443': "]);
        assert!(said_of_a_port.contains("secret set git:own.org:8443 "), "{said_of_a_port}");
        for (host, form) in
            [("org-1@own.org", "https://own.org/"), ("git@other.org", "https://other.org:8443/")]
        {
            let (code, said) = said(&reaching("1"), &[host, "git-receive-pack 'o/r'"]);
            assert_eq!(code, Some(127));
            assert!(said.contains(form) && !said.contains("secret set"), "{said}");
        }
    }

    /// With the git that is there.
    #[test]
    fn git_asks_the_node_for_every_form_that_is_documented() {
        let base = "http://127.0.0.1:9";
        let all = of(base, "k", ["h.org", "h.org:8443"].into_iter());
        let asked = |remote: &str| {
            let mut git = Command::new("git");
            git.args(["ls-remote", "--get-url", remote]).current_dir(std::env::temp_dir());
            git.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1");
            git.env("GIT_CONFIG_COUNT", all.len().to_string());
            for (at, (key, value)) in all.iter().enumerate() {
                git.env(format!("GIT_CONFIG_KEY_{at}"), key);
                git.env(format!("GIT_CONFIG_VALUE_{at}"), value);
            }
            String::from_utf8(git.output().unwrap().stdout).unwrap().trim().to_owned()
        };
        for form in ["https://h.org/", "http://h.org/", "git@h.org:", "ssh://git@h.org/"] {
            assert_eq!(asked(&format!("{form}o/r.git")), format!("{base}/h.org/o/r.git"), "{form}");
        }
        assert_eq!(asked("https://h.org:8443/o/r"), format!("{base}/h.org:8443/o/r"));
        // Not documented as such, and another host.
        for other in ["https://ann@h.org/o/r", "git@h.org.evil.example:o/r", "https://h.org:1/o/r"]
        {
            assert_eq!(asked(other), other);
        }
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
