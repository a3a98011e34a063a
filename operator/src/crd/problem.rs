//! What is wrong with a resource: where it stands, and what to write instead.

use std::fmt;

use super::Reference;

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {says}")]
pub struct Problem {
    /// Where in the resource, for example `spec.listeners[0].port`.
    pub path: String,
    /// What is wrong, and what to write instead.
    pub says: String,
}

/// All that is wrong with one resource; never empty inside an `Err`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, problem) in self.0.iter().enumerate() {
            if n > 0 {
                writeln!(f)?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

/// A problem and its place in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located {
    /// The file, as it was named to the loader.
    pub file: String,
    /// Line, from 1; 0 unknown.
    pub line: u64,
    /// Kind and name of the resource, as far as they are known.
    pub resource: String,
    /// What is wrong.
    pub problem: Problem,
}

impl fmt::Display for Located {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file)?;
        if self.line > 0 {
            write!(f, ":{}", self.line)?;
        }
        if !self.resource.is_empty() {
            write!(f, ": {}", self.resource)?;
        }
        if self.problem.path.is_empty() {
            return write!(f, ": {}", self.problem.says);
        }
        write!(f, ": {}", self.problem)
    }
}

/// Collects problems while a resource is looked at.
#[derive(Debug, Default)]
pub(super) struct Checker(Vec<Problem>);

impl Checker {
    pub(super) fn refuse(&mut self, path: impl Into<String>, says: impl Into<String>) {
        self.0.push(Problem { path: path.into(), says: says.into() });
    }

    pub(super) fn refuse_if(&mut self, wrong: bool, path: &str, says: impl FnOnce() -> String) {
        if wrong {
            self.refuse(path, says());
        }
    }

    /// A field whose meaning is not built yet must be absent.
    pub(super) fn unbuilt<T>(&mut self, field: Option<&T>, path: &str, instead: &str) {
        self.refuse_if(field.is_some(), path, || format!("not built yet; remove it. {instead}"));
    }

    pub(super) fn range(&mut self, path: &str, value: i64, low: i64, high: i64) {
        self.refuse_if(!(low..=high).contains(&value), path, || {
            format!("is {value}; write a number from {low} to {high}")
        });
    }

    /// A number of copies, where it is written: at least 1, and no more than there are of what it is a part of.
    pub(super) fn at_most(&mut self, path: &str, value: Option<i64>, most: i64, of: &str) {
        let Some(value) = value.filter(|value| !(1..=most).contains(value)) else { return };
        let instead = if most > 1 { format!("a number from 1 to {most}") } else { "1".into() };
        self.refuse(path, format!("is {value}; write {instead}, the number of {of}"));
    }

    /// `metadata.name` and the names that refer to one: what Kubernetes accepts (RFC 1123 subdomain).
    pub(super) fn name(&mut self, path: &str, name: &str) {
        if let Some(says) = super::value::name_problem(name) {
            self.refuse(path, says);
        }
    }

    pub(super) fn reference(&mut self, path: &str, to: &Reference) {
        self.name(&format!("{path}.name"), &to.name);
        self.unbuilt(to.namespace.as_ref(), &format!("{path}.namespace"), "Only a Cluster beside it can be named.");
    }

    pub(super) fn done(self) -> Result<(), Problems> {
        if self.0.is_empty() { Ok(()) } else { Err(Problems(self.0)) }
    }
}
