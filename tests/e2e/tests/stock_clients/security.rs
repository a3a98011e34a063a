//! TLS, passwords, tokens, ACLs and quotas, with stock clients and tools as the judges. Against Wherry only: how Kafka is
//! told of certificates and users is its own affair.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;
use wherry_e2e::clients::{KAFKA, java};
use wherry_e2e::process::{Finished, Program};
use wherry_e2e::records::{lines, records};
use wherry_e2e::server::{Kind, Options, Server, free_port, wherry};

/// kcat, which says what it was refused.
fn kcat(brokers: &str) -> Program {
    Program::new("kcat").arg("-b").arg(brokers)
}

/// The administrator's name, as its certificate has it.
const ADMIN: &str = "User:CN=admin,O=boats";

/// An authority with certificates, and a node that trusts it.
struct Secured {
    dir: TempDir,
    server: Server,
    tls: u16,
    sasl: u16,
    probes: u16,
}

fn openssl(dir: &Path, line: &str) -> Result<()> {
    let program = Program::new("sh").arg("-c").arg(format!("cd {} && openssl {line}", dir.display()));
    program.run().map(drop)
}

/// A certificate of an authority, with its key and a file that holds both.
fn issue(dir: &Path, name: &str, subject: &str) -> Result<()> {
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
    openssl(dir, &format!("req {key} -keyout {name}.key -out {name}.csr -subj {subject}"))?;
    std::fs::write(dir.join("names"), "subjectAltName=DNS:localhost,IP:127.0.0.1\n")?;
    let signed = "-CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile names";
    openssl(dir, &format!("x509 -req -in {name}.csr {signed} -out {name}.pem"))?;
    let both = [std::fs::read(dir.join(format!("{name}.pem")))?, std::fs::read(dir.join(format!("{name}.key")))?];
    std::fs::write(dir.join(format!("{name}.both")), both.concat())?;
    Ok(())
}

impl Secured {
    fn start(kind: Kind) -> Result<Secured> {
        let dir = tempfile::tempdir()?;
        let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
        openssl(dir.path(), &format!("req -x509 {key} -keyout ca.key -out ca.pem -days 2 -subj /CN=authority"))?;
        issue(dir.path(), "node", "/CN=localhost")?;
        issue(dir.path(), "admin", "/O=boats/CN=admin")?;
        std::fs::write(dir.path().join("users"), "dave:davepw\n")?;
        let (tls, sasl, probes) = (free_port()?, free_port()?, free_port()?);
        let at = |name: &str| dir.path().join(name).display().to_string();
        let port = free_port()?;
        let wherry_args = [
            ["--listen", &format!("tls=tls://127.0.0.1:{tls}")],
            ["--listen", &format!("sasl=sasl-tls://127.0.0.1:{sasl}")],
            ["--tls-cert", &at("node.pem")],
            ["--tls-key", &at("node.key")],
            ["--tls-ca", &at("ca.pem")],
            ["--tls-client-auth", "requested"],
            ["--super-user", ADMIN],
            ["--sasl-mechanisms", "SCRAM-SHA-256,SCRAM-SHA-512,PLAIN,OAUTHBEARER"],
            ["--sasl-plain-users", &at("users")],
            ["--probes", &format!("127.0.0.1:{probes}")],
        ];
        let flags = ["--authorize", "--oauth-allow-unsecured"].map(str::to_owned);
        let wherry_args = wherry_args.concat().into_iter().map(str::to_owned).chain(flags).collect();
        let server = Server::start(kind, Options { port: Some(port), wherry_args, ..Options::default() })?;
        Ok(Secured { dir, server, tls, sasl, probes })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// kcat over TLS, with or without the administrator's certificate.
    fn over_tls(&self, as_admin: bool) -> Program {
        let set = format!("-X security.protocol=ssl -X ssl.ca.location={}", self.path("ca.pem").display());
        let program = kcat(&format!("localhost:{}", self.tls)).typed(&set);
        if !as_admin {
            return program;
        }
        let (pem, key) = (self.path("admin.pem"), self.path("admin.key"));
        let set = format!("-X ssl.certificate.location={} -X ssl.key.location={}", pem.display(), key.display());
        program.typed(&set)
    }

    /// kcat as a user, over TLS.
    fn as_user(&self, mechanism: &str, user: &str, password: &str) -> Program {
        let set = format!("-X security.protocol=sasl_ssl -X ssl.ca.location={}", self.path("ca.pem").display());
        kcat(&format!("localhost:{}", self.sasl))
            .typed(&set)
            .typed(&format!("-X sasl.mechanism={mechanism} -X sasl.username={user} -X sasl.password={password}"))
    }

    /// One of Kafka's tools, as the administrator.
    fn tool(&self, class: &str) -> Result<Program> {
        let properties = format!(
            "security.protocol=SSL\nssl.truststore.type=PEM\nssl.truststore.location={}\nssl.keystore.type=PEM\n\
             ssl.keystore.location={}\n",
            self.path("ca.pem").display(),
            self.path("admin.both").display()
        );
        std::fs::write(self.path("admin.properties"), properties)?;
        let program = java(KAFKA, class).arg("--bootstrap-server").arg(format!("localhost:{}", self.tls));
        Ok(program.arg("--command-config").arg(self.path("admin.properties")))
    }

    fn configs(&self, line: &str) -> Result<Vec<String>> {
        self.tool("kafka.admin.ConfigCommand")?.typed(line).run()
    }

    fn acls(&self, line: &str) -> Result<Vec<String>> {
        self.tool("org.apache.kafka.tools.AclCommand")?.typed(line).run()
    }
}

fn values(lines: &[String]) -> Vec<&str> {
    lines.iter().map(String::as_str).collect()
}

fn refused(finished: &Finished, word: &str) -> Result<()> {
    ensure!(!finished.status.success(), "it was let in: {:?}", finished.lines);
    ensure!(finished.errors.contains(word), "not '{word}' but: {}", finished.errors);
    Ok(())
}

/// Against each driver of Wherry.
fn each_secured(test: impl Fn(&Secured) -> Result<()>) -> Result<()> {
    wherry_e2e::clients::ensure("all")?;
    for kind in Kind::chosen().into_iter().filter(|kind| !kind.is_kafka()) {
        let secured = Secured::start(kind)?;
        let said =
            || format!("against {kind:?}; the server said:\n{}", wherry_e2e::Target::last_words(&secured.server));
        test(&secured).with_context(said)?;
    }
    Ok(())
}

#[test]
fn certificates_passwords_and_rules_decide_who_gets_in() -> Result<()> {
    each_secured(|node| {
        let sent = records(2_000, "secured");
        node.over_tls(true).typed("-P -t secured -z lz4 -K").arg("\t").input(lines(&sent)).run()?;
        let read = node.over_tls(true).typed("-C -e -o beginning -t secured").run()?;
        ensure!(read.len() == sent.len(), "{} records", read.len());

        // Whoever has no certificate is nobody, and nobody may do anything; on the plaintext listener too.
        refused(&node.over_tls(false).typed("-C -e -t secured").finish()?, "authorization failed")?;
        refused(&kcat(&node.server.addr()).typed("-P -t secured").input("x\n").finish()?, "authorization failed")?;
        let seen = kcat(&node.server.addr()).typed("-L -J").run()?.concat();
        ensure!(seen.contains("\"topics\":[]"), "names are told: {seen}");

        node.configs(
            "--alter --entity-type users --entity-name alice \
             --add-config SCRAM-SHA-256=[iterations=8192,password=alicepw],SCRAM-SHA-512=[password=alicepw]",
        )?;
        let told = node.configs("--describe --entity-type users --entity-name alice")?.join("\n");
        ensure!(told.contains("SCRAM-SHA-256=iterations=8192") && !told.contains("alicepw"), "{told}");
        node.acls("--add --allow-principal User:alice --operation Read --topic secured")?;
        node.acls(
            "--add --allow-principal User:alice --operation Read --group readers- --resource-pattern-type prefixed",
        )?;
        for mechanism in ["SCRAM-SHA-256", "SCRAM-SHA-512"] {
            let read = node.as_user(mechanism, "alice", "alicepw").typed("-C -e -o beginning -t secured").run()?;
            ensure!(read.len() == sent.len(), "{mechanism}: {} records", read.len());
            let wrong = node.as_user(mechanism, "alice", "wrong").typed("-C -e -t secured").finish()?;
            refused(&wrong, "invalid credentials")?;
        }
        let alice = || node.as_user("SCRAM-SHA-256", "alice", "alicepw");
        refused(&alice().typed("-P -t secured").input("x\n").finish()?, "authorization failed")?;
        let group = alice().typed("-e -X auto.offset.reset=earliest -G readers-1 secured").run()?;
        ensure!(group.len() == sent.len(), "a group reads {} records", group.len());
        refused(&alice().typed("-e -G others secured").finish()?, "Group authorization failed")?;

        refused(
            &node.as_user("PLAIN", "dave", "davepw").typed("-C -e -t secured").finish()?,
            "Topic authorization failed",
        )?;
        let token =
            "-X security.protocol=sasl_ssl -X sasl.mechanism=OAUTHBEARER -X enable.sasl.oauthbearer.unsecure.jwt=true";
        let read = kcat(&format!("localhost:{}", node.sasl))
            .typed(token)
            .typed(&format!(
                "-X ssl.ca.location={} -X sasl.oauthbearer.config=principal=alice",
                node.path("ca.pem").display()
            ))
            .typed("-C -e -o beginning -t secured")
            .run()?;
        ensure!(read.len() == sent.len(), "with a token: {} records", read.len());

        // A rule that denies wins; and what is removed is gone.
        node.acls("--add --deny-principal User:alice --operation Read --topic sec --resource-pattern-type prefixed")?;
        refused(&alice().typed("-C -e -t secured").finish()?, "authorization failed")?;
        node.acls("--remove --force --deny-principal User:alice --operation Read --topic sec --resource-pattern-type prefixed")?;
        ensure!(alice().typed("-C -e -o beginning -t secured").run()?.len() == sent.len(), "it is allowed again");
        let listed = node.acls("--list --topic secured")?.join("\n");
        ensure!(listed.contains("User:alice") && !listed.contains("DENY"), "{listed}");
        Ok(())
    })
}

#[test]
fn java_clients_and_ours_speak_tls_and_scram() -> Result<()> {
    each_secured(|node| {
        node.configs("--alter --entity-type users --entity-name alice --add-config SCRAM-SHA-512=[password=alicepw]")?;
        node.acls("--add --allow-principal User:alice --operation All --topic java")?;
        let jaas =
            "org.apache.kafka.common.security.scram.ScramLoginModule required username=\"alice\" password=\"alicepw\";";
        let properties = format!(
            "security.protocol=SASL_SSL\nsasl.mechanism=SCRAM-SHA-512\nsasl.jaas.config={jaas}\n\
             ssl.truststore.type=PEM\nssl.truststore.location={}\n",
            node.path("ca.pem").display()
        );
        std::fs::write(node.path("alice.properties"), properties)?;
        let tool = |class: &str| {
            let program = java(KAFKA, &format!("org.apache.kafka.tools.{class}"));
            program.arg("--bootstrap-server").arg(format!("localhost:{}", node.sasl))
        };
        tool("TopicCommand")
            .typed("--create --topic java --command-config")
            .arg(node.path("alice.properties"))
            .run()?;
        let input = "one\ntwo\nthree\n";
        tool("ConsoleProducer")
            .typed("--topic java --command-config")
            .arg(node.path("alice.properties"))
            .input(input)
            .run()?;
        let read = tool("consumer.ConsoleConsumer")
            .typed("--topic java --partition 0 --offset earliest --max-messages 3 --timeout-ms 60000 --command-config")
            .arg(node.path("alice.properties"))
            .run()?;
        ensure!(values(&read) == ["one", "two", "three"], "{read:?}");

        std::fs::write(node.path("password"), "alicepw\n")?;
        let ours = |line: &str| -> Result<Program> {
            let program =
                Program::new(wherry()?).typed(line).arg("--bootstrap").arg(format!("localhost:{}", node.sasl));
            let program = program.arg("--tls-ca").arg(node.path("ca.pem"));
            Ok(program.typed("--sasl scram-sha-512 --user alice --password-file").arg(node.path("password")))
        };
        let listed = ours("topic list --output json")?.run()?.concat();
        ensure!(listed.contains("\"java\""), "{listed}");
        let impatient = Program::new(wherry()?)
            .typed("topic list --timeout 2s --bootstrap")
            .arg(format!("localhost:{}", node.sasl));
        let refusal = impatient.arg("--tls-ca").arg(node.path("ca.pem")).finish()?;
        ensure!(!refusal.status.success(), "it was let in without a password");
        Ok(())
    })
}

#[test]
fn quotas_are_held_to_and_certificates_are_renewed() -> Result<()> {
    each_secured(|node| {
        node.configs("--alter --entity-type users --entity-default --add-config producer_byte_rate=20000")?;
        let told = node.configs("--describe --entity-type users --entity-default")?.join("\n");
        ensure!(told.contains("producer_byte_rate=20000"), "{told}");
        let sent = records(2_500, "quota");
        let set = "-P -t quota -X enable.idempotence=true -X batch.num.messages=100 -K";
        node.over_tls(true).typed(set).arg("\t").input(lines(&sent)).deadline(Duration::from_secs(300)).run()?;
        let read = node.over_tls(true).typed("-C -e -o beginning -t quota").run()?;
        ensure!(read.len() == sent.len(), "held up, neither lost nor doubled: {}", read.len());
        let metrics = Program::new("curl").typed(&format!("-s http://127.0.0.1:{}/metrics", node.probes)).run()?;
        let throttled = metrics.iter().find_map(|line| line.strip_prefix("wherry_node_throttled_total "));
        ensure!(throttled.is_some_and(|count| count != "0"), "nobody was held up: {throttled:?}");
        node.configs("--alter --entity-type users --entity-default --delete-config producer_byte_rate")?;

        // Another authority's certificate: only clients that trust it get in, and the node was not restarted.
        let before = std::fs::read(node.path("ca.pem"))?;
        let other = tempfile::tempdir()?;
        let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
        openssl(other.path(), &format!("req -x509 {key} -keyout ca.key -out ca.pem -days 2 -subj /CN=renewed"))?;
        issue(other.path(), "node", "/CN=localhost")?;
        std::fs::copy(other.path().join("node.pem"), node.path("node.pem"))?;
        std::fs::copy(other.path().join("node.key"), node.path("node.key"))?;
        std::fs::write(node.path("both.pem"), [before, std::fs::read(other.path().join("ca.pem"))?].concat())?;
        let ask = |ca: &Path| {
            let set = format!("-X security.protocol=ssl -X ssl.ca.location={} -L -m 5", ca.display());
            kcat(&format!("localhost:{}", node.tls)).typed(&set).finish()
        };
        wherry_e2e::until("the new certificate to be used", || Ok(!ask(&node.path("ca.pem"))?.status.success()))?;
        ensure!(ask(&node.path("both.pem"))?.status.success(), "who trusts the new authority gets in");
        std::fs::write(node.path("node.pem"), "rubbish")?;
        let spoilt = || Ok(wherry_e2e::Target::last_words(&node.server).contains("the old one stays in use"));
        wherry_e2e::until("the bad file to be seen", spoilt)?;
        ensure!(ask(&node.path("both.pem"))?.status.success(), "a bad file changes nothing");
        Ok(())
    })
}
