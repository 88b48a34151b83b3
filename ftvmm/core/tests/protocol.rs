//! Single steps of the state machine, where what a node says matters more than what becomes of the pair.

use std::time::Duration;

use _core::determinism;
use _core::log::Fingerprint;
use _core::machine::HostKind;
use _core::protocol::{
    ArbiterRecord, AskResult, Body, Config, Generation, Header, Incarnation, Input, Instant, LogPosition, Message,
    NeedsBackup, Node, Output, OutputIndex, OutputMark, OutputResult, Path, ReadResult, Role, Share, Terms, TraceEvent,
    Unusable,
};

const VM: [u8; 16] = [7; 16];
const DIGEST: [u8; 32] = [9; 32];
const PRIMARY: Incarnation = Incarnation(11);
const SPARE: Incarnation = Incarnation(22);
/// In the answer of a backup that goes.
const DIVERGED: u8 = 32;
const HOST_FAILED: u8 = 64;
const STRANGER: Incarnation = Incarnation(33);

fn config() -> Config {
    Config::new(VM, DIGEST)
}

/// A node, its clock, and what it wants done.
struct Stepped {
    node: Node,
    now: Instant,
    outputs: Vec<Output>,
    /// Messages that its peer has sent.
    heard: u64,
    /// The session that they belong to, and the connection that it came on.
    session: u64,
    /// The newest check of its devices.
    last_check: Option<u64>,
}

impl Stepped {
    fn new(incarnation: Incarnation) -> Stepped {
        let node = Node::new(config(), incarnation);
        let now = Instant(1_000_000_000_000);
        Stepped { node, now, outputs: Vec::new(), heard: 0, session: 1, last_check: None }
    }

    /// A primary that owns generation 1, on its first connection to a spare.
    fn greeting() -> Stepped {
        let mut primary = Stepped::new(PRIMARY);
        primary.step(Input::BootstrapRequested);
        primary.check(Unusable::default());
        let request = primary.asked().unwrap();
        primary.step(Input::ArbiterAsked { request, result: AskResult::Won });
        primary.step(Input::SessionOpened { connection: 1, dialled: true });
        primary
    }

    /// A primary whose spare has answered: it reads the arbiter under the number returned.
    fn welcomed() -> (Stepped, u64) {
        let mut primary = Stepped::greeting();
        primary.hear(SPARE, welcome(config().terms(), 0, 0), 0);
        let request = primary.read_request().unwrap();
        (primary, request)
    }

    fn protected() -> Stepped {
        let (mut primary, request) = Stepped::welcomed();
        primary.step(record(request, PRIMARY));
        assert_eq!(primary.node.role(), Role::Protected);
        primary
    }

    /// A spare that has heard Hello: it looks at the arbiter under the number returned.
    fn joiner() -> (Stepped, u64) {
        let mut joiner = Stepped::new(SPARE);
        joiner.step(Input::SessionOpened { connection: 1, dialled: false });
        joiner.hear(PRIMARY, Body::Hello { terms: config().terms(), backup: Incarnation::NONE }, 0);
        assert!(!joiner.says_welcome());
        let request = joiner.arbiter_check();
        (joiner, request)
    }

    fn says_welcome(&self) -> bool {
        self.outputs.iter().any(|output| match output {
            Output::Send { bytes, .. } => matches!(Message::decode(bytes).unwrap().body, Body::Welcome { .. }),
            _ => false,
        })
    }

    fn backup() -> Stepped {
        let (mut backup, request) = Stepped::joiner();
        backup.step(record(request, PRIMARY));
        assert!(backup.says_welcome());
        backup.hear(PRIMARY, Body::Commit { position: LogPosition::START, released: OutputMark::default() }, 0);
        assert_eq!(backup.node.role(), Role::Backup);
        backup
    }

    /// A backup that has won the arbiter, its log empty.
    fn won() -> Stepped {
        let mut winner = Stepped::candidate();
        winner.check(Unusable::default());
        winner.step(Input::Drained { position: LogPosition::START });
        let request = winner.awaited_read();
        winner.step(record(request, PRIMARY));
        let request = winner.asked().unwrap();
        winner.step(Input::ArbiterAsked { request, result: AskResult::Won });
        winner
    }

    /// A backup that has taken over.
    fn live() -> Stepped {
        let mut winner = Stepped::won();
        winner.step(Input::Attached);
        if !winner.outputs.contains(&Output::GoLive) {
            winner.until(|output| *output == Output::GoLive);
        }
        winner
    }

    fn step(&mut self, input: Input) {
        self.outputs.clear();
        self.node.step(self.now, input, &mut self.outputs);
        let check = self.outputs.iter().find_map(|output| match output {
            Output::CheckDevices { request } => Some(*request),
            _ => None,
        });
        self.last_check = check.or(self.last_check);
    }

    /// The peer says something on the log.
    fn hear(&mut self, incarnation: Incarnation, body: Body, echo: u64) {
        self.hear_in(Generation::FIRST, incarnation, body, echo);
    }

    /// The same in a later generation.
    fn hear_in(&mut self, generation: Generation, incarnation: Incarnation, body: Body, echo: u64) {
        self.heard += 1;
        let (sequence, stamp) = (self.heard, 5_000_000_000 + self.heard);
        let header = Header { vm: VM, generation, incarnation, session: self.session, sequence, stamp, echo };
        let bytes = Message { header, body }.encode();
        self.step(Input::Message { path: Path::Log { connection: self.session }, bytes });
    }

    /// Time passes, as evenly as a node expects it; stops at the first tick upon which this is wanted.
    fn until(&mut self, wanted: impl Fn(&Output) -> bool) {
        for _ in 0..1000 {
            self.now = Instant(self.now.0 + 10_000_000);
            self.step(Input::Tick);
            if self.outputs.iter().any(&wanted) {
                return;
            }
        }
        panic!("it never came");
    }

    /// The read of the arbiter that is due now, or comes with time.
    fn awaited_read(&mut self) -> u64 {
        if self.read_request().is_none() {
            self.until(|output| matches!(output, Output::ReadArbiter { .. }));
        }
        self.read_request().unwrap()
    }

    /// The read of the arbiter that the last step began.
    fn read_request(&self) -> Option<u64> {
        self.outputs.iter().find_map(|output| match output {
            Output::ReadArbiter { request } => Some(*request),
            _ => None,
        })
    }

    /// The guest's share, where the last step has set it.
    fn share(&self) -> Option<Share> {
        self.outputs.iter().find_map(|output| match output {
            Output::ThrottleGuest { share } => Some(*share),
            _ => None,
        })
    }

    /// The ask for a generation that the last step began.
    fn asked(&self) -> Option<u64> {
        self.outputs.iter().find_map(|output| match output {
            Output::AskArbiter { request, .. } => Some(*request),
            _ => None,
        })
    }

    /// Time passes while the arbiter is out of reach.
    fn pass_without_arbiter(&mut self, duration: Duration) {
        let end = self.now.after(duration);
        while self.now < end {
            self.now = Instant(self.now.0 + 10_000_000);
            self.step(Input::Tick);
            if let Some(request) = self.read_request() {
                self.step(Input::ArbiterRead { request, result: ReadResult::Unreachable });
            }
        }
    }

    /// The check of the devices that is under way, or that comes with time, finds this.
    fn check(&mut self, found: Unusable) {
        if self.last_check.is_none() {
            self.until(|output| matches!(output, Output::CheckDevices { .. }));
        }
        let request = self.last_check.take().unwrap();
        self.step(Input::DevicesChecked { request, found });
    }

    /// A backup's time passes, and its primary lives.
    fn beat(&mut self) {
        self.now = Instant(self.now.0 + 10_000_000);
        self.hear(PRIMARY, Body::Heartbeat { released: OutputMark::default() }, self.now.0);
    }

    /// The look at the arbiter that is under way, or that comes with time beside a primary that lives.
    fn arbiter_check(&mut self) -> u64 {
        for _ in 0..200 {
            let found = self.outputs.iter().find_map(|output| match output {
                Output::CheckArbiter { request } => Some(*request),
                _ => None,
            });
            if let Some(request) = found {
                return request;
            }
            self.beat();
        }
        panic!("the arbiter is not looked at");
    }

    /// A backup that suspects its primary, and has nothing left to replay.
    fn candidate() -> Stepped {
        let mut candidate = Stepped::backup();
        candidate.until(|output| matches!(output, Output::CloseLog { .. }));
        candidate
    }

    fn halt_reason(&self) -> String {
        self.node.status(self.now).halt_reason.map(|reason| reason.to_string()).unwrap_or_default()
    }
}

/// The arbiter says that generation 1 is this one's.
fn record(request: u64, incarnation: Incarnation) -> Input {
    Input::ArbiterRead {
        request,
        result: ReadResult::Record(ArbiterRecord { generation: Generation::FIRST, incarnation }),
    }
}

fn welcome(terms: Terms, stored: u64, replayed: u64) -> Body {
    Body::Welcome { terms, stored: LogPosition(stored), replayed: LogPosition(replayed) }
}

/// The backup holds and has replayed so much of the log, and knows of so many outputs that they have left.
fn answer(stored: u64, replayed: u64, released: u64, lacks: u8) -> Body {
    let (stored, replayed) = (LogPosition(stored), LogPosition(replayed));
    Body::Answer { stored, replayed, released: OutputIndex(released), lacks }
}

/// The guest has produced an output, before its first input.
fn produced(output: OutputMark, overlaps: u64) -> Input {
    Input::OutputProduced { output, depends_on: LogPosition::START, overlaps: OutputIndex(overlaps) }
}

/// The output of this number of a guest that goes its way.
fn output(index: u64) -> OutputMark {
    OutputMark { index: OutputIndex(index), fingerprint: Fingerprint([index as u8; 16]) }
}

#[test]
fn a_difference_of_terms_is_refused_by_name() {
    let mut primary = config();
    primary.timing.lease = Duration::from_millis(1000);
    primary.timing.write_bound = Duration::from_millis(40);
    let mut spare = Stepped::new(SPARE);
    spare.step(Input::SessionOpened { connection: 1, dialled: false });
    spare.hear(PRIMARY, Body::Hello { terms: primary.terms(), backup: Incarnation::NONE }, 0);
    let difference = "lease_ms is 1000 at the peer and 100 here, write_bound_ms is 40 at the peer and 50 here";
    assert_eq!(spare.halt_reason(), difference);

    let mut other = Stepped::greeting();
    other.hear(SPARE, welcome(primary.terms(), 0, 0), 0);
    assert!(other.outputs.contains(&Output::CloseSession { connection: 1 }), "{:?}", other.outputs);
    assert!(format!("{:?}", other.outputs).contains(difference), "{:?}", other.outputs);
    assert_eq!(other.read_request(), None);
}

#[test]
fn hosts_that_the_image_tells_apart_are_refused_by_name() {
    let amd = HostKind { vendor: *b"AuthenticAMD", signature: 0x00a0_0f10, ..HostKind::default() };
    let mut primary = config();
    primary.host = amd;
    let mut spare = Stepped::new(SPARE);
    spare.step(Input::SessionOpened { connection: 1, dialled: false });
    spare.hear(PRIMARY, Body::Hello { terms: primary.terms(), backup: Incarnation::NONE }, 0);
    let reason = spare.halt_reason();
    assert!(reason.contains("AuthenticAMD family 25 model 1 at the peer and any here"), "{reason}");

    let mut other = Stepped::greeting();
    let newer = Terms { determinism_pass: determinism::VERSION + 1, ..config().terms() };
    other.hear(SPARE, welcome(newer, 0, 0), 0);
    let outputs = format!("{:?}", other.outputs);
    assert!(outputs.contains("the peer's determinism pass has version 3, and version 2 here"), "{outputs}");
}

#[test]
fn a_hello_that_is_not_for_a_spare_to_join_does_not_end_it_for_its_terms() {
    let mut strange = config();
    strange.timing.lease = Duration::from_millis(1000);
    let hello = |backup| Body::Hello { terms: strange.terms(), backup };
    let mut bootstrapping = Stepped::new(SPARE);
    bootstrapping.step(Input::BootstrapRequested);
    bootstrapping.step(Input::SessionOpened { connection: 1, dialled: false });
    bootstrapping.hear(PRIMARY, hello(Incarnation::NONE), 0);
    let mut restarted = Stepped::new(SPARE);
    restarted.step(Input::SessionOpened { connection: 1, dialled: false });
    restarted.hear(PRIMARY, hello(STRANGER), 0);
    for spare in [bootstrapping, restarted] {
        assert_eq!(spare.halt_reason(), "");
        assert_eq!(spare.outputs, [Output::CloseSession { connection: 1 }]);
    }
}

#[test]
fn a_write_bound_below_the_heartbeat_is_refused_by_name() {
    let mut config = config();
    config.timing.write_bound = config.timing.heartbeat;
    assert_eq!(config.timing.validate(), Ok(()));
    config.timing.write_bound -= Duration::from_millis(1);
    let refused = config.timing.validate().map_err(|error| error.to_string());
    assert_eq!(refused, Err("write_bound_ms must not be below heartbeat_ms".to_owned()));
}

#[test]
fn a_lag_that_heartbeats_alone_would_make_is_refused_by_name() {
    let mut config = config();
    config.timing.lag = 20 * config.timing.heartbeat;
    assert_eq!(config.timing.validate(), Ok(()));
    config.timing.lag -= Duration::from_millis(1);
    let refused = config.timing.validate().map_err(|error| error.to_string());
    assert_eq!(refused, Err("lag_ms must not be below 20 times heartbeat_ms (rule R26)".to_owned()));
}

#[test]
fn a_handshake_that_was_given_up_leaves_no_peer_to_commit_to() {
    let (mut primary, request) = Stepped::welcomed();
    primary.until(|output| *output == Output::CloseSession { connection: 1 });
    primary.step(Input::SessionOpened { connection: 2, dialled: true });
    assert_eq!(primary.read_request(), None, "nobody has said welcome on this connection");
    primary.step(record(request, PRIMARY));
    assert_eq!(primary.node.role(), Role::Alone);
}

#[test]
fn a_generation_of_ones_own_under_another_incarnation_halts() {
    let (mut joined, request) = Stepped::welcomed();
    joined.step(record(request, STRANGER));
    assert!(joined.halt_reason().contains("incarnation 0000000000000021"), "{:?}", joined.outputs);

    let mut primary = Stepped::protected();
    let request = primary.awaited_read();
    primary.step(record(request, STRANGER));
    assert!(primary.halt_reason().contains("incarnation 0000000000000021"), "{:?}", primary.outputs);

    let mut candidate = Stepped::candidate();
    candidate.check(Unusable::default());
    candidate.step(Input::Drained { position: LogPosition::START });
    let request = candidate.awaited_read();
    candidate.step(record(request, STRANGER));
    assert!(candidate.halt_reason().contains("incarnation 0000000000000021"), "{:?}", candidate.outputs);
}

#[test]
fn an_arbiter_whose_record_settles_nothing_is_not_read_without_a_pause() {
    let (mut primary, request) = Stepped::welcomed();
    let older = ArbiterRecord { generation: Generation::NONE, incarnation: PRIMARY };
    primary.step(Input::ArbiterRead { request, result: ReadResult::Record(older) });
    assert_eq!(primary.read_request(), None);
    primary.until(|output| matches!(output, Output::ReadArbiter { .. }));
}

/// What `node` says to its peer on the log.
fn said(outputs: &[Output]) -> Vec<Body> {
    let bodies = outputs.iter().filter_map(|output| match output {
        Output::Send { bytes, .. } => Some(Message::decode(bytes).unwrap().body),
        _ => None,
    });
    bodies.collect()
}

fn trapped() -> Input {
    Input::GuestHalted { exit_status: 255, trap: Some("invalid opcode".to_owned()) }
}

#[test]
fn a_trap_ends_a_protected_primary_without_a_farewell_once_its_outputs_have_left() {
    let mut primary = Stepped::protected();
    primary.step(produced(output(1), 0));
    primary.step(trapped());
    assert_eq!(primary.node.role(), Role::Protected);
    primary.step(Input::OutputDone { output: output(1), result: OutputResult::Completed });
    assert!(primary.halt_reason().contains("invalid opcode"), "{:?}", primary.outputs);
    let farewell = said(&primary.outputs).into_iter().find(|body| matches!(body, Body::Farewell { .. }));
    assert_eq!(farewell, None);
}

#[test]
fn a_guest_that_halts_itself_is_taken_over_by_nobody() {
    let mut primary = Stepped::protected();
    primary.step(Input::GuestHalted { exit_status: 7, trap: None });
    assert!(said(&primary.outputs).contains(&Body::Farewell { exit_status: 7 }), "{:?}", primary.outputs);
    assert!(primary.outputs.contains(&Output::Stop { exit_status: 7 }));
}

#[test]
fn a_trap_that_replay_comes_to_as_well_is_the_guests_own_end() {
    let mut winner = Stepped::live();
    winner.step(trapped());
    assert!(winner.outputs.contains(&Output::Stop { exit_status: 255 }), "{:?}", winner.outputs);
}

#[test]
fn a_read_that_fails_ends_a_protected_primary_and_is_the_guests_where_nobody_else_can_read() {
    let failed = || Input::ReadFailed { reason: "the read at byte 0 failed".to_owned() };
    let mut primary = Stepped::protected();
    primary.step(failed());
    assert!(primary.halt_reason().contains("the read at byte 0 failed"), "{:?}", primary.outputs);
    let mut winner = Stepped::live();
    winner.step(failed());
    assert_eq!((winner.node.role(), winner.outputs.len()), (Role::Alone, 0), "{:?}", winner.outputs);
}

/// What is traced decides nothing.
#[test]
fn a_primary_whose_backup_is_gone_has_its_guest_run_on_alone() {
    let mut primary = Stepped::protected();
    primary.step(Input::SessionClosed { connection: 1, reason: "reset".to_owned() });
    let request = primary.awaited_read();
    primary.step(record(request, PRIMARY));
    let request = primary.asked().unwrap();
    primary.step(Input::ArbiterAsked { request, result: AskResult::Won });
    assert_eq!(primary.node.role(), Role::Alone);
    assert!(primary.outputs.contains(&Output::RunAlone), "{:?}", primary.outputs);
}

#[test]
fn a_primary_that_stood_still_does_not_slow_its_guest_for_that() {
    let mut primary = Stepped::protected();
    primary.step(Input::EntriesAppended { through: LogPosition(5) });
    primary.hear(SPARE, answer(5, 3, 0, 0), primary.now.0);
    primary.now = primary.now.after(config().timing.lag);
    primary.step(Input::Tick);
    assert_eq!(primary.share(), None);
    primary.until(|output| matches!(output, Output::ThrottleGuest { .. }));
}

#[test]
fn a_host_that_fails_ends_its_node_whatever_it_is() {
    for mut node in
        [Stepped::new(SPARE), Stepped::protected(), Stepped::backup(), Stepped::candidate(), Stepped::live()]
    {
        let is_backup = node.node.role() == Role::Backup;
        node.step(Input::HostFailed { reason: "KVM_EXIT_INTERNAL_ERROR".to_owned() });
        assert!(node.halt_reason().contains("KVM_EXIT_INTERNAL_ERROR"), "{:?}", node.outputs);
        assert_eq!(said(&node.outputs), if is_backup { vec![leaves(HOST_FAILED); 3] } else { vec![] });
    }
}

/// What a backup says on each path as it goes, all that it was told acknowledged before.
fn leaves(why: u8) -> Body {
    Body::Answer { stored: LogPosition::START, replayed: LogPosition::START, released: OutputIndex::NONE, lacks: why }
}

#[test]
fn a_primary_announces_itself_while_its_lease_lasts_and_no_longer() {
    let mut primary = Stepped::protected();
    assert!(!primary.node.may_announce(primary.now), "no answer has come yet");
    primary.hear(SPARE, answer(0, 0, 0, 0), primary.now.0);
    assert!(primary.node.may_announce(primary.now));
    let lease = config().timing.lease;
    assert!(!primary.node.may_announce(primary.now.after(lease)), "it slept, and its backup may be live");
}

/// The answer to COMMIT itself may come later than the one to a heartbeat.
#[test]
fn a_backup_whose_first_answer_acknowledges_entries_is_not_suspected_of_lag() {
    let mut primary = Stepped::protected();
    primary.step(Input::EntriesAppended { through: LogPosition(1) });
    primary.hear(SPARE, answer(1, 0, 0, 0), primary.now.0);
    assert_eq!(primary.node.status(primary.now).suspicion, None);
}

/// It goes on all the time, at half the pace of what comes.
#[test]
fn a_replay_that_stays_behind_slows_and_stalls_the_guest_and_costs_the_backup_its_place() {
    let mut primary = Stepped::protected();
    let (mut position, mut shares) = (0, Vec::new());
    while primary.node.status(primary.now).suspicion.is_none() {
        position += 1;
        primary.now = Instant(primary.now.0 + 10_000_000);
        primary.step(Input::EntriesAppended { through: LogPosition(position) });
        shares.extend(primary.share());
        primary.hear(SPARE, answer(position, position / 2, 0, 0), primary.now.0);
        shares.extend(primary.share());
    }
    let suspicion = primary.node.status(primary.now).suspicion;
    assert_eq!(suspicion.as_deref(), Some("replay is too far behind"));
    let behind = Duration::from_millis(10) * (position - position / 2) as u32;
    assert!(behind.abs_diff(config().timing.lag) <= Duration::from_millis(20), "{behind:?}");
    assert!(shares[0] > Share::NONE && shares[0] < Share::WHOLE, "{shares:?}");
    assert_eq!(shares.last(), Some(&Share::NONE), "{shares:?}");
    let lacks = primary.node.status(primary.now).not_protected;
    assert_eq!(lacks.as_deref(), Some("the backup's replay is too far behind"));

    let request = primary.awaited_read();
    primary.step(record(request, PRIMARY));
    let request = primary.asked().unwrap();
    primary.step(Input::ArbiterAsked { request, result: AskResult::Won });
    assert_eq!(primary.node.role(), Role::Alone);
    assert_eq!(primary.share(), Some(Share::WHOLE), "without a backup it runs as it likes");
}

#[test]
fn a_winner_announces_itself_once_it_is_attached() {
    assert!(!Stepped::backup().node.may_announce(Instant(1_000_000_000)));
    let mut winner = Stepped::won();
    assert!(!winner.node.may_announce(winner.now));
    winner.step(Input::Attached);
    assert!(winner.node.may_announce(winner.now));
}

#[test]
fn a_backup_that_is_there_again_is_not_suspected_for_what_could_not_reach_it() {
    let mut primary = Stepped::protected();
    primary.step(Input::EntriesAppended { through: LogPosition(8) });
    primary.hear(SPARE, answer(5, 3, 0, 0), primary.now.0);
    primary.step(Input::SessionClosed { connection: 1, reason: "reset".to_owned() });
    primary.pass_without_arbiter(2 * config().timing.lag);
    primary.step(Input::SessionOpened { connection: 2, dialled: true });
    primary.session = 2;
    primary.hear(SPARE, welcome(config().terms(), 5, 3), primary.now.0);
    assert_eq!(primary.node.status(primary.now).suspicion, None);
    assert_eq!(primary.read_request(), None);
    primary.pass_without_arbiter(config().timing.detect / 2);
    assert_eq!(primary.node.status(primary.now).suspicion, None);
}

#[test]
fn what_a_dead_primary_had_sent_before_is_no_sign_of_its_life() {
    let mut backup = Stepped::backup();
    let timing = config().timing;
    let heartbeat = Body::Heartbeat { released: OutputMark::default() };
    backup.hear(PRIMARY, heartbeat, 0);
    // It dies with all that follows in some queue on its way.
    let newest_echo = backup.now;
    while backup.now <= newest_echo.after(timing.detect + timing.lease) {
        assert!(backup.node.role() == Role::Backup || backup.now > newest_echo.after(timing.detect));
        backup.now = backup.now.after(timing.heartbeat / 5);
        backup.hear(PRIMARY, heartbeat, newest_echo.0);
    }
    assert_eq!(backup.node.role(), Role::Candidate);
}

#[test]
fn a_backup_whose_replay_falls_short_of_what_has_left_halts_and_does_not_ask() {
    let mut candidate = Stepped::backup();
    candidate.hear(PRIMARY, Body::Heartbeat { released: output(2) }, 0);
    candidate.step(produced(output(1), 0));
    candidate.until(|output| matches!(output, Output::CloseLog { .. }));
    candidate.step(Input::Drained { position: LogPosition::START });
    assert_eq!(candidate.halt_reason(), "diverged at position 0: output 2 has left, and replay ends with output 1");
}

#[test]
fn a_backup_compares_the_output_that_has_left_with_its_own() {
    let other = OutputMark { fingerprint: Fingerprint([0xff; 16]), ..output(2) };
    for (own, reason) in
        [(output(2), ""), (other, "diverged at position 0: output 2 is another one than the primary's")]
    {
        let heartbeat = Body::Heartbeat { released: output(2) };
        let mut behind = Stepped::backup();
        behind.hear(PRIMARY, heartbeat, 0);
        behind.step(produced(output(1), 0));
        behind.step(produced(own, 0));
        let mut ahead = Stepped::backup();
        for output in [output(1), own, output(3)] {
            ahead.step(produced(output, 0));
        }
        ahead.hear(PRIMARY, heartbeat, 0);
        assert_eq!((behind.halt_reason(), ahead.halt_reason()), (reason.to_owned(), reason.to_owned()));
        let why = said(&ahead.outputs).into_iter().map(|body| match body {
            Body::Answer { lacks, .. } => lacks,
            other => panic!("{other:?}"),
        });
        let expected = if reason.is_empty() { vec![0] } else { vec![DIVERGED; 3] };
        assert_eq!(why.collect::<Vec<u8>>(), expected, "{:?}", ahead.outputs);
    }
}

#[test]
fn a_write_over_an_older_one_waits_until_the_backup_knows_that_that_has_completed() {
    let mut primary = Stepped::protected();
    primary.hear(SPARE, answer(0, 0, 0, 0), primary.now.0);
    for (index, overlaps) in [(1, 0), (2, 1)] {
        primary.step(produced(output(index), overlaps));
    }
    assert!(primary.node.released_until(OutputIndex(1), LogPosition::START, OutputIndex(0), primary.now).is_some());
    primary.step(Input::OutputDone { output: output(1), result: OutputResult::Completed });
    assert!(primary.node.released_until(OutputIndex(2), LogPosition::START, OutputIndex(1), primary.now).is_none());
    let said: Vec<Body> = primary
        .outputs
        .iter()
        .filter_map(|output| match output {
            Output::Send { path: Path::Log { .. }, bytes } => Message::decode(bytes).ok().map(|message| message.body),
            _ => None,
        })
        .collect();
    assert_eq!(said, [Body::Heartbeat { released: output(1) }], "it is told at once");
    primary.step(Input::Tick);
    assert!(!primary.outputs.iter().any(|output| matches!(output, Output::Send { .. })), "and once");
    primary.hear(SPARE, answer(0, 0, 1, 0), primary.now.0);
    assert!(primary.outputs.contains(&Output::TryRelease));
    assert!(primary.node.released_until(OutputIndex(2), LogPosition::START, OutputIndex(1), primary.now).is_some());
}

/// What a check finds where the TAP is down.
fn down() -> Unusable {
    Unusable { network: Some("tap0 is down".to_owned()), disk: None }
}

#[test]
fn a_candidate_asks_only_with_its_devices_open_and_just_checked() {
    let mut candidate = Stepped::candidate();
    candidate.check(down());
    candidate.step(Input::Drained { position: LogPosition::START });
    for _ in 0..30 {
        candidate.check(down());
        assert_eq!(candidate.read_request(), None, "it could do nothing with what it wins");
    }
    candidate.check(Unusable::default());
    let request = candidate.awaited_read();
    candidate.step(Input::ArbiterRead { request, result: ReadResult::Unreachable });
    // None is under way beside a request: its answer could take the devices from a winner.
    let checks = |outputs: &[Output]| outputs.iter().any(|output| matches!(output, Output::CheckDevices { .. }));
    let mut reading = false;
    for _ in 0..300 {
        candidate.now = Instant(candidate.now.0 + 10_000_000);
        candidate.step(Input::Tick);
        assert!(!(reading && checks(&candidate.outputs)));
        reading |= candidate.read_request().is_some();
    }
    assert!(reading);
}

#[test]
fn a_generation_is_not_bootstrapped_where_the_vm_cannot_be_attached() {
    let mut bootstrapping = Stepped::new(PRIMARY);
    bootstrapping.step(Input::BootstrapRequested);
    assert_eq!(bootstrapping.read_request(), None);
    bootstrapping.check(down());
    assert_eq!(bootstrapping.halt_reason(), "bootstrap refused: tap0 is down");
    assert!(!bootstrapping.outputs.iter().any(|output| matches!(output, Output::AskArbiter { .. })));
}

/// What the last answer says is lacking.
fn answered(outputs: &[Output]) -> Option<u8> {
    outputs.iter().rev().find_map(|output| match output {
        Output::Send { bytes, .. } => match Message::decode(bytes).unwrap().body {
            Body::Answer { lacks, .. } => Some(lacks),
            _ => None,
        },
        _ => None,
    })
}

fn protection_changes(outputs: &[Output]) -> usize {
    outputs.iter().filter(|output| matches!(output, Output::Trace(TraceEvent::Protection { .. }))).count()
}

#[test]
fn a_backup_says_for_want_of_what_it_could_not_take_over() {
    let mut backup = Stepped::backup();
    let mut changes = 0;
    let mut says = |network: Option<&str>, read: ReadResult, lacks: u8, words: Option<&str>| {
        for _ in 0..2 {
            let request = backup.arbiter_check();
            backup.check(Unusable { network: network.map(str::to_owned), disk: None });
            changes += protection_changes(&backup.outputs);
            backup.step(Input::ArbiterRead { request, result: read });
            changes += protection_changes(&backup.outputs);
        }
        backup.beat();
        assert_eq!(answered(&backup.outputs), Some(lacks));
        assert_eq!(backup.node.status(backup.now).not_protected.as_deref(), words);
    };
    let owned = |incarnation| ReadResult::Record(ArbiterRecord { generation: Generation::FIRST, incarnation });
    says(None, owned(PRIMARY), 0, None);
    says(Some("tap0 is down"), owned(PRIMARY), 1, Some("tap0 is down"));
    says(None, ReadResult::Unreachable, 4, Some("the arbiter is out of reach"));
    says(None, ReadResult::Empty, 4, Some("the arbiter holds no generation of this VM"));
    let stranger = Some("the arbiter holds generation 1 of incarnation 0000000000000021");
    says(None, owned(STRANGER), 4, stranger);
    says(None, owned(PRIMARY), 0, None);
    assert_eq!(backup.node.role(), Role::Backup, "a check decides nothing");
    assert_eq!(changes, 4, "the trace tells of a change and of no other check");
}

#[test]
fn a_check_that_hangs_has_failed_and_holds_up_no_takeover() {
    let mut backup = Stepped::backup();
    backup.check(Unusable::default());
    for _ in 0..110 {
        backup.beat();
    }
    assert_eq!(answered(&backup.outputs), Some(4), "{:?}", backup.node.status(backup.now).not_protected);
    // The devices' next check hangs too.
    for _ in 0..110 {
        backup.beat();
    }
    assert_eq!(answered(&backup.outputs), Some(2 + 4));
    backup.until(|output| matches!(output, Output::CloseLog { .. }));
    backup.step(Input::Drained { position: LogPosition::START });
    let request = backup.last_check.unwrap();
    for _ in 0..100 {
        backup.now = Instant(backup.now.0 + 10_000_000);
        backup.step(Input::Tick);
        assert_eq!(backup.read_request(), None, "what hangs could not be attached");
    }
    backup.step(Input::DevicesChecked { request, found: Unusable::default() });
    assert!(backup.read_request().is_some(), "though the arbiter's check still hangs");
}

#[test]
fn a_candidate_says_what_keeps_it_from_taking_over() {
    let mut candidate = Stepped::backup();
    candidate.check(Unusable::default());
    candidate.until(|output| matches!(output, Output::CloseLog { .. }));
    candidate.step(Input::Drained { position: LogPosition::START });
    let mut told = 0;
    for _ in 0..110 {
        candidate.now = Instant(candidate.now.0 + 10_000_000);
        candidate.step(Input::Tick);
        told += protection_changes(&candidate.outputs);
    }
    let words = |candidate: &Stepped| candidate.node.status(candidate.now).not_protected;
    assert_eq!((told, words(&candidate).as_deref()), (1, Some("the check of the devices hangs")));
    candidate.check(Unusable::default());
    assert_eq!((protection_changes(&candidate.outputs), words(&candidate)), (1, None));
    let request = candidate.read_request().unwrap();
    candidate.step(Input::ArbiterRead { request, result: ReadResult::Unreachable });
    assert_eq!(words(&candidate).as_deref(), Some("the arbiter is out of reach"));
    assert_eq!(protection_changes(&candidate.outputs), 1);
}

#[test]
fn a_primary_knows_for_want_of_what_its_backup_could_not_take_over() {
    let mut primary = Stepped::protected();
    let mut words = |lacks| {
        primary.hear(SPARE, answer(0, 0, 0, lacks), primary.now.0);
        (protection_changes(&primary.outputs), primary.node.status(primary.now).not_protected)
    };
    let named = Some("the backup cannot use its network interface, its disk, the arbiter".to_owned());
    assert_eq!(words(0), (0, None));
    assert_eq!(words(7), (1, named.clone()));
    assert_eq!(words(7), (0, named));
    assert_eq!(words(0), (1, None));
}

#[test]
fn a_joiner_of_another_arbiter_refuses_by_name() {
    for (result, holds) in [
        (ReadResult::Empty, "the arbiter holds no generation of this VM here"),
        (
            ReadResult::Record(ArbiterRecord { generation: Generation::FIRST, incarnation: STRANGER }),
            "the arbiter holds generation 1 of incarnation 0000000000000021 here",
        ),
    ] {
        let (mut joiner, request) = Stepped::joiner();
        joiner.step(Input::ArbiterRead { request, result });
        let said = "both nodes need one arbiter: the primary says generation 1 of incarnation 000000000000000b";
        assert_eq!(joiner.halt_reason(), format!("{said}, {holds}"));
        assert!(!joiner.says_welcome());
    }
}

#[test]
fn a_joiner_whose_arbiter_proves_nothing_is_a_spare_again() {
    let newer = ReadResult::Record(ArbiterRecord { generation: Generation(2), incarnation: STRANGER });
    for result in [ReadResult::Unreachable, newer] {
        let (mut joiner, request) = Stepped::joiner();
        joiner.step(Input::ArbiterRead { request, result });
        assert_eq!(joiner.node.role(), Role::Spare);
        assert!(joiner.outputs.contains(&Output::CloseSession { connection: 1 }));
        assert!(!joiner.says_welcome());
    }
}

#[test]
fn a_look_at_the_arbiter_before_hello_proves_nothing() {
    let (mut joiner, request) = Stepped::joiner();
    joiner.hear(PRIMARY, Body::Hello { terms: config().terms(), backup: Incarnation::NONE }, 0);
    joiner.step(record(request, PRIMARY));
    assert!(!joiner.says_welcome());
}

#[test]
fn a_spare_is_told_no_stamp_of_the_joiner_before_it() {
    let (mut primary, _) = Stepped::welcomed();
    primary.step(Input::SessionClosed { connection: 1, reason: "reset".to_owned() });
    primary.until(|output| matches!(output, Output::Dial));
    primary.step(Input::SessionOpened { connection: 2, dialled: true });
    let hello = primary.outputs.iter().find_map(|output| match output {
        Output::Send { bytes, .. } => Some(Message::decode(bytes).unwrap()),
        _ => None,
    });
    let Message { header, body } = hello.unwrap();
    assert!(matches!(body, Body::Hello { backup: Incarnation::NONE, .. }), "{body:?}");
    assert_eq!(header.echo, 0);
}

#[test]
fn a_joiner_waits_for_a_commit_that_was_said_in_time() {
    let timing = config().timing;
    let (mut joiner, request) = Stepped::joiner();
    joiner.step(record(request, PRIMARY));
    let until = joiner.now.after(timing.acknowledge + timing.detect / 2);
    while joiner.now < until {
        joiner.now = joiner.now.after(timing.heartbeat / 5);
        joiner.step(Input::Tick);
    }
    joiner.hear(PRIMARY, Body::Commit { position: LogPosition::START, released: OutputMark::default() }, 0);
    assert_eq!(joiner.node.role(), Role::Backup);
}

const JOINER: Incarnation = Incarnation(44);

fn digest(byte: u8) -> Fingerprint {
    Fingerprint([byte; 16])
}

/// The joiner has this state, at position 9.
fn restored(byte: u8) -> Body {
    Body::Restored { position: LogPosition(9), digest: digest(byte) }
}

/// A primary that lost its backup and runs its guest alone.
fn alone() -> Stepped {
    let mut primary = Stepped::protected();
    primary.step(Input::SessionClosed { connection: 1, reason: "gone".to_owned() });
    let request = primary.awaited_read();
    primary.step(record(request, PRIMARY));
    let request = primary.asked().unwrap();
    primary.step(Input::ArbiterAsked { request, result: AskResult::Won });
    assert_eq!(primary.node.role(), Role::Alone);
    primary
}

/// It is to have a backup again, and one has said welcome: the guest's state is on its way.
fn carrying() -> Stepped {
    let mut primary = alone();
    primary.step(Input::BackupWanted);
    assert_eq!(primary.outputs, [Output::Dial]);
    carry_on(&mut primary, 2);
    primary
}

/// Whoever was dialled has said welcome on this connection.
fn carry_on(primary: &mut Stepped, connection: u64) {
    primary.step(Input::SessionOpened { connection, dialled: true });
    primary.session = connection;
    primary.heard = 0;
    primary.hear_in(Generation(2), JOINER, welcome(config().terms(), 0, 0), 0);
    assert!(primary.outputs.contains(&Output::BeginTransfer { connection }), "{:?}", primary.outputs);
}

/// Its guest waits, in the state of this digest; so many outputs were produced before.
fn stop(primary: &mut Stepped, byte: u8, produced: u64) {
    let produced = OutputIndex(produced);
    primary.step(Input::GuestStopped { connection: 2, position: LogPosition(9), produced, digest: digest(byte) });
}

fn second_record(request: u64) -> Input {
    let record = ArbiterRecord { generation: Generation(2), incarnation: PRIMARY };
    Input::ArbiterRead { request, result: ReadResult::Record(record) }
}

#[test]
fn a_joiner_is_committed_to_when_it_has_the_state_all_before_has_left_and_the_arbiter_was_read() {
    let mut primary = carrying();
    stop(&mut primary, 5, 1);
    assert_eq!(primary.read_request(), None, "the joiner has nothing yet");
    primary.hear_in(Generation(2), JOINER, restored(5), 0);
    assert_eq!(primary.read_request(), None, "an output has not left");
    primary.step(Input::OutputDone { output: output(1), result: OutputResult::Completed });
    let request = primary.read_request().unwrap();
    assert_eq!(primary.node.role(), Role::Alone);
    primary.step(second_record(request));
    assert_eq!(primary.node.role(), Role::Protected);
    let place = |wanted: fn(&Output) -> bool| primary.outputs.iter().position(wanted).unwrap();
    let commit = place(|output| matches!(output, Output::Send { .. }));
    assert!(place(|output| matches!(output, Output::Trace(TraceEvent::Role { .. }))) < commit);
    assert!(commit < place(|output| *output == Output::ResumeGuest));
    assert!(!primary.outputs.contains(&Output::StartGuest));
    assert_eq!(primary.node.released_until(OutputIndex(2), LogPosition(9), OutputIndex::NONE, primary.now), None);
}

#[test]
fn a_guest_that_waits_goes_on_alone_whatever_keeps_it_from_its_backup() {
    let lost = |fail: fn(&mut Stepped)| {
        let mut primary = carrying();
        stop(&mut primary, 5, 0);
        fail(&mut primary);
        assert_eq!(primary.node.role(), Role::Alone);
        assert!(primary.outputs.contains(&Output::EndTransfer), "{:?}", primary.outputs);
        assert!(primary.outputs.contains(&Output::CloseSession { connection: 2 }), "{:?}", primary.outputs);
        assert_eq!(primary.node.status(primary.now).joining, Some("dialling"), "it tries again");
    };
    lost(|primary| primary.hear_in(Generation(2), JOINER, restored(6), 0));
    lost(|primary| primary.step(Input::TransferFailed { connection: 2, reason: "a cut".to_owned() }));
    lost(|primary| primary.until(|output| *output == Output::EndTransfer));
    lost(|primary| {
        primary.hear_in(Generation(2), JOINER, restored(5), 0);
        let request = primary.read_request().unwrap();
        primary.step(Input::ArbiterRead { request, result: ReadResult::Unreachable });
    });
}

#[test]
fn as_long_as_something_moves_a_transfer_goes_on() {
    let mut primary = carrying();
    for _ in 0..500 {
        primary.now = Instant(primary.now.0 + 10_000_000);
        primary.step(Input::TransferProgressed { connection: 2 });
        assert!(!primary.outputs.contains(&Output::EndTransfer));
    }
    primary.until(|output| *output == Output::EndTransfer);
    // Of a transfer that was given up nothing counts any more.
    stop(&mut primary, 5, 0);
    primary.step(Input::TransferFailed { connection: 2, reason: "late".to_owned() });
    assert_eq!((primary.node.role(), primary.outputs.as_slice()), (Role::Alone, &[][..]));
}

#[test]
fn a_guest_that_stops_waits_no_longer_than_t_ack_whatever_moves() {
    let mut primary = carrying();
    primary.step(Input::GuestStops { connection: 2 });
    let stopped_at = primary.now;
    while !primary.outputs.contains(&Output::EndTransfer) {
        primary.now = Instant(primary.now.0 + 10_000_000);
        primary.step(Input::TransferProgressed { connection: 2 });
        assert!(primary.now <= stopped_at.after(config().timing.acknowledge), "it still waits");
    }
}

#[test]
fn transfers_that_fail_are_repeated_less_and_less_often() {
    let mut primary = carrying();
    for (connection, pause) in [(3, 1), (4, 2), (5, 4)] {
        primary.step(Input::TransferFailed { connection: connection - 1, reason: "a cut".to_owned() });
        let failed_at = primary.now;
        primary.until(|output| *output == Output::Dial);
        let due_at = failed_at.after(config().timing.acknowledge * pause);
        assert!(due_at <= primary.now && primary.now < due_at.after(Duration::from_millis(10)), "pause {pause}");
        carry_on(&mut primary, connection);
    }
}

#[test]
fn only_a_primary_that_runs_alone_looks_for_a_backup() {
    for mut node in [Stepped::protected(), Stepped::backup(), Stepped::new(SPARE)] {
        node.step(Input::BackupWanted);
        assert!(!node.outputs.contains(&Output::Dial));
    }
}

#[test]
fn a_joiner_takes_no_commit_to_a_state_that_it_has_not() {
    for (has, committed) in [(None, 9), (Some(9), 0), (Some(9), 8)] {
        let (mut joiner, request) = Stepped::joiner();
        joiner.step(record(request, PRIMARY));
        if let Some(position) = has {
            joiner.step(Input::StateRestored { connection: 1, position: LogPosition(position), digest: digest(5) });
        }
        let commit = Body::Commit { position: LogPosition(committed), released: OutputMark::default() };
        joiner.hear(PRIMARY, commit, 0);
        assert_eq!(joiner.node.role(), Role::Spare, "{has:?} {committed}");
        assert!(joiner.outputs.contains(&Output::DiscardState), "{:?}", joiner.outputs);
    }
}

#[test]
fn a_joiner_that_was_given_a_state_goes_on_from_there() {
    let (mut joiner, request) = Stepped::joiner();
    joiner.step(record(request, PRIMARY));
    joiner.step(Input::StateRestored { connection: 1, position: LogPosition(9), digest: digest(5) });
    let said = joiner.outputs.iter().find_map(|output| match output {
        Output::Send { bytes, .. } => Some(Message::decode(bytes).unwrap().body),
        _ => None,
    });
    assert_eq!(said, Some(restored(5)));
    joiner.hear(PRIMARY, Body::Commit { position: LogPosition(9), released: output(3) }, 0);
    let status = joiner.node.status(joiner.now);
    assert_eq!((status.role, status.stored, status.replayed), (Role::Backup, LogPosition(9), LogPosition(9)));
    assert_eq!((status.produced, status.released), (OutputIndex(3), OutputIndex(3)));
}

#[test]
fn a_state_of_another_session_is_not_taken() {
    let mut primary = carrying();
    let header = primary.node.stamp_transfer(2).unwrap();
    assert_eq!(primary.node.stamp_transfer(1), None);
    let (joiner, _) = Stepped::joiner();
    assert_eq!(joiner.node.accepts_transfer(&header), None, "of another generation and session");
    assert_eq!(Stepped::backup().node.accepts_transfer(&header), None);
    let mut own = Message::decode(&header).unwrap();
    (own.header.generation, own.header.session) = (Generation::FIRST, 1);
    assert_eq!(joiner.node.accepts_transfer(&own.encode()), Some(1));
    assert_eq!(joiner.node.accepts_transfer(b"nonsense"), None);
}

/// A primary whose operator has it hand the VM over: its guest waits, and one output has not left.
fn handing_over() -> Stepped {
    let mut primary = Stepped::protected();
    primary.hear(SPARE, answer(0, 0, 0, 0), primary.now.0);
    primary.step(Input::EntriesAppended { through: LogPosition(1) });
    primary.step(produced(output(1), 0));
    primary.step(Input::HandOverWanted);
    assert_eq!((primary.share(), primary.planned()), (Some(Share::NONE), Some("handing-over")));
    assert_eq!(said(&primary.outputs), []);
    primary
}

impl Stepped {
    fn planned(&self) -> Option<&'static str> {
        self.node.status(self.now).planned
    }

    fn needs_backup(&self) -> Option<NeedsBackup> {
        self.node.status(self.now).needs_backup
    }

    fn may_release(&self, index: u64) -> bool {
        self.node.released_until(OutputIndex(index), LogPosition(1), OutputIndex::NONE, self.now).is_some()
    }
}

#[test]
fn a_vm_is_handed_over_when_its_outputs_have_left_and_its_backup_has_replayed_everything() {
    let hand_over = Body::HandOver { position: LogPosition(1), released: output(1) };
    let mut primary = handing_over();
    primary.hear(SPARE, answer(1, 0, 0, 0), primary.now.0);
    assert!(primary.may_release(1), "what the guest has said before leaves as ever");
    primary.step(Input::OutputDone { output: output(1), result: OutputResult::Completed });
    assert!(!said(&primary.outputs).contains(&hand_over), "the backup has not replayed the last entry");
    primary.hear(SPARE, answer(1, 1, 1, 0), primary.now.0);
    assert_eq!(said(&primary.outputs), [hand_over]);
    primary.step(produced(output(2), 0));
    primary.step(Input::GuestHalted { exit_status: 0, trap: None });
    assert!(!primary.may_release(2), "its lease is valid, and it has promised to say nothing");
    assert!(!primary.node.may_announce(primary.now));
    assert_eq!((primary.node.role(), primary.planned()), (Role::Protected, Some("handed-over")));
}

#[test]
fn a_primary_that_has_handed_its_vm_over_looks_who_has_it_and_asks_when_nobody_takes_it() {
    let handed_over = || {
        let mut primary = handing_over();
        primary.hear(SPARE, answer(1, 1, 0, 0), primary.now.0);
        primary.step(Input::OutputDone { output: output(1), result: OutputResult::Completed });
        primary.step(Input::SessionClosed { connection: 1, reason: "gone".to_owned() });
        primary
    };
    let mut primary = handed_over();
    let request = primary.awaited_read();
    let record = ArbiterRecord { generation: Generation(2), incarnation: SPARE };
    primary.step(Input::ArbiterRead { request, result: ReadResult::Record(record) });
    assert_eq!(primary.halt_reason(), "lost the arbiter: generation 2 belongs to another node");
    let mut primary = handed_over();
    let begun = primary.now;
    while primary.asked().is_none() {
        let request = primary.awaited_read();
        primary.step(self::record(request, PRIMARY));
    }
    let waited = primary.now.since(begun);
    assert!(waited >= config().timing.acknowledge && waited < config().timing.acknowledge * 2, "{waited:?}");
    let request = primary.asked().unwrap();
    primary.step(Input::ArbiterAsked { request, result: AskResult::Won });
    assert_eq!((primary.node.role(), primary.share()), (Role::Alone, Some(Share::WHOLE)));
    assert_eq!(primary.needs_backup(), Some(NeedsBackup::ConnectionLost));
}

#[test]
fn a_hand_over_that_comes_to_nothing_is_given_up() {
    let mut primary = handing_over();
    let begun = primary.now;
    let given_up = |output: &Output| matches!(output, Output::Trace(TraceEvent::PlanGivenUp { .. }));
    while !primary.outputs.iter().any(given_up) {
        primary.now = primary.now.after(Duration::from_millis(10));
        primary.hear(SPARE, answer(1, 1, 0, 0), primary.now.0);
    }
    assert_eq!(primary.now.since(begun), config().timing.acknowledge);
    assert_eq!((primary.planned(), primary.share()), (None, Some(Share::WHOLE)));
    let mut lost = handing_over();
    lost.step(Input::SessionClosed { connection: 1, reason: "gone".to_owned() });
    assert!(lost.outputs.iter().any(given_up), "{:?}", lost.outputs);
    assert_eq!(lost.planned(), None);
}

#[test]
fn a_backup_that_is_handed_the_vm_waits_for_no_lease_and_no_late_write() {
    let mut backup = Stepped::backup();
    backup.hear(PRIMARY, Body::HandOver { position: LogPosition(1), released: output(0) }, 0);
    assert_eq!(backup.node.role(), Role::Backup, "it does not hold that entry");
    backup.hear(PRIMARY, Body::HandOver { position: LogPosition::START, released: output(0) }, 0);
    assert_eq!(backup.node.role(), Role::Candidate);
    backup.check(Unusable::default());
    backup.step(Input::Drained { position: LogPosition::START });
    let request = backup.read_request().expect("at once");
    backup.step(record(request, PRIMARY));
    let request = backup.asked().unwrap();
    backup.step(Input::ArbiterAsked { request, result: AskResult::Won });
    assert_eq!(backup.needs_backup(), Some(NeedsBackup::Operator));
    backup.step(Input::Attached);
    assert!(backup.outputs.contains(&Output::GoLive), "{:?}", backup.outputs);
}

#[test]
fn a_backup_that_is_let_go_is_dropped_by_winning_the_arbiter() {
    let mut primary = Stepped::protected();
    primary.step(Input::BackupUnwanted);
    assert_eq!(primary.planned(), Some("letting-go"));
    let request = primary.awaited_read();
    primary.step(record(request, PRIMARY));
    let request = primary.asked().unwrap();
    primary.step(Input::ArbiterAsked { request, result: AskResult::Won });
    assert!(primary.outputs.contains(&Output::RunAlone), "{:?}", primary.outputs);
    assert_eq!((primary.node.role(), primary.needs_backup()), (Role::Alone, Some(NeedsBackup::Operator)));
}

/// Where the arbiter does not answer, the pair stays what it was.
#[test]
fn no_backup_is_let_go_without_the_arbiter() {
    let mut primary = Stepped::protected();
    primary.step(Input::BackupUnwanted);
    let request = primary.awaited_read();
    primary.step(Input::ArbiterRead { request, result: ReadResult::Unreachable });
    assert_eq!((primary.node.role(), primary.planned()), (Role::Protected, None));
    primary.hear(SPARE, answer(0, 0, 0, 0), primary.now.0);
    assert!(primary.node.is_well_protected());
}

/// Each in the words of status and trace.
#[test]
fn a_primary_knows_why_it_has_no_backup() {
    let expected = ["connection-lost", "divergence", "hardware", "lag"];
    for (number, expected) in expected.into_iter().enumerate() {
        let mut primary = Stepped::protected();
        let heard = [0, DIVERGED, HOST_FAILED, 0][number];
        primary.hear(SPARE, answer(0, 0, 0, heard), primary.now.0);
        if expected == "lag" {
            primary.step(Input::EntriesAppended { through: LogPosition(1) });
            while !primary.outputs.iter().any(|output| matches!(output, Output::ReadArbiter { .. })) {
                primary.now = primary.now.after(Duration::from_millis(10));
                primary.hear(SPARE, answer(0, 0, 0, 0), primary.now.0);
            }
        } else {
            primary.step(Input::SessionClosed { connection: 1, reason: "gone".to_owned() });
        }
        let request = primary.awaited_read();
        primary.step(record(request, PRIMARY));
        let request = primary.asked().unwrap();
        primary.step(Input::ArbiterAsked { request, result: AskResult::Won });
        assert_eq!(primary.needs_backup().map(NeedsBackup::name), Some(expected));
    }
    let mut primary = carrying();
    primary.step(Input::TransferFailed { connection: 2, reason: "a cut".to_owned() });
    assert_eq!(primary.needs_backup(), Some(NeedsBackup::TransferFailed));
    assert_eq!(Stepped::live().needs_backup(), Some(NeedsBackup::ConnectionLost));
}

/// What is on its way out is known: a hand-over waits for it.
#[test]
fn an_output_leaves_once_its_news_has_come() {
    for mut primary in [Stepped::protected(), Stepped::live()] {
        primary.hear(SPARE, answer(0, 0, 0, 0), primary.now.0);
        let may_leave = |primary: &Stepped| {
            primary.node.released_until(OutputIndex(1), LogPosition::START, OutputIndex::NONE, primary.now).is_some()
        };
        assert!(!may_leave(&primary), "{}", primary.node.role());
        primary.step(produced(output(1), 0));
        assert!(may_leave(&primary), "{}", primary.node.role());
    }
}
