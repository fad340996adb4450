//! Figures: samples of who did what, what is typical of them, and how they are written.

use std::fmt::Write as _;

/// What is done, in the order in which it is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Step {
    First,
    Nothing,
    One,
    Hundred,
    Restore,
}

impl Step {
    pub(crate) const ALL: [Self; 5] =
        [Self::First, Self::Nothing, Self::One, Self::Hundred, Self::Restore];

    /// As `--only` names it.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Nothing => "nothing",
            Self::One => "one",
            Self::Hundred => "hundred",
            Self::Restore => "restore",
        }
    }

    /// As people read it.
    pub(crate) const fn title(self) -> &'static str {
        match self {
            Self::First => "first copy",
            Self::Nothing => "nothing changed",
            Self::One => "one line",
            Self::Hundred => "100 files",
            Self::Restore => "restore into a new folder",
        }
    }
}

/// Whether a figure is ours, another's, or the hardware's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Side {
    Limit,
    Baton,
    Peer,
}

/// One measurement.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    pub(crate) step: Step,
    pub(crate) side: Side,
    pub(crate) who: String,
    pub(crate) seconds: f64,
    pub(crate) cpu: Option<f64>,
    /// Bytes at most in memory, of each process that counts.
    pub(crate) peaks: Vec<u64>,
    pub(crate) stored: Option<u64>,
    /// Bytes sent, or added to what is stored.
    pub(crate) sent: Option<u64>,
}

impl Sample {
    /// A time, and nothing else yet.
    pub(crate) fn new(step: Step, side: Side, who: &str, seconds: f64) -> Self {
        let who = who.to_owned();
        Self { step, side, who, seconds, cpu: None, peaks: Vec::new(), stored: None, sent: None }
    }
}

/// All samples of one contestant in one step.
#[derive(Clone, Debug)]
pub(crate) struct Summary {
    pub(crate) side: Side,
    pub(crate) who: String,
    pub(crate) samples: usize,
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) most: f64,
    cpu: Option<f64>,
    peaks: Vec<u64>,
    stored: Option<u64>,
    sent: Option<u64>,
}

/// The contestants of a step in the order in which they first came; the hardware first, then ours.
pub(crate) fn summaries(samples: &[Sample], step: Step) -> Vec<Summary> {
    let mut names: Vec<(Side, &str)> = Vec::new();
    for sample in samples.iter().filter(|sample| sample.step == step) {
        let name = (sample.side, sample.who.as_str());
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names.sort_by_key(|(side, _)| *side);
    names.into_iter().map(|(side, who)| summary(samples, step, side, who)).collect()
}

fn summary(samples: &[Sample], step: Step, side: Side, who: &str) -> Summary {
    let all = || samples.iter().filter(|it| it.step == step && it.side == side && it.who == who);
    let seconds: Vec<_> = all().map(|sample| sample.seconds).collect();
    let mut peaks: Vec<u64> = Vec::new();
    for sample in all() {
        for (at, peak) in sample.peaks.iter().enumerate() {
            match peaks.get_mut(at) {
                Some(most) => *most = (*most).max(*peak),
                None => peaks.push(*peak),
            }
        }
    }
    let typical = |figure: fn(&Sample) -> Option<u64>| {
        let all: Vec<_> = all().filter_map(figure).map(|figure| figure as f64).collect();
        (!all.is_empty()).then(|| quantile(&all, 0.5) as u64)
    };
    let cpu: Vec<_> = all().filter_map(|sample| sample.cpu).collect();
    Summary {
        side,
        who: who.to_owned(),
        samples: seconds.len(),
        median: quantile(&seconds, 0.5),
        least: quantile(&seconds, 0.0),
        most: quantile(&seconds, 1.0),
        cpu: (!cpu.is_empty()).then(|| quantile(&cpu, 0.5)),
        peaks,
        stored: typical(|sample| sample.stored),
        sent: typical(|sample| sample.sent),
    }
}

/// The value below which this share of all values is, between the two nearest; the median at 0.5.
pub(crate) fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    let place = last as f64 * share.clamp(0.0, 1.0);
    let (below, above) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    below + (above - below) * place.fract()
}

/// A table of one step.
pub(crate) fn table(step: Step, summaries: &[Summary]) -> String {
    let peers = summaries.iter().filter(|it| it.side == Side::Peer);
    let best = peers.map(|it| it.median).fold(f64::INFINITY, f64::min);
    let mut text = format!(
        "## {}\n\n| | median | min | max | n | to the best peer | processor | peak memory | stored | sent or added |\n\
         |---|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n",
        step.title()
    );
    for it in summaries {
        let name = match it.side {
            Side::Limit => format!("*limit: {}*", it.who),
            Side::Baton => format!("**{}**", it.who),
            Side::Peer => it.who.clone(),
        };
        let ratio = if best.is_finite() && it.side != Side::Limit {
            format!("{:.2}", it.median / best)
        } else {
            String::new()
        };
        let optional = |figure: Option<u64>| figure.map(bytes).unwrap_or_default();
        let peaks: Vec<_> = it.peaks.iter().map(|peak| bytes(*peak)).collect();
        let _ = writeln!(
            text,
            "| {name} | {} | {} | {} | {} | {ratio} | {} | {} | {} | {} |",
            seconds(it.median),
            seconds(it.least),
            seconds(it.most),
            it.samples,
            it.cpu.map(seconds).unwrap_or_default(),
            peaks.join(" + "),
            optional(it.stored),
            optional(it.sent),
        );
    }
    text.push('\n');
    text
}

/// `4.60 ms`, `13.6 s`: three digits that mean something.
pub(crate) fn seconds(seconds: f64) -> String {
    let (value, unit) = match seconds {
        s if s >= 1.0 => (s, "s"),
        s if s >= 0.001 => (s * 1e3, "ms"),
        s => (s * 1e6, "µs"),
    };
    let digits = if value >= 100.0 {
        0
    } else if value >= 10.0 {
        1
    } else {
        2
    };
    format!("{value:.digits$} {unit}")
}

/// `277 MB`, `331 B`.
pub(crate) fn bytes(bytes: u64) -> String {
    let value = bytes as f64;
    match bytes {
        0..1_000 => format!("{bytes} B"),
        1_000..100_000 => format!("{:.1} kB", value / 1e3),
        100_000..1_000_000 => format!("{:.0} kB", value / 1e3),
        1_000_000..100_000_000 => format!("{:.1} MB", value / 1e6),
        _ => format!("{:.0} MB", value / 1e6),
    }
}
