//! The ring itself: sockets, cancellation, full queues, and memory that outlives its users.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use super::*;

const SOON: Duration = Duration::from_secs(20);

fn ring(config: &RingConfig) -> Option<Ring> {
    match crate::io::probe_uring() {
        Ok(()) => Some(Ring::new(config).unwrap()),
        Err(why) => {
            println!("skipped: no io_uring here: {why}");
            None
        }
    }
}

fn small() -> RingConfig {
    RingConfig { entries: 4, recv_buffers: 2, recv_buffer_bytes: 4096 }
}

fn pair() -> (Arc<OwnedFd>, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    (Arc::new(ours.into()), theirs)
}

/// Events of the net owner until there are `count`.
fn events(ring: &mut Ring, count: usize) -> Vec<Event> {
    let until = Instant::now() + SOON;
    let mut out = Vec::new();
    while out.len() < count {
        assert!(Instant::now() < until, "only {out:?} after {SOON:?}");
        ring.enter(Wait::AtMost(SOON)).unwrap();
        ring.take(Owner::Net, &mut out);
    }
    out
}

fn only(ring: &mut Ring) -> Event {
    let mut all = events(ring, 1);
    assert_eq!(all.len(), 1, "{all:?}");
    all.remove(0)
}

#[test]
fn receives_into_the_pool_and_into_place() {
    let Some(mut ring) = ring(&small()) else { return };
    let (ours, mut theirs) = pair();
    theirs.write_all(b"hello").unwrap();
    ring.recv_pooled(Arc::clone(&ours), 4096, 7);
    let event = only(&mut ring);
    assert_eq!((event.key, event.result, event.more), (7, Ok(5), false));
    let What::ReceivedPooled(Some(buf)) = event.what else { panic!("{event:?}") };
    assert_eq!(ring.pooled(&buf), b"hello");
    ring.recycle(buf);

    theirs.write_all(b"abcdef").unwrap();
    let mut place = Vec::with_capacity(100);
    place.extend_from_slice(b"> ");
    ring.recv(Arc::clone(&ours), place, 4, true, 8);
    let event = only(&mut ring);
    assert_eq!(event.result, Ok(4));
    let What::Received(place) = event.what else { panic!("{event:?}") };
    assert_eq!(place, b"> abcd");
    // Bounded by the spare capacity, whatever the limit says.
    ring.recv(Arc::clone(&ours), Vec::with_capacity(1), usize::MAX, false, 9);
    let What::Received(place) = only(&mut ring).what else { panic!() };
    assert!(!place.is_empty() && place.len() <= place.capacity());
}

#[test]
fn fill_waits_for_everything_and_reports_the_end() {
    let Some(mut ring) = ring(&small()) else { return };
    let (ours, mut theirs) = pair();
    ring.recv(ours, Vec::with_capacity(10), 10, true, 1);
    for byte in b"123456" {
        theirs.write_all(&[*byte]).unwrap();
        ring.enter(Wait::No).unwrap();
    }
    assert!(ring.net.is_empty());
    drop(theirs);
    let event = only(&mut ring);
    let What::Received(buf) = event.what else { panic!("{event:?}") };
    assert_eq!((event.result, buf.as_slice()), (Ok(6), &b"123456"[..]));
}

#[test]
fn a_chain_receives_the_rest_and_then_the_beginning() {
    let Some(mut ring) = ring(&small()) else { return };
    let (ours, mut theirs) = pair();
    assert_eq!(ring.recv_then_pooled(Arc::clone(&ours), Vec::with_capacity(4), 4, 100, 1), 2);
    ring.enter(Wait::No).unwrap();
    theirs.write_all(b"ab").unwrap();
    ring.enter(Wait::No).unwrap();
    assert!(ring.net.is_empty(), "the first waits for all of its bytes, the second for the first");
    theirs.write_all(b"cdef").unwrap();
    let both = events(&mut ring, 2);
    assert!(matches!(&both[0].what, What::Received(buf) if buf == b"abcd"), "{both:?}");
    let What::ReceivedPooled(Some(buf)) = &both[1].what else { panic!("{both:?}") };
    assert_eq!(ring.pooled(buf), b"ef");
    // The stream ends inside the first.
    assert_eq!(ring.recv_then_pooled(ours, Vec::with_capacity(4), 4, 100, 1), 2);
    theirs.write_all(b"x").unwrap();
    drop(theirs);
    let both = events(&mut ring, 2);
    assert!(matches!(&both[0].what, What::Received(buf) if buf == b"x"), "{both:?}");
    assert_eq!(both[1].result, Err(Errno::CANCELED));
}

#[test]
fn sends_many_chunks_in_order_through_a_slow_reader() {
    let Some(mut ring) = ring(&small()) else { return };
    let (ours, mut theirs) = pair();
    let chunks: Vec<Bytes> =
        (0..SEND_MAX_CHUNKS).map(|i| vec![u8::try_from(i % 256).unwrap(); 10_000].into()).collect();
    let expected: Vec<u8> = chunks.iter().flatten().copied().collect();
    let reader = std::thread::spawn(move || {
        let mut got = Vec::new();
        theirs.read_to_end(&mut got).unwrap();
        got
    });
    ring.send(Arc::clone(&ours), chunks, 3);
    let event = only(&mut ring);
    assert_eq!(event.result, Ok(u32::try_from(expected.len()).unwrap()));
    let What::Sent(chunks) = event.what else { panic!() };
    assert_eq!(chunks.len(), SEND_MAX_CHUNKS);
    ring.send(Arc::clone(&ours), vec![Bytes::from_static(b"end")], 4);
    assert_eq!(only(&mut ring).result, Ok(3));
    drop(ours);
    let got = reader.join().unwrap();
    assert_eq!(got, [expected.as_slice(), b"end"].concat());
}

#[test]
fn a_send_to_nobody_is_an_error_and_no_signal() {
    let Some(mut ring) = ring(&small()) else { return };
    let (ours, theirs) = pair();
    drop(theirs);
    ring.send(ours, vec![Bytes::from_static(b"x")], 1);
    assert_eq!(only(&mut ring).result, Err(Errno::PIPE));
}

#[test]
fn more_operations_than_entries_and_more_receives_than_buffers() {
    const COUNT: usize = 500;
    let Some(mut ring) = ring(&small()) else { return };
    let pairs: Vec<_> = (0..COUNT).map(|_| pair()).collect();
    for (index, (ours, _)) in pairs.iter().enumerate() {
        ring.recv_pooled(Arc::clone(ours), 4096, index as u64);
    }
    ring.enter(Wait::No).unwrap();
    for (_, theirs) in &pairs {
        (&*theirs).write_all(b"x").unwrap();
    }
    let mut left: Vec<bool> = vec![true; COUNT];
    let mut starved = 0;
    while left.iter().any(|left| *left) {
        for event in events(&mut ring, 1) {
            let index = usize::try_from(event.key).unwrap();
            match event.what {
                What::ReceivedPooled(Some(buf)) => {
                    assert_eq!(ring.pooled(&buf), b"x");
                    ring.recycle(buf);
                    assert!(std::mem::replace(&mut left[index], false), "received twice");
                }
                What::ReceivedPooled(None) => {
                    assert_eq!(event.result, Err(Errno::NOBUFS));
                    starved += 1;
                    ring.recv_pooled(Arc::clone(&pairs[index].0), 4096, event.key);
                }
                other => panic!("{other:?}"),
            }
        }
    }
    assert!(starved > 0, "two buffers for {COUNT} sockets must run out");
}

#[test]
fn accepts_until_cancelled() {
    let Some(mut ring) = ring(&small()) else { return };
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let id = ring.accept(Arc::new(listener.into()), 5);
    for _ in 0..3 {
        let client = std::net::TcpStream::connect(addr).unwrap();
        let event = only(&mut ring);
        assert!(event.more);
        let What::Accepted(Some(fd)) = event.what else { panic!("{event:?}") };
        let accepted = std::net::TcpStream::from(fd);
        assert_eq!(accepted.peer_addr().unwrap(), client.local_addr().unwrap());
    }
    ring.cancel(id);
    let event = only(&mut ring);
    assert_eq!((event.result, event.more), (Err(Errno::CANCELED), false));
    assert_eq!(ring.in_flight(), 0);
}

#[test]
fn a_watch_goes_on_and_times_out_quietly() {
    let Some(mut ring) = ring(&small()) else { return };
    let flags = rustix::event::EventfdFlags::NONBLOCK;
    let fd = Arc::new(rustix::event::eventfd(0, flags).unwrap());
    ring.watch(Arc::clone(&fd), Owner::Net, 1);
    ring.enter(Wait::AtMost(Duration::from_millis(1))).unwrap();
    assert!(ring.net.is_empty());
    for _ in 0..20 {
        rustix::io::write(&fd, &1_u64.to_ne_bytes()).unwrap();
        let event = only(&mut ring);
        assert!(event.more && matches!(event.what, What::Ready));
        rustix::io::read(&fd, &mut [0; 8]).unwrap();
    }
}

#[test]
fn dropping_a_busy_ring_takes_its_operations_along() {
    let Some(mut ring) = ring(&small()) else { return };
    let pairs: Vec<_> = (0..50).map(|_| pair()).collect();
    for (ours, _) in &pairs {
        ring.recv(Arc::clone(ours), Vec::with_capacity(1 << 16), 1 << 16, true, 0);
        ring.recv_pooled(Arc::clone(ours), 10, 0);
    }
    ring.enter(Wait::No).unwrap();
    assert_eq!(ring.in_flight(), 100);
    let began = Instant::now();
    drop(ring);
    assert!(began.elapsed() < DROP_WAIT, "everything here can be cancelled");
    for (ours, _) in &pairs {
        assert_eq!(Arc::strong_count(ours), 1, "the ring has let go of its sockets");
    }
}
