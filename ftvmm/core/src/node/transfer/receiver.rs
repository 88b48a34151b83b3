//! The joiner's thread that puts what comes into a machine that has not run.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::lock::Mutex;
use crate::machine::{Machine, MachineError, Page, StateDigest};
use crate::node::session::Frames;
use crate::node::thread;
use crate::protocol::{Input, LogPosition};

use super::{Carried, PAGES, STATE, TOLD_EVERY, ZERO_PAGE, ZERO_PAGES};

/// A primary that says nothing for so long is given up; the protocol may do that before.
const SILENCE_MAX: Duration = Duration::from_secs(5);

const NOT_AWAITED: &str = "the guest's state is not waited for any more";
/// More entries and outputs than any guest comes to.
const COUNT_MAX: u64 = 1 << 62;

/// A machine for the guest's thread to run.
pub struct Prepared {
    /// the machine
    pub machine: Machine,
    /// where it was carried here from; `None`: it is in its initial state
    pub carried: Option<Carried>,
}

impl Prepared {
    /// Where in the log its guest is.
    pub fn position(&self) -> LogPosition {
        self.carried.as_ref().map_or(LogPosition::START, Carried::position)
    }
}

/// Builds a machine in its initial state.
type Build = dyn Fn() -> Result<Machine, MachineError> + Send + Sync;

/// The machine that waits for the guest's thread.
pub struct Slot {
    build: Box<Build>,
    waiting: Mutex<Waiting>,
}

struct Waiting {
    prepared: Option<Prepared>,
    /// The log connection of the transfer whose machine is waited for; 0: of none.
    awaited: u64,
}

impl Slot {
    /// With a machine in its initial state, and how another one is built.
    pub fn new(
        machine: Machine,
        build: impl Fn() -> Result<Machine, MachineError> + Send + Sync + 'static,
    ) -> Arc<Slot> {
        let prepared = Some(Prepared { machine, carried: None });
        Arc::new(Slot { build: Box::new(build), waiting: Mutex::new(Waiting { prepared, awaited: 0 }) })
    }

    /// Takes what waits; where nothing does, a machine is built.
    ///
    /// # Errors
    /// Where it cannot be built.
    pub fn take(&self) -> Result<Prepared, MachineError> {
        let waiting = self.waiting.lock().prepared.take();
        match waiting {
            Some(prepared) => Ok(prepared),
            None => Ok(Prepared { machine: (self.build)()?, carried: None }),
        }
    }

    /// A machine in its initial state for this transfer to fill.
    fn take_new(&self, connection: u64) -> Result<Machine, String> {
        let mut waiting = self.waiting.lock();
        if waiting.awaited != connection {
            return Err(NOT_AWAITED.into());
        }
        let taken = waiting.prepared.take_if(|prepared| prepared.carried.is_none());
        drop(waiting);
        match taken {
            Some(prepared) => Ok(prepared.machine),
            None => (self.build)().map_err(|error| error.to_string()),
        }
    }

    /// Builds what a failed transfer has spoiled, so that the next one need not wait for it.
    fn refill(&self) {
        if self.waiting.lock().prepared.is_some() {
            return;
        }
        if let Ok(machine) = (self.build)() {
            self.waiting.lock().prepared.get_or_insert(Prepared { machine, carried: None });
        }
    }

    /// From now on the machine of this transfer is waited for, and of no earlier one.
    pub fn await_transfer(&self, connection: u64) {
        self.discard();
        self.waiting.lock().awaited = connection;
    }

    /// What was carried here is thrown away, and what is still on its way.
    pub fn discard(&self) {
        let mut waiting = self.waiting.lock();
        waiting.awaited = 0;
        let spoiled = waiting.prepared.take_if(|prepared| prepared.carried.is_some());
        drop(waiting);
        drop(spoiled);
    }

    /// A transfer is through; `None`: its machine is not waited for any more.
    fn put(&self, connection: u64, prepared: Prepared) -> Option<()> {
        let mut waiting = self.waiting.lock();
        if waiting.awaited != connection {
            return None;
        }
        waiting.prepared = Some(prepared);
        Some(())
    }

    /// Where what waits was carried from.
    pub fn carried(&self) -> Option<Carried> {
        self.waiting.lock().prepared.as_ref().and_then(|prepared| prepared.carried.clone())
    }
}

/// All that the joiner's side of a transfer needs to know.
pub struct Receiving {
    /// the connection
    pub frames: Frames,
    /// the log connection that the transfer belongs to
    pub connection: u64,
    /// where the machine goes
    pub slot: Arc<Slot>,
}

/// Starts the thread; `tell` takes what the protocol is told.
pub fn receive(receiving: Receiving, tell: impl Fn(Input) + Send + 'static) {
    thread::start("transfer", move || {
        let (connection, slot) = (receiving.connection, receiving.slot.clone());
        match receiving.run(&tell) {
            Ok(input) => tell(input),
            Err(reason) => {
                tell(Input::TransferFailed { connection, reason });
                slot.refill();
            }
        }
    });
}

impl Receiving {
    fn run(mut self, tell: &impl Fn(Input)) -> Result<Input, String> {
        let connection = self.connection;
        self.frames.block(SILENCE_MAX).map_err(|error| error.to_string())?;
        let mut machine = self.slot.take_new(connection)?;
        tell(Input::TransferProgressed { connection });
        let mut digest = machine.constant_digest();
        let mut told_at = Instant::now();
        let carried = loop {
            let payload = self.frames.receive()?;
            match payload.split_first() {
                Some((&PAGES, pages)) => take_pages(pages, &mut machine, &mut digest)?,
                Some((&ZERO_PAGES, numbers)) => {
                    for number in numbers_of(numbers)? {
                        if !machine.is_untouched(number) {
                            put(&mut machine, number, &ZERO_PAGE)?;
                        }
                        digest.set_zero(number);
                    }
                }
                Some((&STATE, state)) => {
                    break serde_json::from_slice::<Carried>(state)
                        .map_err(|error| format!("the guest's state cannot be read: {error}"))?;
                }
                Some((kind, _)) => return Err(format!("there is no part of a guest's state of kind {kind}")),
                None => return Err("a part of the guest's state is empty".into()),
            }
            if told_at.elapsed() >= TOLD_EVERY {
                told_at = Instant::now();
                tell(Input::TransferProgressed { connection });
            }
        };
        if carried.position >= COUNT_MAX || carried.produced >= COUNT_MAX {
            return Err("the guest's state is of a position that no guest comes to".into());
        }
        machine.restore(&carried.machine).map_err(|error| error.to_string())?;
        let digest = digest.finish(machine.registers_fingerprint().map_err(|error| error.to_string())?);
        let position = carried.position();
        let prepared = Prepared { machine, carried: Some(carried) };
        self.slot.put(connection, prepared).ok_or(NOT_AWAITED)?;
        Ok(Input::StateRestored { connection, position, digest })
    }
}

fn numbers_of(bytes: &[u8]) -> Result<impl Iterator<Item = usize>, String> {
    let (numbers, rest) = bytes.as_chunks::<4>();
    match rest.is_empty() {
        true => Ok(numbers.iter().map(|number| u32::from_le_bytes(*number) as usize)),
        false => Err(format!("{} bytes are no list of pages", bytes.len())),
    }
}

fn take_pages(bytes: &[u8], machine: &mut Machine, digest: &mut StateDigest) -> Result<(), String> {
    let parts = bytes.split_first_chunk::<4>().and_then(|(count, rest)| {
        let count = u32::from_le_bytes(*count) as usize;
        let (numbers, contents) = rest.split_at_checked(count.checked_mul(4)?)?;
        let (contents, rest) = contents.as_chunks::<{ size_of::<Page>() }>();
        (contents.len() == count && rest.is_empty()).then_some((numbers, contents))
    });
    let Some((numbers, contents)) = parts else { return Err(format!("{} bytes are no pages", bytes.len())) };
    for (number, content) in numbers_of(numbers)?.zip(contents) {
        // As it is here, not as it was sent.
        digest.set(number, put(machine, number, content)?);
    }
    Ok(())
}

fn put<'a>(machine: &'a mut Machine, number: usize, content: &Page) -> Result<&'a Page, String> {
    // One that is so already is not touched: the host need not provide it.
    let placed = if machine.page(number) == Some(content) { Some(()) } else { machine.restore_page(number, content) };
    let page = placed.and_then(|()| machine.page(number));
    page.ok_or_else(|| format!("page {number} is none that the guest can have written"))
}
