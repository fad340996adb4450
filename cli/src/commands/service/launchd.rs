//! The text of a launch agent of macOS.

use std::fmt::Write as _;

use super::{Plan, mark};

/// How launchd calls it.
pub(super) const LABEL: &str = "dev.baton.daemon";

/// Its file.
pub(super) const FILE: &str = "dev.baton.daemon.plist";

/// The property list. It is started at login, and again where it fails.
pub(super) fn text(plan: &Plan<'_>) -> String {
    let Plan { program, home, owner, path, serve } = *plan;
    let mut words = vec![program.to_string_lossy().into_owned()];
    if let Some(home) = home {
        words.extend(["--home".to_owned(), home.to_string_lossy().into_owned()]);
    }
    let verb: &[&str] = if serve { &["serve"] } else { &["daemon", "run"] };
    words.extend(verb.iter().map(|&word| word.to_owned()));
    let mut arguments = String::new();
    for word in &words {
        let _ = writeln!(arguments, "    <string>{}</string>", escaped(word));
    }
    let mark = escaped(&mark(owner));
    let path = escaped(&path.to_string_lossy());
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>
<!DOCTYPE plist PUBLIC \"-//Apple//DTD PLIST 1.0//EN\" \"http://www.apple.com/DTDs/PropertyList-1.0.dtd\">
<!--
{mark}
-->
<plist version=\"1.0\">
<dict>
  <key>Label</key>
  <string>{LABEL}</string>
  <key>ProgramArguments</key>
  <array>
{arguments}  </array>
  <key>EnvironmentVariables</key>
  <dict>
    <key>PATH</key>
    <string>{path}</string>
  </dict>
  <key>RunAtLoad</key>
  <true/>
  <key>KeepAlive</key>
  <dict>
    <key>Crashed</key>
    <true/>
  </dict>
  <key>ExitTimeOut</key>
  <integer>90</integer>
</dict>
</plist>
"
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::path::Path;

    use super::*;

    #[test]
    fn a_launch_agent_says_what_is_started_with_which_home() {
        let plan = Plan {
            program: Path::new("/opt/a & b/baton"),
            home: Some(Path::new("/srv/<x>")),
            owner: Path::new("/srv/<x>"),
            path: OsStr::new("/usr/bin"),
            serve: false,
        };
        let list = text(&plan);
        let words = "    <string>/opt/a &amp; b/baton</string>\n    <string>--home</string>\n    \
                     <string>/srv/&lt;x&gt;</string>\n    <string>daemon</string>\n    \
                     <string>run</string>\n  </array>\n";
        assert!(list.contains(words), "{list}");
        assert!(list.contains("\nWritten by baton for the home /srv/&lt;x&gt;\n"), "{list}");
        assert!(list.matches("<dict>").count() == list.matches("</dict>").count());
    }
}
