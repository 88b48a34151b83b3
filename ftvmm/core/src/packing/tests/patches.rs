//! The patches, by running what was patched: each function is laid out in this process, with stubs and an entry point
//! that adds to RAX, spoils what a system call may spoil, and uses the stack.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use iced_x86::code_asm::{CodeAssembler, dword_ptr, eax, ptr, qword_ptr, r8, r11, rax, rcx, rdi, rdx, rsp};
use iced_x86::{Decoder, DecoderOptions, Instruction, Mnemonic};

use crate::image::{Ranges, Segment};
use crate::packing::coverage::{Coverage, Function};
use crate::packing::error::PackError;
use crate::packing::flow::Flow;
use crate::packing::object::Object;
use crate::packing::patches::{Patched, patch};
use crate::packing::stubs::Stubs;

/// Below, other programs' mappings do not lie; each test has an area of its own.
const AREAS: u64 = 0x2000_0000;
const AREA_BYTES: u64 = 0x1_0000;
const ENTRY: u64 = 0x4000;
const STUBS: u64 = 0x8000;
/// What the entry point adds to RAX.
const ANSWER: u64 = 1000;
const NUMBER: u64 = 5;

fn next_area() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(AREAS);
    NEXT.fetch_add(AREA_BYTES, Ordering::Relaxed)
}

fn assembled(address: u64, write: impl FnOnce(&mut CodeAssembler)) -> Vec<u8> {
    let mut assembler = CodeAssembler::new(64).unwrap();
    write(&mut assembler);
    assembler.assemble(address).unwrap()
}

/// The function at the start of an area, of which `covered` is known to be code.
struct Subject {
    area: u64,
    object: Object,
    coverage: Coverage,
}

impl Subject {
    /// All of what `write` assembles is one function.
    fn new(write: impl FnOnce(&mut CodeAssembler)) -> Subject {
        let area = next_area();
        let code = assembled(area, write);
        let length = code.len() as u64;
        Subject::of(area, code, length)
    }

    /// Machine code that begins with a function of that many bytes.
    fn of(area: u64, code: Vec<u8>, function_bytes: u64) -> Subject {
        let segment =
            Segment { address: area, memory_bytes: code.len() as u64, data: code, writable: false, executable: true };
        let object = Object {
            path: "/bin/subject".into(),
            name: "subject".into(),
            pages: area..area + AREA_BYTES,
            bias: area,
            entry: area,
            headers: area,
            header_count: 0,
            head_bytes: 0,
            segments: vec![segment],
        };
        let functions = BTreeMap::from([(area, Function { length_bytes: function_bytes, name: None })]);
        let mut code = Ranges::default();
        code.add(area..area + function_bytes);
        Subject { area, object, coverage: Coverage { functions, code, roots: Vec::new() } }
    }

    fn patch(mut self) -> Result<PatchedSubject, PackError> {
        let original = self.object.segments[0].data.clone();
        let flow = Flow::follow(&self.object, &mut self.coverage);
        let mut stubs = Stubs::new(self.area + STUBS, self.area + ENTRY);
        let patched = patch(&mut self.object, &mut self.coverage, &flow, &mut stubs)?;
        let stubs = stubs.finish().0.map_or(Vec::new(), |segment| segment.data);
        Ok(PatchedSubject { area: self.area, original, code: self.object.segments.remove(0).data, stubs, patched })
    }
}

struct PatchedSubject {
    area: u64,
    original: Vec<u8>,
    code: Vec<u8>,
    stubs: Vec<u8>,
    patched: Patched,
}

impl PatchedSubject {
    /// Where bytes changed, as offsets from the function's start.
    fn changed(&self) -> Range<usize> {
        let differs = |index: &usize| self.original[*index] != self.code[*index];
        let first = (0..self.code.len()).find(differs).unwrap();
        first..(0..self.code.len()).rev().find(differs).unwrap() + 1
    }

    /// The mnemonics of all stubs, without what fills up.
    fn stub_mnemonics(&self) -> Vec<Mnemonic> {
        let decoder = Decoder::with_ip(64, &self.stubs, self.area + STUBS, DecoderOptions::NONE);
        decoder.into_iter().map(|one: Instruction| one.mnemonic()).filter(|one| *one != Mnemonic::Int3).collect()
    }

    /// Calls the function.
    fn run(&self, argument: u64) -> u64 {
        let entry = assembled(self.area + ENTRY, |a| {
            a.lea(rax, qword_ptr(rax + ANSWER as i32)).unwrap();
            a.mov(rcx, -1_i64).unwrap();
            a.mov(r11, -1_i64).unwrap();
            for _ in 0..40 {
                a.push(rcx).unwrap();
            }
            a.lea(rsp, qword_ptr(rsp + 40 * 8)).unwrap();
            a.ret().unwrap();
        });
        // SAFETY: a private mapping of fresh memory at an address that nothing else is mapped at (or it fails).
        let area = unsafe {
            libc::mmap(
                self.area as *mut libc::c_void,
                AREA_BYTES as usize,
                libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE,
                -1,
                0,
            )
        };
        assert_eq!(area as u64, self.area, "{}", std::io::Error::last_os_error());
        for (offset, bytes) in [(0, &self.code), (ENTRY, &entry), (STUBS, &self.stubs)] {
            // SAFETY: the three parts lie in the mapping, apart from each other.
            unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), (self.area + offset) as *mut u8, bytes.len()) };
        }
        // SAFETY: a function of this signature was assembled there; it keeps to the calling convention.
        let function: extern "sysv64" fn(u64) -> u64 = unsafe { std::mem::transmute(self.area) };
        let result = function(argument);
        // SAFETY: the mapping from above, which nothing refers to any more.
        assert_eq!(unsafe { libc::munmap(area, AREA_BYTES as usize) }, 0);
        result
    }
}

#[test]
fn a_jump_takes_the_room_of_what_follows() {
    let subject = Subject::new(|a| {
        a.mov(eax, NUMBER as i32).unwrap();
        a.syscall().unwrap();
        a.inc(rax).unwrap();
        a.ret().unwrap();
    });
    let patched = subject.patch().unwrap();
    assert_eq!((patched.changed(), patched.patched.system_calls), (5..10, 1));
    assert_eq!(patched.run(0), NUMBER + ANSWER + 1);
}

#[test]
fn the_red_zone_stays_as_it_is() {
    let subject = Subject::new(|a| {
        a.mov(qword_ptr(rsp - 8), 77).unwrap();
        a.mov(qword_ptr(rsp - 128), 7).unwrap();
        a.mov(eax, NUMBER as i32).unwrap();
        a.syscall().unwrap();
        a.add(rax, qword_ptr(rsp - 8)).unwrap();
        a.add(rax, qword_ptr(rsp - 128)).unwrap();
        a.ret().unwrap();
    });
    assert_eq!(subject.patch().unwrap().run(0), NUMBER + ANSWER + 84);
}

#[test]
fn what_is_jumped_to_right_behind_a_site_stays_there() {
    let subject = Subject::new(|a| {
        let mut again = a.create_label();
        a.mov(eax, NUMBER as i32).unwrap();
        a.syscall().unwrap();
        a.set_label(&mut again).unwrap();
        a.inc(rdi).unwrap();
        a.cmp(rdi, 10).unwrap();
        a.jb(again).unwrap();
        a.add(rax, rdi).unwrap();
        a.ret().unwrap();
    });
    let patched = subject.patch().unwrap();
    assert_eq!(patched.changed(), 0..7, "the jump takes the room of what precedes");
    assert_eq!(patched.run(3), NUMBER + ANSWER + 10);
}

#[test]
fn neighbours_share_a_stub() {
    let subject = Subject::new(|a| {
        a.mov(eax, NUMBER as i32).unwrap();
        a.syscall().unwrap();
        a.syscall().unwrap();
        a.ret().unwrap();
    });
    let patched = subject.patch().unwrap();
    assert_eq!((patched.changed(), patched.patched.system_calls), (5..10, 2));
    assert_eq!(patched.run(0), NUMBER + 2 * ANSWER);
}

#[test]
fn jumps_of_neighbours_do_not_overlap() {
    let subject = Subject::new(|a| {
        let mut second = a.create_label();
        a.mov(eax, NUMBER as i32).unwrap();
        a.cmp(rdi, 1).unwrap();
        a.je(second).unwrap();
        a.mov(r8, rdi).unwrap();
        a.syscall().unwrap();
        a.set_label(&mut second).unwrap();
        a.mov(rdx, rdi).unwrap();
        a.syscall().unwrap();
        a.mov(rdx, rdi).unwrap();
        a.ret().unwrap();
    });
    let patched = subject.patch().unwrap();
    assert_eq!((patched.run(0), patched.run(1)), (NUMBER + 2 * ANSWER, NUMBER + ANSWER));
}

#[test]
fn what_is_relative_to_its_own_address_moves_with_it() {
    let area = next_area();
    let code = assembled(area, |a| {
        let mut number = a.create_label();
        a.mov(eax, NUMBER as i32).unwrap();
        a.syscall().unwrap();
        a.mov(rcx, qword_ptr(number)).unwrap();
        a.add(rax, rcx).unwrap();
        a.ret().unwrap();
        a.set_label(&mut number).unwrap();
        a.dq(&[30]).unwrap();
    });
    let function = code.len() as u64 - 8;
    assert_eq!(Subject::of(area, code, function).patch().unwrap().run(0), NUMBER + ANSWER + 30);
}

#[test]
fn conditional_branches_move_and_find_their_flags() {
    let subject = Subject::new(|a| {
        let mut less = a.create_label();
        a.mov(eax, NUMBER as i32).unwrap();
        a.cmp(rdi, 3).unwrap();
        a.syscall().unwrap();
        a.jb(less).unwrap();
        a.inc(rax).unwrap();
        a.ret().unwrap();
        a.set_label(&mut less).unwrap();
        a.add(rax, 2).unwrap();
        a.ret().unwrap();
    });
    let patched = subject.patch().unwrap();
    assert_eq!((patched.run(9), patched.run(1)), (NUMBER + ANSWER + 1, NUMBER + ANSWER + 2));
}

#[test]
fn padding_behind_a_return_is_room() {
    let subject = Subject::new(|a| {
        let mut call = a.create_label();
        a.mov(eax, NUMBER as i32).unwrap();
        a.cmp(rdi, 1).unwrap();
        a.je(call).unwrap();
        a.inc(rax).unwrap();
        a.set_label(&mut call).unwrap();
        a.syscall().unwrap();
        a.ret().unwrap();
        a.nops_with_size(5).unwrap();
    });
    let patched = subject.patch().unwrap();
    assert_eq!(patched.changed().len(), 8, "SYSCALL, RET and the whole NOP behind it");
    assert_eq!((patched.run(0), patched.run(1)), (NUMBER + ANSWER + 1, NUMBER + ANSWER));
}

#[test]
fn a_short_jump_leads_to_padding_that_nobody_gets_to() {
    let subject = Subject::new(|a| {
        let (mut call, mut behind) = (a.create_label(), a.create_label());
        a.mov(eax, NUMBER as i32).unwrap();
        a.cmp(rdi, 1).unwrap();
        a.je(call).unwrap();
        // These are executed: they are no room.
        a.nops_with_size(6).unwrap();
        a.inc(rax).unwrap();
        a.set_label(&mut call).unwrap();
        a.syscall().unwrap();
        a.set_label(&mut behind).unwrap();
        a.inc(rdi).unwrap();
        a.cmp(rdi, 9).unwrap();
        a.jb(behind).unwrap();
        a.ret().unwrap();
        a.nops_with_size(9).unwrap();
    });
    let patched = subject.patch().unwrap();
    assert_eq!(patched.code[11..17], patched.original[11..17]);
    assert_eq!((patched.code[20], patched.code[32]), (0xeb, 0xe9));
    assert_eq!((patched.run(0), patched.run(1)), (NUMBER + ANSWER + 1, NUMBER + ANSWER));
}

#[test]
fn a_site_without_room_is_refused_by_its_place() {
    let subject = Subject::new(|a| {
        let (mut call, mut behind) = (a.create_label(), a.create_label());
        a.cmp(rdi, 1).unwrap();
        a.je(call).unwrap();
        a.set_label(&mut call).unwrap();
        a.syscall().unwrap();
        a.set_label(&mut behind).unwrap();
        a.inc(rdi).unwrap();
        a.jns(behind).unwrap();
        a.ret().unwrap();
    });
    let error = subject.patch().err().unwrap().to_string();
    assert!(error.starts_with("subject: 0x0+0x6: "), "{error}");
}

#[test]
fn cases_of_a_jump_table_stay_where_they_are() {
    let area = next_area();
    let mut code = assembled(area, |a| {
        let mut table = a.create_label();
        a.mov(eax, NUMBER as i32).unwrap();
        a.lea(rdx, ptr(table)).unwrap();
        a.movsxd(rcx, dword_ptr(rdx + rdi * 4)).unwrap();
        a.add(rdx, rcx).unwrap();
        a.jmp(rdx).unwrap();
        a.inc(rax).unwrap();
        a.syscall().unwrap();
        a.inc(rax).unwrap();
        a.inc(rax).unwrap();
        a.ret().unwrap();
        a.set_label(&mut table).unwrap();
        a.dd(&[0, 0]).unwrap();
    });
    // The table: the first case begins behind the jump, the second behind the SYSCALL.
    let table = code.len() - 8;
    let jump = code.windows(2).position(|bytes| bytes == [0xff, 0xe2]).unwrap();
    let cases = (jump + 2, jump + 2 + 3 + 2);
    for (index, case) in [cases.0, cases.1].into_iter().enumerate() {
        let offset = case as i32 - table as i32;
        code[table + index * 4..][..4].copy_from_slice(&offset.to_le_bytes());
    }
    let patched = Subject::of(area, code, table as u64).patch().unwrap();
    assert_eq!(patched.changed(), cases.0..cases.1);
    assert_eq!((patched.run(0), patched.run(1)), (NUMBER + ANSWER + 3, NUMBER + 2));
}

#[test]
fn a_call_moves_only_where_nothing_else_can() {
    let write = |a: &mut CodeAssembler, is_jumped_to: bool| {
        let (mut call, mut function) = (a.create_label(), a.create_label());
        a.mov(eax, NUMBER as i32).unwrap();
        a.cmp(rdi, 1).unwrap();
        a.je(if is_jumped_to { call } else { function }).unwrap();
        a.mov(r8, rdi).unwrap();
        a.set_label(&mut call).unwrap();
        a.syscall().unwrap();
        a.call(function).unwrap();
        a.ret().unwrap();
        a.set_label(&mut function).unwrap();
        a.add(rax, 3).unwrap();
        a.ret().unwrap();
    };
    let patched = Subject::new(|a| write(a, false)).patch().unwrap();
    assert_eq!(patched.run(0), NUMBER + ANSWER + 3);
    assert_eq!(patched.stub_mnemonics().iter().filter(|one| **one == Mnemonic::Call).count(), 1);
    let patched = Subject::new(|a| write(a, true)).patch().unwrap();
    assert_eq!((patched.run(0), patched.run(1)), (NUMBER + ANSWER + 3, NUMBER + ANSWER + 3));
    assert_eq!(patched.stub_mnemonics().iter().filter(|one| **one == Mnemonic::Call).count(), 2);
}

#[test]
fn what_is_refused_becomes_undefined_in_code_alone() {
    let area = next_area();
    // int 0x80; xsave [rax]; ret; then a table that looks like SYSCALL, INT 0x80 and RDTSC.
    let code = vec![0xcd, 0x80, 0x0f, 0xae, 0x20, 0xc3, 0x0f, 0x05, 0xcd, 0x80, 0x0f, 0x31, 0x11, 0x22];
    let patched = Subject::of(area, code, 6).patch().unwrap();
    assert_eq!(patched.code[..6], [0x0f, 0x0b, 0x0f, 0x0b, 0x90, 0xc3]);
    assert_eq!(patched.code[6..], patched.original[6..]);
    assert_eq!(patched.patched, Patched { system_calls: 0, undefined: 2 });
}

#[test]
fn what_is_refused_and_moves_is_undefined_in_the_stub() {
    let area = next_area();
    // syscall; int 0x80; nop; ret
    let patched = Subject::of(area, vec![0x0f, 0x05, 0xcd, 0x80, 0x90, 0xc3], 6).patch().unwrap();
    assert_eq!(patched.patched, Patched { system_calls: 1, undefined: 1 });
    assert!(patched.stub_mnemonics().contains(&Mnemonic::Ud2));
    assert!(!patched.stub_mnemonics().contains(&Mnemonic::Int));
}

#[test]
fn code_that_a_function_falls_or_jumps_into_is_patched_too() {
    let area = next_area();
    let middle = 5 + 4 + 2;
    let code = assembled(area, |a| {
        let mut far = a.create_label();
        a.mov(eax, NUMBER as i32).unwrap();
        a.cmp(rdi, 1).unwrap();
        a.je(far).unwrap();
        // The function is said to end here, as glibc's clone3 is.
        a.syscall().unwrap();
        a.mov(rdx, rdi).unwrap();
        a.ret().unwrap();
        a.dq(&[0x1234_5678_0005_0f31]).unwrap();
        a.set_label(&mut far).unwrap();
        a.syscall().unwrap();
        a.add(rax, 7).unwrap();
        a.ret().unwrap();
    });
    let patched = Subject::of(area, code, middle).patch().unwrap();
    assert_eq!(patched.patched.system_calls, 2);
    let table = middle as usize + 2 + 3 + 1;
    assert_eq!(patched.code[table..table + 8], patched.original[table..table + 8]);
    assert_eq!((patched.run(0), patched.run(1)), (NUMBER + ANSWER, NUMBER + ANSWER + 7));
}
