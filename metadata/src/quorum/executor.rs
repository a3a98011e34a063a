//! Runs openraft's futures by hand: tasks, timers, a clock and a random number generator of one [`super::Quorum`].
//!
//! openraft asks its runtime through static functions, so the executor that is being run is kept in a thread-local;
//! several may live on one thread and each [`Executor::enter`] is undone by its guard. Nothing here knows of raft.
//!
//! Same inputs, same run: ready tasks are polled in the order in which they were woken, timers fire one at a time, and
//! a timer is never ready before it fired. So no `select!` of openraft ever sees two branches ready at once, and its
//! unseeded choice between them never matters.

use std::cell::{Cell, RefCell};
use std::collections::btree_map::OccupiedEntry;
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use openraft::AsyncRuntime;
use openraft::async_runtime::AsyncOneshotSendExt;
use tokio::sync::oneshot;

use super::limits;

/// What instant 0 of the owner's clock is here, so that "now minus a lease" never falls below zero.
const EPOCH_NS: u64 = 1 << 62;

thread_local! {
    static CURRENT: RefCell<Option<Rc<Executor>>> = const { RefCell::new(None) };
}

type BoxedFuture = Pin<Box<dyn Future<Output = ()>>>;

/// Nanoseconds, and a number that keeps timers of one instant in order of their creation.
type TimerKey = (u64, u64);

#[derive(Default)]
struct Ready(Mutex<VecDeque<u64>>);

impl Ready {
    fn push(&self, task: u64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push_back(task);
    }

    fn pop(&self) -> Option<u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }
}

struct TaskWaker {
    task: u64,
    queued: AtomicBool,
    ready: Arc<Ready>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.queued.swap(true, Ordering::Relaxed) {
            self.ready.push(self.task);
        }
    }
}

struct Task {
    /// Taken out while it is polled, so that a task may spawn others.
    future: Option<BoxedFuture>,
    waker: Arc<TaskWaker>,
}

/// Tasks, timers, clock and random numbers of one quorum.
pub(super) struct Executor {
    now: Cell<u64>,
    /// How far this clock is ahead of the owner's; see [`Executor::skip`].
    ahead: Cell<u64>,
    random: Cell<u64>,
    next_id: Cell<u64>,
    tasks: RefCell<BTreeMap<u64, Task>>,
    timers: RefCell<BTreeMap<TimerKey, Waker>>,
    ready: Arc<Ready>,
    /// No timeout that openraft asks for is shorter.
    shortest_timeout: Duration,
}

/// A task went on waking itself: [`Executor::run_until_idle`] gave up.
#[derive(Debug)]
pub(super) struct NeverIdle;

impl Executor {
    pub(super) fn new(seed: u64, now_ns: u64, shortest_timeout: Duration) -> Rc<Self> {
        Rc::new(Self {
            now: Cell::new(EPOCH_NS.saturating_add(now_ns)),
            ahead: Cell::new(0),
            random: Cell::new(seed),
            next_id: Cell::new(0),
            tasks: RefCell::default(),
            timers: RefCell::default(),
            ready: Arc::default(),
            shortest_timeout,
        })
    }

    /// Makes this the executor that openraft's static calls reach, until the guard is dropped.
    pub(super) fn enter(self: &Rc<Self>) -> Entered {
        Entered(CURRENT.with(|current| current.borrow_mut().replace(self.clone())))
    }

    /// The executor that is being run on this thread.
    fn current() -> Option<Rc<Self>> {
        CURRENT.with(|current| current.borrow().clone())
    }

    pub(super) fn now_ns(&self) -> u64 {
        self.now.get() - EPOCH_NS
    }

    /// Moves the clock; it never goes back.
    pub(super) fn set_now(&self, now_ns: u64) {
        let now = EPOCH_NS.saturating_add(self.ahead.get()).saturating_add(now_ns);
        self.now.set(self.now.get().max(now));
    }

    /// Lets time pass here alone: what waits for it is due so much earlier.
    pub(super) fn skip(&self, ns: u64) {
        self.ahead.set(self.ahead.get().saturating_add(ns));
        self.now.set(self.now.get().saturating_add(ns));
    }

    /// When the first timer is due.
    pub(super) fn next_deadline(&self) -> Option<u64> {
        let zero = EPOCH_NS.saturating_add(self.ahead.get());
        self.timers.borrow().first_key_value().map(|((at, _), _)| at.saturating_sub(zero))
    }

    /// Fires the first timer that is due, if there is one.
    pub(super) fn fire_one(&self) -> bool {
        let now = self.now.get();
        let due =
            self.timers.borrow_mut().first_entry().filter(|entry| entry.key().0 <= now).map(OccupiedEntry::remove);
        due.map(Waker::wake).is_some()
    }

    pub(super) fn spawn(&self, future: impl Future<Output = ()> + 'static) {
        let task = self.take_id();
        let waker = Arc::new(TaskWaker { task, queued: AtomicBool::new(true), ready: self.ready.clone() });
        self.tasks.borrow_mut().insert(task, Task { future: Some(Box::pin(future)), waker });
        self.ready.push(task);
    }

    /// Polls what was woken until nothing is.
    pub(super) fn run_until_idle(&self) -> Result<(), NeverIdle> {
        for _ in 0..limits::MAX_POLLS {
            let Some(task) = self.ready.pop() else { return Ok(()) };
            self.poll(task);
        }
        Err(NeverIdle)
    }

    fn poll(&self, task: u64) {
        let taken =
            self.tasks.borrow_mut().get_mut(&task).and_then(|task| task.future.take().zip(Some(task.waker.clone())));
        let Some((mut future, waker)) = taken else { return };
        waker.queued.store(false, Ordering::Relaxed);
        if future.as_mut().poll(&mut Context::from_waker(&Waker::from(waker))).is_ready() {
            self.tasks.borrow_mut().remove(&task);
        } else if let Some(task) = self.tasks.borrow_mut().get_mut(&task) {
            task.future = Some(future);
        }
    }

    /// Drops every task, and what their drops spawn.
    pub(super) fn clear(&self) {
        loop {
            let tasks = std::mem::take(&mut *self.tasks.borrow_mut());
            if tasks.is_empty() {
                return;
            }
            drop(tasks);
        }
    }

    #[cfg(test)]
    pub(super) fn tasks(&self) -> usize {
        self.tasks.borrow().len()
    }

    fn take_id(&self) -> u64 {
        let id = self.next_id.get();
        self.next_id.set(id + 1);
        id
    }

    /// SplitMix64.
    pub(super) fn random(&self) -> u64 {
        let state = self.random.get().wrapping_add(0x9E37_79B9_7F4A_7C15);
        self.random.set(state);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }
}

/// Puts back the executor that was current before.
pub(super) struct Entered(Option<Rc<Executor>>);

impl Drop for Entered {
    fn drop(&mut self) {
        let before = self.0.take();
        CURRENT.with(|current| *current.borrow_mut() = before);
    }
}

/// An instant of the current executor's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Instant(u64);

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl openraft::Instant for Instant {
    fn now() -> Self {
        Self(Executor::current().map_or(EPOCH_NS, |executor| executor.now.get()))
    }
}

impl std::ops::Add<Duration> for Instant {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(nanoseconds(duration)))
    }
}

impl std::ops::AddAssign<Duration> for Instant {
    fn add_assign(&mut self, duration: Duration) {
        *self = *self + duration;
    }
}

impl std::ops::Sub<Duration> for Instant {
    type Output = Self;

    fn sub(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(nanoseconds(duration)))
    }
}

impl std::ops::SubAssign<Duration> for Instant {
    fn sub_assign(&mut self, duration: Duration) {
        *self = *self - duration;
    }
}

impl std::ops::Sub for Instant {
    type Output = Duration;

    fn sub(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// Ready once its timer fired.
pub(super) struct Sleep {
    executor: Option<Rc<Executor>>,
    deadline: u64,
    timer: Option<TimerKey>,
}

impl Sleep {
    fn until(deadline: u64) -> Self {
        Self { executor: Executor::current(), deadline, timer: None }
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        // Without an executor there is no time: whoever dropped it wants this to never happen.
        let Some(executor) = self.executor.clone() else { return Poll::Pending };
        let mut timers = executor.timers.borrow_mut();
        let key = match self.timer {
            Some(key) if !timers.contains_key(&key) => return Poll::Ready(()),
            Some(key) => key,
            // Always in the future: see the head of this file.
            None => (self.deadline.max(executor.now.get() + 1), executor.take_id()),
        };
        timers.insert(key, context.waker().clone());
        self.timer = Some(key);
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let (Some(executor), Some(key)) = (&self.executor, self.timer) {
            executor.timers.borrow_mut().remove(&key);
        }
    }
}

/// A future with a deadline.
pub(super) struct Timeout<F> {
    future: Pin<Box<F>>,
    sleep: Sleep,
}

impl<F: Future> Future for Timeout<F> {
    type Output = Result<F::Output, Elapsed>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if let Poll::Ready(value) = self.future.as_mut().poll(context) {
            return Poll::Ready(Ok(value));
        }
        Pin::new(&mut self.sleep).poll(context).map(|()| Err(Elapsed))
    }
}

/// Too late.
#[derive(Debug)]
pub(super) struct Elapsed;

impl fmt::Display for Elapsed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no answer in time")
    }
}

impl std::error::Error for Elapsed {}

/// The result of a spawned task.
pub(super) struct JoinHandle<T>(oneshot::Receiver<T>);

impl<T> Future for JoinHandle<T> {
    type Output = Result<T, Gone>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context).map_err(|_| Gone)
    }
}

/// The task was dropped before it ended.
#[derive(Debug)]
pub(super) struct Gone;

impl fmt::Display for Gone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the task was dropped")
    }
}

/// Random numbers of the current executor.
pub(super) struct Random;

impl rand::RngCore for Random {
    fn next_u32(&mut self) -> u32 {
        let [a, b, c, d, ..] = self.next_u64().to_le_bytes();
        u32::from_le_bytes([a, b, c, d])
    }

    fn next_u64(&mut self) -> u64 {
        Executor::current().map_or(0, |executor| executor.random())
    }

    fn fill_bytes(&mut self, into: &mut [u8]) {
        for chunk in into.chunks_mut(8) {
            chunk.copy_from_slice(&self.next_u64().to_le_bytes()[..chunk.len()]);
        }
    }

    fn try_fill_bytes(&mut self, into: &mut [u8]) -> Result<(), rand::Error> {
        self.fill_bytes(into);
        Ok(())
    }
}

/// The sending half of a channel for one value.
pub(super) struct Sender<T>(oneshot::Sender<T>);

impl<T> fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sender")
    }
}

impl<T> AsyncOneshotSendExt<T> for Sender<T> {
    fn send(self, value: T) -> Result<(), T> {
        self.0.send(value)
    }
}

/// openraft's view of the current executor.
#[derive(Debug, Default, PartialEq, Eq, Clone, Copy, PartialOrd, Ord)]
pub(super) struct Runtime;

impl AsyncRuntime for Runtime {
    type JoinError = Gone;
    type JoinHandle<T: 'static> = JoinHandle<T>;
    type Sleep = Sleep;
    type Instant = Instant;
    type TimeoutError = Elapsed;
    type Timeout<R, F: Future<Output = R>> = Timeout<F>;
    type ThreadLocalRng = Random;
    type OneshotSender<T> = Sender<T>;
    type OneshotReceiverError = oneshot::error::RecvError;
    type OneshotReceiver<T> = oneshot::Receiver<T>;

    fn spawn<F>(future: F) -> JoinHandle<F::Output>
    where
        F: Future + 'static,
        F::Output: 'static,
    {
        let (sender, receiver) = oneshot::channel();
        if let Some(executor) = Executor::current() {
            executor.spawn(async move {
                // Nobody may be waiting for it.
                let _ = sender.send(future.await);
            });
        }
        JoinHandle(receiver)
    }

    fn sleep(duration: Duration) -> Sleep {
        Self::sleep_until(<Instant as openraft::Instant>::now() + duration)
    }

    fn sleep_until(deadline: Instant) -> Sleep {
        Sleep::until(deadline.0)
    }

    /// openraft gives a follower one heartbeat interval to answer, disk write included. On a slow disk it would retry
    /// without ever taking an answer, hence the lower bound.
    fn timeout<R, F: Future<Output = R>>(duration: Duration, future: F) -> Timeout<F> {
        let shortest = Executor::current().map_or(Duration::ZERO, |executor| executor.shortest_timeout);
        Timeout { future: Box::pin(future), sleep: Self::sleep(duration.max(shortest)) }
    }

    fn timeout_at<R, F: Future<Output = R>>(deadline: Instant, future: F) -> Timeout<F> {
        Timeout { future: Box::pin(future), sleep: Self::sleep_until(deadline) }
    }

    fn is_panic(_: &Gone) -> bool {
        false
    }

    fn thread_rng() -> Random {
        Random
    }

    fn oneshot<T>() -> (Sender<T>, oneshot::Receiver<T>) {
        let (sender, receiver) = oneshot::channel();
        (Sender(sender), receiver)
    }
}
