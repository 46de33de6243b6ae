//! Line charts as SVG, without anything installed.

use std::fmt::Write as _;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 380.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 130.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 50.0;
const COLOURS: [&str; 6] = ["#888888", "#c0703c", "#2f6fb0", "#4a9a5a", "#8a5aa8", "#b03a5b"];

/// One line: its name and its points, in the order of the chart's `ticks`.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) name: String,
    pub(crate) values: Vec<f64>,
}

/// A chart over named positions. The upright axis is logarithmic: what is plotted
/// spans more than one order of magnitude.
#[derive(Debug)]
pub(crate) struct Chart<'a> {
    pub(crate) title: &'a str,
    pub(crate) across: &'a str,
    pub(crate) ticks: Vec<String>,
    /// How a value of the upright axis is written.
    pub(crate) label: fn(f64) -> String,
    pub(crate) lines: Vec<Line>,
}

impl Chart<'_> {
    pub(crate) fn svg(&self) -> String {
        let good = |v: &f64| v.is_finite() && *v > 0.0;
        let all: Vec<f64> = self.lines.iter().flat_map(|l| l.values.iter().copied().filter(good)).collect();
        let low = 10f64.powf(all.iter().copied().fold(f64::MAX, f64::min).log10().floor());
        let high = 10f64.powf(all.iter().copied().fold(f64::MIN_POSITIVE, f64::max).log10().ceil()).max(low * 10.0);
        let steps = self.ticks.len().max(2) - 1;
        let x = |i: usize| LEFT + (WIDTH - LEFT - RIGHT) * i as f64 / steps as f64;
        let y = |v: f64| HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (v / low).log10() / (high / low).log10();
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{HEIGHT}\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#ffffff\"/>\n<text x=\"{LEFT}\" y=\"22\" font-size=\"15\">{}</text>\n",
            escape(self.title)
        );
        let mut decade = low;
        while decade <= high * 1.001 {
            let at = y(decade);
            let _ = writeln!(svg, "<line x1=\"{LEFT}\" x2=\"{:.0}\" y1=\"{at:.1}\" y2=\"{at:.1}\" stroke=\"#dddddd\"/>", WIDTH - RIGHT);
            let _ = writeln!(svg, "<text x=\"{:.0}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>", LEFT - 6.0, at + 4.0, escape(&(self.label)(decade)));
            decade *= 10.0;
        }
        for (i, tick) in self.ticks.iter().enumerate() {
            let _ = writeln!(svg, "<text x=\"{:.1}\" y=\"{:.0}\" text-anchor=\"middle\">{}</text>", x(i), HEIGHT - BOTTOM + 18.0, escape(tick));
        }
        let middle = (LEFT + WIDTH - RIGHT) / 2.0;
        let _ = writeln!(svg, "<text x=\"{middle:.0}\" y=\"{:.0}\" text-anchor=\"middle\">{}</text>", HEIGHT - 12.0, escape(self.across));
        for (n, line) in self.lines.iter().enumerate() {
            let colour = COLOURS[n % COLOURS.len()];
            let points: Vec<(f64, f64, f64)> = line.values.iter().enumerate().filter(|(_, v)| good(v)).map(|(i, v)| (x(i), y(*v), *v)).collect();
            let path: Vec<String> = points.iter().map(|(x, y, _)| format!("{x:.1},{y:.1}")).collect();
            let _ = writeln!(svg, "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\" points=\"{}\"/>", path.join(" "));
            for (x, y, value) in &points {
                let _ = writeln!(
                    svg,
                    "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{colour}\"><title>{}: {}</title></circle>",
                    escape(&line.name),
                    escape(&(self.label)(*value))
                );
            }
            let _ = writeln!(
                svg,
                "<text x=\"{:.0}\" y=\"{:.0}\" fill=\"{colour}\">{}</text>",
                WIDTH - RIGHT + 16.0,
                TOP + 16.0 + 18.0 * n as f64,
                escape(&line.name)
            );
        }
        svg.push_str("</svg>\n");
        svg
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
