//! Samples into medians, tables and verdicts: Markdown for people, JSON for scripts.
//! It must not know how a sample was taken.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::Result;
use serde::Serialize;

use crate::measure::{Numbers, Sample, short};
use crate::setup::Setup;

/// How much faster than Wherry the client must be against the null node, or else the client is the bound.
pub const CLIENT_MARGIN: f64 = 1.2;
/// The share of the client's ceiling that is asked for where the client is the bound.
pub const CEILING_SHARE: f64 = 0.9;

/// Medians of one case and contender.
#[derive(Debug, Serialize)]
pub struct Row {
    /// Who.
    pub contender: String,
    /// Runs that went into it.
    pub runs: usize,
    /// Median by name.
    pub median: Numbers,
    /// Smallest and largest rate.
    pub rate_range: Option<(f64, f64)>,
}

/// All rows of one case.
#[derive(Debug, Serialize)]
pub struct Case {
    /// The figure.
    pub figure: String,
    /// The case.
    pub case: String,
    /// By contender, in the order of measuring.
    pub rows: Vec<Row>,
}

/// Whether something that was asked for is met.
#[derive(Debug, Serialize)]
pub struct Verdict {
    /// The figure and case.
    pub of: String,
    /// What is asked.
    pub want: String,
    /// What was measured.
    pub have: String,
    /// Whether it is enough.
    pub met: bool,
}

/// What can be asked of a case.
#[derive(Clone, Copy, Debug)]
pub enum Ask {
    /// Wherry's number is at least this many times the contender's; for rates the client's ceiling is considered.
    AtLeast(&'static str, &'static str, f64),
    /// Wherry's number is at most this many times the contender's.
    AtMost(&'static str, &'static str, f64),
    /// Wherry's number is at least this.
    Above(&'static str, f64),
    /// Wherry's number is at most this.
    Below(&'static str, f64),
    /// Wherry's median acknowledgement is at most twice the device's own write, plus 100 us.
    NearDevice,
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let n = values.len();
    if n == 0 {
        return f64::NAN;
    }
    if n % 2 == 1 { values[n / 2] } else { f64::midpoint(values[n / 2 - 1], values[n / 2]) }
}

/// Groups samples into cases, in the order in which they came.
pub fn cases(samples: &[Sample]) -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    for s in samples {
        let known = cases.iter().position(|c| c.figure == s.figure && c.case == s.case);
        let at = known.unwrap_or_else(|| {
            cases.push(Case { figure: s.figure.clone(), case: s.case.clone(), rows: Vec::new() });
            cases.len() - 1
        });
        if !cases[at].rows.iter().any(|r| r.contender == s.contender) {
            let of_row = |x: &&Sample| x.figure == s.figure && x.case == s.case && x.contender == s.contender;
            cases[at].rows.push(row(&s.contender, samples.iter().filter(of_row)));
        }
    }
    cases
}

fn row<'a>(contender: &str, samples: impl Iterator<Item = &'a Sample>) -> Row {
    let mut values: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    let mut runs = 0;
    for s in samples {
        runs += 1;
        for (name, v) in &s.numbers {
            values.entry(name.clone()).or_default().push(*v);
        }
    }
    let range = |v: &Vec<f64>| {
        (v.iter().copied().fold(f64::INFINITY, f64::min), v.iter().copied().fold(f64::NEG_INFINITY, f64::max))
    };
    let rate_range = values.get("rate").map(range);
    let median = values.into_iter().map(|(name, v)| (name, median(v))).collect();
    Row { contender: contender.into(), runs, median, rate_range }
}

impl Case {
    fn number(&self, contender: &str, name: &str) -> Option<f64> {
        self.rows.iter().find(|r| r.contender == contender)?.median.get(name).copied()
    }

    /// Judges one thing asked of this case; `None` when it was not measured.
    pub fn judge(&self, ask: Ask) -> Option<Verdict> {
        let of = format!("{}: {}", self.figure, self.case);
        let verdict = |want: String, have: String, met: bool| Some(Verdict { of: of.clone(), want, have, met });
        match ask {
            Ask::AtLeast(name, other, times) => {
                let (ours, theirs) = (self.number("wherry", name)?, self.number(other, name)?);
                let ceiling = if name == "rate" { self.number("null", name) } else { None };
                let bound = ceiling.filter(|c| *c < ours * CLIENT_MARGIN && ours < theirs * times);
                match bound {
                    Some(ceiling) => verdict(
                        format!("{name} >= {CEILING_SHARE} x the client's ceiling (the client is the bound)"),
                        format!("{:.2} x of {}; {:.2} x {other}", ours / ceiling, short(ceiling), ours / theirs),
                        ours >= ceiling * CEILING_SHARE,
                    ),
                    None => verdict(
                        format!("{name} >= {times} x {other}"),
                        format!("{:.2} x ({} against {})", ours / theirs, short(ours), short(theirs)),
                        ours >= theirs * times,
                    ),
                }
            }
            Ask::AtMost(name, other, times) => {
                let (ours, theirs) = (self.number("wherry", name)?, self.number(other, name)?);
                verdict(
                    format!("{name} <= {times} x {other}"),
                    format!("{:.2} x ({} against {})", ours / theirs, short(ours), short(theirs)),
                    ours <= theirs * times,
                )
            }
            Ask::Below(name, limit) => {
                let ours = self.number("wherry", name)?;
                verdict(format!("{name} <= {}", short(limit)), short(ours), ours <= limit)
            }
            Ask::Above(name, limit) => {
                let ours = self.number("wherry", name)?;
                verdict(format!("{name} >= {}", short(limit)), short(ours), ours >= limit)
            }
            Ask::NearDevice => {
                let (ours, device) = (self.number("wherry", "ack_p50_us")?, self.number("device", "ack_p50_us")?);
                let limit = 2.0 * device + 100.0;
                let want = format!("ack_p50_us <= 2 x device ({}) + 100 = {}", short(device), short(limit));
                verdict(want, short(ours), ours <= limit)
            }
        }
    }
}

/// Verdicts on ratios within a figure, between its cases: Wherry's rate in `case` against its own rate in `base`.
pub fn judge_against(cases: &[Case], figure: &str, case: &str, base: &str, share: f64) -> Option<Verdict> {
    let find = |name: &str| cases.iter().find(|c| c.figure == figure && c.case == name);
    let (this, base_case) = (find(case)?, find(base)?);
    let (ours, one) = (this.number("wherry", "rate")?, base_case.number("wherry", "rate")?);
    let ceiling = this.number("null", "rate").filter(|c| *c < ours * CLIENT_MARGIN && ours < one * share);
    let (want, have, met) = match ceiling {
        Some(c) => (
            format!("rate >= {CEILING_SHARE} x the client's ceiling (the client is the bound)"),
            format!("{:.2} x of {}; {:.2} x of {base}", ours / c, short(c), ours / one),
            ours >= c * CEILING_SHARE,
        ),
        None => (format!("rate >= {share} x {base}"), format!("{:.2} x", ours / one), ours >= one * share),
    };
    Some(Verdict { of: format!("{figure}: {case}"), want, have, met })
}

const COLUMNS: [(&str, &str); 30] = [
    ("rate", "msg/s"),
    ("broker_us", "broker CPU us/msg"),
    ("client_us", "client CPU us/msg"),
    ("sidecar_us", "sidecar CPU us/msg"),
    ("per_sidecar_core", "msg/s per sidecar core"),
    ("sidecar_rss_mib", "sidecar RSS MiB"),
    ("ack_p50_us", "ack p50 us"),
    ("ack_p99_us", "ack p99 us"),
    ("e2e_p50_us", "e2e p50 us"),
    ("e2e_p99_us", "e2e p99 us"),
    ("start_to_port_ms", "port after ms"),
    ("start_to_ack_ms", "first ack after ms"),
    ("idle_cpu_percent", "idle CPU %"),
    ("kills", "times"),
    ("gap_ms", "gap ms"),
    ("gap_p50_ms", "gap p50 ms"),
    ("gap_p99_ms", "gap p99 ms"),
    ("gap_max_ms", "gap max ms"),
    ("gap_all_max_ms", "of any partition, max ms"),
    ("gap_all_ms", "of any partition ms"),
    ("return_gap_ms", "on return ms"),
    ("return_gap_max_ms", "on return, max ms"),
    ("whole_s", "in sync after s"),
    ("errors", "client errors"),
    ("steady_gap_ms", "gap before ms"),
    ("create_s", "create s"),
    ("rss_mib", "RSS MiB"),
    ("fds", "open files"),
    ("broker_cores", "broker cores"),
    ("other_cores", "other cores"),
];

/// The tables and verdicts as Markdown.
pub fn markdown(cases: &[Case], verdicts: &[Verdict]) -> String {
    let mut out = String::new();
    let mut figure = "";
    for case in cases {
        if case.figure != figure {
            figure = &case.figure;
            let _ = writeln!(out, "\n## {figure}");
        }
        let has = |name: &str| case.rows.iter().any(|r| r.median.contains_key(name));
        let columns: Vec<_> = COLUMNS.iter().filter(|(name, _)| has(name)).collect();
        let titles: Vec<&str> = columns.iter().map(|(_, title)| *title).collect();
        let _ = writeln!(out, "\n| {} | runs | {} |", case.case, titles.join(" | "));
        let _ = writeln!(out, "|---|---|{}", "---|".repeat(columns.len()));
        for row in &case.rows {
            let cells: Vec<String> = columns.iter().map(|(name, _)| cell(row, name)).collect();
            let _ = writeln!(out, "| {} | {} | {} |", row.contender, row.runs, cells.join(" | "));
        }
    }
    if !verdicts.is_empty() {
        let _ = writeln!(out, "\n## Verdicts\n\n| of | asked | measured | met |\n|---|---|---|---|");
    }
    for v in verdicts {
        let _ = writeln!(out, "| {} | {} | {} | {} |", v.of, v.want, v.have, if v.met { "yes" } else { "**NO**" });
    }
    out
}

fn cell(row: &Row, name: &str) -> String {
    let Some(v) = row.median.get(name) else { return String::from("-") };
    match row.rate_range.filter(|_| name == "rate") {
        Some((low, high)) => format!("{} [{}..{}]", short(*v), short(low), short(high)),
        None => short(*v),
    }
}

#[derive(Serialize)]
struct Summary<'a> {
    cases: &'a [Case],
    verdicts: &'a [Verdict],
}

/// Writes `summary.json` and `summary.md`, and returns the Markdown.
pub fn write(setup: &Setup, cases: &[Case], verdicts: &[Verdict]) -> Result<String> {
    let text = markdown(cases, verdicts);
    std::fs::write(setup.out.join("summary.md"), &text)?;
    let json = serde_json::to_string_pretty(&Summary { cases, verdicts })?;
    std::fs::write(setup.out.join("summary.json"), json)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(contender: &str, run: usize, rate: f64) -> Sample {
        let numbers = [(String::from("rate"), rate), (String::from("broker_us"), 1e6 / rate)].into();
        Sample { figure: "produce".into(), case: "x".into(), contender: contender.into(), run, numbers }
    }

    fn of(ours: f64, theirs: f64, ceiling: f64) -> Case {
        let samples = [sample("kafka", 1, theirs), sample("wherry", 1, ours), sample("null", 1, ceiling)];
        cases(&samples).remove(0)
    }

    #[test]
    fn the_median_counts() {
        let samples: Vec<Sample> = [5.0, 1.0, 3.0].iter().map(|r| sample("kafka", 0, *r)).collect();
        let row = &cases(&samples)[0].rows[0];
        assert_eq!((row.median["rate"], row.rate_range, row.runs), (3.0, Some((1.0, 5.0)), 3));
    }

    #[test]
    fn where_the_client_is_the_bound_its_ceiling_is_the_target() {
        let ask = Ask::AtLeast("rate", "kafka", 2.0);
        assert!(of(210.0, 100.0, 1000.0).judge(ask).unwrap().met);
        assert!(!of(190.0, 100.0, 1000.0).judge(ask).unwrap().met);
        let bound = of(190.0, 100.0, 200.0).judge(ask).unwrap();
        assert!(bound.met && bound.want.contains("ceiling"));
        assert!(!of(170.0, 100.0, 200.0).judge(ask).unwrap().met);
    }

    #[test]
    fn what_was_not_measured_is_not_judged() {
        assert!(of(1.0, 1.0, 1.0).judge(Ask::Below("rss_mib", 1.0)).is_none());
    }
}
