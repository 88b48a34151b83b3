//! Links between hosts: datagrams that get lost and overtake each other, connections that keep order and break.

use super::fault::Paths;
use super::random::Random;

/// One end of a connection.
#[derive(Clone, Copy, Debug, Hash)]
pub struct Endpoint {
    /// The host.
    pub host: usize,
    /// The process on it.
    pub process: u64,
}

/// A log connection; both runtimes know it by its index.
#[derive(Clone, Debug, Hash)]
pub struct Connection {
    /// The dialler, then the listener.
    pub ends: [Endpoint; 2],
    /// Whether this end still has it open.
    pub open: [bool; 2],
    /// When the last bytes from each end arrive: order is kept.
    last_arrival: [u64; 2],
}

#[derive(Clone, Copy, Debug, Hash)]
struct Cut {
    from: usize,
    to: usize,
    paths: Paths,
    until: u64,
    /// Datagrams wait, as bytes do.
    queued: bool,
}

/// All links and connections.
#[derive(Clone, Debug, Default, Hash)]
pub struct Network {
    /// Every connection there ever was.
    pub connections: Vec<Connection>,
    cuts: Vec<Cut>,
}

impl Network {
    /// From now on nothing passes on these paths; `queued` datagrams pass when that is over, others are lost.
    pub fn cut(&mut self, from: usize, to: usize, paths: Paths, until: u64, queued: bool) {
        self.cuts.push(Cut { from, to, paths, until, queued });
    }

    /// Every moment in here that is still to come.
    pub fn moments(&mut self, now: u64) -> impl Iterator<Item = &mut u64> {
        self.cuts.retain(|cut| cut.until > now);
        let arrivals = self.connections.iter_mut().flat_map(|connection| &mut connection.last_arrival);
        self.cuts.iter_mut().map(|cut| &mut cut.until).chain(arrivals)
    }

    fn cuts_of(&self, from: usize, to: usize, now: u64, log: bool) -> impl Iterator<Item = &Cut> {
        let concerns = move |paths: Paths| paths == Paths::All || (paths == Paths::Log) == log;
        let cuts = self.cuts.iter().filter(move |cut| cut.from == from && cut.to == to && cut.until > now);
        cuts.filter(move |cut| concerns(cut.paths))
    }

    /// When the path is whole again; `None`: it is.
    fn cut_until(&self, from: usize, to: usize, now: u64, log: bool) -> Option<u64> {
        self.cuts_of(from, to, now, log).map(|cut| cut.until).max()
    }

    /// When a datagram arrives; `None`: never.
    pub fn datagram(&self, from: usize, to: usize, now: u64, random: &mut Random, noise: bool) -> Option<u64> {
        let cut = self.cuts_of(from, to, now, false).any(|cut| !cut.queued);
        if cut || (noise && random.once_in(200)) {
            return None;
        }
        let sent = self.cut_until(from, to, now, false).unwrap_or(now);
        let overtaken = if noise && random.once_in(100) { random.between(0, 40_000_000) } else { 0 };
        Some(sent + latency(random, noise) + overtaken)
    }

    /// When bytes that one end sends arrive at the other.
    pub fn bytes(&mut self, connection: usize, end: usize, now: u64, random: &mut Random, noise: bool) -> u64 {
        let link = &self.connections[connection];
        let (from, to) = (link.ends[end].host, link.ends[1 - end].host);
        let sent = self.cut_until(from, to, now, true).unwrap_or(now);
        let arrival = (sent + latency(random, noise)).max(self.connections[connection].last_arrival[end] + 1);
        self.connections[connection].last_arrival[end] = arrival;
        arrival
    }

    /// Whether a connection can be set up now: that takes both ways.
    pub fn connectable(&self, from: usize, to: usize, now: u64) -> bool {
        self.cut_until(from, to, now, true).is_none() && self.cut_until(to, from, now, true).is_none()
    }

    /// Sets a connection up; returns its index.
    pub fn connect(&mut self, ends: [Endpoint; 2], now: u64) -> usize {
        self.connections.push(Connection { ends, open: [true; 2], last_arrival: [now; 2] });
        self.connections.len() - 1
    }

    /// Which end of the connection this process is.
    pub fn end_of(&self, connection: usize, process: u64) -> Option<usize> {
        let ends = &self.connections.get(connection)?.ends;
        ends.iter().position(|end| end.process == process)
    }
}

fn latency(random: &mut Random, noise: bool) -> u64 {
    if noise { random.between(50_000, 500_000) } else { 200_000 }
}
