//! What a push asks a host to do with its refs: read, judged, and written anew.
//!
//! **Invariant:** what goes to the host was written here, from what was understood here: so the host cannot read another
//! ref out of it than the one that was judged.
//!
//! **Invariant:** of a push that asks for one ref too many, nothing goes to the host.

use super::pkt::{self, NoPkt, Pkt};

/// Most bytes of the list: some three thousand refs, of which one is allowed.
const MAX_LIST: usize = 256 * 1024;

/// What a push may ask for where it is held to one branch. Others change what follows the list, or what the host does
/// besides: `push-options` merges elsewhere on some hosts.
const KNOWN: [&str; 7] = [
    "report-status",
    "report-status-v2",
    "side-band-64k",
    "quiet",
    "atomic",
    "ofs-delta",
    "delete-refs",
];
const KNOWN_BEGINNINGS: [&str; 3] = ["agent=", "session-id=", "object-format="];

/// A push cannot be judged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum CommandsError {
    /// It is none.
    #[error(transparent)]
    Pkt(#[from] NoPkt),
    /// It is none, or a way to say it that no git has.
    #[error("this is no push that can be looked through")]
    Malformed,
    /// The list has no end.
    #[error("a push has at most {MAX_LIST} bytes of refs")]
    TooMany,
    /// It is signed.
    #[error("signed pushes are not passed on: push without --signed")]
    Signed,
    /// It asks for what is not known to be harmless.
    #[error("pushes with {what} are not passed on to one branch only")]
    Asks {
        /// For what.
        what: &'static str,
    },
}

/// One ref that is to change.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Change {
    old: Vec<u8>,
    new: Vec<u8>,
    name: Vec<u8>,
}

/// All that a push asks for before its objects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Commands {
    shallow: Vec<Vec<u8>>,
    changes: Vec<Change>,
    capabilities: Vec<String>,
}

/// A list on its way. What it costs follows from its bytes, in however small pieces they come.
#[derive(Debug, Default)]
pub(super) struct Reading {
    commands: Commands,
    /// What has come and is not understood yet, behind `at`.
    text: Vec<u8>,
    at: usize,
    understood: usize,
}

impl Reading {
    /// Takes the next bytes; returns whether the end of the list is among them.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Result<bool, CommandsError> {
        self.text.extend_from_slice(bytes);
        loop {
            let text = self.text.get(self.at..).unwrap_or_default();
            let Some((pkt, behind)) = pkt::first(text)? else {
                self.text.drain(..self.at);
                self.at = 0;
                return Ok(false);
            };
            let length = text.len() - behind.len();
            if let Pkt::Line(line) = pkt {
                self.commands.take(line)?;
            }
            let is_end = pkt == Pkt::Flush;
            self.at += length;
            self.understood += length;
            if self.understood > MAX_LIST {
                return Err(CommandsError::TooMany);
            }
            if is_end {
                return Ok(true);
            }
        }
    }

    /// The list, and what has come behind it.
    pub(super) fn end(mut self) -> (Commands, Vec<u8>) {
        (self.commands, self.text.split_off(self.at))
    }
}

impl Commands {
    fn take(&mut self, line: &[u8]) -> Result<(), CommandsError> {
        use CommandsError::{Malformed, Signed};
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        if line.starts_with(b"push-cert") {
            return Err(Signed);
        }
        if let Some(id) = line.strip_prefix(b"shallow ") {
            if !is_id(id) || !self.changes.is_empty() {
                return Err(Malformed);
            }
            self.shallow.push(id.to_vec());
            return Ok(());
        }
        let nul = line.iter().position(|&byte| byte == 0);
        let (command, asked) = match nul.and_then(|at| line.split_at_checked(at)) {
            Some((command, asked)) => (command, asked.get(1..)),
            None => (line, None),
        };
        // Git reads them behind each command, and takes the last ones.
        if let Some(asked) = asked {
            if !self.changes.is_empty() {
                return Err(Malformed);
            }
            let asked = std::str::from_utf8(asked).map_err(|_| Malformed)?;
            if !asked.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()) {
                return Err(Malformed);
            }
            let words = asked.split(' ').filter(|word| !word.is_empty());
            self.capabilities = words.map(str::to_owned).collect();
        }
        let mut parts = command.splitn(3, |&byte| byte == b' ');
        let (Some(old), Some(new), Some(name)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(Malformed);
        };
        // A line end, a space or the like in a name could become a line of the answer.
        let is_name = !name.is_empty() && name.iter().all(|&byte| byte > b' ' && byte != 0x7f);
        if !is_id(old) || !is_id(new) || old.len() != new.len() || !is_name {
            return Err(Malformed);
        }
        self.changes.push(Change { old: old.to_vec(), new: new.to_vec(), name: name.to_vec() });
        Ok(())
    }

    /// Whether nothing is to change: git asks so whether it may push at all.
    pub(super) const fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// Whether this ref alone is to change.
    pub(super) fn is_only(&self, name: &[u8]) -> bool {
        self.changes.iter().all(|change| change.name == name)
    }

    /// Refuses what a push that is held to one branch may not ask for.
    pub(super) fn check(&self) -> Result<(), CommandsError> {
        for asked in &self.capabilities {
            let is_known = KNOWN.contains(&asked.as_str())
                || KNOWN_BEGINNINGS.iter().any(|beginning| asked.starts_with(beginning));
            if !is_known {
                let is_option = asked == "push-options";
                let what = if is_option { "push options" } else { "an extension of git" };
                return Err(CommandsError::Asks { what });
            }
        }
        Ok(())
    }

    /// The list, as the host gets it.
    pub(super) fn written(&self) -> Vec<u8> {
        let mut text = Vec::new();
        for id in &self.shallow {
            pkt::put(&mut text, &[b"shallow ", &id[..]].concat());
        }
        for (at, change) in self.changes.iter().enumerate() {
            let mut line = [&change.old[..], &change.new, &change.name].join(&b' ');
            if at == 0 {
                // Git itself puts a space before the first one.
                line.push(0);
                for asked in &self.capabilities {
                    line.push(b' ');
                    line.extend_from_slice(asked.as_bytes());
                }
            }
            pkt::put(&mut text, &line);
        }
        pkt::flush(&mut text);
        text
    }

    /// What git understands as the answer of a host that refused each of them: what is `allowed` because of the others, and
    /// those for a reason. `said` is shown beside, a line each.
    pub(super) fn refused(&self, allowed: Option<&[u8]>, reason: &str, said: &str) -> Vec<u8> {
        let has = |name: &str| self.capabilities.iter().any(|asked| asked == name);
        let mut report = Vec::new();
        pkt::put(&mut report, b"unpack ok\n");
        for change in &self.changes {
            let is_allowed = allowed == Some(&change.name[..]);
            let why = if is_allowed { "the push has other refs, too" } else { reason };
            let line = [b"ng ", &change.name[..], b" ", why.as_bytes(), b"\n"].concat();
            pkt::put(&mut report, &line);
        }
        pkt::flush(&mut report);
        let mut text = Vec::new();
        if !has("report-status") && !has("report-status-v2") {
            let whole = format!("{reason}\n{said}");
            if has("side-band-64k") {
                pkt::put(&mut text, &[&[3], whole.as_bytes()].concat());
                pkt::flush(&mut text);
            } else {
                pkt::put(&mut text, format!("ERR {}", whole.trim_end()).as_bytes());
            }
            return text;
        }
        if !has("side-band-64k") {
            return report;
        }
        pkt::put(&mut text, &[&[2], said.as_bytes()].concat());
        for piece in report.chunks(pkt::MAX_LINE - 8) {
            pkt::put(&mut text, &[&[1], piece].concat());
        }
        pkt::flush(&mut text);
        text
    }
}

/// An object's name by either hash.
fn is_id(id: &[u8]) -> bool {
    let is_digit = |byte: &u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(byte);
    matches!(id.len(), 40 | 64) && id.iter().all(is_digit)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "1111111111111111111111111111111111111111";
    const NEW: &str = "2222222222222222222222222222222222222222";
    const OWN: &[u8] = b"refs/heads/handoff/1";

    fn text(lines: &[&str]) -> Vec<u8> {
        let mut text = Vec::new();
        for line in lines {
            pkt::put(&mut text, line.as_bytes());
        }
        pkt::flush(&mut text);
        text
    }

    fn read(lines: &[&str]) -> Result<Commands, CommandsError> {
        let mut reading = Reading::default();
        assert!(reading.push(&text(lines))?);
        Ok(reading.end().0)
    }

    fn line(name: &str, asked: &str) -> String {
        format!("{OLD} {NEW} {name}{asked}")
    }

    #[test]
    fn a_push_is_read_and_written_as_git_writes_it() {
        let first =
            line("refs/heads/handoff/1", "\0 report-status-v2 side-band-64k agent=git/2.47");
        let mut whole = text(&[&format!("shallow {OLD}"), &first]);
        let end = whole.len();
        whole.extend(b"PACK and more");
        let mut reading = Reading::default();
        assert_eq!(reading.push(&whole), Ok(true));
        let (commands, rest) = reading.end();
        assert_eq!(
            (rest, commands.is_empty(), commands.is_only(OWN)),
            (b"PACK and more".to_vec(), false, true)
        );
        assert_eq!(commands.written(), whole[..end]);
        commands.check().unwrap();
        // In whatever pieces it comes, it is judged at its end.
        for size in [1, 2, 3, 7, 50, 200] {
            let mut reading = Reading::default();
            let mut pieces = whole.chunks(size);
            let mut come = 0;
            loop {
                let piece = pieces.next().unwrap();
                come += piece.len();
                if reading.push(piece).unwrap() {
                    break;
                }
                assert!(come < end);
            }
            let (again, rest) = reading.end();
            assert_eq!((again, &rest[..]), (commands.clone(), &whole[end..come]));
        }
        assert!(read(&[]).unwrap().is_empty());
    }

    #[test]
    fn one_ref_too_many_is_seen_wherever_it_stands() {
        let own = line("refs/heads/handoff/1", "\0report-status");
        for other in [
            "refs/heads/main",
            "refs/heads/handoff/11",
            "refs/heads/handoff/1/x",
            "refs/heads/handoff/1.lock",
            "refs/heads/HANDOFF/1",
            "refs/for/main",
            "refs/heads/handoff/../main",
            "HEAD",
            "refs/tags/v1",
        ] {
            let commands = read(&[&own, &line(other, "")]).unwrap();
            assert!(!commands.is_only(OWN), "{other}");
            assert!(!read(&[&line(other, "\0")]).unwrap().is_only(OWN), "{other}");
        }
        assert!(read(&[&own]).unwrap().is_only(OWN));
    }

    #[test]
    fn what_two_readers_could_read_differently_is_refused() {
        let own = line("refs/heads/handoff/1", "\0report-status");
        for wrong in [
            line("refs/heads/handoff/1 refs/heads/main", ""),
            line("refs/heads/handoff/1\nrefs/heads/main", ""),
            line("refs/heads/handoff/1\r", ""),
            line("refs/heads/handoff/1\t", ""),
            line("refs/heads/handoff/1", "\0report-status\0push-options"),
            line("refs/heads/handoff/1", "\0report-status\nx"),
            line("", ""),
            format!("{OLD}  {NEW} refs/heads/handoff/1"),
            format!("{OLD} {} refs/heads/handoff/1", NEW.to_uppercase().replace('2', "A")),
            format!("{OLD} {}{} refs/heads/handoff/1", NEW, &NEW[..24]),
            format!("{} {NEW} refs/heads/handoff/1", &OLD[1..]),
            "shallow x".to_owned(),
            "x".to_owned(),
        ] {
            assert_eq!(read(&[&wrong]), Err(CommandsError::Malformed), "{wrong:?}");
        }
        // Capabilities behind a later command, and a shallow line behind one.
        let behind = line("refs/heads/handoff/1", "\0push-options");
        assert_eq!(read(&[&own, &behind]), Err(CommandsError::Malformed));
        assert_eq!(read(&[&own, &format!("shallow {OLD}")]), Err(CommandsError::Malformed));
        assert_eq!(read(&["push-cert\0 report-status"]), Err(CommandsError::Signed));
        let mut marked = text(&[&own]);
        marked.truncate(marked.len() - 4);
        marked.extend(b"0001");
        assert_eq!(Reading::default().push(&marked), Err(NoPkt.into()));
    }

    #[test]
    fn what_else_a_push_may_do_is_refused() {
        for asked in ["push-options", "no-thin x=y", "report-status push-options", "push-cert=1"] {
            let commands = read(&[&line("refs/heads/handoff/1", &format!("\0{asked}"))]).unwrap();
            assert!(matches!(commands.check(), Err(CommandsError::Asks { .. })), "{asked}");
        }
    }

    #[test]
    fn a_list_without_an_end_is_not_kept() {
        let mut one = Vec::new();
        pkt::put(&mut one, line("refs/heads/handoff/1", "").as_bytes());
        let mut reading = Reading::default();
        let most = MAX_LIST / one.len();
        for _ in 0..most {
            assert_eq!(reading.push(&one), Ok(false));
            assert!(reading.text.len() <= one.len());
        }
        assert_eq!(reading.push(&one), Err(CommandsError::TooMany));
    }

    #[test]
    fn a_refusal_is_said_in_the_way_that_was_asked_for() {
        let shown = |asked: &str| {
            let own = line("refs/heads/handoff/1", &format!("\0{asked}"));
            let commands = read(&[&own, &line("refs/heads/main", "")]).unwrap();
            String::from_utf8(commands.refused(Some(OWN), "no", "help\n")).unwrap()
        };
        let report = "000eunpack ok\n0039ng refs/heads/handoff/1 the push has other refs, too\n001ang refs/heads/main no\n0000";
        assert_eq!(shown("report-status"), report);
        let banded = format!("000a\u{2}help\n{:04x}\u{1}{report}0000", report.len() + 5);
        assert_eq!(shown("report-status-v2 side-band-64k"), banded);
        assert_eq!(shown("side-band-64k"), "000d\u{3}no\nhelp\n0000");
        assert_eq!(shown(""), "000fERR no\nhelp");
    }
    #[test]
    fn push_commands() {
        use crate::fuzz::fuzzing::{Random, fuzz, within};

        let id = |digit: &str| digit.repeat(40);
        let line = |name: &str, asked: &str| format!("{} {} {name}{asked}", id("1"), id("a"));
        let corpus = vec![
            text(&[&line("refs/heads/a", "\0 report-status side-band-64k agent=git/2.51")]),
            text(&[
                &format!("shallow {}", id("b")),
                &line("refs/heads/a", "\0report-status-v2 quiet"),
                &line("refs/heads/b", ""),
            ]),
            text(&[]),
        ];
        fuzz(corpus, |_, input| {
            let random = &mut Random::of(input);
            let read = |pieces: &mut dyn Iterator<Item = &[u8]>| {
                let mut reading = Reading::default();
                for piece in pieces {
                    if reading.push(piece)? {
                        return Ok(Some(reading.end()));
                    }
                }
                Ok::<_, CommandsError>(None)
            };
            let whole = within(input, 64, 8192, |_| read(&mut std::iter::once(input)));
            let size = 1 + random.below(9);
            let in_pieces = read(&mut input.chunks(size));
            let (Ok(Some((commands, behind))), Ok(Some((same, _)))) = (&whole, &in_pieces) else {
                assert_eq!(whole.is_err(), in_pieces.is_err());
                assert!(!matches!(whole, Ok(Some(_))) && !matches!(in_pieces, Ok(Some(_))));
                return false;
            };
            assert_eq!(commands, same);
            assert!(input.ends_with(behind));
            // Who reads what was written reads the same list, and nothing behind it.
            let written = commands.written();
            let (again, behind) = read(&mut std::iter::once(&written[..])).unwrap().unwrap();
            assert_eq!(again.changes, commands.changes);
            assert_eq!(again.shallow, commands.shallow);
            assert!(commands.is_empty() || again.capabilities == commands.capabilities);
            assert!(behind.is_empty());
            let refused = commands.refused(Some(b"refs/heads/a"), "because", "said\n");
            let mut rest = &refused[..];
            while let Some((_, behind)) = pkt::first(rest).unwrap() {
                rest = behind;
                if rest.is_empty() {
                    break;
                }
            }
            assert!(rest.is_empty());
            !commands.is_empty()
        });
    }
}
