//! Pictures: bars beside each other on a logarithmic axis, and lines on two of them, as SVG.
//!
//! **Invariant:** what is drawn is readable on a light and on a dark page: there is no background, and
//! colours of text follow the page.

use std::fmt::Write as _;

const WIDTH: f64 = 900.0;
const BAR: f64 = 18.0;
const LEFT: f64 = 270.0;
const RIGHT: f64 = 110.0;
const PANEL: f64 = 330.0;

/// Told apart also without colours of their own: each line has its name at its end.
const COLOURS: [&str; 10] = [
    "#1f77d0", "#d9822b", "#2e9e5b", "#b4437c", "#8a63d2", "#7a8288", "#c9a227", "#17a2a2",
    "#e0559a", "#5b9c1f",
];

/// One bar, with its least and most.
#[derive(Debug)]
pub(crate) struct Bar {
    pub(crate) name: String,
    pub(crate) value: f64,
    pub(crate) least: f64,
    pub(crate) most: f64,
    pub(crate) shown: String,
    /// `limit`, `baton` or `peer`.
    pub(crate) class: &'static str,
}

/// Points of one name.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) name: String,
    pub(crate) points: Vec<(f64, f64)>,
}

/// Lines of one unit.
#[derive(Debug)]
pub(crate) struct Panel {
    pub(crate) title: String,
    pub(crate) shown: fn(f64) -> String,
    pub(crate) lines: Vec<Line>,
}

/// A group of bars for each title, all on one logarithmic axis.
pub(crate) fn bars(title: &str, groups: &[(String, Vec<Bar>)]) -> String {
    let all = || groups.iter().flat_map(|(_, bars)| bars);
    let least = all().map(|bar| bar.least).fold(f64::INFINITY, f64::min);
    let most = all().map(|bar| bar.most).fold(0.0, f64::max);
    let axis = Axis::new(least, most, LEFT, WIDTH - RIGHT);
    let mut body = String::new();
    let mut y = 52.0;
    for (name, bars) in groups {
        let _ = writeln!(body, r#"<text class="head" x="10" y="{y:.0}">{}</text>"#, escaped(name));
        y += 10.0;
        for bar in bars {
            let (from, to) = (axis.at(axis.low), axis.at(bar.value));
            let (least, most) = (axis.at(bar.least), axis.at(bar.most));
            let middle = y + BAR / 2.0;
            let text = middle + 4.0;
            let _ = writeln!(
                body,
                r#"<text class="name" x="{:.0}" y="{text:.1}">{}</text><rect class="{}" x="{from:.1}" y="{:.1}" width="{:.1}" height="{:.0}"/><path class="range" d="M{least:.1} {middle:.1}H{most:.1}"/><text x="{:.1}" y="{text:.1}">{}</text>"#,
                LEFT - 8.0,
                escaped(&bar.name),
                bar.class,
                y + 2.0,
                (to - from).max(1.0),
                BAR - 4.0,
                most.max(to) + 6.0,
                escaped(&bar.shown),
            );
            y += BAR;
        }
        y += 26.0;
    }
    let mut ticks = String::new();
    for power in axis.powers() {
        let x = axis.at(power);
        let _ = writeln!(ticks, r#"<path class="grid" d="M{x:.1} 34V{:.0}"/>"#, y - 20.0);
    }
    document(title, y, &(ticks + &body))
}

/// Panels below each other; both axes logarithmic, files below.
pub(crate) fn lines(title: &str, panels: &[Panel]) -> String {
    let mut body = String::new();
    let mut top = 50.0;
    for panel in panels {
        draw(&mut body, panel, top);
        top += PANEL + 60.0;
    }
    document(title, top, &body)
}

fn draw(body: &mut String, panel: &Panel, top: f64) {
    let points = || panel.lines.iter().flat_map(|line| &line.points);
    let range = |of: fn(&(f64, f64)) -> f64| {
        let least = points().map(of).fold(f64::INFINITY, f64::min);
        (least, points().map(of).fold(0.0, f64::max))
    };
    let ((left, right), (low, high)) = (range(|it| it.0), range(|it| it.1));
    let across = Axis::new(left, right, 90.0, WIDTH - 250.0);
    let up = Axis::new(low, high, top + PANEL, top + 14.0);
    let _ = writeln!(
        body,
        r#"<text class="head" x="10" y="{top:.0}">{}</text>"#,
        escaped(&panel.title)
    );
    for power in across.powers() {
        let (x, bottom) = (across.at(power), top + PANEL);
        let _ = writeln!(
            body,
            r#"<path class="grid" d="M{x:.1} {:.1}V{bottom:.1}"/><text class="middle" x="{x:.1}" y="{:.1}">{power:.0}</text>"#,
            top + 14.0,
            bottom + 16.0
        );
    }
    for power in up.powers() {
        let y = up.at(power);
        let _ = writeln!(
            body,
            r#"<path class="grid" d="M90 {y:.1}H{:.1}"/><text class="name" x="84" y="{:.1}">{}</text>"#,
            WIDTH - 250.0,
            y + 4.0,
            escaped(&(panel.shown)(power))
        );
    }
    // Names stand at the ends of their lines, and not on each other.
    let mut ends: Vec<_> = panel.lines.iter().enumerate().collect();
    let end = |line: &Line| line.points.last().map_or(top, |point| up.at(point.1));
    ends.sort_by(|a, b| end(a.1).total_cmp(&end(b.1)));
    let mut free = f64::NEG_INFINITY;
    for (at, line) in ends {
        let colour = COLOURS[at % COLOURS.len()];
        let places: Vec<_> = line
            .points
            .iter()
            .map(|(x, y)| format!("{:.1},{:.1}", across.at(*x), up.at(*y)))
            .collect();
        free = (free + 15.0).max(end(line) + 4.0);
        let shown = line.points.last().map(|point| (panel.shown)(point.1)).unwrap_or_default();
        let _ = writeln!(
            body,
            r#"<polyline fill="none" stroke="{colour}" stroke-width="2" points="{}"/><text x="{:.1}" y="{free:.1}" style="fill:{colour}">{} {}</text>"#,
            places.join(" "),
            WIDTH - 244.0,
            escaped(&line.name),
            escaped(&shown),
        );
        for place in places {
            let (x, y) = place.split_once(',').unwrap_or_default();
            let _ = writeln!(body, r#"<circle fill="{colour}" cx="{x}" cy="{y}" r="3"/>"#);
        }
    }
}

/// A logarithmic axis over whole powers of ten.
struct Axis {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
}

impl Axis {
    fn new(least: f64, most: f64, from: f64, to: f64) -> Self {
        let low = 10f64.powf(least.max(1e-9).log10().floor());
        let high = 10f64.powf(most.max(1e-9).log10().ceil()).max(low * 10.0);
        Self { low, high, from, to }
    }

    fn at(&self, value: f64) -> f64 {
        let share = (value.max(self.low) / self.low).log10() / (self.high / self.low).log10();
        self.from + share * (self.to - self.from)
    }

    fn powers(&self) -> impl Iterator<Item = f64> + use<> {
        let (first, last) = (self.low.log10().round() as i32, self.high.log10().round() as i32);
        (first..=last).map(|power| 10f64.powi(power))
    }
}

fn document(title: &str, height: f64, body: &str) -> String {
    format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH:.0} {height:.0}" font-family="system-ui, sans-serif" font-size="12">
<style>
text {{ fill: #32383f; }} .head {{ font-weight: 600; }} .name {{ text-anchor: end; }} .middle {{ text-anchor: middle; }}
.grid {{ stroke: #8c959f; stroke-opacity: 0.35; }} .range {{ stroke: #57606a; stroke-width: 1.5; }}
.baton {{ fill: #1f77d0; }} .peer {{ fill: #9aa4ae; }} .limit {{ fill: #2e9e5b; }}
@media (prefers-color-scheme: dark) {{ text {{ fill: #d1d7de; }} .range {{ stroke: #d1d7de; }} .peer {{ fill: #6b7680; }} }}
</style>
<text class="head" x="10" y="20" font-size="14">{}</text>
{body}</svg>
"#,
        escaped(title)
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
