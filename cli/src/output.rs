//! What commands answer: a table for people, JSON for scripts, on standard output.

use std::io::{self, Write};

use anyhow::Result;
use clap::ValueEnum;
use comfy_table::presets::NOTHING;
use comfy_table::{ContentArrangement, Table};
use serde::Serialize;

/// How a command answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Output {
    /// For people
    #[default]
    Table,
    /// For scripts: one JSON value; field names stay the same between versions
    Json,
}

/// Writes a line of answer.
pub(crate) fn line(text: impl AsRef<str>) -> Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{}", text.as_ref())?;
    Ok(out.flush()?)
}

/// Writes a line beside the answer, for people.
pub(crate) fn note(text: impl AsRef<str>) {
    // Nothing can be done if standard error is closed.
    let _ = writeln!(io::stderr(), "{}", text.as_ref());
}

/// Writes a value as JSON, readable.
pub(crate) fn json<T: Serialize>(value: &T) -> Result<()> {
    line(serde_json::to_string_pretty(value)?)
}

/// A table with these headings, as wide as the terminal lets it.
pub(crate) fn table(headings: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(headings.iter().map(|heading| heading.to_uppercase()));
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table
}

/// Writes a table, without trailing blanks; says so when it has no rows.
pub(crate) fn print(table: &Table, when_empty: &str) -> Result<()> {
    if table.is_empty() {
        note(when_empty);
        return Ok(());
    }
    line(table.trim_fmt())
}

/// Answers with rows: a table of `cells`, or the rows themselves as JSON.
pub(crate) fn rows<T: Serialize>(
    output: Output,
    rows: &[T],
    headings: &[&str],
    when_empty: &str,
    cells: impl Fn(&T) -> Vec<String>,
) -> Result<()> {
    match output {
        Output::Json => json(&rows),
        Output::Table => {
            let mut table = table(headings);
            for row in rows {
                table.add_row(cells(row));
            }
            print(&table, when_empty)
        }
    }
}
