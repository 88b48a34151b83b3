//! A machine's state, to be carried to another host: its memory page by page while the guest runs, the rest where it waits for an input.
//!
//! Only what the guest may write is carried. Code, constants and boot information follow from image and configuration, which are the
//! same on both hosts, so that nobody who carries a state can put code into a machine.

use kvm_bindings::kvm_regs;
use serde::{Deserialize, Serialize};

use super::hypercall::Place;
use super::memory::{GuestMemory, PAGE_BYTES};
use super::{Machine, MachineError, Request, State, hypercall, registers};
use crate::log::{Chain, Fingerprint};

/// A page of guest memory.
pub type Page = [u8; PAGE_BYTES as usize];

/// Arithmetic flags, direction, alignment check and identification: what a guest at CPL 3 sets by itself and keeps over a request.
const GUESTS_FLAGS: u64 = 0xcd5 | 1 << 18 | 1 << 21;
const ALWAYS_SET: u64 = 1 << 1;
const WORD_BITS: usize = u64::BITS as usize;

/// Pages of guest memory, by number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PageSet {
    words: Vec<u64>,
}

impl PageSet {
    /// As KVM gives a set: one bit a page, the lowest first.
    pub(super) fn from_words(words: Vec<u64>) -> PageSet {
        PageSet { words }
    }

    /// Adds a page.
    pub fn insert(&mut self, page: usize) {
        let word = page / WORD_BITS;
        if self.words.len() <= word {
            self.words.resize(word + 1, 0);
        }
        self.words[word] |= 1 << (page % WORD_BITS);
    }

    /// Whether a page is in it.
    pub fn contains(&self, page: usize) -> bool {
        self.words.get(page / WORD_BITS).is_some_and(|word| word & 1 << (page % WORD_BITS) != 0)
    }

    /// Adds the pages of another set.
    pub fn extend(&mut self, other: &PageSet) {
        self.words.resize(self.words.len().max(other.words.len()), 0);
        self.words.iter_mut().zip(&other.words).for_each(|(own, other)| *own |= other);
    }

    /// How many pages are in it.
    pub fn len(&self) -> usize {
        self.words.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Whether no page is in it.
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|word| *word == 0)
    }

    /// Takes the first page from `start` on out of the set.
    pub fn take_from(&mut self, start: usize) -> Option<usize> {
        for index in start / WORD_BITS..self.words.len() {
            let below = if index == start / WORD_BITS { (1 << (start % WORD_BITS)) - 1 } else { 0 };
            let word = self.words[index] & !below;
            if word != 0 {
                self.words[index] &= !(1 << word.trailing_zeros());
                return Some(index * WORD_BITS + word.trailing_zeros() as usize);
            }
        }
        None
    }
}

/// A digest of a machine's state, kept page by page so that it takes no time in the end. Equal on every host for equal histories.
#[derive(Clone, Debug)]
pub struct StateDigest {
    /// `None`: all zero.
    pages: Vec<Option<Fingerprint>>,
}

const ZERO_PAGE: Page = [0; PAGE_BYTES as usize];

impl StateDigest {
    /// With what the guest cannot write, and nothing else.
    fn of_constant_pages(memory: &GuestMemory) -> StateDigest {
        let mut digest = StateDigest { pages: vec![None; memory.pages().len()] };
        let pages = memory.all().as_chunks().0.iter().enumerate();
        for ((number, content), access) in pages.zip(memory.pages()) {
            if access.mapped && !access.writable {
                digest.set(number, content);
            }
        }
        digest
    }

    /// This page is so now.
    pub fn set(&mut self, number: usize, content: &Page) {
        if let Some(page) = self.pages.get_mut(number) {
            *page = (*content != ZERO_PAGE).then(|| Fingerprint::of(content));
        }
    }

    /// This page is all zero now.
    pub fn set_zero(&mut self, number: usize) {
        self.pages.get_mut(number).into_iter().for_each(|page| *page = None);
    }

    /// The number of the memory's last page.
    pub fn last_page(&self) -> u32 {
        self.pages.len() as u32 - 1
    }

    /// With what [`Machine::registers_fingerprint`] says of all but the memory.
    pub fn finish(&self, registers: Fingerprint) -> Fingerprint {
        let mut hasher = blake3::Hasher::new();
        for (number, page) in self.pages.iter().enumerate() {
            if let Some(page) = page {
                hasher.update(&(number as u64).to_le_bytes());
                hasher.update(&page.0);
            }
        }
        hasher.update(&registers.0);
        Fingerprint::from_hash(hasher.finalize())
    }
}

/// All of a machine but its memory, where its guest has asked for an input and is not answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MachineState {
    /// RAX, RBX, RCX, RDX, RSI, RDI, RSP, RBP, R8 to R15, RFLAGS.
    registers: [u64; 17],
    /// Behind the instruction that asked.
    rip: u64,
    /// No other segment has a base that the guest can move.
    fs_base: u64,
    /// The legacy area of XSAVE up to XMM15: the guest has no other extended state, as AVX stays off.
    floating_point: Vec<u8>,
    chain: Fingerprint,
    request: Request,
    place: Place,
}

impl MachineState {
    /// The chain up to and including the request that waits.
    pub fn fingerprint(&self) -> Fingerprint {
        self.chain
    }
}

impl Machine {
    /// Begins to note which pages are written, by the guest or on its behalf, or begins anew.
    ///
    /// # Errors
    /// Where KVM refuses.
    pub fn track_writes(&mut self) -> Result<(), MachineError> {
        self.memory.track_writes(true);
        self.vcpu.track_writes(&self.memory, true)?;
        self.vcpu.written(&self.memory).map(|_| ())
    }

    /// No page is noted any more, at no cost to the guest.
    ///
    /// # Errors
    /// Where KVM refuses.
    pub fn stop_tracking_writes(&mut self) -> Result<(), MachineError> {
        self.memory.track_writes(false);
        self.vcpu.track_writes(&self.memory, false)
    }

    /// The pages that were written since the last call, or since tracking began.
    ///
    /// # Errors
    /// Where KVM refuses, or nothing is tracked.
    pub fn written(&mut self) -> Result<PageSet, MachineError> {
        let mut written = PageSet::from_words(self.vcpu.written(&self.memory)?);
        // KVM knows nothing of what the VMM writes.
        written.extend(&self.memory.take_written());
        Ok(written)
    }

    /// The pages that the guest may write: all that has to be carried.
    pub fn writable_pages(&self) -> PageSet {
        let mut pages = PageSet::default();
        let writable = self.memory.pages().iter().enumerate().filter(|(_, access)| access.writable);
        writable.for_each(|(page, _)| pages.insert(page));
        pages
    }

    /// How many pages the guest's memory has.
    pub fn page_count(&self) -> usize {
        self.memory.pages().len()
    }

    /// A page of the guest's memory; `None`: behind its end.
    pub fn page(&self, page: usize) -> Option<&Page> {
        self.memory.all().as_chunks().0.get(page)
    }

    /// Whether a page of a machine that has not run is all zero, without a look at it, which would have the host provide it.
    pub fn is_untouched(&self, page: usize) -> bool {
        !self.has_run && self.memory.is_untouched(page)
    }

    /// The input that the guest waits for.
    pub fn asked(&self) -> Option<&Request> {
        match &self.state {
            State::Asked(request, _) => Some(request),
            State::Ready | State::Stopped => None,
        }
    }

    /// All but the memory.
    ///
    /// # Errors
    /// [`MachineError::NotRunnable`] where the guest does not wait for an input; otherwise what KVM says.
    pub fn state(&mut self) -> Result<MachineState, MachineError> {
        let State::Asked(request, place) = &self.state else {
            return Err(MachineError::NotRunnable { reason: "only a guest that waits for an input can be carried" });
        };
        let (request, place) = (request.clone(), *place);
        if !request.is_input() {
            return Err(MachineError::NotRunnable { reason: "its output has not been taken" });
        }
        let (fs_base, floating_point) = self.vcpu.extended()?;
        let r = *self.vcpu.registers();
        Ok(MachineState {
            registers: [
                r.rax, r.rbx, r.rcx, r.rdx, r.rsi, r.rdi, r.rsp, r.rbp, r.r8, r.r9, r.r10, r.r11, r.r12, r.r13, r.r14,
                r.r15, r.rflags,
            ],
            rip: self.rip,
            fs_base,
            floating_point: floating_point.to_vec(),
            chain: self.chain.head(),
            request,
            place,
        })
    }

    /// Of registers and floating-point state in a form that does not depend on the host, and of the chain.
    ///
    /// # Errors
    /// What KVM says.
    pub fn registers_fingerprint(&mut self) -> Result<Fingerprint, MachineError> {
        let extended = self.vcpu.extended_state()?;
        let general = registers::canonical(self.vcpu.registers(), self.rip);
        Ok(Fingerprint::of(&[&general[..], &extended, &self.chain.head().0].concat()))
    }

    /// The digest to begin with: of the pages that the guest cannot write.
    pub fn constant_digest(&self) -> StateDigest {
        StateDigest::of_constant_pages(&self.memory)
    }

    /// The digest of the whole state, as it is now; slow.
    ///
    /// # Errors
    /// What KVM says.
    pub fn carried_digest(&mut self) -> Result<Fingerprint, MachineError> {
        let mut digest = self.constant_digest();
        let mut pages = self.writable_pages();
        while let Some(number) = pages.take_from(0) {
            if let Some(content) = self.page(number) {
                digest.set(number, content);
            }
        }
        Ok(digest.finish(self.registers_fingerprint()?))
    }

    /// Puts a page into a machine that has not run; `None`: the guest may not write there, so that it cannot have become another one.
    pub fn restore_page(&mut self, page: usize, content: &Page) -> Option<()> {
        let address = (page as u64).checked_mul(PAGE_BYTES)?;
        self.memory.write(address, PAGE_BYTES)?.copy_from_slice(content);
        Some(())
    }

    /// Puts all but the memory into a machine that has not run: its guest waits for the same input then.
    ///
    /// # Errors
    /// [`MachineError::NotRunnable`] where this machine has run or the state is none of a guest that waits for an input; otherwise what
    /// KVM says.
    pub fn restore(&mut self, state: &MachineState) -> Result<(), MachineError> {
        if !matches!(self.state, State::Ready) || !state.request.is_input() {
            return Err(MachineError::NotRunnable { reason: "only a new machine takes the state of another" });
        }
        if !hypercall::could_be_asked(&self.memory, &self.devices, &state.request, state.place) {
            return Err(MachineError::NotRunnable { reason: "its guest cannot have asked this" });
        }
        let [rax, rbx, rcx, rdx, rsi, rdi, rsp, rbp, r8, r9, r10, r11, r12, r13, r14, r15, rflags] = state.registers;
        let (rip, rflags) = (state.rip, rflags & GUESTS_FLAGS | ALWAYS_SET);
        let registers =
            kvm_regs { rax, rbx, rcx, rdx, rsi, rdi, rsp, rbp, r8, r9, r10, r11, r12, r13, r14, r15, rip, rflags };
        let Ok(floating_point) = state.floating_point.as_slice().try_into() else {
            return Err(MachineError::NotRunnable { reason: "the floating-point state has another length" });
        };
        self.vcpu.restore(&registers, state.fs_base, floating_point)?;
        self.rip = rip;
        self.chain = Chain::new(state.chain);
        self.state = State::Asked(state.request.clone(), state.place);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_taken_in_turn_from_any_place() {
        let mut pages = PageSet::default();
        for page in [0, 63, 64, 200] {
            pages.insert(page);
        }
        let mut other = PageSet::default();
        other.insert(64);
        other.insert(1000);
        pages.extend(&other);
        assert_eq!((pages.len(), pages.is_empty()), (5, false));
        assert_eq!(
            [64, 0, 0, 1, 1].map(|start| pages.take_from(start)),
            [Some(64), Some(0), Some(63), Some(200), Some(1000)]
        );
        assert_eq!((pages.take_from(0), pages.is_empty()), (None, true));
        pages.insert(70);
        assert_eq!((pages.take_from(71), pages.take_from(5000), pages.take_from(70)), (None, None, Some(70)));
    }
}
