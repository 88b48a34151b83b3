//! Walks every interleaving of a small world, breadth first: what is ready may happen in any order, a fault at any moment, and the
//! clock goes on by a quarter lease once nothing is left that would have happened by then. States that differ in nothing that the protocol
//! compares are one (`fingerprint`), so the walk ends. What it finds broken it tells by a shortest way there.

use std::collections::{BTreeSet, HashSet, VecDeque};
use std::fmt;
use std::hash::{Hash, Hasher};
use std::time::Instant;

use super::checkers::{Violation, check_pair};
use super::coverage::Coverage;
use super::fault::{Fault, FaultKind, Heartbeats, MILLISECOND, Schedule};
use super::host::Process;
use super::random::mix;
use super::world::{Event, Local, World};
use crate::protocol::{Body, Input, Message, Number, Path, Role, Rules, Share, TimingConfig};

/// The clock's step.
const STEP: u64 = TimingConfig::DEFAULT.lease_ms * MILLISECOND / 4;
/// In steps: so long after the last fault has begun or ended the VM runs again, whatever it was.
const SETTLED_AFTER: u64 = 20;
/// In steps: ages and waits beyond this are one. A rule looks at ten at most, and at what a fault has held up for twelve.
const FAR: u64 = 24;
/// In steps: the end of a fault that never ends.
pub const NEVER: u64 = 1 << 30;

/// What may go wrong, once: all of it together, for one of these times, in steps.
#[derive(Clone, Debug)]
pub struct Offer {
    /// What.
    pub kinds: Vec<FaultKind>,
    /// For how long.
    pub steps: Vec<u64>,
}

/// What a walk begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beginning {
    /// Two processes that have just started, one of them to bootstrap the VM.
    Processes,
    /// A pair.
    Pair,
    /// A VM that runs alone, and is to have the process that has just started for its backup.
    Survivor,
}

/// Two hosts, a guest of two inputs and two outputs, and what may befall them.
#[derive(Clone, Debug)]
pub struct SmallWorld {
    /// What it is called.
    pub name: &'static str,
    /// What the walk begins with.
    pub begins: Beginning,
    /// How many ways there are for heartbeats, beside the log, and how often they are sent.
    pub heartbeats: Heartbeats,
    /// From the beginning, for good.
    pub given: Vec<FaultKind>,
    /// What may go wrong.
    pub offers: Vec<Offer>,
    /// How many of the offers may come true.
    pub faults_max: usize,
    /// None of it may cost the pair a node, as nothing at all never may.
    pub harmless: bool,
    /// The rules without which a promise is broken here.
    pub needs: Vec<&'static str>,
}

/// What a walk has seen.
#[derive(Clone, Debug)]
pub struct Explored {
    /// The world's name.
    pub name: &'static str,
    /// States that differ.
    pub states: usize,
    /// Ways from one state to another.
    pub transitions: u64,
    /// The longest of the shortest ways from the beginning.
    pub depth: usize,
    /// Every state was walked on from.
    pub exhausted: bool,
    /// What happened, counted over all transitions.
    pub coverage: Coverage,
    /// The first promise that was broken, and a shortest way there.
    pub failure: Option<(Violation, Vec<String>)>,
    /// How long it took.
    pub seconds: f64,
}

/// What can happen next.
enum Choice {
    Event((u64, u64)),
    Fault(usize, u64),
    Clock,
}

/// Walks a small world until no state is left, a promise is broken or `states_max` states are known. Now and then it tells how far it is.
pub fn explore(small: &SmallWorld, rules: Rules, states_max: usize, tell: &mut dyn FnMut(String)) -> Explored {
    let begun = Instant::now();
    let start = small.start(rules, false);
    let mut known = HashSet::from([fingerprint(small, &start)]);
    // How each state was come to: from which, by the choice of which number, in how many steps.
    let mut came: Vec<(u32, u16, u16)> = vec![(0, 0, 0)];
    let mut queue = VecDeque::from([(0, start)]);
    let mut explored = Explored {
        name: small.name,
        states: 1,
        transitions: 0,
        depth: 0,
        exhausted: true,
        coverage: Coverage::default(),
        failure: None,
        seconds: 0.0,
    };
    while let Some((from, world)) = queue.pop_front() {
        for (number, choice) in small.choices(&world).into_iter().enumerate() {
            let mut next = world.clone();
            small.take(&mut next, choice);
            explored.transitions += 1;
            explored.coverage.add(&std::mem::take(&mut next.coverage));
            let depth = came[from as usize].2 + 1;
            if let Some(violation) = next.violation.take() {
                let mut numbers = vec![number as u16];
                let mut at = from;
                while at != 0 {
                    let (before, number, _) = came[at as usize];
                    numbers.push(number);
                    at = before;
                }
                numbers.reverse();
                explored.failure = Some((violation, small.story(rules, &numbers)));
                queue.clear();
                break;
            }
            if known.insert(fingerprint(small, &next)) {
                came.push((from, number as u16, depth));
                queue.push_back((came.len() as u32 - 1, next));
                explored.depth = usize::from(depth);
                if came.len().is_multiple_of(250_000) {
                    let waiting = queue.len();
                    let seconds = begun.elapsed().as_secs();
                    tell(format!(
                        "{}: {} states, {waiting} of them to be walked on from, depth {depth}, {seconds} s",
                        small.name,
                        came.len()
                    ));
                }
            }
        }
        if came.len() >= states_max {
            explored.exhausted = queue.is_empty();
            break;
        }
    }
    explored.states = came.len();
    explored.seconds = begun.elapsed().as_secs_f64();
    explored
}

impl Offer {
    fn is_taken(&self, world: &World) -> bool {
        world.schedule.faults.iter().any(|fault| fault.kind == self.kinds[0])
    }
}

impl SmallWorld {
    fn start(&self, rules: Rules, tell: bool) -> World {
        let mut world = World::new(&Schedule::explored(self.heartbeats), rules, tell);
        if self.begins != Beginning::Processes {
            self.settle(&mut world, |world| world.formed);
        }
        if self.begins == Beginning::Survivor {
            let alone = |world: &World| {
                world.hosts[0].process.as_ref().is_some_and(|process| process.node.role() == Role::Alone)
            };
            world.formed = false;
            world.end_process(1);
            self.settle(&mut world, alone);
            world.start_process(1, false);
            world.step(0, Input::BackupWanted);
            tidy(&mut world);
        }
        for kind in &self.given {
            inject(&mut world, &[*kind], NEVER * STEP);
        }
        world.schedule.faults.clear();
        world.coverage = Coverage::default();
        world.stirred_at = world.now;
        world
    }

    /// Goes on until this holds; any way there is as good as another.
    fn settle(&self, world: &mut World, holds: impl Fn(&World) -> bool) {
        loop {
            let first = ready(world).into_iter().find(|key| !is_optional(&world.events[key]));
            match first {
                Some(key) => self.take(world, Choice::Event(key)),
                None if holds(world) => break,
                None => self.take(world, Choice::Clock),
            }
        }
    }

    /// What happened on the way of these choices.
    fn story(&self, rules: Rules, numbers: &[u16]) -> Vec<String> {
        let mut world = self.start(rules, true);
        world.story = Some(Vec::new());
        for number in numbers {
            let choice = self.choices(&world).swap_remove(usize::from(*number));
            self.take(&mut world, choice);
        }
        world.story.unwrap_or_default()
    }

    fn choices(&self, world: &World) -> Vec<Choice> {
        let mut choices = self.calm_choices(world);
        if self.taken(world) < self.faults_max {
            for (number, offer) in self.offers.iter().enumerate() {
                if !offer.is_taken(world) && offer.kinds.iter().all(|kind| is_possible(world, *kind)) {
                    choices.extend(offer.steps.iter().map(|steps| Choice::Fault(number, *steps)));
                }
            }
        }
        choices
    }

    /// What can happen without a fault.
    fn calm_choices(&self, world: &World) -> Vec<Choice> {
        let ready = ready(world);
        let clock = ready.iter().all(|key| is_optional(&world.events[key])).then_some(Choice::Clock);
        ready.into_iter().map(Choice::Event).chain(clock).collect()
    }

    fn take(&self, world: &mut World, choice: Choice) {
        match choice {
            Choice::Event(key) => {
                if let Some(event) = world.events.remove(&key) {
                    if is_optional(&event) {
                        world.stirred_at = world.now;
                    }
                    world.tell(|| describe(&event));
                    world.happen(event);
                }
            }
            Choice::Fault(number, steps) => {
                let kinds = &self.offers[number].kinds;
                world.tell(|| match steps {
                    NEVER => format!("FAULT for good: {kinds:?}"),
                    steps => format!("FAULT for {} ms: {kinds:?}", steps * STEP / MILLISECOND),
                });
                world.stirred_at = world.now;
                inject(world, kinds, steps * STEP);
            }
            Choice::Clock => {
                if self.taken(world) > 0 && world.now >= settled_at(world) {
                    let verdict = world.check_settled();
                    world.verdict(verdict);
                }
                world.now += STEP;
                world.events.retain(|_, event| !matches!(event, Event::Thaw(_)));
                for host in 0..world.hosts.len() {
                    if world.hosts[host].frozen_until <= world.now {
                        world.step(host, Input::Tick);
                    }
                }
            }
        }
        tidy(world);
        if world.formed && (self.harmless || self.taken(world) == 0) {
            let roles = world.hosts.iter().filter_map(|host| host.process.as_ref()).map(|process| process.node.role());
            let verdict = check_pair(roles.collect());
            world.verdict(verdict);
        }
    }

    /// How many of the offers have come true.
    fn taken(&self, world: &World) -> usize {
        self.offers.iter().filter(|offer| offer.is_taken(world)).count()
    }
}

impl fmt::Display for Explored {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Explored { name, states, transitions, depth, seconds, .. } = self;
        write!(formatter, "{name}: {states} states, {transitions} transitions, depth {depth}, {seconds:.1} s: ")?;
        match &self.failure {
            None if self.exhausted => write!(formatter, "every promise holds in every interleaving"),
            None => write!(formatter, "NOT EXHAUSTED, nothing broken so far"),
            Some((Violation { checker, finding }, story)) => {
                writeln!(formatter, "BROKEN: {checker}: {finding}; a shortest way there:")?;
                story.iter().try_for_each(|line| writeln!(formatter, "{line}"))
            }
        }
    }
}

fn inject(world: &mut World, kinds: &[FaultKind], length: u64) {
    for kind in kinds {
        let fault = Fault { kind: *kind, at: world.now, until: world.now + length };
        world.schedule.faults.push(fault);
        world.inject(world.schedule.faults.len() - 1);
    }
}

/// From when on the faults are over, or have lasted long, and the guest has not run for long: the VM is there, and what it wrote is on the
/// disk.
fn settled_at(world: &World) -> u64 {
    let over = |fault: &&Fault| fault.until - fault.at < NEVER * STEP;
    let ends = world.schedule.faults.iter().filter(over).map(|fault| fault.until);
    ends.chain([world.stirred_at]).fold(0, u64::max) + SETTLED_AFTER * STEP
}

/// Whether a fault would change anything.
fn is_possible(world: &World, kind: FaultKind) -> bool {
    let runs = |host: usize| world.hosts[host].process.is_some();
    match kind {
        FaultKind::Restart { host } => !runs(host),
        FaultKind::HandOver | FaultKind::LetBackupGo => world.protected().is_some(),
        FaultKind::Kill { host } | FaultKind::PowerOff { host } | FaultKind::Freeze { host } => runs(host),
        _ => true,
    }
}

/// The guest runs when it likes; everything else that is ready happens before the clock goes on.
fn is_optional(event: &Event) -> bool {
    matches!(event, Event::Local { what: Local::GuestRun, .. })
}

/// The connection whose order an event has to keep. The news of its end may overtake what is under way on it.
fn connection(event: &Event) -> Option<(u64, u64)> {
    let Event::Local { process, what, .. } = event else { return None };
    match what {
        Local::Input(Input::Message { path: Path::Log { connection }, .. })
        | Local::Input(Input::SessionOpened { connection, .. }) => Some((*process, *connection)),
        Local::Entries { connection, .. } | Local::State { connection, .. } => Some((*process, *connection as u64)),
        _ => None,
    }
}

/// What comes out of a socket of this process.
fn is_received(event: &Event) -> bool {
    let Event::Local { what, .. } = event else { return false };
    let state = matches!(what, Local::State { .. });
    state || matches!(what, Local::Input(Input::Message { .. }) | Local::Entries { .. } | Local::PeerClosed { .. })
}

/// Whether the earlier event happens before the other one whatever else does.
fn precedes(earlier: &Event, event: &Event) -> bool {
    let Event::Local { host, process, what } = event else { return false };
    if let (Event::DiskLand { host: writer, index, .. }, Local::Completed { index: completed }) = (earlier, what) {
        return (writer, index) == (host, completed);
    }
    let own = matches!(earlier, Event::Local { process: other, .. } if other == process);
    let drained = matches!(what, Local::Input(Input::SocketsDrained { .. }));
    own && ((drained && is_received(earlier)) || connection(event).is_some_and(|it| connection(earlier) == Some(it)))
}

/// A guest that waits for its log, or has come to its end, does not run.
fn is_held_up(world: &World, event: &Event) -> bool {
    let Event::Local { host, what: Local::GuestRun, .. } = event else { return false };
    let may_run = |process: &Process| process.live && !process.stopped && process.share != Share::NONE;
    let runs = |process: &Process| may_run(process) && (process.stop_due || !process.guest.is_done());
    !world.hosts[*host].process.as_ref().is_some_and(runs)
}

/// Which events may happen now.
fn ready(world: &World) -> Vec<(u64, u64)> {
    let due = |at: u64| at < world.now + STEP;
    let allowed = |key: &(u64, u64)| {
        let event = &world.events[key];
        let frozen = matches!(event, Event::Local { host, .. } if world.hosts[*host].frozen_until > world.now);
        let first =
            |((at, number), earlier): (&(u64, u64), &Event)| !(*number < key.1 && due(*at) && precedes(earlier, event));
        !frozen && !is_held_up(world, event) && world.events.iter().all(first)
    };
    world.events.keys().take_while(|(at, _)| due(*at)).copied().filter(allowed).collect()
}

/// Takes out what can never happen, or happens twice to no other effect than once.
fn tidy(world: &mut World) {
    let running: Vec<u64> =
        world.hosts.iter().filter_map(|host| host.process.as_ref()).map(|process| process.id).collect();
    let mut looks = Vec::new();
    let (now, events) = (world.now, &mut world.events);
    events.retain(|(at, _), event| match event {
        _ if *at >= now + NEVER / 2 * STEP => false,
        Event::Local { process, what, .. } => {
            let look = matches!(what, Local::Release);
            let again = look && looks.contains(process);
            looks.extend(look.then_some(*process));
            running.contains(process) && !again
        }
        _ => true,
    });
}

/// Every number in an event that means something only beside others of its kind.
fn numbers(event: &mut Event, visit: &mut dyn FnMut(Number, &mut u64)) {
    match event {
        Event::Local { process, what, .. } => match what {
            Local::Input(Input::Message { bytes, .. }) | Local::Entries { header: bytes, .. } => {
                if let Ok(mut message) = Message::decode(bytes) {
                    let header = &mut message.header;
                    visit(Number::Time, &mut header.stamp);
                    visit(Number::Time, &mut header.echo);
                    visit(Number::Sequence(header.incarnation.0), &mut header.sequence);
                    *bytes = message.encode();
                }
            }
            Local::Input(
                Input::ArbiterRead { request, .. }
                | Input::ArbiterAsked { request, .. }
                | Input::DevicesChecked { request, .. }
                | Input::SocketsDrained { request },
            ) => visit(Number::Request(*process), request),
            _ => {}
        },
        Event::ArbiterRead { process, request, .. } | Event::ArbiterAsk { process, request: Some(request), .. } => {
            visit(Number::Request(*process), request);
        }
        _ => {}
    }
}

/// Alike for states that differ in nothing that the protocol compares: times count from now; messages and requests count by their order.
fn fingerprint(small: &SmallWorld, world: &World) -> u64 {
    let now = world.now;
    let ahead = |moment: u64| (moment.saturating_sub(now) / STEP).min(FAR);
    let clock = world.hosts[0].clock(now).0;
    let mut hosts = world.hosts.clone();
    let mut events: Vec<(u64, Event)> =
        world.events.iter().map(|((at, _), event)| (ahead(*at), event.clone())).collect();
    let mut every = |visit: &mut dyn FnMut(Number, &mut u64)| {
        hosts.iter_mut().filter_map(|host| host.process.as_mut()).for_each(|process| process.node.numbers(visit));
        events.iter_mut().for_each(|(_, event)| numbers(event, visit));
    };
    let mut counted: BTreeSet<(Number, u64)> = BTreeSet::new();
    every(&mut |kind, number| {
        if !matches!(kind, Number::Time | Number::Deadline) {
            counted.insert((kind, *number));
        }
    });
    every(&mut |kind, number| {
        *number = match kind {
            Number::Time if *number == 0 => 0,
            Number::Deadline => number.saturating_sub(clock).min(FAR * STEP),
            Number::Time => number.saturating_add(FAR * STEP).saturating_sub(clock).max(1),
            kind => counted.range((kind, 0)..(kind, *number)).count() as u64,
        };
    });
    let mut network = world.network.clone();
    let moments = network.moments(now).chain(hosts.iter_mut().flat_map(|host| host.moments()));
    moments.for_each(|moment| *moment = ahead(*moment));
    let mut hasher = Mixer::default();
    (hosts, network, world.formed, world.fatal_faults).hash(&mut hasher);
    (&world.arbiter, &world.disk, &world.landed).hash(&mut hasher);
    (&world.speaker, &world.contents, &world.released_mark).hash(&mut hasher);
    let faults = &world.schedule.faults;
    if !faults.is_empty() {
        (faults.len(), ahead(settled_at(world))).hash(&mut hasher);
        if small.taken(world) < small.faults_max {
            faults.iter().for_each(|fault| fault.kind.hash(&mut hasher));
        }
    }
    // Events have no order but that of what precedes what.
    let originals: Vec<(u64, &Event)> = world.events.iter().map(|((_, number), event)| (*number, event)).collect();
    let mut unordered = 0_u64;
    for ((ahead, event), (number, original)) in events.iter_mut().zip(&originals) {
        match event {
            Event::Local { what: Local::Emit { checked_at, .. }, .. } => *checked_at = (now - *checked_at) / STEP,
            Event::Stray { until, .. } => *until = until.saturating_sub(now) / STEP,
            _ => {}
        }
        let place = originals.iter().filter(|(other, earlier)| other < number && precedes(earlier, original)).count();
        let mut one = Mixer::default();
        (ahead, place, event).hash(&mut one);
        unordered = unordered.wrapping_add(one.finish());
    }
    unordered.hash(&mut hasher);
    hasher.finish()
}

/// For the story.
fn describe(event: &Event) -> String {
    match event {
        Event::Local { host, what: Local::Input(Input::Message { path, bytes }), .. } => match Message::decode(bytes) {
            Ok(Message { body: Body::Hello { .. }, .. }) => format!("host {host} hears Hello"),
            Ok(Message { body: Body::Welcome { .. }, .. }) => format!("host {host} hears Welcome"),
            Ok(message) => format!("host {host} hears on {path:?}: {:?}", message.body),
            Err(error) => format!("host {host} hears {error}"),
        },
        Event::Local { host, what: Local::Entries { header, .. }, .. } => match Message::decode(header) {
            Ok(message) => format!("host {host} receives {:?}", message.body),
            Err(error) => format!("host {host} receives {error}"),
        },
        Event::Local { host, what: Local::Input(input), .. } => format!("host {host}: {input:?}"),
        Event::Local { host, what, .. } => format!("host {host}: {what:?}"),
        event => format!("{event:?}"),
    }
}

/// Hashes word by word.
#[derive(Default)]
struct Mixer(u64);

impl Hasher for Mixer {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = mix(self.0.rotate_left(5) ^ word.wrapping_add(0x9e37_79b9_7f4a_7c15));
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
