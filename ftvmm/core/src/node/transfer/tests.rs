use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};

use crossbeam_channel::bounded;

use super::*;
use crate::guest::{self, DATA, hypercall};
use crate::image::Image;
use crate::machine::{Answer, Machine, MachineConfig, Request};
use crate::node::authentication::Key;
use crate::node::cpu_control::CpuControl;
use crate::node::log_buffer::{ReplayLog, SendLog};
use crate::node::poller::Ready;
use crate::node::session::{Frames, Session, SessionEvent};
use crate::protocol::{Input, OutputIndex};
use iced_x86::code_asm::{CodeAssembler, qword_ptr, rax, rbx, rcx};

const MEMORY_BYTES: u64 = 8 << 20;

/// Asks for the time for ever. What it is told it adds up in two pages, and in turns in one of 256 more.
fn adds_up(a: &mut CodeAssembler) {
    a.xor(rbx, rbx).unwrap();
    let mut round = a.create_label();
    a.set_label(&mut round).unwrap();
    hypercall(a, 1, DATA);
    a.mov(rcx, DATA).unwrap();
    a.mov(rax, qword_ptr(rcx)).unwrap();
    a.add(qword_ptr(rcx + 0x1000), rax).unwrap();
    a.add(rbx, 0x1000).unwrap();
    a.and(rbx, 0xf_ffff).unwrap();
    a.mov(rcx, 0x40_0000_u64).unwrap();
    a.add(rcx, rbx).unwrap();
    a.mov(qword_ptr(rcx + 8), rax).unwrap();
    a.jmp(round).unwrap();
}

fn machine() -> Machine {
    let image = Image::parse(&guest::image(&[], adds_up)).unwrap();
    Machine::new(&image, &MachineConfig::new(MEMORY_BYTES)).unwrap()
}

/// So many times the guest is told the time, and asks again.
fn tell_time(machine: &mut Machine, times: u64) {
    for time in 1..=times {
        if machine.asked().is_some() {
            machine.answer(&Answer::Walltime { nanoseconds: time * 0x0101_0101 }).unwrap();
        }
        assert_eq!(machine.run().unwrap(), Request::Walltime);
    }
}

fn key() -> Key {
    Key::from_hexadecimal(&"5a".repeat(32)).unwrap()
}

/// Greets who connects, and takes the first frame.
fn accept(stream: TcpStream) -> (Vec<u8>, Frames) {
    let mut session = Session::accept(stream, &key()).unwrap();
    let (send_log, replay_log) = (SendLog::new(1), ReplayLog::new(1));
    loop {
        session.is_ready(Ready { reads: true, writes: true });
        session.write(1, &send_log, 1, &mut |_, _, _| None).unwrap();
        if let Some(SessionEvent::Transfer { header, .. }) = session.next(1, &key(), &replay_log).unwrap() {
            return (header, session.into_frames().unwrap());
        }
    }
}

/// Both ends of a transfer: what the guest's thread is told, what the protocol is told here and there, and the joiner's machine.
struct Carrying {
    order: Order,
    sent: Receiver<Input>,
    received: Receiver<Input>,
    slot: std::sync::Arc<Slot>,
}

fn carrying(here: &Machine) -> Carrying {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let peer = listener.local_addr().unwrap();
    let (to, chunks) = bounded(4);
    let ((tell_sent, sent), (tell_received, received)) = (channel(), channel());
    let cpu = std::sync::Arc::new(CpuControl::new().unwrap());
    let header = b"the protocol's".to_vec();
    let digest = here.constant_digest();
    send(Sending { peer, key: key(), header, connection: 7, digest, chunks, cpu }, move |input| {
        let _ = tell_sent.send(input);
    });
    let (header, frames) = accept(listener.accept().unwrap().0);
    assert_eq!(header, b"the protocol's");
    let slot = Slot::new(machine(), || Ok(machine()));
    slot.await_transfer(7);
    receive(Receiving { frames, connection: 7, slot: slot.clone() }, move |input| {
        let _ = tell_received.send(input);
    });
    Carrying { order: Order { connection: 7, to, progress: Default::default() }, sent, received, slot }
}

fn last(told: &Receiver<Input>) -> Input {
    told.iter().find(|input| !matches!(input, Input::TransferProgressed { .. })).unwrap()
}

fn carried(machine: &mut Machine) -> Carried {
    Carried { machine: machine.state().unwrap(), position: 9, produced: 5, counter: 1, wall: None }
}

#[test]
fn a_guest_that_writes_on_is_carried_whole() {
    let mut here = machine();
    tell_time(&mut here, 300);
    let Carrying { order, sent, received, slot } = carrying(&here);
    let mut copier = Copier::begin(order, &mut here).unwrap();
    while !copier.is_ready() {
        copier.copy_some(&mut here).unwrap();
        tell_time(&mut here, 10);
    }
    assert!(copier.round().0 > 1);
    tell_time(&mut here, 77);
    let carried = carried(&mut here);
    copier.finish(&mut here, carried, || false).unwrap();
    let Input::GuestStopped { connection: 7, position, produced, digest: sent } = last(&sent) else { panic!() };
    assert_eq!((position, produced), (LogPosition(9), OutputIndex(5)));
    let Input::StateRestored { connection: 7, position, digest: restored } = last(&received) else { panic!() };
    assert_eq!((position, sent), (LogPosition(9), restored));
    assert_eq!(sent, here.carried_digest().unwrap());
    let Prepared { machine: mut there, carried } = slot.take().ok().unwrap();
    assert_eq!(carried.unwrap().position(), LogPosition(9));
    for _ in 0..2 {
        assert_eq!((here.state_digest(), here.fingerprint()), (there.state_digest(), there.fingerprint()));
        tell_time(&mut here, 500);
        tell_time(&mut there, 500);
    }
}

#[test]
fn a_state_that_is_not_the_guests_has_another_digest() {
    let mut here = machine();
    tell_time(&mut here, 300);
    let Carrying { order, sent, received, .. } = carrying(&here);
    let mut copier = Copier::begin(order.clone(), &mut here).unwrap();
    while !copier.is_ready() {
        copier.copy_some(&mut here).unwrap();
    }
    // A page that was copied before it was written last, and is sent behind the newer one.
    let mut torn = copier::Pages::default();
    torn.numbers.push((DATA >> 12) as u32);
    torn.contents.push([7; 4096]);
    let other = carrying(&here);
    other.order.to.send(Chunk::Pages(torn)).unwrap();
    let state = carried(&mut here);
    let registers = here.registers_fingerprint().unwrap();
    other.order.to.send(Chunk::State(Box::new(state.clone()), registers)).unwrap();
    copier.finish(&mut here, state, || false).unwrap();
    let digest_of = |told: Receiver<Input>| match last(&told) {
        Input::GuestStopped { digest, .. } | Input::StateRestored { digest, .. } => digest,
        input => panic!("{input:?}"),
    };
    let (sent, received) = (digest_of(sent), digest_of(received));
    assert_eq!(sent, received);
    assert_ne!(digest_of(other.received), sent);
}

#[test]
fn a_transfer_that_is_given_up_leaves_a_new_machine_behind() {
    let mut here = machine();
    tell_time(&mut here, 3);
    let Carrying { order, received, slot, .. } = carrying(&here);
    let mut copier = Copier::begin(order, &mut here).unwrap();
    copier.copy_some(&mut here).unwrap();
    drop(copier);
    assert!(matches!(last(&received), Input::TransferFailed { connection: 7, reason } if reason.contains("ended")));
    let Prepared { machine: mut there, carried } = slot.take().ok().unwrap();
    assert_eq!((carried, there.state_digest()), (None, machine().state_digest()));
}

#[test]
fn a_state_that_comes_when_another_is_waited_for_is_not_taken() {
    let mut here = machine();
    tell_time(&mut here, 3);
    let Carrying { order, received, slot, .. } = carrying(&here);
    let mut copier = Copier::begin(order, &mut here).unwrap();
    slot.await_transfer(8);
    let carried = carried(&mut here);
    copier.finish(&mut here, carried, || false).unwrap();
    let Input::TransferFailed { reason, .. } = last(&received) else { panic!() };
    assert!(reason.contains("not waited for any more"), "{reason}");
    assert_eq!(slot.take().ok().unwrap().carried, None);
}

/// A joiner takes nobody's word for a page that it need not look at.
#[test]
fn a_page_that_a_new_machine_has_not_looked_at_is_zero() {
    let mut machine = machine();
    let untouched: Vec<usize> = (0..machine.page_count()).filter(|page| machine.is_untouched(*page)).collect();
    assert!(untouched.len() > machine.page_count() / 2, "of {} only {}", machine.page_count(), untouched.len());
    assert!(untouched.iter().all(|page| machine.page(*page) == Some(&ZERO_PAGE)));
    machine.restore_page(untouched[untouched.len() - 1], &[1; size_of::<Page>()]).unwrap();
    assert!(!machine.is_untouched(untouched[untouched.len() - 1]));
    assert!(!machine.is_untouched(machine.page_count()));
    tell_time(&mut machine, 1);
    assert!(!machine.is_untouched(untouched[0]), "its guest may have written there");
}

#[test]
fn a_page_that_the_guest_cannot_have_written_is_refused_by_its_number() {
    // Code, and what is behind the memory's end.
    for page in [guest::CODE >> 12, MEMORY_BYTES >> 12, u32::MAX.into()] {
        let Carrying { order, received, .. } = carrying(&machine());
        let (numbers, contents) = (vec![page as u32], vec![[1; 4096]]);
        order.to.send(Chunk::Pages(copier::Pages { numbers, contents, ..Default::default() })).unwrap();
        let Input::TransferFailed { reason, .. } = last(&received) else { panic!() };
        assert_eq!(reason, format!("page {page} is none that the guest can have written"));
    }
}
