//! `wherry log ...`: the files of a node.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use wherry_log::inspect::{LogReport, Report, inspect};

use crate::exit;
use crate::output::{self, Output};
use crate::text::{shown_bytes, shown_count, shown_moment};

#[derive(Debug, Subcommand)]
pub(crate) enum LogCommand {
    Inspect(InspectArgs),
}

/// Show what a data directory holds: journal, segments, indexes
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  wherry log inspect wherry-data
  wherry log inspect wherry-data --verify             read everything and verify every checksum
  wherry log inspect wherry-data --output json

It only reads, and works beside a running node, whose newest appends it may miss.
The exit code is 1 if damage was found.")]
pub(crate) struct InspectArgs {
    /// The data directory
    directory: PathBuf,
    /// Read all data and verify all checksums
    #[arg(long)]
    verify: bool,
    /// Same as --output json
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(command: LogCommand, output: Output) -> Result<ExitCode> {
    let LogCommand::Inspect(args) = command;
    if !args.directory.is_dir() {
        let says = format!("{} is not a directory; name what `wherry node --data` was given", args.directory.display());
        return Err(exit::usage(says));
    }
    let report = inspect(&args.directory, args.verify).with_context(|| args.directory.display().to_string())?;
    match if args.json { Output::Json } else { output } {
        Output::Json => output::json(&report)?,
        Output::Table => print(&report)?,
    }
    Ok(if report.is_sound() { ExitCode::SUCCESS } else { ExitCode::from(exit::FAILED) })
}

fn print(report: &Report) -> Result<()> {
    match &report.checkpoint {
        Some(checkpoint) => output::line(format!(
            "Directory {}  checkpoint {} (frames up to {}; a start replays from {})\n",
            report.directory.as_deref().unwrap_or("-"),
            checkpoint.number,
            checkpoint.captured,
            checkpoint.replay_from
        ))?,
        None => output::line("There is no checkpoint.\n")?,
    }
    print_journal(report)?;
    print_logs(report)?;
    print_segments(report)?;
    for orphan in &report.orphans {
        output::line(format!("{orphan} belongs to no log; the next start removes it."))?;
    }
    for problem in &report.problems {
        output::line(format!("DAMAGED  {problem}"))?;
    }
    output::line(conclusion(report))
}

fn conclusion(report: &Report) -> String {
    let records = shown_count(report.records());
    match (report.is_sound(), report.verified) {
        (true, true) => format!("{records} records; everything was read, and every checksum is right."),
        (true, false) => {
            format!("{records} records; nothing that was looked at is damaged (--verify reads everything).")
        }
        (false, _) => format!("{records} records; {} problems.", report.problems.len()),
    }
}

fn print_journal(report: &Report) -> Result<()> {
    let mut table = output::table(&["journal file", "state", "generation", "incarnation", "first", "last", "bytes"]);
    for file in &report.journal {
        table.add_row(vec![
            file.file.clone(),
            file.state.into(),
            file.generation.to_string(),
            file.incarnation.to_string(),
            file.first.to_string(),
            file.last.to_string(),
            shown_bytes(file.bytes),
        ]);
    }
    output::print(&table, "There is no journal.")?;
    output::line("")
}

fn place(log: &LogReport) -> [String; 2] {
    [log.topic_id.clone(), log.partition.to_string()]
}

fn print_logs(report: &Report) -> Result<()> {
    let headings = [
        "topic id",
        "partition",
        "start",
        "in segments",
        "end",
        "journaled batches",
        "producers",
        "open",
        "aborted",
        "epochs",
    ];
    let mut table = output::table(&headings);
    for log in &report.logs {
        let numbers = [
            log.log_start.to_string(),
            log.stable_end.to_string(),
            log.log_end.to_string(),
            log.journaled_batches.to_string(),
            log.producers.to_string(),
            log.open_transactions.len().to_string(),
            log.aborted_transactions.to_string(),
            log.epochs.len().to_string(),
        ];
        table.add_row(place(log).into_iter().chain(numbers));
    }
    output::print(&table, "There are no logs.")?;
    output::line("")
}

fn print_segments(report: &Report) -> Result<()> {
    let mut table = output::table(&["segment", "base", "end", "bytes", "chunks", "batches", "newest record"]);
    for segment in report.logs.iter().flat_map(|log| &log.segments) {
        table.add_row(vec![
            segment.file.clone(),
            segment.base.to_string(),
            segment.end.to_string(),
            shown_bytes(segment.bytes),
            segment.chunks.to_string(),
            segment.batches.map_or_else(|| "-".into(), |batches| batches.to_string()),
            segment.max_timestamp.map_or_else(|| "-".into(), shown_moment),
        ]);
    }
    output::print(&table, "There are no segments: everything is in the journal.")?;
    output::line("")
}
