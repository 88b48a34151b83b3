//! What is reported of one file, and in which order.

use linux_raw_sys::general::EPOLLRDHUP;

use super::*;

/// A file as epoll sees it.
#[derive(Default)]
struct Fake {
    ready: u32,
    arrivals: Arrivals,
}

impl Fake {
    fn arrive(&mut self, events: u32) {
        self.ready |= events;
        self.arrivals.note(false);
    }

    fn look(&self, interest: &mut Interest) -> u32 {
        interest.report(self.ready, self.arrivals.activity())
    }
}

fn interest(events: u32) -> Interest {
    Interest::new(&epoll_event { events, data: 0 })
}

#[test]
fn a_level_is_reported_as_long_as_it_lasts() {
    let (mut file, mut level) = (Fake::default(), interest(EPOLLIN));
    assert_eq!(file.look(&mut level), 0);
    file.arrive(EPOLLIN | EPOLLOUT);
    assert_eq!([file.look(&mut level), file.look(&mut level)], [EPOLLIN; 2]);
    file.ready = EPOLLOUT;
    assert_eq!(file.look(&mut level), 0);
}

#[test]
fn an_edge_is_reported_once_an_arrival() {
    let (mut file, mut edge) = (Fake::default(), interest(EPOLLIN | EPOLLET));
    file.arrive(EPOLLIN);
    assert_eq!([file.look(&mut edge), file.look(&mut edge)], [EPOLLIN, 0]);
    // More arrives, though not all was read.
    file.arrive(EPOLLIN);
    assert_eq!([file.look(&mut edge), file.look(&mut edge)], [EPOLLIN, 0]);
    // All was read, and a new arrival is read before anybody looks.
    file.ready = 0;
    assert_eq!(file.look(&mut edge), 0);
    file.arrive(EPOLLIN);
    file.ready = 0;
    assert_eq!(file.look(&mut edge), 0);
    file.arrive(EPOLLIN);
    assert_eq!(file.look(&mut edge), EPOLLIN);
}

#[test]
fn what_is_ready_when_it_is_added_or_changed_is_an_edge() {
    let file = Fake { ready: EPOLLIN | EPOLLOUT, ..Fake::default() };
    let mut edge = interest(EPOLLIN | EPOLLET);
    assert_eq!([file.look(&mut edge), file.look(&mut edge)], [EPOLLIN, 0]);
    edge = interest(EPOLLOUT | EPOLLET);
    assert_eq!([file.look(&mut edge), file.look(&mut edge)], [EPOLLOUT, 0]);
}

#[test]
fn an_event_that_was_not_there_is_an_edge_without_an_arrival() {
    let (mut file, mut edge) = (Fake::default(), interest(EPOLLIN | EPOLLRDHUP | EPOLLET));
    file.arrive(EPOLLIN);
    assert_eq!(file.look(&mut edge), EPOLLIN);
    file.ready |= EPOLLHUP | EPOLLRDHUP;
    assert_eq!([file.look(&mut edge), file.look(&mut edge)], [EPOLLIN | EPOLLHUP | EPOLLRDHUP, 0]);
}

#[test]
fn one_shot_is_reported_once_until_it_is_changed() {
    let (mut file, mut once) = (Fake::default(), interest(EPOLLIN | EPOLLONESHOT));
    assert_eq!(file.look(&mut once), 0);
    file.arrive(EPOLLIN);
    assert_eq!(file.look(&mut once), EPOLLIN);
    file.arrive(EPOLLIN | EPOLLHUP);
    assert_eq!(file.look(&mut once), 0);
    once = interest(EPOLLIN | EPOLLONESHOT);
    assert_eq!(file.look(&mut once), EPOLLIN | EPOLLHUP);
}

#[test]
fn what_arrived_first_comes_first_and_what_is_reported_goes_to_the_end() {
    let entry = |events| Entry { file: Weak::new(), interest: interest(events), since: next_moment() };
    let (mut level, mut edge) = (entry(EPOLLIN), entry(EPOLLIN | EPOLLET));
    let (first, second) = (Fake::default(), Fake::default());
    first.arrivals.note(false);
    second.arrivals.note(false);
    // More on the first: by level that has been there all the time, by edge it is new.
    first.arrivals.note(true);
    let [first, second] = [first, second].map(|file| file.arrivals.activity());
    assert!(level.place(first) < level.place(second));
    assert!(edge.place(first) > edge.place(second));
    for entry in [&mut level, &mut edge] {
        entry.since = next_moment();
        assert!(entry.place(first) > first.last.max(second.last));
    }
}

#[test]
fn errors_are_reported_also_where_nobody_asked() {
    let mut nothing = interest(0);
    assert_eq!(Fake { ready: EPOLLERR | EPOLLIN, ..Fake::default() }.look(&mut nothing), EPOLLERR);
}
