//! epoll: descriptors with the events that are wanted of them, and who has something to report.

use alloc::collections::BTreeMap;
use alloc::rc::{Rc, Weak};
use alloc::vec::Vec;
use core::any::Any;
use core::cell::{Cell, RefCell};
use core::ops::Bound;

use linux_raw_sys::general::{
    __NR_epoll_pwait as EPOLL_PWAIT, __NR_epoll_pwait2 as EPOLL_PWAIT2, __NR_epoll_wait as EPOLL_WAIT,
    __NR_poll as POLL, __NR_ppoll as PPOLL, __NR_pselect6 as PSELECT6, __NR_select as SELECT, EPOLL_CLOEXEC,
    EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLL_CTL_MOD, EPOLLERR, EPOLLET, EPOLLEXCLUSIVE, EPOLLHUP, EPOLLIN, EPOLLONESHOT,
    EPOLLOUT, EPOLLWAKEUP, O_RDWR, S_IFCHR, S_IFDIR, S_IFMT, S_IFREG, epoll_event, stat,
};

use crate::clock::optional_duration;
use crate::events::anonymous_metadata;
use crate::files::{Object, OpenFile};
use crate::kernel::Kernel;
use crate::readiness::{earlier, mask_for_call, milliseconds, nothing, ready, with_mask};
use crate::system_calls::{Call, Errno, Outcome, errno};

/// Epolls may lie within epolls so deep (EP_MAX_NESTS of Linux's `fs/eventpoll.c`).
const NESTS_MAX: usize = 4;
/// What may come with EPOLLEXCLUSIVE (EPOLLEXCLUSIVE_OK_BITS).
const EXCLUSIVE_EVENTS: u32 = EPOLLIN | EPOLLOUT | EPOLLERR | EPOLLHUP | EPOLLWAKEUP | EPOLLET | EPOLLEXCLUSIVE;
const EVENT_BYTES: u64 = size_of::<epoll_event>() as u64;
/// The end of the program's addresses (TASK_SIZE).
const ADDRESS_END: u64 = (1 << 47) - 4096;
const _: () = assert!(size_of::<epoll_event>() == 12, "epoll_event is packed");

/// What is reported of one file, and what has been.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Interest {
    /// events and flags
    events: u32,
    /// the program's own word
    data: u64,
    /// the file's activity when it was looked at last, None where it was not
    seen_activity: Option<u64>,
    /// the events that were ready then
    seen_events: u32,
    /// it has been reported, and was to be once
    is_spent: bool,
}

impl Interest {
    fn new(event: &epoll_event) -> Interest {
        Interest { events: event.events | EPOLLERR | EPOLLHUP, data: event.data, ..Interest::default() }
    }

    /// What is to be reported of a file with these events ready. Where the interest is edge-triggered, that is nothing but
    /// for an arrival since the last look, or an event that was not ready then.
    fn reportable(&self, ready: u32, activity: u64) -> u32 {
        let wanted = ready & self.events;
        let is_edge = self.seen_activity != Some(activity) || wanted & !self.seen_events != 0;
        let is_silent = self.is_spent || (self.events & EPOLLET != 0 && !is_edge);
        if is_silent { 0 } else { wanted }
    }

    /// The same, and remembers that it is reported.
    fn report(&mut self, ready: u32, activity: u64) -> u32 {
        let reported = self.reportable(ready, activity);
        (self.seen_activity, self.seen_events) = (Some(activity), ready & self.events);
        self.is_spent |= reported != 0 && self.events & EPOLLONESHOT != 0;
        reported
    }
}

/// A descriptor, and a serial number: after a close the descriptor may stand for another file, while the first one lives
/// on under a copy of it.
type Key = (i32, u64);

struct Entry {
    file: Weak<OpenFile>,
    interest: Interest,
}

/// What a look at all entries has found.
#[derive(Default)]
struct Look {
    /// the kernel's changes at that time; None where it has not been at all of them
    changes: Option<u64>,
    /// those that were ready, and those that have come or changed since
    ready: Vec<Key>,
    /// when another one becomes ready by itself
    next: Option<u64>,
}

/// An epoll object.
#[derive(Default)]
pub struct Epoll {
    entries: RefCell<BTreeMap<Key, Entry>>,
    last: RefCell<Look>,
    /// the last one that was reported: the next look starts behind it, so that all get their turn
    reported: Cell<Key>,
    serials: Cell<u64>,
    /// it has been put into another one
    is_nested: Cell<bool>,
}

impl Epoll {
    fn key_of(&self, descriptor: i32, file: &Rc<OpenFile>) -> Option<Key> {
        let entries = self.entries.borrow();
        let mut of_descriptor = entries.range((descriptor, 0)..=(descriptor, u64::MAX));
        of_descriptor.find(|(_, entry)| entry.file.as_ptr() == Rc::as_ptr(file)).map(|(key, _)| *key)
    }

    fn add(&self, descriptor: i32, file: &Rc<OpenFile>, interest: Interest) {
        let serial = self.serials.get() + 1;
        self.serials.set(serial);
        let key = (descriptor, serial);
        self.entries.borrow_mut().insert(key, Entry { file: Rc::downgrade(file), interest });
        self.may_be_ready(key);
    }

    /// An entry is new or has changed: it is looked at the next time in any case.
    fn may_be_ready(&self, key: Key) {
        let mut last = self.last.borrow_mut();
        if last.changes.is_some() && !last.ready.contains(&key) {
            last.ready.push(key);
        }
    }

    /// All files, as long as they are open.
    fn files(&self) -> Vec<Rc<OpenFile>> {
        self.entries.borrow().values().filter_map(|entry| entry.file.upgrade()).collect()
    }

    /// The keys in the order in which they are looked at. As long as nothing has changed, only what was ready at the last
    /// look can be ready now.
    fn keys(&self, kernel: &Kernel) -> (Vec<Key>, bool) {
        let last = self.last.borrow();
        if last.changes == Some(kernel.changes()) && last.next.is_none_or(|next| kernel.clock.now() < next) {
            return (last.ready.clone(), false);
        }
        let entries = self.entries.borrow();
        let reported = self.reported.get();
        let behind = entries.range((Bound::Excluded(reported), Bound::Unbounded));
        let before = entries.range((Bound::Unbounded, Bound::Included(reported)));
        (behind.chain(before).map(|(key, _)| *key).collect(), true)
    }

    /// Writes up to `count_max` events to the program; returns how many, and when a file becomes ready by itself.
    ///
    /// # Errors
    /// EFAULT where not even the first one can be written.
    fn report(&self, kernel: &Kernel, address: u64, count_max: u64) -> Result<(u64, Option<u64>), Errno> {
        let (keys, is_full_look) = self.keys(kernel);
        let mut last = self.last.borrow_mut();
        let mut entries = self.entries.borrow_mut();
        if is_full_look {
            *last = Look { changes: Some(kernel.changes()), ..Look::default() };
        }
        let mut count = 0;
        for key in keys {
            let Some(entry) = entries.get_mut(&key) else { continue };
            let Some(file) = entry.file.upgrade() else {
                entries.remove(&key);
                continue;
            };
            let object = &*file.object;
            last.next = earlier(last.next, object.next_deadline(kernel));
            let events = ready(kernel, object, entry.interest.events);
            let activity = object.activity(kernel);
            if entry.interest.reportable(events, activity) == 0 {
                entry.interest.report(events, activity);
                continue;
            }
            let place = address.wrapping_add(count * EVENT_BYTES);
            if count == count_max || kernel.memory.bytes_mut(place, EVENT_BYTES).is_err() {
                // The others keep what they have, and come first at the next look.
                last.changes = None;
                return if count > 0 { Ok((count, None)) } else { Err(errno::EFAULT) };
            }
            let events = entry.interest.report(events, activity);
            kernel.memory.put(place, epoll_event { events, data: entry.interest.data })?;
            self.reported.set(key);
            count += 1;
            if is_full_look {
                last.ready.push(key);
            }
        }
        Ok((count, last.next))
    }

    /// How deep epolls lie within this one.
    fn depth(&self) -> usize {
        let files = self.files();
        files.iter().filter_map(|file| file.kind::<Epoll>()).map(|inner| 1 + inner.depth()).max().unwrap_or(0)
    }

    fn holds(&self, other: &Epoll) -> bool {
        let files = self.files();
        core::ptr::eq(self, other)
            || files.iter().filter_map(|file| file.kind::<Epoll>()).any(|inner| inner.holds(other))
    }
}

impl Object for Epoll {
    fn seek(&self, _: &mut Kernel, _: i64, _: u32) -> Result<u64, Errno> {
        Ok(0)
    }

    fn ready(&self, kernel: &Kernel) -> u32 {
        let (keys, _) = self.keys(kernel);
        let entries = self.entries.borrow();
        let is_ready = keys.iter().filter_map(|key| entries.get(key)).any(|entry| {
            entry.file.upgrade().is_some_and(|file| {
                let events = ready(kernel, &*file.object, entry.interest.events);
                entry.interest.reportable(events, file.object.activity(kernel)) != 0
            })
        });
        if is_ready { EPOLLIN } else { 0 }
    }

    fn next_deadline(&self, kernel: &Kernel) -> Option<u64> {
        self.files().iter().filter_map(|file| file.object.next_deadline(kernel)).min()
    }

    fn activity(&self, kernel: &Kernel) -> u64 {
        self.files().iter().fold(self.serials.get(), |sum, file| sum.wrapping_add(file.object.activity(kernel)))
    }

    fn metadata(&self, _: &Kernel) -> stat {
        anonymous_metadata()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// How deep this epoll lies within others.
fn depth_within(kernel: &Kernel, epoll: &Epoll) -> usize {
    let open = kernel.files.open_descriptors().filter_map(|descriptor| kernel.files.get(descriptor).ok());
    let outer = open.filter(|file| {
        let inner =
            |outer: &Epoll| outer.files().iter().filter_map(|file| file.kind()).any(|one| core::ptr::eq(one, epoll));
        file.kind::<Epoll>().is_some_and(inner)
    });
    outer.filter_map(|file| file.kind::<Epoll>().map(|outer| 1 + depth_within(kernel, outer))).max().unwrap_or(0)
}

/// Whether epoll takes the file: regular files, directories and the devices that are always ready it does not.
fn can_be_polled(kernel: &Kernel, file: &OpenFile) -> bool {
    /// Devices of memory have this major number (`Documentation/admin-guide/devices.txt`), and this one waits.
    const MEMORY_MAJOR: u64 = 1;
    const RANDOM_MINOR: u64 = 8;
    let metadata = file.object.metadata(kernel);
    match metadata.st_mode & S_IFMT {
        S_IFREG | S_IFDIR => false,
        S_IFCHR => metadata.st_rdev >> 8 != MEMORY_MAJOR || metadata.st_rdev & 0xff == RANDOM_MINOR,
        _ => true,
    }
}

/// epoll_create(size), which matters no more.
///
/// # Errors
/// EINVAL for a size of zero, EMFILE.
pub fn epoll_create(kernel: &mut Kernel, call: Call) -> Outcome {
    if call.int(0) <= 0 {
        return Err(errno::EINVAL.into());
    }
    Ok(kernel.files.open(Rc::new(Epoll::default()), O_RDWR)? as u64)
}

/// epoll_create1(flags)
///
/// # Errors
/// EINVAL, EMFILE.
pub fn epoll_create1(kernel: &mut Kernel, call: Call) -> Outcome {
    if call.unsigned(0) & !EPOLL_CLOEXEC != 0 {
        return Err(errno::EINVAL.into());
    }
    Ok(kernel.files.open(Rc::new(Epoll::default()), O_RDWR | call.unsigned(0))? as u64)
}

/// epoll_ctl(epoll, operation, descriptor, event)
///
/// # Errors
/// As epoll_ctl(2).
pub fn epoll_ctl(kernel: &mut Kernel, call: Call) -> Outcome {
    let (operation, descriptor) = (call.unsigned(1), call.int(2));
    let event = match operation {
        EPOLL_CTL_DEL => epoll_event { events: 0, data: 0 },
        _ => kernel.memory.get(call.word(3))?,
    };
    let (epoll_file, file) = (kernel.files.get_usable(call.int(0))?, kernel.files.get_usable(descriptor)?);
    if !can_be_polled(kernel, &file) {
        return Err(errno::EPERM.into());
    }
    let epoll: &Epoll = epoll_file.kind().filter(|_| !Rc::ptr_eq(&epoll_file, &file)).ok_or(errno::EINVAL)?;
    let inner = file.kind::<Epoll>();
    if operation != EPOLL_CTL_DEL && event.events & EPOLLEXCLUSIVE != 0 {
        let is_fine = operation == EPOLL_CTL_ADD && inner.is_none() && event.events & !EXCLUSIVE_EVENTS == 0;
        if !is_fine {
            return Err(errno::EINVAL.into());
        }
    }
    if operation == EPOLL_CTL_ADD
        && let Some(inner) = inner
        && (inner.holds(epoll) || inner.depth() + 1 + depth_within(kernel, epoll) > NESTS_MAX)
    {
        return Err(errno::ELOOP.into());
    }
    change(epoll, operation, descriptor, &file, &event)?;
    if let Some(inner) = inner.filter(|_| operation == EPOLL_CTL_ADD) {
        inner.is_nested.set(true);
    }
    if operation != EPOLL_CTL_DEL && is_watched(kernel, &epoll_file, epoll) {
        kernel.change();
    }
    Ok(0)
}

/// Whether another thread may wait for this epoll, to which something has been added. Most often the thread that waits is
/// the one that adds, and then the others shall sleep on.
fn is_watched(kernel: &Kernel, file: &Rc<OpenFile>, epoll: &Epoll) -> bool {
    let watches = |call: Call| match u32::try_from(call.number) {
        Ok(EPOLL_WAIT | EPOLL_PWAIT | EPOLL_PWAIT2) => {
            kernel.files.descriptor(call.int(0)).is_ok_and(|descriptor| Rc::ptr_eq(&descriptor.file, file))
        }
        Ok(POLL | PPOLL | SELECT | PSELECT6) => true,
        _ => false,
    };
    let mut calls = kernel.threads.iter().filter(|thread| thread.wait.is_some()).filter_map(|thread| thread.call);
    epoll.is_nested.get() || calls.any(watches)
}

fn change(
    epoll: &Epoll,
    operation: u32,
    descriptor: i32,
    file: &Rc<OpenFile>,
    event: &epoll_event,
) -> Result<(), Errno> {
    let key = epoll.key_of(descriptor, file);
    match (operation, key) {
        (EPOLL_CTL_ADD, None) => epoll.add(descriptor, file, Interest::new(event)),
        (EPOLL_CTL_ADD, Some(_)) => return Err(errno::EEXIST),
        (EPOLL_CTL_DEL, Some(key)) => {
            epoll.entries.borrow_mut().remove(&key);
        }
        (EPOLL_CTL_MOD, Some(key)) => {
            if let Some(entry) = epoll.entries.borrow_mut().get_mut(&key) {
                if entry.interest.events & EPOLLEXCLUSIVE != 0 {
                    return Err(errno::EINVAL);
                }
                entry.interest = Interest::new(event);
            }
            epoll.may_be_ready(key);
        }
        (EPOLL_CTL_DEL | EPOLL_CTL_MOD, None) => return Err(errno::ENOENT),
        _ => return Err(errno::EINVAL),
    }
    Ok(())
}

fn wait_for(kernel: &mut Kernel, call: Call, timeout: Option<u64>) -> Outcome {
    let file = kernel.files.get_usable(call.int(0))?;
    let count_max = u64::try_from(call.int(2)).map_err(|_| errno::EINVAL)?;
    if count_max == 0 || count_max > i32::MAX as u64 / EVENT_BYTES {
        return Err(errno::EINVAL.into());
    }
    if call.word(1).saturating_add(count_max * EVENT_BYTES) > ADDRESS_END {
        return Err(errno::EFAULT.into());
    }
    let epoll: &Epoll = file.kind().ok_or(errno::EINVAL)?;
    match epoll.report(kernel, call.word(1), count_max)? {
        (0, next) => nothing(kernel, timeout, next),
        (count, _) => Ok(count),
    }
}

/// epoll_wait(epoll, events, how many at most, milliseconds)
///
/// # Errors
/// EBADF, EINVAL, EFAULT, EINTR.
pub fn epoll_wait(kernel: &mut Kernel, call: Call) -> Outcome {
    wait_for(kernel, call, milliseconds(call.int(3)))
}

/// epoll_pwait(epoll, events, how many at most, milliseconds, mask, size of a set)
///
/// # Errors
/// As epoll_wait, and EINVAL for a set of another size.
pub fn epoll_pwait(kernel: &mut Kernel, call: Call) -> Outcome {
    let mask = mask_for_call(kernel, call.word(4), call.word(5))?;
    with_mask(kernel, mask, |kernel| epoll_wait(kernel, call))
}

/// epoll_pwait2(epoll, events, how many at most, timeout, mask, size of a set)
///
/// # Errors
/// As epoll_pwait, and EINVAL for a timeout that is none.
pub fn epoll_pwait2(kernel: &mut Kernel, call: Call) -> Outcome {
    let timeout = optional_duration(kernel, call.word(3))?;
    let mask = mask_for_call(kernel, call.word(4), call.word(5))?;
    with_mask(kernel, mask, |kernel| wait_for(kernel, call, timeout))
}

#[cfg(test)]
mod tests {
    use linux_raw_sys::general::EPOLLRDHUP;

    use super::*;

    /// A file as epoll sees it.
    #[derive(Default)]
    struct Fake {
        ready: u32,
        activity: u64,
    }

    impl Fake {
        fn arrive(&mut self, events: u32) {
            self.ready |= events;
            self.activity += 1;
        }

        fn look(&self, interest: &mut Interest) -> u32 {
            interest.report(self.ready, self.activity)
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
        let file = Fake { ready: EPOLLIN | EPOLLOUT, activity: 7 };
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
    fn errors_are_reported_also_where_nobody_asked() {
        let mut nothing = interest(0);
        assert_eq!(Fake { ready: EPOLLERR | EPOLLIN, activity: 0 }.look(&mut nothing), EPOLLERR);
    }
}
