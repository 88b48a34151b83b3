//! epoll: descriptors with the events that are wanted of them, and who has something to report.

use alloc::collections::BTreeMap;
use alloc::rc::{Rc, Weak};
use alloc::vec::Vec;
use core::any::Any;
use core::cell::{Cell, RefCell};

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
use crate::readiness::arrivals::{Activity, Arrivals, next_moment};
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
    seen_activity: Option<Activity>,
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
    fn reportable(&self, ready: u32, activity: Activity) -> u32 {
        let wanted = ready & self.events;
        let is_edge = self.seen_activity != Some(activity) || wanted & !self.seen_events != 0;
        let is_silent = self.is_spent || (self.events & EPOLLET != 0 && !is_edge);
        if is_silent { 0 } else { wanted }
    }

    /// The same, and remembers that it is reported.
    fn report(&mut self, ready: u32, activity: Activity) -> u32 {
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
    /// the moment when it was added or reported last, or changed from edge-triggered
    since: u64,
}

impl Entry {
    /// Its place among those that are ready: as in Linux's queue, where a file comes in as it becomes ready, and goes to the
    /// end when it is reported.
    fn place(&self, activity: Activity) -> u64 {
        let arrival = if self.interest.events & EPOLLET == 0 { activity.since } else { activity.last };
        arrival.max(self.since)
    }
}

/// What a look at all entries has found.
#[derive(Default)]
struct Look {
    /// the kernel's changes at that time; None where it has not been at all of them
    changes: Option<u64>,
    /// those that were ready, in their order, and those that have come or changed since
    ready: Vec<Key>,
    /// when another one becomes ready by itself
    next: Option<u64>,
}

/// An epoll object.
#[derive(Default)]
pub struct Epoll {
    entries: RefCell<BTreeMap<Key, Entry>>,
    last: RefCell<Look>,
    serials: Cell<u64>,
    /// files have been added
    additions: Arrivals,
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
        self.additions.note(true);
        self.entries.borrow_mut().insert(key, Entry { file: Rc::downgrade(file), interest, since: next_moment() });
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

    /// Those that may be ready, as long as nothing has changed since the last look.
    fn known(&self, kernel: &Kernel) -> Option<Vec<Key>> {
        let last = self.last.borrow();
        let is_valid = last.changes == Some(kernel.changes()) && last.next.is_none_or(|next| kernel.clock.now() < next);
        is_valid.then(|| last.ready.clone())
    }

    /// Looks at all entries.
    fn look(&self, kernel: &Kernel) -> Vec<Key> {
        let mut found = Vec::new();
        let mut next = None;
        self.entries.borrow_mut().retain(|key, entry| {
            let Some(file) = entry.file.upgrade() else { return false };
            let object = &*file.object;
            next = earlier(next, object.next_deadline(kernel));
            let events = ready(kernel, object, entry.interest.events);
            let activity = object.activity(kernel);
            if entry.interest.reportable(events, activity) == 0 {
                entry.interest.report(events, activity);
            } else {
                found.push((entry.place(activity), *key));
            }
            true
        });
        found.sort_unstable();
        let ready: Vec<Key> = found.into_iter().map(|(_, key)| key).collect();
        *self.last.borrow_mut() = Look { changes: Some(kernel.changes()), ready: ready.clone(), next };
        ready
    }

    /// Writes up to `count_max` events to the program; returns how many, and when a file becomes ready by itself.
    ///
    /// # Errors
    /// EFAULT where not even the first one can be written.
    fn report(&self, kernel: &Kernel, address: u64, count_max: u64) -> Result<(u64, Option<u64>), Errno> {
        let keys = self.known(kernel).unwrap_or_else(|| self.look(kernel));
        let mut last = self.last.borrow_mut();
        let mut entries = self.entries.borrow_mut();
        let mut count = 0;
        for key in keys {
            let Some(entry) = entries.get_mut(&key) else { continue };
            let Some(file) = entry.file.upgrade() else { continue };
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
                // The others keep what they have and their places, which are before those that were reported.
                last.changes = None;
                return if count > 0 { Ok((count, None)) } else { Err(errno::EFAULT) };
            }
            let events = entry.interest.report(events, activity);
            kernel.memory.put(place, epoll_event { events, data: entry.interest.data })?;
            entry.since = next_moment();
            count += 1;
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
        let known = self.known(kernel);
        let entries = self.entries.borrow();
        let is_ready = |entry: &Entry| {
            entry.file.upgrade().is_some_and(|file| {
                let events = ready(kernel, &*file.object, entry.interest.events);
                entry.interest.reportable(events, file.object.activity(kernel)) != 0
            })
        };
        let any_is_ready = match known {
            Some(keys) => keys.iter().filter_map(|key| entries.get(key)).any(is_ready),
            None => entries.values().any(is_ready),
        };
        if any_is_ready { EPOLLIN } else { 0 }
    }

    fn next_deadline(&self, kernel: &Kernel) -> Option<u64> {
        self.files().iter().filter_map(|file| file.object.next_deadline(kernel)).min()
    }

    fn activity(&self, kernel: &Kernel) -> Activity {
        let files = self.files();
        files.iter().fold(self.additions.activity(), |latest, file| latest.max(file.object.activity(kernel)))
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
                // By level it stands in the queue as long as it was ready; else it comes in now.
                if entry.interest.events & (EPOLLET | EPOLLONESHOT) != 0 {
                    entry.since = next_moment();
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
mod tests;
