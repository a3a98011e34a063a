//! The nodes as their drivers run them: turns, effects, starts and ends.

use bytes::Bytes;
use wherry_log::Now;
use wherry_node::core::{ConnId, Effect};
use wherry_node::error::ConnectError;

use super::network::{End, Item, Site};
use super::plan::Plan;
use super::{Event, MS, World};
use crate::clock::Clock;
use crate::host::{End as HowItEnds, Host, Node, Started, node_of};
use crate::rng::Rng;

/// What a node says when it sends clients away that it may not answer any more: the one reason to close on an honest one.
const FENCED: &str = "fenced before it could acknowledge";

/// Turns in a row that may bring nothing: a real driver would burn a core.
const RESTLESS: u32 = 1_000;

/// One machine and the process on it.
pub(crate) struct Machine {
    pub(super) host: Host,
    pub(super) core: Option<Box<Node>>,
    pub(super) clock: Clock,
    /// The process does nothing until then; 0: it runs.
    pub(super) paused_until: u64,
    /// Without power since it was cut.
    pub(super) off: bool,
    /// The others can't count on it until then.
    pub(super) troubled_until: u64,
    turn_at: u64,
    /// Turns in a row after which it wanted another one at once, though its disk had nothing to do.
    restless: u32,
}

impl Machine {
    pub(super) fn new(rng: &mut Rng, plan: &Plan, node: usize) -> Self {
        let clock = if plan.nodes == 1 { Clock::exact() } else { Clock::drifting(rng) };
        Self {
            host: Host::new(rng.fork(), plan.sabotage, node, plan.nodes),
            core: None,
            clock,
            paused_until: 0,
            off: false,
            troubled_until: 0,
            turn_at: u64::MAX,
            restless: 0,
        }
    }

    pub(super) fn is_paused(&self) -> bool {
        self.paused_until > 0
    }

    pub(super) fn is_off(&self) -> bool {
        self.off
    }
}

impl World {
    pub(super) fn now_of(&self, node: usize) -> Now {
        self.machines[node].clock.now(self.now_ns)
    }

    pub(super) fn turn_if_due(&mut self, node: usize) -> Result<(), String> {
        let machine = &mut self.machines[node];
        if machine.turn_at > self.now_ns || machine.is_paused() {
            return Ok(());
        }
        machine.turn_at = u64::MAX;
        self.turn(node)
    }

    fn turn(&mut self, node: usize) -> Result<(), String> {
        let _span = tracing::info_span!("on", node).entered();
        let now = self.now_of(node);
        if let Some(core) = self.machines[node].core.as_mut() {
            core.turn(now);
        }
        self.node_effects(node)
    }

    /// Carries out what a node wants, and sees to it that it is called again in time.
    pub(super) fn node_effects(&mut self, node: usize) -> Result<(), String> {
        while let Some(core) = self.machines[node].core.as_mut().filter(|core| core.has_effects()) {
            let effects: Vec<Effect> = core.effects().collect();
            for effect in effects {
                self.node_effect(node, effect)?;
            }
        }
        self.plan_turn(node)
    }

    fn plan_turn(&mut self, node: usize) -> Result<(), String> {
        let machine = &mut self.machines[node];
        let Some(core) = machine.core.as_ref() else { return Ok(()) };
        let deadline = core.next_deadline().map_or(u64::MAX, |at| machine.clock.in_world(at));
        let is_busy = machine.host.disk_is_busy();
        machine.restless = if deadline > self.now_ns || is_busy { 0 } else { machine.restless + 1 };
        if machine.restless > RESTLESS {
            return Err(format!("node {node} spins: {RESTLESS} times in a row it wants to be called again at once"));
        }
        let mut at = deadline.max(self.now_ns + 1_000);
        if is_busy {
            at = at.min(self.now_ns + self.rng.between(10_000, 200_000));
        }
        if at < self.machines[node].turn_at {
            self.machines[node].turn_at = at;
            self.at(at - self.now_ns, Event::Turn(node));
        }
        Ok(())
    }

    fn node_effect(&mut self, node: usize, effect: Effect) -> Result<(), String> {
        match effect {
            Effect::Send { conn, chunks } => self.node_sends(node, conn, &chunks),
            Effect::Close { conn, reason } => return self.node_closes(node, conn, &reason),
            Effect::PauseReads { conn } => {
                if let Some((id, side)) = self.network.of_conn(node, conn) {
                    self.network.hold(id, side, true);
                }
            }
            Effect::ResumeReads { conn } => {
                if let Some((id, side)) = self.network.of_conn(node, conn) {
                    self.network.hold(id, side, false);
                    self.at(0, Event::Flow(id, side));
                }
            }
            Effect::Connect { conn, host, port } => self.node_dials(node, conn, &host, port),
            Effect::Promote { .. } | Effect::Authenticated { .. } => {}
            Effect::Stop { reason } => return self.node_stops(node, &reason),
        }
        Ok(())
    }

    fn node_sends(&mut self, node: usize, conn: ConnId, chunks: &[Bytes]) {
        let bytes: Bytes = chunks.concat().into();
        let Some((id, side)) = self.network.of_conn(node, conn) else {
            if let Some(core) = self.machines[node].core.as_mut() {
                core.sent(conn, bytes.len());
            }
            return;
        };
        let towards = side.other();
        match self.network.end(id, towards) {
            End::Client { station, .. } => {
                self.trace.event(self.now_ns, format_args!("node {node} answers client {station}"), &bytes);
            }
            End::Node { node: other, .. } => {
                self.trace.event(self.now_ns, format_args!("node {node} sends to node {other}"), &bytes);
            }
            End::Gone => {}
        }
        self.network.owe(id, towards, bytes.len());
        self.send(id, towards, Item::Bytes(bytes));
        self.credit(id, towards);
    }

    fn node_closes(&mut self, node: usize, conn: ConnId, reason: &str) -> Result<(), String> {
        let Some((id, side)) = self.network.of_conn(node, conn) else { return Ok(()) };
        let may = self.plan.nodes > 1 && reason.contains(FENCED);
        if let (End::Client { station, .. }, false) = (self.network.end(id, side.other()), may) {
            return Err(format!("node {node} closed the connection of an honest client {station}: {reason}"));
        }
        self.trace.event(self.now_ns, format_args!("node {node} closes a connection: {reason}"), &[]);
        self.network.set_end(id, side, End::Gone);
        self.send(id, side.other(), Item::Closed);
        Ok(())
    }

    fn node_dials(&mut self, node: usize, conn: ConnId, host: &str, port: u16) {
        let to = node_of(host, port).filter(|to| *to < self.machines.len());
        let end = End::Node { node, conn: Some(conn) };
        match to {
            Some(to) => {
                self.trace.event(self.now_ns, format_args!("node {node} dials node {to}"), &[]);
                self.dial(Site::Node(node), end, to);
            }
            None => {
                let wire = self.network.dial(Site::Node(node), end, Site::Node(node));
                let error = ConnectError::Unreachable(format!("no such host: {host}:{port}"));
                self.at(MS, Event::DialFailed(wire, error));
            }
        }
    }

    fn node_stops(&mut self, node: usize, reason: &str) -> Result<(), String> {
        if !self.machines[node].host.has_failed() {
            return Err(format!("node {node} stopped on a disk that has no fault: {reason}"));
        }
        self.trace.event(self.now_ns, format_args!("node {node} stops: {reason}"), &[]);
        self.outcome.befell("stop");
        let delay = self.rng.between(MS, 500 * MS);
        self.end_node(node, HowItEnds::Kill, delay);
        Ok(())
    }

    /// Ends the process, if there is one; it begins again after this time.
    pub(super) fn end_node(&mut self, node: usize, how: HowItEnds, down_ns: u64) {
        let machine = &mut self.machines[node];
        let Some(core) = machine.core.take() else { return };
        drop(core);
        machine.host.end(how);
        self.after_end(node, how, down_ns);
    }

    /// The core is gone and the disk is as it was left: the rest of the world learns of it.
    pub(super) fn after_end(&mut self, node: usize, how: HowItEnds, down_ns: u64) {
        let machine = &mut self.machines[node];
        machine.turn_at = u64::MAX;
        machine.paused_until = 0;
        if how == HowItEnds::PowerCut {
            machine.off = self.plan.nodes > 1;
            machine.clock.reboot(self.now_ns, &mut self.rng);
        }
        self.outcome.befell(match how {
            HowItEnds::Kill => "kill",
            HowItEnds::PowerCut => "power cut",
        });
        self.trace.event(self.now_ns, format_args!("node {node}: {how:?}"), &[]);
        self.drop_wires_of(node, how);
        self.at(down_ns, Event::Start(node));
    }

    fn drop_wires_of(&mut self, node: usize, how: HowItEnds) {
        for (id, side) in self.network.held_by_node(node) {
            let other = side.other();
            if how == HowItEnds::PowerCut || self.rng.chance(50) {
                self.network.lose(id, other);
            }
            self.network.lose(id, side);
            self.network.set_end(id, side, End::Gone);
            // Nobody says goodbye for a machine that has no power: the peer finds out when it comes back, or itself.
            let slow = how == HowItEnds::PowerCut && self.plan.nodes > 1 && self.rng.chance(50);
            let delay = if slow { self.rng.between(100 * MS, 4_000 * MS) } else { self.delay() };
            self.send_late(id, other, delay, Item::Closed);
        }
    }

    pub(super) fn start(&mut self, node: usize) -> Result<(), String> {
        if self.machines[node].core.is_some() {
            return Ok(());
        }
        self.machines[node].off = false;
        let interrupt = !self.calm && self.rng.chance(20);
        let _span = tracing::info_span!("on", node).entered();
        let now = self.now_of(node);
        match self.machines[node].host.start(now, interrupt) {
            Started::Running(core) => {
                self.trace.event(self.now_ns, format_args!("node {node} runs"), &[]);
                self.machines[node].core = Some(core);
                self.node_effects(node)
            }
            Started::Interrupted => {
                self.start_came_to_nothing(node);
                Ok(())
            }
            Started::Refused(_) if self.machines[node].host.has_failed() => {
                self.start_came_to_nothing(node);
                Ok(())
            }
            Started::Refused(reason) => {
                let faults = &self.outcome.faults;
                Err(format!("after {faults:?} node {node} refuses to start: {reason}"))
            }
        }
    }

    fn start_came_to_nothing(&mut self, node: usize) {
        self.outcome.befell("interrupted start");
        self.trace.event(self.now_ns, format_args!("node {node} did not come up"), &[]);
        let how = if self.rng.chance(50) { HowItEnds::Kill } else { HowItEnds::PowerCut };
        self.machines[node].host.end(how);
        let delay = self.rng.between(MS, 100 * MS);
        self.at(delay, Event::Start(node));
    }

    pub(super) fn resume(&mut self, node: usize) -> Result<(), String> {
        let machine = &mut self.machines[node];
        if !machine.is_paused() || machine.paused_until > self.now_ns {
            return Ok(());
        }
        machine.paused_until = 0;
        // A turn that came due meanwhile was let go by.
        machine.turn_at = u64::MAX;
        self.trace.event(self.now_ns, format_args!("node {node} goes on"), &[]);
        let held = self.network.held_by_node(node);
        for (id, side) in &held {
            self.credit(*id, side.other());
        }
        self.look_again(held);
        // What came meanwhile may be handed in before it turns.
        if self.rng.chance(50) {
            return self.turn(node);
        }
        self.at(MS, Event::Turn(node));
        self.machines[node].turn_at = self.now_ns + MS;
        Ok(())
    }
}
