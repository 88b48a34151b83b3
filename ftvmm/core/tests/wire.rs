//! `docs/wire.md` is what independent readers are written from: its worked example is what this code writes.

use std::fs;

use _core::determinism;
use _core::log::{End, EndKind, Entry, Fingerprint, Header as LogHeader, LogReader, LogWriter};
use _core::machine::{Answer, HostKind, HypercallResult, MachineConfig};
use _core::node::authentication::{Key, Purpose};
use _core::node::frame::{Encoder, Greeter, Greeting, Incoming, Kind};
use _core::node::log_buffer::Batch;
use _core::node::session::entries_payload;
use _core::protocol::{
    Body, Config, Generation, Header, Incarnation, LogPosition, Message, OutputIndex, OutputMark, Terms,
};

const PAGE: &str = include_str!("../../../docs/wire.md");
const DIALLER_NONCE: [u8; 16] = [0xd0; 16];
const LISTENER_NONCE: [u8; 16] = [0x1e; 16];

/// The bytes of the example that the page calls `name`: hexadecimal digits, with comments behind `#`.
fn example(name: &str) -> Vec<u8> {
    let begin = format!("```hex {name}\n");
    let start = PAGE.find(&begin).unwrap_or_else(|| panic!("the page has no example {name}")) + begin.len();
    let block = &PAGE[start..start + PAGE[start..].find("```").unwrap()];
    let digits: String =
        block.lines().flat_map(|line| line.split('#').next()).flat_map(str::split_whitespace).collect();
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect()
}

fn assert_example(name: &str, written: &[u8]) {
    let hexadecimal = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    assert_eq!(hexadecimal(&example(name)), hexadecimal(written), "example {name}");
}

fn key() -> Key {
    Key::from_hexadecimal("000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f").unwrap()
}

fn header(sequence: u64) -> Header {
    Header {
        vm: *b"\x6f\x1c\x2a\x4e\0\0\x40\0\x80\0\0\0\0\0\0\x01",
        generation: Generation(1),
        incarnation: Incarnation(0x1122_3344_5566_7788),
        session: 1,
        sequence,
        stamp: 5_000_000_000,
        echo: 7_000_000_000,
    }
}

fn host() -> HostKind {
    HostKind { vendor: *b"AuthenticAMD", signature: 0x00a0_0f10, kvm: 2, counts: 4 }
}

fn first_output() -> OutputMark {
    OutputMark { index: OutputIndex(1), fingerprint: Fingerprint([0xf1; 16]) }
}

/// One entry of each kind of answer that a guest can get.
fn entries() -> Vec<Entry> {
    let answers = [
        Answer::Walltime { nanoseconds: 1_700_000_000_000_000_000 },
        Answer::Poll { ready_set: 2 },
        Answer::BlockRead { result: HypercallResult::Ok, data: vec![0xbb; 4] },
        Answer::NetworkRead { frame: None },
        Answer::NetworkRead { frame: Some(vec![0xfa; 6]) },
        Answer::Counter { value: 0x0102_0304_0506_0708 },
        Answer::CounterWithAux { value: 9, aux: 1 },
        Answer::Random { value: 0xffff_ffff_ffff_ffff },
        Answer::BlockRead { result: HypercallResult::Unspecified, data: Vec::new() },
    ];
    let entry = |(index, answer)| {
        let position = index as u64 + 1;
        Entry { position: LogPosition(position), fingerprint: Fingerprint([position as u8; 16]), answer }
    };
    answers.into_iter().enumerate().map(entry).collect()
}

fn encoded(entry: &Entry) -> Vec<u8> {
    let mut bytes = Vec::new();
    entry.encode(&mut bytes);
    bytes
}

fn greet(nonce: [u8; 16], peer: &str, dialled: bool) -> (Vec<u8>, Greeting) {
    let (mut told, says, mut incoming) = (Vec::new(), example(peer), Incoming::default());
    let mut greeter = Greeter::new(key(), nonce, dialled, &mut told);
    incoming.room(says.len())[..says.len()].copy_from_slice(&says);
    incoming.came(says.len());
    let greeting = greeter.take(&mut incoming, &mut told).unwrap().unwrap();
    (told, greeting)
}

#[test]
fn greetings_and_frames_are_as_the_page_has_them() {
    let (told, dialler) = greet(DIALLER_NONCE, "greeting-listener", true);
    assert_example("greeting-dialler", &told);
    let (told, listener) = greet(LISTENER_NONCE, "greeting-dialler", false);
    assert_example("greeting-listener", &told);

    let mut sent = Vec::new();
    let mut encoder = Encoder::new(key(), dialler);
    let commit = Message {
        header: header(2),
        body: Body::Commit { position: LogPosition::START, released: OutputMark::default() },
    };
    encoder.append(&mut sent, Kind::Control, |sent| sent.extend(commit.encode()));
    let all = entries();
    let mut batch = Batch { first: LogPosition(2), count: 0, bytes: Vec::new() };
    for (position, answer) in [(2, all[1].answer.clone()), (3, all[3].answer.clone())] {
        let fingerprint = Fingerprint([position as u8; 16]);
        let bytes = encoded(&Entry { position: LogPosition(position), fingerprint, answer });
        batch.bytes.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
        batch.bytes.extend_from_slice(&bytes);
        batch.count += 1;
    }
    let body = Body::Entries { released: first_output(), first: LogPosition(2), through: batch.last() };
    let entries = Message { header: header(3), body };
    encoder.append(&mut sent, Kind::Entries, |sent| entries_payload(&entries.encode(), &batch, sent));
    assert_example("frames-dialler", &sent);

    let mut sent = Vec::new();
    let answer = Message {
        header: header(4),
        body: Body::Answer { stored: LogPosition(3), replayed: LogPosition(2), released: OutputIndex(1), lacks: 4 },
    };
    Encoder::new(key(), listener).append(&mut sent, Kind::Control, |sent| sent.extend(answer.encode()));
    assert_example("frame-listener", &sent);
}

#[test]
fn messages_and_datagrams_are_as_the_page_has_them() {
    let terms = Terms { digest: [0xdd; 32], host: host(), ..Config::new([0; 16], [0; 32]).terms() };
    for (name, body) in [
        ("message-hello", Body::Hello { terms, backup: Incarnation::NONE }),
        ("message-welcome", Body::Welcome { terms, stored: LogPosition::START, replayed: LogPosition::START }),
        ("message-hand-over", Body::HandOver { position: LogPosition(3), released: first_output() }),
        ("message-farewell", Body::Farewell { exit_status: -1 }),
    ] {
        assert_example(name, &Message { header: header(1), body }.encode());
    }
    let heartbeat = Message { header: header(5), body: Body::Heartbeat { released: first_output() } };
    assert_example("datagram", &key().seal(Purpose::Heartbeat, heartbeat.encode()));
}

#[test]
fn entries_are_as_the_page_has_them() {
    assert_example("entries", &entries().iter().flat_map(encoded).collect::<Vec<u8>>());
}

#[test]
fn a_log_file_is_as_the_page_has_it() {
    let path = std::env::temp_dir().join(format!("ftvmm-wire-{}.log", std::process::id()));
    let mut config = MachineConfig::new(2 << 20);
    config.cpuid.leaves.clear();
    let header = LogHeader {
        image_path: "image.hvt".into(),
        image_digest: Fingerprint([0x11; 16]),
        config_digest: config.digest(),
        config,
        determinism_pass: determinism::VERSION,
        host: host(),
    };
    let mut writer = LogWriter::create(&path, &header).unwrap();
    writer.append(&entries()[0]).unwrap();
    let end = End {
        kind: EndKind::Halted { exit_status: 7 },
        position: LogPosition(1),
        fingerprint: Fingerprint([0x22; 16]),
        state_digest: Fingerprint([0x33; 16]),
    };
    writer.end(&end).unwrap();
    let written = fs::read(&path).unwrap();
    fs::remove_file(&path).unwrap();
    assert_example("log-file", &written);
    assert_eq!(LogReader::from_bytes(written).unwrap().header(), &header);
}
