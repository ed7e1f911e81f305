//! Tables for people: aligned columns without lines, at most 100 columns wide.

use comfy_table::{CellAlignment, Table, presets};

use super::escape::{ending, middle};

/// Columns of the screen that a table takes at most, as long as its figures alone are not wider.
const WIDTH: usize = 100;
/// Columns that a shortened name keeps at least.
const LEAST: usize = 16;

/// A table under construction. Cells hold text for a terminal.
pub struct Grid {
    header: Vec<String>,
    rows: Vec<Vec<String>>,
    /// Lines that stand before the row of this number.
    headings: Vec<(usize, String)>,
    right: Vec<usize>,
    names: Vec<usize>,
    prose: Option<usize>,
}

impl Grid {
    /// An empty table with this header.
    pub fn new(header: &[&str]) -> Self {
        let header = header.iter().map(|title| (*title).to_owned()).collect();
        Self {
            header,
            rows: Vec::new(),
            headings: Vec::new(),
            right: Vec::new(),
            names: Vec::new(),
            prose: None,
        }
    }

    /// Columns of figures.
    #[must_use]
    pub fn right(mut self, columns: &[usize]) -> Self {
        self.right = columns.to_vec();
        self
    }

    /// Columns of names, which are shortened in the middle where the table would be too wide.
    #[must_use]
    pub fn names(mut self, columns: &[usize]) -> Self {
        self.names = columns.to_vec();
        self
    }

    /// A column of sentences, which are shortened at the end where the table would be too wide.
    #[must_use]
    pub fn prose(mut self, column: usize) -> Self {
        self.prose = Some(column);
        self
    }

    /// Adds a row.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// Adds a line of its own over the rows that follow.
    pub fn heading(&mut self, text: String) {
        self.headings.push((self.rows.len(), text));
    }

    /// The lines, without trailing blanks and without a final line break.
    pub fn render(mut self) -> String {
        self.fit();
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_header(&self.header);
        table.add_rows(&self.rows);
        for column in &self.right {
            if let Some(column) = table.column_mut(*column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        let mut lines: Vec<String> = table.lines().map(|line| line.trim_end().to_owned()).collect();
        for (row, text) in self.headings.iter().rev() {
            lines.insert((row + 1).min(lines.len()), text.clone());
        }
        lines.join("\n")
    }

    /// Shortens names, the longest column first, then sentences.
    fn fit(&mut self) {
        let mut widths: Vec<usize> = (0..self.header.len()).map(|column| self.width(column)).collect();
        // One blank on each side of a cell; the last one of a line is cut off.
        let total = |widths: &[usize]| widths.iter().map(|width| width + 2).sum::<usize>() - 1;
        while total(&widths) > WIDTH {
            let wide = |column: &usize| widths.get(*column).copied().filter(|width| *width > LEAST);
            let prose = self.prose.filter(|column| wide(column).is_some());
            let longest = self.names.iter().copied().filter(|column| wide(column).is_some());
            let Some(column) = longest.max_by_key(|column| wide(column)).or(prose) else { break };
            if let Some(width) = widths.get_mut(column) {
                *width -= 1;
            }
        }
        let prose = self.prose;
        for row in &mut self.rows {
            for (column, (cell, width)) in row.iter_mut().zip(&widths).enumerate() {
                *cell = if prose == Some(column) { ending(cell, *width) } else { middle(cell, *width) };
            }
        }
    }

    fn width(&self, column: usize) -> usize {
        let cells = self.rows.iter().chain([&self.header]).filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wide_table_is_narrowed_where_it_may_be() {
        let mut grid = Grid::new(&["tensor", "bytes", "why"]).right(&[1]).names(&[0]).prose(2);
        grid.heading("float".to_owned());
        grid.row(["a".repeat(60) + &"z".repeat(60), "12 B".to_owned(), "short".to_owned()]);
        grid.row(["b".to_owned(), "1 B".to_owned(), "word ".repeat(30)]);
        let shown = grid.render();
        assert!(shown.lines().all(|line| line.chars().count() <= WIDTH), "{shown}");
        insta::assert_snapshot!(shown);
    }

    #[test]
    fn a_narrow_one_stays() {
        let mut grid = Grid::new(&["a", "b"]).right(&[1]).names(&[0]);
        grid.row(["x".to_owned(), "1".to_owned()]);
        grid.row(["y".to_owned(), "23".to_owned()]);
        assert_eq!(grid.render(), " a   b\n x   1\n y  23");
    }
}
