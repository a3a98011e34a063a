//! The sidecar: 1 KiB messages one by one over a gRPC stream, to the log and back to a subscriber.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::Pid;

use super::{Asked, Field, WHERRY, create, delete, sample};
use crate::broker::{Broker, Kind, free_address, usage_of};
use crate::measure::{Numbers, Samples, charged, load, of_load, settle};
use crate::report::Ask;
use crate::setup::Setup;

const FIGURE: &str = "sidecar";
const PUBLISH: &str = "publish stream, 1 KiB";
const THROUGH: &str = "publish and subscribe, 1 KiB, end to end";
/// Messages for each second that a run should take.
const RATE: f64 = 50_000.0;
const PARTITIONS: usize = 4;
const PATIENCE: Duration = Duration::from_secs(30);
/// What the issue hopes for, per core of the sidecar.
const GOAL: f64 = 200_000.0;

/// A sidecar process; killed when dropped.
struct Sidecar {
    child: Child,
    addr: SocketAddr,
}

impl Sidecar {
    fn start(setup: &Setup, node: SocketAddr) -> Result<Sidecar> {
        let addr = free_address()?;
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--"])
            .arg(setup.wherry()?)
            .args(["sidecar", "--listen", &addr.to_string(), "--bootstrap", &node.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let sidecar = Sidecar { child, addr };
        let begin = Instant::now();
        while std::net::TcpStream::connect(addr).is_err() {
            ensure!(begin.elapsed() < PATIENCE, "the sidecar does not listen");
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(sidecar)
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// All cases.
pub fn run(setup: &Setup, samples: &mut Samples) -> Result<()> {
    let mut field = Field::start(setup, &[Kind::Wherry], 1024)?;
    for (who, at) in field.each(&[WHERRY]) {
        let sidecar = Sidecar::start(setup, field.broker(at).addr)?;
        for run in 0..=setup.runs {
            for (case, subscribe) in [(PUBLISH, false), (THROUGH, true)] {
                create(setup, field.broker(at), who, "sidecar", 1, PARTITIONS)?;
                let numbers = one(setup, field.broker(at), &sidecar, subscribe, run).context(case)?;
                delete(setup, field.broker(at), "sidecar", 1)?;
                if run > 0 {
                    samples.add(sample(FIGURE, case, who, run, numbers))?;
                }
            }
        }
    }
    field.stop()
}

fn one(setup: &Setup, broker: &Broker, sidecar: &Sidecar, subscribe: bool, run: usize) -> Result<Numbers> {
    settle(setup);
    let messages = (setup.secs * RATE).round();
    let pid = Pid::from_child(&sidecar.child);
    let before = usage_of(pid)?;
    let mut numbers = charged(broker, || {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["app", "--sidecar", &format!("http://{}", sidecar.addr), "--topic", "sidecar"]);
        command.args(["--messages", &messages.to_string()]);
        if subscribe {
            command.args(["--group", &format!("bench-{run}")]);
        }
        of_load(&load(&mut command)?)
    })?;
    let after = usage_of(pid)?;
    let per_message = (after.cpu_s - before.cpu_s) * 1e6 / messages;
    numbers.insert("sidecar_us".into(), per_message);
    numbers.insert("per_sidecar_core".into(), 1e6 / per_message);
    numbers.insert("sidecar_rss_mib".into(), after.rss_kib as f64 / 1024.0);
    Ok(numbers)
}

/// What the issue hopes for.
pub fn asked() -> Asked {
    vec![(FIGURE, THROUGH.into(), Ask::Above("per_sidecar_core", GOAL))]
}
