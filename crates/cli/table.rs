//! Tables and lines on standard output.

use std::io::{self, Write};

use comfy_table::presets::ASCII_MARKDOWN;
use comfy_table::{Cell, CellAlignment, ContentArrangement, Table};

/// Which way a column reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Column {
    /// Words, from the left.
    Text(&'static str),
    /// Numbers, from the right.
    Number(&'static str),
}

/// A table in Markdown, as wide as it needs to be; a column without any content is left out.
pub fn markdown<const N: usize>(columns: [Column; N], rows: &[[String; N]]) -> String {
    let used: Vec<usize> = (0..N).filter(|&at| rows.iter().any(|row| !row[at].is_empty())).collect();
    let cell = |at: usize, text: &str| match columns[at] {
        Column::Text(_) => Cell::new(text),
        Column::Number(_) => Cell::new(text).set_alignment(CellAlignment::Right),
    };
    let name = |at: usize| match columns[at] {
        Column::Text(name) | Column::Number(name) => name,
    };
    let mut table = Table::new();
    table.load_style(ASCII_MARKDOWN).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(used.iter().map(|&at| cell(at, name(at))).collect::<Vec<_>>());
    for row in rows {
        table.add_row(used.iter().map(|&at| cell(at, &row[at])).collect::<Vec<_>>());
    }
    format!("{}\n", table.trim_fmt())
}

/// Lines whose parts begin below each other.
pub fn aligned<const N: usize>(lines: &[[String; N]]) -> String {
    let mut widths = [0; N];
    for line in lines {
        for (width, part) in widths.iter_mut().zip(line) {
            *width = (*width).max(part.chars().count());
        }
    }
    let mut text = String::new();
    for line in lines {
        let parts = line.iter().zip(widths).map(|(part, width)| format!("{part:width$}"));
        text.push_str(parts.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// Writes to standard output; a closed pipe is an error here, not a panic.
pub fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_markdown() {
        let rows = [["a", "", "1"], ["long name", "", "22"]].map(|row| row.map(str::to_owned));
        let text = markdown([Column::Text("layer"), Column::Text("empty"), Column::Number("n")], &rows);
        assert_eq!(text, "| layer     |  n |\n|-----------|----|\n| a         |  1 |\n| long name | 22 |\n");
    }

    #[test]
    fn lines_are_aligned_and_not_padded_at_the_end() {
        let lines = [["a".to_owned(), "b".to_owned()], ["ccc".to_owned(), String::new()]];
        assert_eq!(aligned(&lines), "a    b\nccc\n");
    }
}
