//! Tables in Markdown and JSON, and the places under docs/ where they go.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde_json::{Map, Value, json};

use super::{Failure, Options};

pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted: Vec<f64> = values.iter().copied().filter(|v| !v.is_nan()).collect();
    if sorted.is_empty() {
        return f64::NAN;
    }
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[middle] } else { f64::midpoint(sorted[middle - 1], sorted[middle]) }
}

/// A duration in seconds for people: `52 µs`, `1.60 ms`, `2.1 s`.
pub(crate) fn time(seconds: f64) -> String {
    let rounded = |value: f64, unit: &str| {
        if value < 10.0 {
            format!("{value:.2} {unit}")
        } else if value < 100.0 {
            format!("{value:.1} {unit}")
        } else {
            format!("{value:.0} {unit}")
        }
    };
    if seconds.is_nan() {
        "-".to_owned()
    } else if seconds < 1e-3 {
        format!("{:.0} µs", seconds * 1e6)
    } else if seconds < 1.0 {
        rounded(seconds * 1e3, "ms")
    } else {
        rounded(seconds, "s")
    }
}

#[derive(Debug)]
pub(crate) struct Table {
    head: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(head: &[&str]) -> Table {
        Table { head: head.iter().map(|h| (*h).to_owned()).collect(), rows: Vec::new() }
    }

    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    pub(crate) fn text(&self) -> String {
        let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
        let mut text = line(&self.head);
        text.push_str(&format!("|{}\n", "---|".repeat(self.head.len())));
        text.extend(self.rows.iter().map(|r| line(r)));
        text
    }
}

/// `met` or `missed`.
pub(crate) fn verdict(met: bool) -> String {
    if met { "met".to_owned() } else { "**missed**".to_owned() }
}

/// Of the last minute.
pub(crate) fn load_average() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or("?").to_owned()
}

/// When, on how many CPUs, how busy: what a reader needs to judge the numbers.
pub(crate) fn circumstances() -> String {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let load = load_average();
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let kernel: String = kernel.trim().chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect();
    let days = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_secs() / 86_400);
    format!("{}; {cpus} CPUs; Linux {}; load average {load} before the run", date(days), kernel.trim_end_matches('.'))
}

/// Days since 1970 as a date (Hinnant's algorithm for the years after 1970).
fn date(days: u64) -> String {
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let of_era = shifted % 146_097;
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let day_of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_index = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_index + 2) / 5 + 1;
    let month = if month_index < 10 { month_index + 3 } else { month_index - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year}-{month:02}-{day:02}")
}

/// Prints the text; with `--write` also puts it between the markers `bench:NAME`
/// in docs/PERFORMANCE.md, and its tables into docs/bench/NAME.json.
pub(crate) fn publish(name: &str, text: &str, options: Options) -> Result<(), Failure> {
    let text = &format!("{text}\nLoad average after the run: {}.\n", load_average());
    println!("{text}");
    if options.write {
        let path = docs().join("PERFORMANCE.md");
        let old = std::fs::read_to_string(&path)?;
        let (open, close) = (format!("<!-- bench:{name} -->\n"), format!("<!-- /bench:{name} -->"));
        let start = old.find(&open).ok_or_else(|| format!("{}: no line {open}", path.display()))? + open.len();
        let end = old[start..].find(&close).ok_or_else(|| format!("{}: no line {close}", path.display()))? + start;
        std::fs::write(&path, format!("{}{text}{}", &old[..start], &old[end..]))?;
        println!("written to {}", path.display());
        write(&format!("{name}.json"), &format!("{:#}\n", as_json(name, text)))?;
    }
    Ok(())
}

fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs")
}

/// A file in docs/bench.
pub(crate) fn write(name: &str, text: &str) -> Result<(), Failure> {
    let folder = docs().join("bench");
    std::fs::create_dir_all(&folder)?;
    let path = folder.join(name);
    std::fs::write(&path, text)?;
    println!("written to {}", path.display());
    Ok(())
}

/// `{"bench", "about", "tables": [[{column: cell}]]}`: what is read by people is
/// what is read by programs.
fn as_json(name: &str, text: &str) -> Value {
    let about = text.lines().next().unwrap_or_default();
    let cells = |line: &str| -> Vec<String> { line.trim().trim_matches('|').split('|').map(|c| c.trim().replace("**", "")).collect() };
    let mut tables = Vec::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        if !line.starts_with('|') {
            continue;
        }
        let head: Vec<String> = cells(line).into_iter().enumerate().map(|(i, c)| if c.is_empty() { format!("column {}", i + 1) } else { c }).collect();
        let mut rows = Vec::new();
        lines.next();
        while let Some(line) = lines.next_if(|l| l.starts_with('|')) {
            rows.push(Value::Object(head.iter().cloned().zip(cells(line).into_iter().map(Value::from)).collect::<Map<_, _>>()));
        }
        tables.push(Value::from(rows));
    }
    json!({"bench": name, "about": about, "tables": tables})
}
