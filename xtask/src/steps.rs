//! Runs commands one after the other and says at the end what held and what did not.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

/// One command with a title.
#[derive(Debug, Clone)]
pub(crate) struct Step {
    title: String,
    program: String,
    arguments: Vec<String>,
    directory: PathBuf,
    environment: Vec<(String, String)>,
    /// A command that tells whether this step can run, and what to say if not.
    needs: Option<(Vec<String>, String)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Outcome {
    Good,
    Bad(String),
    NotRun(String),
}

impl Step {
    pub(crate) fn new(title: &str, program: &str, arguments: &[&str]) -> Self {
        Self {
            title: title.into(),
            program: program.into(),
            arguments: arguments.iter().map(ToString::to_string).collect(),
            directory: ".".into(),
            environment: Vec::new(),
            needs: None,
        }
    }

    pub(crate) fn within(mut self, directory: &Path) -> Self {
        self.directory = directory.into();
        self
    }

    pub(crate) fn with(mut self, variable: &str, value: &str) -> Self {
        self.environment.push((variable.into(), value.into()));
        self
    }

    /// Runs only where its program succeeds with these arguments; otherwise `notice` is said.
    pub(crate) fn optional(mut self, probe: &[&str], notice: &str) -> Self {
        self.needs = Some((probe.iter().map(ToString::to_string).collect(), notice.into()));
        self
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.current_dir(&self.directory).envs(self.environment.iter().map(|(k, v)| (k, v)));
        command
    }

    fn can_run(&self) -> Result<(), String> {
        let Some((probe, notice)) = &self.needs else { return Ok(()) };
        let probed = self.command().args(probe).stdout(Stdio::null()).stderr(Stdio::null()).status();
        if probed.is_ok_and(|status| status.success()) { Ok(()) } else { Err(notice.clone()) }
    }

    fn run(&self) -> Outcome {
        if let Err(notice) = self.can_run() {
            return Outcome::NotRun(notice);
        }
        match self.command().args(&self.arguments).status() {
            Ok(status) if status.success() => Outcome::Good,
            Ok(status) => Outcome::Bad(status.to_string()),
            Err(error) => Outcome::Bad(format!("can't run {}: {error}; install it", self.program)),
        }
    }

    /// As one would type it.
    fn typed(&self) -> String {
        let variables = self.environment.iter().map(|(key, value)| format!("{key}='{value}' "));
        let words = self.arguments.iter().map(|word| format!(" {word}"));
        variables.chain([self.program.clone()]).chain(words).collect()
    }
}

/// Writes a line for people.
pub(crate) fn say(text: &str) {
    // Nothing can be done if standard output is closed.
    let _ = writeln!(io::stdout(), "{text}");
}

/// Runs every step, even after one failed, and sums up.
pub(crate) fn run_all(steps: &[Step]) -> ExitCode {
    let mut results = Vec::new();
    let start = Instant::now();
    for step in steps {
        // The time, so that a run that is cut off tells as well what it was waiting for.
        say(&format!("\n=== {} (after {} s)\n    {}", step.title, start.elapsed().as_secs(), step.typed()));
        let begun = Instant::now();
        let outcome = step.run();
        results.push((step.title.clone(), outcome, begun.elapsed()));
    }
    say(&summary(&results));
    let good = results.iter().all(|(_, outcome, _)| !matches!(outcome, Outcome::Bad(_)));
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn summary(results: &[(String, Outcome, Duration)]) -> String {
    let mut text = String::from("\n=== Summary\n");
    for (title, outcome, took) in results {
        let (word, why) = match outcome {
            Outcome::Good => ("ok", ""),
            Outcome::Bad(why) => ("FAILED", why.as_str()),
            Outcome::NotRun(why) => ("NOT RUN", why.as_str()),
        };
        // Writing to a string can't fail.
        let _ = writeln!(text, "{word:>8}  {:>6.1} s  {title}", took.as_secs_f64());
        if !why.is_empty() {
            let _ = writeln!(text, "{:>20}{why}", "");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Step {
        Step::new("a step", "sh", &["-c", script])
    }

    #[test]
    fn outcomes() {
        assert_eq!(shell("exit 0").run(), Outcome::Good);
        assert!(matches!(shell("exit 3").run(), Outcome::Bad(why) if why.contains('3')));
        let missing = Step::new("x", "no-such-program", &[]).run();
        assert!(matches!(missing, Outcome::Bad(why) if why.contains("no-such-program")));
        let optional = shell("exit 3").optional(&["-c", "exit 1"], "not here");
        assert_eq!(optional.run(), Outcome::NotRun("not here".into()));
        assert_eq!(shell("test \"$A\" = b").with("A", "b").run(), Outcome::Good);
    }

    #[test]
    fn one_failure_fails_the_whole_but_stops_nothing() {
        let marker = std::env::temp_dir().join(format!("wherry-xtask-{}", std::process::id()));
        let touch = shell(&format!("touch '{}'", marker.display()));
        let code = run_all(&[shell("exit 1"), touch]);
        assert_eq!(format!("{code:?}"), format!("{:?}", ExitCode::FAILURE));
        std::fs::remove_file(marker).expect("the second step ran");
    }

    #[test]
    fn a_skipped_step_fails_nothing_and_is_named() {
        let results = [("a".to_owned(), Outcome::NotRun("because".into()), Duration::ZERO)];
        let text = summary(&results);
        assert!(text.contains("NOT RUN") && text.contains("because"), "{text}");
    }
}
