//! Where the stock clients are and how each is called. It must not know what the tests do with them.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use crate::process::Program;

/// Apache Kafka's current version: the oracle, and the newest Java tools.
pub const KAFKA: &str = "4.3.1";
/// The oldest Java client that is served.
pub const OLD_KAFKA: &str = "2.1.1";

/// Every compression codec of the protocol, by the name that all clients use.
pub const CODECS: [&str; 5] = ["none", "gzip", "snappy", "lz4", "zstd"];

/// The folder that setup.sh fills.
pub fn cache() -> PathBuf {
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache/wherry");
    std::env::var_os("WHERRY_CACHE").map_or_else(home, PathBuf::from)
}

fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("clients")
}

/// A class of Kafka's own tools, of one version.
pub fn java(version: &str, class: &str) -> Program {
    let jars = cache().join(format!("kafka-{version}"));
    Program::new("java")
        .typed("-Xmx256m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Djava.awt.headless=true")
        .arg("-Dorg.slf4j.simpleLogger.defaultLogLevel=error")
        .arg("-cp")
        .arg(jars.join("*"))
        .arg(class)
}

/// A Java program of ours on Kafka's current client.
pub fn java_source(file: &str) -> Program {
    java(KAFKA, "-Dwherry.e2e=1").arg(sources().join(file))
}

/// kcat against `brokers`, quiet about anything but errors.
pub fn kcat(brokers: &str) -> Program {
    Program::new("kcat").typed("-q -b").arg(brokers)
}

/// A Python program with the test clients' libraries.
pub fn python(file: &str) -> Program {
    Program::new(cache().join("venv/bin/python")).arg(sources().join(file))
}

/// The client libraries that have a small program with the verbs of `clients/README.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Library {
    /// kafka-python.
    KafkaPython,
    /// confluent-kafka, which is librdkafka.
    Confluent,
    /// franz-go.
    Franz,
    /// Sarama, told that the broker is of Kafka 2.1.
    Sarama,
    /// Sarama, told that the broker is new.
    NewSarama,
}

/// The Kafka versions that the two Saramas speak to.
const SARAMA: &str = "2.1.0";
const NEW_SARAMA: &str = "4.1.0";

impl Library {
    /// All of them.
    pub const ALL: [Library; 5] =
        [Library::KafkaPython, Library::Confluent, Library::Franz, Library::Sarama, Library::NewSarama];

    /// A short name, good in topic names.
    pub fn name(self) -> &'static str {
        match self {
            Library::KafkaPython => "kafka-python",
            Library::Confluent => "confluent",
            Library::Franz => "franz",
            Library::Sarama => "sarama",
            Library::NewSarama => "sarama-new",
        }
    }

    /// Its program.
    pub fn program(self) -> Program {
        match self {
            Library::KafkaPython => python("kafka_python.py"),
            Library::Confluent => python("confluent.py"),
            Library::Franz => Program::new(cache().join("bin/franz")),
            Library::Sarama => Program::new(cache().join("bin/sarama")).env("SARAMA_VERSION", SARAMA),
            Library::NewSarama => Program::new(cache().join("bin/sarama")).env("SARAMA_VERSION", NEW_SARAMA),
        }
    }

    /// False (with a notice) when the program can't be had here: there is no Go.
    pub fn available(self) -> bool {
        let built = match self {
            Library::KafkaPython | Library::Confluent => true,
            Library::Franz => cache().join("bin/franz").exists(),
            Library::Sarama | Library::NewSarama => cache().join("bin/sarama").exists(),
        };
        if !built {
            crate::notice(&format!(
                "the {} tests were NOT run: Go is not installed (tests/e2e/setup.sh go)",
                self.name()
            ));
        }
        built
    }
}

/// Runs setup.sh for the parts that a test needs; quick when they are there.
pub fn ensure(parts: &str) -> Result<()> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("setup.sh");
    let done = Program::new(script).typed(parts).deadline(std::time::Duration::from_secs(1800)).finish()?;
    if !done.status.success() {
        bail!("tests/e2e/setup.sh {parts}: {}", done.errors);
    }
    Ok(())
}
