//! Text tables: columns as wide as their widest cell, two blanks between.

/// Rows under a head. Line breaks and control characters in cells become `?`.
pub(super) fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let clean = |cell: &str| -> String { cell.chars().map(|c| if c.is_control() { '?' } else { c }).collect() };
    let lines: Vec<Vec<String>> =
        std::iter::once(head.iter().map(|h| (*h).to_owned()).collect()).chain(rows.iter().map(|row| row.iter().map(|c| clean(c)).collect())).collect();
    let width = |column: usize| lines.iter().filter_map(|l| l.get(column)).map(|c| c.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let mut out = String::new();
    for line in &lines {
        let mut text = String::new();
        for (cell, width) in line.iter().zip(&widths) {
            text.push_str(cell);
            text.extend(std::iter::repeat_n(' ', width - cell.chars().count() + 2));
        }
        out.push_str(text.trim_end());
        out.push('\n');
    }
    out
}

/// Names and values, one a line.
pub(super) fn pairs(pairs: &[(String, String)]) -> String {
    let width = pairs.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    let mut out = String::new();
    for (name, value) in pairs {
        let value: String = value.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
        out.push_str(&format!("{name:<width$}  {value}\n"));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns() {
        let text = table(&["NAME", "ID"], &[vec!["été".into(), "1".into()], vec!["longer".into(), "2\x1b[2J\n".into()]]);
        assert_eq!(text, "NAME    ID\nété     1\nlonger  2?[2J?\n");
        assert_eq!(table(&["NAME"], &[]), "NAME\n");
        assert_eq!(pairs(&[("a".into(), "1".into()), ("bcd".into(), "2".into())]), "a    1\nbcd  2\n");
    }
}
