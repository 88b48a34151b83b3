//! The guest's thread's part: copies the guest's memory in rounds while the guest runs, and the rest when it has stopped.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{SendTimeoutError, Sender};

use crate::lab::mutant;
use crate::log::Fingerprint;
use crate::machine::{Machine, MachineError, Page, PageSet};

use super::{Carried, PAGES_MAX, Progress, ZERO_PAGE};

/// So many pages are left at most when the guest stops for the last round: a few milliseconds' worth.
const LAST_ROUND_PAGES: usize = 256;
/// A guest that writes faster than its memory goes over stops all the same after so many rounds.
const ROUNDS_MAX: u64 = 30;
/// So many frames are copied at once, before the guest has its turn again.
const FRAMES_A_TURN: usize = 4;
/// So many pages that are all zero are looked at for one frame.
const ZERO_PAGES_MAX: usize = 256;
/// Who waits for room looks so often whether the transfer is given up.
const GIVEN_UP_LOOK: Duration = Duration::from_millis(5);

/// What was copied, for one frame.
#[derive(Debug, Default)]
pub struct Pages {
    pub(super) numbers: Vec<u32>,
    pub(super) contents: Vec<Page>,
    pub(super) zero: Vec<u32>,
}

/// What the guest's thread gives to the one that sends.
#[derive(Debug)]
pub enum Chunk {
    /// pages
    Pages(Pages),
    /// all else, and its fingerprint: the guest has stopped
    State(Box<Carried>, Fingerprint),
}

/// What the guest's thread is told: copy for the joiner on this log connection.
#[derive(Clone, Debug)]
pub struct Order {
    /// the log connection that the transfer belongs to
    pub connection: u64,
    /// to the thread that sends
    pub to: Sender<Chunk>,
    /// for `ftvmm status`
    pub progress: Arc<Progress>,
}

/// Copies the memory of a guest.
pub struct Copier {
    order: Order,
    /// What is left of this round.
    due: PageSet,
    /// Where the round is.
    next: usize,
    /// Pages at the beginning of this round and of the one before.
    pages: [usize; 2],
    round: u64,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Copying,
    /// Little is left: the guest is to stop at its next input.
    Ready,
    /// Nobody takes it any more.
    Over,
}

impl Copier {
    /// Begins with all that the guest may write.
    ///
    /// # Errors
    /// Where KVM does not note what is written.
    pub fn begin(order: Order, machine: &mut Machine) -> Result<Copier, MachineError> {
        machine.track_writes()?;
        let due = machine.writable_pages();
        let pages = [due.len(), usize::MAX];
        order.progress.begin();
        order.progress.round(1, pages[0]);
        Ok(Copier { order, due, next: 0, pages, round: 1, stage: Stage::Copying })
    }

    /// Does nothing, where KVM does not take part.
    pub fn none(order: Order) -> Copier {
        Copier { order, due: PageSet::default(), next: 0, pages: [0; 2], round: 0, stage: Stage::Over }
    }

    /// Copies nothing any more.
    pub fn give_up(&mut self) {
        self.stage = Stage::Over;
    }

    /// The log connection that the transfer belongs to.
    pub fn connection(&self) -> u64 {
        self.order.connection
    }

    /// Whether the guest is to stop at its next input.
    pub fn is_ready(&self) -> bool {
        self.stage == Stage::Ready
    }

    /// Which round it is, and with how many pages it began.
    pub fn round(&self) -> (u64, usize) {
        (self.round, self.pages[0])
    }

    /// Copies a little, as far as what was copied before is on its way. Returns whether a round has begun.
    ///
    /// # Errors
    /// What KVM says.
    pub fn copy_some(&mut self, machine: &mut Machine) -> Result<bool, MachineError> {
        if self.stage != Stage::Copying {
            return Ok(false);
        }
        for _ in 0..FRAMES_A_TURN {
            if self.order.to.is_full() {
                return Ok(false);
            }
            let pages = self.take(machine);
            if pages.is_none() {
                // The last round is to find the way free.
                return if self.order.to.is_empty() { self.next_round(machine) } else { Ok(false) };
            }
            if let Some(pages) = pages
                && self.order.to.send(Chunk::Pages(pages)).is_err()
            {
                self.stage = Stage::Over;
                return Ok(false);
            }
        }
        Ok(false)
    }

    /// What was written meanwhile is the next round's.
    fn next_round(&mut self, machine: &mut Machine) -> Result<bool, MachineError> {
        self.due = machine.written()?;
        self.next = 0;
        self.round += 1;
        self.pages = [self.due.len(), self.pages[0]];
        self.order.progress.round(self.round, self.pages[0]);
        // As many pages as before: the guest writes them all again in that time, and always will.
        let gains_nothing = self.round > 3 && self.pages[0] >= self.pages[1];
        if self.pages[0] <= LAST_ROUND_PAGES || self.round >= ROUNDS_MAX || gains_nothing {
            self.stage = Stage::Ready;
        }
        Ok(true)
    }

    /// The next frame's worth of pages; `None`: this round is through.
    fn take(&mut self, machine: &Machine) -> Option<Pages> {
        let mut pages = Pages::default();
        while pages.contents.len() < PAGES_MAX
            && pages.zero.len() < ZERO_PAGES_MAX
            && let Some(number) = self.due.take_from(self.next)
        {
            self.next = number + 1;
            if mutant!(MissAPage) && number + 1 == machine.page_count() {
                continue;
            }
            let Some(content) = machine.page(number) else { continue };
            if *content == ZERO_PAGE {
                pages.zero.push(number as u32);
            } else {
                pages.numbers.push(number as u32);
                pages.contents.push(*content);
            }
        }
        self.order.progress.copied(pages.contents.len() * size_of::<Page>(), self.due.len());
        (!pages.numbers.is_empty() || !pages.zero.is_empty()).then_some(pages)
    }

    /// The guest has stopped: all that is left goes over, `carried` last. `is_given_up` says whether nobody waits for it any more.
    ///
    /// # Errors
    /// What KVM says.
    pub fn finish(
        &mut self,
        machine: &mut Machine,
        carried: Carried,
        is_given_up: impl Fn() -> bool,
    ) -> Result<(), MachineError> {
        let registers = machine.registers_fingerprint()?;
        self.due.extend(&machine.written()?);
        self.next = 0;
        self.stage = Stage::Over;
        while let Some(pages) = self.take(machine) {
            if !self.give(Chunk::Pages(pages), &is_given_up) {
                return Ok(());
            }
        }
        self.give(Chunk::State(Box::new(carried), registers), &is_given_up);
        Ok(())
    }

    fn give(&self, chunk: Chunk, is_given_up: &impl Fn() -> bool) -> bool {
        let mut chunk = chunk;
        while !is_given_up() {
            match self.order.to.send_timeout(chunk, GIVEN_UP_LOOK) {
                Ok(()) => return true,
                Err(SendTimeoutError::Timeout(back)) => chunk = back,
                Err(SendTimeoutError::Disconnected(_)) => return false,
            }
        }
        false
    }
}
