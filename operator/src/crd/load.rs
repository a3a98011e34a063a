//! Reads resources from YAML text: several documents, strictly, every problem with file, line and path.
//!
//! Each document is read twice: once as a tree of places, for its kind and for the lines of problems, then as its type. Lines
//! stay right because the documents before it are replaced by empty lines.

use std::fmt;

use serde::de::DeserializeOwned;

use super::index::Node;
use super::problem::{Located, Problem};
use super::{API_VERSION, Cluster, ConsumerGroup, DOCUMENTS_MAX, Resource, Topic, YAML_BYTES_MAX};

/// A resource and where it stands.
#[derive(Debug)]
pub struct Document {
    /// What was read; valid by itself.
    pub resource: Resource,
    pub(super) file: String,
    pub(super) index: Node,
    first_line: u64,
}

impl Document {
    /// A problem of this document, with the line of its path.
    pub(super) fn locate(&self, problem: Problem) -> Located {
        let resource = format!("{} {}", self.resource.kind(), self.resource.name());
        Located {
            file: self.file.clone(),
            line: line_of(&self.index, &problem.path, self.first_line),
            resource,
            problem,
        }
    }
}

/// Everything that is wrong with what was loaded; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadErrors(pub Vec<Located>);

impl fmt::Display for LoadErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, located) in self.0.iter().enumerate() {
            if n > 0 {
                writeln!(f)?;
            }
            write!(f, "{located}")?;
        }
        Ok(())
    }
}

impl std::error::Error for LoadErrors {}

/// Reads all documents of a text; `file` is only named in errors.
///
/// # Errors
/// Everything that is wrong in any document: syntax, unknown fields, bad values, what is not built yet.
pub fn load(file: &str, text: &str) -> Result<Vec<Document>, LoadErrors> {
    let about_file = |says: String| {
        let problem = Problem { path: String::new(), says };
        Located { file: file.into(), line: 0, resource: String::new(), problem }
    };
    if text.len() > YAML_BYTES_MAX {
        let says = format!("has {} bytes, more than {YAML_BYTES_MAX}; split it", text.len());
        return Err(LoadErrors(vec![about_file(says)]));
    }
    let pieces = split(text);
    if pieces.len() > DOCUMENTS_MAX {
        let says = format!("has {} documents, more than {DOCUMENTS_MAX}; split it", pieces.len());
        return Err(LoadErrors(vec![about_file(says)]));
    }
    let mut documents = Vec::new();
    let mut errors = Vec::new();
    for (lines_before, piece) in pieces {
        match read(file, lines_before, piece) {
            Ok(document) => documents.push(document),
            Err(problems) => errors.extend(problems),
        }
    }
    if documents.is_empty() && errors.is_empty() {
        errors.push(about_file(
            "holds no resource; write a Cluster, for example that of examples/quickstart.yaml".into(),
        ));
    }
    if errors.is_empty() { Ok(documents) } else { Err(LoadErrors(errors)) }
}

/// Cuts at document markers; pieces of comments and blank lines only are left out. Gives the number of lines before each piece.
fn split(text: &str) -> Vec<(usize, &str)> {
    let mut pieces = Vec::new();
    let (mut start, mut first_line, mut at) = (0, 0, 0);
    for (number, line) in text.split_inclusive('\n').enumerate() {
        let marker = line.trim_end();
        if marker == "---" || marker.starts_with("--- ") || marker == "..." {
            pieces.push((first_line, text.get(start..at).unwrap_or_default()));
            (start, first_line) = if marker.starts_with("--- ") { (at, number) } else { (at + line.len(), number + 1) };
        }
        at += line.len();
    }
    pieces.push((first_line, text.get(start..).unwrap_or_default()));
    pieces.retain(|(_, piece)| piece.lines().any(|line| !matches!(line.trim_start().chars().next(), None | Some('#'))));
    pieces
}

fn read(file: &str, lines_before: usize, piece: &str) -> Result<Document, Vec<Located>> {
    let padded = "\n".repeat(lines_before) + piece;
    let first_line = lines_before as u64 + piece.lines().take_while(|line| is_blank(line)).count() as u64 + 1;
    let at = |resource: &str, line: u64, problem: Problem| Located {
        file: file.into(),
        line,
        resource: resource.into(),
        problem,
    };
    let index: Node = parse(&padded).map_err(|e| {
        let (line, says) = said(&e);
        vec![at("", line, Problem { path: String::new(), says: format!("is not YAML that can be read: {says}") })]
    })?;
    let label = label(&index);
    let resource = typed(&index, &padded).map_err(|(line, problem)| {
        let line = if line > 0 { line } else { line_of(&index, &problem.path, first_line) };
        vec![at(&label, line, problem)]
    })?;
    let document = Document { resource, file: file.into(), index, first_line };
    match document.resource.validate() {
        Ok(()) => Ok(document),
        Err(problems) => Err(problems.0.into_iter().map(|problem| document.locate(problem)).collect()),
    }
}

fn is_blank(line: &str) -> bool {
    matches!(line.trim_start().chars().next(), None | Some('#'))
}

fn line_of(index: &Node, path: &str, first_line: u64) -> u64 {
    match index.line_of(path) {
        0 => first_line,
        line => line,
    }
}

/// What can be said about a document before it is understood: "Topic orders".
fn label(index: &Node) -> String {
    let kind = index.get("kind").and_then(Node::text).unwrap_or_default();
    let name = index.get("metadata").and_then(|metadata| metadata.get("name")).and_then(Node::text).unwrap_or_default();
    format!("{kind} {name}").trim().to_owned()
}

type Failure = (u64, Problem);

fn typed(index: &Node, text: &str) -> Result<Resource, Failure> {
    let problem = |path: &str, says: String| (0, Problem { path: path.into(), says });
    match index.get("apiVersion").map(Node::text) {
        Some(Some(API_VERSION)) => {}
        Some(other) => {
            return Err(problem("apiVersion", format!("is {:?}; write {API_VERSION}", other.unwrap_or_default())));
        }
        None => return Err(problem("apiVersion", format!("is missing; write {API_VERSION}"))),
    }
    match index.get("kind").and_then(Node::text) {
        Some(Cluster::KIND) => typed_as(index, text).map(Resource::Cluster),
        Some(Topic::KIND) => typed_as(index, text).map(Resource::Topic),
        Some(ConsumerGroup::KIND) => typed_as(index, text).map(Resource::ConsumerGroup),
        Some(other) => Err(problem("kind", format!("is {other:?}; write Cluster, Topic or ConsumerGroup"))),
        None => Err(problem("kind", "is missing; write Cluster, Topic or ConsumerGroup".into())),
    }
}

fn typed_as<T: DeserializeOwned>(index: &Node, text: &str) -> Result<T, Failure> {
    parse(text).map_err(|e| {
        let (line, says) = said(&e);
        // A missing field is reported at its neighbour: the line helps, the neighbour's path would mislead.
        let place = e.location().filter(|_| !says.starts_with("missing field"));
        let place = place.and_then(|place| index.path_at(place.line(), place.column()));
        (line, Problem { path: place.unwrap_or_default(), says })
    })
}

fn parse<T: DeserializeOwned>(text: &str) -> Result<T, serde_saphyr::Error> {
    let options = serde_saphyr::options! { with_snippet: false, strict_booleans: true };
    serde_saphyr::from_str_with_options(text, options)
}

/// Line and words of a parser's error; its words end with the place, which is said elsewhere.
fn said(error: &serde_saphyr::Error) -> (u64, String) {
    let error = error.without_snippet();
    let line = error.location().map_or(0, |place| place.line());
    let words = error.to_string();
    let words = words.rsplit_once(" at line ").map_or(words.as_str(), |(before, _)| before);
    let words = words.strip_prefix("error: ").unwrap_or(words);
    (line, words.lines().next().unwrap_or("can't be read").to_owned())
}
