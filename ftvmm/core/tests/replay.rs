//! Replays of whole and of cut logs of a hand-assembled guest: each output is listed, and nothing that diverges is.

mod guest;

use std::fs::{self, File};
use std::path::PathBuf;

use _core::execution::{self, Ending, ExecutionError, Outcome, Outputs};
use _core::image::Image;
use _core::log::{End, EndKind, Entry, Fingerprint, Header, LogPosition, LogWriter};
use _core::machine::{Answer, Machine, MachineConfig, Request};
use guest::{DATA, Device, halt_with, hypercall, image, store};
use iced_x86::code_asm::CodeAssembler;
use serde_json::{Value, json};

const DEVICES: [Device; 2] = [("storage", 1), ("service", 2)];
const TEXT: u64 = u64::from_le_bytes(*b"on air!\n");

/// Asks for the time, prints, writes a sector, asks again, sends a frame, asks a last time, prints and halts.
fn write(a: &mut CodeAssembler) {
    let buffer = DATA + 0x1000;
    let walltime = |a: &mut CodeAssembler| hypercall(a, 1, DATA + 0x100);
    let console = |a: &mut CodeAssembler| {
        store(a, DATA + 0x200, buffer);
        store(a, DATA + 0x208, 8);
        hypercall(a, 2, DATA + 0x200);
    };
    store(a, buffer, TEXT);
    walltime(a);
    console(a);
    for (index, field) in [1, 512, buffer, 512].into_iter().enumerate() {
        store(a, DATA + 0x300 + 8 * index as u64, field);
    }
    hypercall(a, 4, DATA + 0x300);
    walltime(a);
    for (index, field) in [2, buffer, 64].into_iter().enumerate() {
        store(a, DATA + 0x400 + 8 * index as u64, field);
    }
    hypercall(a, 6, DATA + 0x400);
    walltime(a);
    console(a);
    store(a, DATA + 0x500, 7);
    halt_with(a, DATA + 0x500);
}

fn config() -> MachineConfig {
    MachineConfig::new(4 << 20).with_block("storage", 1 << 20).with_network("service", [2, 0, 0, 0, 0, 1])
}

/// The guest's image, the log of its run, and what a replay lists.
struct Recording(PathBuf);

impl Recording {
    /// Runs the guest live, at three times of the day.
    fn new(name: &str) -> Recording {
        let recording = Recording(std::env::temp_dir().join(format!("ftvmm-{name}-{}", std::process::id())));
        fs::create_dir_all(&recording.0).unwrap();
        let image_path = recording.path("guest.hvt");
        fs::write(&image_path, image(&DEVICES, write)).unwrap();
        let image = Image::parse(&fs::read(&image_path).unwrap()).unwrap();
        let mut machine = Machine::new(&image, &config()).unwrap();
        let header = Header::new(&image_path, image.digest(), config());
        let mut log = LogWriter::create(&recording.path("log"), &header).unwrap();
        let mut position = LogPosition::START;
        let exit_status = loop {
            let answer = match machine.run().unwrap() {
                Request::Halt { exit_status } => break exit_status,
                Request::Walltime => {
                    position = position.next();
                    let answer = Answer::Walltime { nanoseconds: 1_000 * position.0 };
                    log.append(&Entry { position, fingerprint: machine.fingerprint(), answer: answer.clone() })
                        .unwrap();
                    answer
                }
                _ => Answer::Done,
            };
            machine.answer(&answer).unwrap();
        };
        let end = End {
            kind: EndKind::Halted { exit_status },
            position,
            fingerprint: machine.fingerprint(),
            state_digest: machine.state_digest(),
        };
        log.end(&end).unwrap();
        recording
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn log(&self) -> Vec<u8> {
        fs::read(self.path("log")).unwrap()
    }

    /// Where the first entry starts; each of this guest's takes 42 bytes, and the end record 50.
    fn entries_at(&self) -> usize {
        self.log().len() - 3 * 42 - 50
    }

    /// Replays these bytes; the outcome, and the lines that were written.
    fn replay(&self, log: &[u8]) -> (Result<Outcome, ExecutionError>, Vec<Value>) {
        self.replay_with_states(log, &[])
    }

    /// And the state of the guest at these positions.
    fn replay_with_states(&self, log: &[u8], states_at: &[u64]) -> (Result<Outcome, ExecutionError>, Vec<Value>) {
        fs::write(self.path("replayed"), log).unwrap();
        let (mut machine, mut recorded) = execution::prepare_replay(&self.path("replayed"), None).unwrap();
        let lines = File::create(self.path("outputs")).unwrap();
        let mut outputs = Outputs::new(None, Some(lines)).with_states_at(states_at.iter().copied().map(LogPosition));
        let outcome = execution::replay(&mut machine, &mut recorded, &mut outputs, None);
        let lines = fs::read_to_string(self.path("outputs")).unwrap();
        (outcome, lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).ok();
    }
}

/// All outputs of the guest.
fn outputs() -> Vec<Value> {
    let digest = |length: usize| {
        let mut content = TEXT.to_le_bytes().to_vec();
        content.resize(length, 0);
        Fingerprint::of(&content).to_string()
    };
    let line = |index, kind, device: Option<u8>, offset: Option<u64>, depends_on, length| {
        json!({
            "index": index, "kind": kind, "device": device, "offset": offset, "depends_on": depends_on,
            "length": length, "digest": digest(length),
        })
    };
    vec![
        line(1, "console", None, None, 1, 8),
        line(2, "block", Some(1), Some(512), 1, 512),
        line(3, "frame", Some(2), None, 2, 64),
        line(4, "console", None, None, 3, 8),
    ]
}

/// The last line without its fingerprint, which the outcome has too.
fn split_end(mut lines: Vec<Value>) -> (Vec<Value>, Value, String) {
    let mut end = lines.pop().unwrap();
    let fingerprint = end.as_object_mut().unwrap().remove("fingerprint").unwrap();
    (lines, end, fingerprint.as_str().unwrap().to_owned())
}

#[test]
fn the_state_behind_an_entry_is_told_where_the_guest_waits_for_the_next() {
    let recording = Recording::new("replay-states");
    let (_, lines) = recording.replay_with_states(&recording.log(), &[0, 2, 3, 9]);
    let states: Vec<_> = lines.iter().filter(|line| line.get("state").is_some()).collect();
    // Behind the third the guest asks for nothing more, and there is no ninth.
    assert_eq!(states.iter().map(|line| line["position"].as_u64().unwrap()).collect::<Vec<_>>(), [0, 2]);
    assert_ne!(states[0]["state"], states[1]["state"]);
    // The same where the log ends there.
    let cut = &recording.log()[..recording.entries_at() + 2 * 42];
    let (outcome, again) = recording.replay_with_states(cut, &[2]);
    assert_eq!(outcome.unwrap().ending, Ending::LogEnded);
    assert!(again.contains(states[1]));
}

#[test]
fn each_output_of_a_whole_log_is_listed() {
    let recording = Recording::new("replay-whole");
    let (outcome, lines) = recording.replay(&recording.log());
    let outcome = outcome.unwrap();
    assert_eq!(outcome.ending, Ending::Halted { exit_status: 7 });
    let (lines, end, fingerprint) = split_end(lines);
    assert_eq!(lines, outputs());
    assert_eq!(end, json!({ "end": "halted", "position": 3, "outputs": 4, "reason": null }));
    assert_eq!(fingerprint, outcome.fingerprint.to_string());
}

#[test]
fn a_cut_log_is_replayed_on_to_the_first_input_that_it_does_not_hold() {
    let recording = Recording::new("replay-cut");
    let log = recording.log();
    for (entries, listed) in [(0, 0), (1, 2), (2, 3)] {
        // Behind a whole entry, and within the next one.
        for torn_bytes in [0, 1, 41] {
            let (outcome, lines) = recording.replay(&log[..recording.entries_at() + 42 * entries + torn_bytes]);
            let outcome = outcome.unwrap();
            assert_eq!((outcome.ending, outcome.position), (Ending::LogEnded, LogPosition(entries as u64)));
            let (lines, end, _) = split_end(lines);
            assert_eq!(lines, outputs()[..listed]);
            assert_eq!(end, json!({ "end": "log-ended", "position": entries, "outputs": listed, "reason": null }));
        }
    }
    // With every entry but no end, or a torn one, the guest comes to its own end.
    for torn_bytes in [0, 1, 49] {
        let (outcome, lines) = recording.replay(&log[..log.len() - 50 + torn_bytes]);
        assert_eq!(outcome.unwrap().ending, Ending::Halted { exit_status: 7 });
        assert_eq!(split_end(lines).0, outputs());
    }
}

#[test]
fn a_divergence_lists_what_came_before_it() {
    let recording = Recording::new("replay-diverged");
    let log = recording.log();
    let second = recording.entries_at() + 42;
    let (entry, _) = Entry::decode(&log[second + 1..]).unwrap();
    let other = Entry { fingerprint: Fingerprint::of(b"another guest"), ..entry };
    let mut altered = log[..=second].to_vec();
    other.encode(&mut altered);
    for tail in [&log[second + 42..], &[]] {
        let (outcome, lines) = recording.replay(&[&altered, tail].concat());
        assert!(matches!(outcome, Err(ExecutionError::Divergence { position: LogPosition(2), .. })), "{outcome:?}");
        let (lines, mut end, _) = split_end(lines);
        assert_eq!(lines, outputs()[..2]);
        assert!(end["reason"].as_str().unwrap().contains("fingerprint"));
        end["reason"] = Value::Null;
        assert_eq!(end, json!({ "end": "diverged", "position": 2, "outputs": 2, "reason": null }));
    }
}

#[test]
fn a_log_that_goes_on_where_the_guest_halts_diverges() {
    let recording = Recording::new("replay-longer");
    let mut log = recording.log();
    log.truncate(log.len() - 50);
    log.push(1);
    let entry = Entry {
        position: LogPosition(4),
        fingerprint: Fingerprint::default(),
        answer: Answer::Walltime { nanoseconds: 1 },
    };
    entry.encode(&mut log);
    let (outcome, lines) = recording.replay(&log);
    assert!(matches!(outcome, Err(ExecutionError::Divergence { position: LogPosition(3), .. })), "{outcome:?}");
    assert_eq!(split_end(lines).0, outputs());
}

#[test]
fn a_damaged_log_is_refused_before_the_guest_runs() {
    let recording = Recording::new("replay-damaged");
    let whole = recording.log();
    let cut = &whole[..whole.len() - 50];
    for log in [&whole[..], cut] {
        let mut log = log.to_vec();
        log[recording.entries_at() + 30] ^= 1;
        fs::write(recording.path("replayed"), &log).unwrap();
        assert!(execution::prepare_replay(&recording.path("replayed"), None).is_err());
    }
    // What a survivor recorded lacks what the other node told.
    let mut tail = whole[..recording.entries_at()].to_vec();
    tail.extend(&cut[recording.entries_at() + 42..]);
    fs::write(recording.path("replayed"), &tail).unwrap();
    let error = execution::prepare_replay(&recording.path("replayed"), None).map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("it begins with entry 2"), "{error}");
}
