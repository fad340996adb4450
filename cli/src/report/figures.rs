//! Numbers, times, ids and tables as people read them.

use std::fmt::Write as _;

/// `1234567` as `1,234,567`.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1 file`, `2 files`.
pub(crate) fn plural(number: u64, noun: &str) -> String {
    let end = if number == 1 { "" } else { "s" };
    format!("{} {noun}{end}", count(number))
}

/// Bytes in three digits: `999 B`, `1.30 GB`.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["kB", "MB", "GB", "TB", "PB", "EB"];
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    let mut value = bytes as f64 / 1000.0;
    let mut unit = UNITS.iter();
    let mut name = unit.next();
    // 999.5 would be shown as 1000 of the smaller unit.
    while value >= 999.5 {
        value /= 1000.0;
        name = unit.next();
    }
    let decimals = if value < 9.995 { 2 } else { usize::from(value < 99.95) };
    format!("{value:.decimals$} {}", name.unwrap_or(&"EB"))
}

/// A span: `41 ms`, `0.41 s`, `12 s`, `3 min 5 s`.
pub(crate) fn span(ms: f64) -> String {
    let seconds = ms / 1000.0;
    if ms < 1.0 {
        format!("{ms:.1} ms")
    } else if ms < 100.0 {
        format!("{ms:.0} ms")
    } else if seconds < 10.0 {
        format!("{seconds:.2} s")
    } else if seconds < 60.0 {
        format!("{seconds:.0} s")
    } else {
        format!("{:.0} min {:.0} s", (seconds / 60.0).floor(), seconds % 60.0)
    }
}

/// The first eight digits of an id.
pub(crate) fn short(id: &str) -> &str {
    id.get(..8).unwrap_or(id)
}

/// `2026-01-02T03:04:05.678Z` as `2026-01-02 03:04:05`; UTC, as everywhere.
pub(crate) fn time(rfc3339: &str) -> String {
    rfc3339.get(..19).unwrap_or(rfc3339).replace('T', " ")
}

/// How long before `now` something was, both RFC 3339: `2 s ago`, `3 min ago`, `5 h ago`, `2 d ago`. A time
/// that is none, or lies ahead because a clock was set, is shown as it is.
pub(crate) fn age(then: &str, now: &str) -> String {
    let parse = |text| humantime::parse_rfc3339(text).ok();
    let (Some(at), Some(until)) = (parse(then), parse(now)) else { return one_line(then) };
    let Ok(passed) = until.duration_since(at) else { return one_line(&time(then)) };
    let seconds = passed.as_secs();
    match seconds {
        0 => "just now".to_owned(),
        1..60 => format!("{seconds} s ago"),
        60..3600 => format!("{} min ago", seconds / 60),
        3600..172_800 => format!("{} h ago", seconds / 3600),
        _ => format!("{} d ago", count(seconds / 86_400)),
    }
}

/// Text without anything that a terminal would obey: control characters are escaped, and so is what
/// turns the direction of text, behind which a name can look like another one. Line ends stay, so that
/// a message may have more than one line.
pub(crate) fn printable(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    for character in text.chars() {
        let turns = matches!(character, '\u{61c}' | '\u{200e}' | '\u{200f}'
            | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if turns || (character.is_control() && character != '\n') {
            let _ = write!(clean, "{}", character.escape_default());
        } else {
            clean.push(character);
        }
    }
    clean
}

/// The same for what must stay on one line, such as a path.
pub(crate) fn one_line(text: &str) -> String {
    printable(text).replace('\n', "\\n")
}

/// Columns two spaces apart; the last one is not padded.
pub(crate) fn table(to: &mut String, rows: &[Vec<String>]) {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let widths: Vec<_> = (0..columns)
        .map(|at| rows.iter().filter_map(|row| row.get(at)).map(|cell| width(cell)).max())
        .map(Option::unwrap_or_default)
        .collect();
    for row in rows {
        let mut line = String::new();
        for (cell, &column) in row.iter().zip(&widths) {
            line.push_str(cell);
            line.extend(std::iter::repeat_n(' ', column.saturating_sub(width(cell)) + 2));
        }
        to.push_str(line.trim_end());
        to.push('\n');
    }
}

/// Columns that a cell takes, colour codes left out.
fn width(cell: &str) -> usize {
    let mut columns = 0;
    let mut rest = cell.chars();
    while let Some(character) = rest.next() {
        if character == '\x1b' {
            rest.by_ref().find(|&end| end == 'm');
        } else {
            columns += 1;
        }
    }
    columns
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_three_digits_at_every_border() {
        let cases = [
            (0, "0 B"),
            (999, "999 B"),
            (1_000, "1.00 kB"),
            (9_994, "9.99 kB"),
            (9_996, "10.0 kB"),
            (99_960, "100 kB"),
            (999_499, "999 kB"),
            (999_500, "1.00 MB"),
            (1_300_000_000, "1.30 GB"),
            (u64::MAX, "18.4 EB"),
        ];
        for (bytes, text) in cases {
            assert_eq!(size(bytes), text, "{bytes}");
        }
    }

    #[test]
    fn counts_and_spans() {
        assert_eq!(count(0), "0");
        assert_eq!(count(999), "999");
        assert_eq!(count(78_579), "78,579");
        assert_eq!(count(1_000_000), "1,000,000");
        assert_eq!(plural(1, "file"), "1 file");
        assert_eq!(plural(0, "file"), "0 files");
        let spans = [(0.25, "0.2 ms"), (41.2, "41 ms"), (410.0, "0.41 s"), (12_000.0, "12 s")];
        for (ms, text) in spans {
            assert_eq!(span(ms), text);
        }
        assert_eq!(span(185_000.0), "3 min 5 s");
    }

    #[test]
    fn ages_are_rounded_down_and_a_clock_that_was_set_is_seen() {
        let now = "2026-01-02T03:04:05.678Z";
        for (then, text) in [
            ("2026-01-02T03:04:05.000Z", "just now"),
            ("2026-01-02T03:04:03.000Z", "2 s ago"),
            ("2026-01-02T03:03:05.678Z", "1 min ago"),
            ("2026-01-01T03:04:05.000Z", "24 h ago"),
            ("2025-12-31T03:04:05.000Z", "2 d ago"),
            ("2026-01-02T03:05:00.000Z", "2026-01-02 03:05:00"),
            ("never\n", "never\\n"),
        ] {
            assert_eq!(age(then, now), text);
        }
    }

    #[test]
    fn a_terminal_is_never_told_what_to_do() {
        assert_eq!(printable("a\x1b[31mb\rc\nd"), "a\\u{1b}[31mb\\rc\nd");
        assert_eq!(one_line("a\nb"), "a\\nb");
        assert_eq!(one_line("größe"), "größe");
        assert_eq!(printable("\u{9b}31m\u{7f}"), "\\u{9b}31m\\u{7f}");
        assert_eq!(printable("a\u{202e}txt.exe\u{2069}"), "a\\u{202e}txt.exe\\u{2069}");
    }

    #[test]
    fn tables_align_and_do_not_count_colour() {
        let mut text = String::new();
        let row = |cells: &[&str]| cells.iter().map(|&cell| cell.to_owned()).collect();
        table(&mut text, &[row(&["\x1b[32mab\x1b[0m", "c"]), row(&["abcd", "e"]), row(&["x", ""])]);
        assert_eq!(text, "\x1b[32mab\x1b[0m    c\nabcd  e\nx\n");
    }
}
