//! What functions' containers do and use: rows gathered by whoever has the
//! containers, printed here.

use std::fmt::Write;
use std::time::Duration;

use super::registry::head;

/// The containers of one function, or of all that have no row of their own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ContainerRow {
    pub app_id: String,
    pub fn_id: String,
    pub image: String,
    /// Wanted, and waiting for room.
    pub waiting: u64,
    pub starting: u64,
    pub idle: u64,
    /// Frozen, or about to be.
    pub paused: u64,
    pub busy: u64,
    /// Whose use of CPU and memory could not be seen just now.
    pub unseen: u64,
    /// CPU time of all its containers, those that are gone included.
    pub cpu: Duration,
    /// Bytes charged now.
    pub memory: u64,
    /// The most that one of those running had charged at any time, bytes.
    pub memory_peak: u64,
}

impl ContainerRow {
    /// How many containers there are.
    pub fn count(&self) -> u64 {
        self.starting + self.idle + self.paused + self.busy
    }

    /// Both together, as nobody's in particular.
    #[must_use]
    pub fn with(self, other: ContainerRow) -> ContainerRow {
        let rest = || "other".to_owned();
        ContainerRow {
            app_id: rest(),
            fn_id: rest(),
            image: rest(),
            waiting: self.waiting + other.waiting,
            starting: self.starting + other.starting,
            idle: self.idle + other.idle,
            paused: self.paused + other.paused,
            busy: self.busy + other.busy,
            unseen: self.unseen + other.unseen,
            cpu: self.cpu + other.cpu,
            memory: self.memory + other.memory,
            memory_peak: self.memory_peak.max(other.memory_peak),
        }
    }
}

/// Name, kind, help, and the value of a row.
type Column = (&'static str, &'static str, &'static str, fn(&ContainerRow) -> String);

const COLUMNS: [Column; 9] = [
    ("fn_container_wait_total", "gauge", "containers wanted that wait for room", |r| r.waiting.to_string()),
    ("fn_container_start_total", "gauge", "containers that start", |r| r.starting.to_string()),
    ("fn_container_idle_total", "gauge", "containers without a call", |r| r.idle.to_string()),
    ("fn_container_paused_total", "gauge", "frozen containers", |r| r.paused.to_string()),
    ("fn_container_busy_total", "gauge", "containers with a call", |r| r.busy.to_string()),
    ("hob_container_cpu_seconds_total", "counter", "CPU time of a function's containers", |r| format!("{}.{:06}", r.cpu.as_secs(), r.cpu.subsec_micros())),
    ("hob_container_memory_bytes", "gauge", "memory charged to a function's containers", |r| r.memory.to_string()),
    ("hob_container_memory_peak_bytes", "gauge", "the most memory charged to one of a function's running containers", |r| r.memory_peak.to_string()),
    ("hob_container_unseen", "gauge", "containers whose use of CPU and memory is not known", |r| r.unseen.to_string()),
];

pub(super) fn render(out: &mut String, rows: &[ContainerRow]) {
    for (name, kind, help, value) in COLUMNS {
        head(out, name, kind, help);
        for row in rows {
            let _ = writeln!(
                out,
                "{name}{{app_id=\"{}\",fn_id=\"{}\",image_name=\"{}\"}} {}",
                escaped(&row.app_id),
                escaped(&row.fn_id),
                escaped(&row.image),
                value(row)
            );
        }
    }
}

fn escaped(label: &str) -> String {
    label.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_lines_with_labels() {
        let row = ContainerRow {
            app_id: "a".into(),
            fn_id: "f".into(),
            image: "x\"y".into(),
            busy: 2,
            cpu: Duration::from_micros(1_500_000),
            ..ContainerRow::default()
        };
        let mut out = String::new();
        render(&mut out, std::slice::from_ref(&row));
        assert!(out.contains("\nfn_container_busy_total{app_id=\"a\",fn_id=\"f\",image_name=\"x\\\"y\"} 2\n"), "{out}");
        assert!(out.contains("\nhob_container_cpu_seconds_total{app_id=\"a\",fn_id=\"f\",image_name=\"x\\\"y\"} 1.500000\n"), "{out}");
        let other = ContainerRow { memory_peak: 7, memory: 5, ..row.clone() };
        let both = row.with(other);
        assert_eq!((both.count(), both.memory_peak, both.memory, both.fn_id.as_str()), (4, 7, 5, "other"));
    }
}
