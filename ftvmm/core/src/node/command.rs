//! What Python and the operator tell a node's thread, and what it makes of it.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use crossbeam_channel::Sender;
use serde::Deserialize;

use crate::devices::clock;
use crate::lab::mutant;
use crate::protocol::{ArbiterRecord, AskResult, Generation, Input, ReadResult, Role};

use super::heartbeat::Heartbeat;
use super::runtime::Runtime;
use super::status::Snapshot;

/// What Python and the operator tell the node's thread.
#[derive(Debug)]
pub enum Command {
    /// claim generation 1
    Bootstrap,
    /// an orderly end
    Stop,
    /// the VM is to have a backup again, which is here; what keeps it from trying is sent there
    Protect(Peer, Sender<Result<(), String>>),
    /// the primary is to go on without its backup, and to look for a new one there, or where it was; what keeps it from trying is sent there
    LetBackupGo(Option<Peer>, Sender<Result<(), String>>),
    /// the VM is to be the backup's; what keeps it from trying is sent there
    HandOver(Sender<Result<(), String>>),
    /// the arbiter's answer
    Arbiter {
        /// which question
        request: u64,
        /// what it holds, of no generation where it holds nothing; `None`: no answer
        record: Option<ArbiterRecord>,
    },
    /// what `ftvmm status` shows, to be sent there
    Status(Sender<Snapshot>),
}

/// Where a node is that may become the backup.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Peer {
    /// its name, for people
    pub name: String,
    /// its log listener
    pub logging: SocketAddr,
    /// its heartbeat sockets, by network
    pub heartbeat: BTreeMap<String, SocketAddr>,
}

/// Tells who asked whether it is tried, who may have gone; the input that tries it.
fn told(to: &Sender<Result<(), String>>, tried: Result<(), String>, input: Input) -> Option<Input> {
    let input = tried.is_ok().then_some(input);
    let _ = to.try_send(tried);
    input
}

impl Runtime {
    pub(super) fn command(&mut self, command: Command) -> Option<Input> {
        Some(match command {
            Command::Bootstrap => Input::BootstrapRequested,
            Command::Stop => Input::StopRequested,
            Command::Protect(peer, to) => {
                return told(&to, self.protect(peer), Input::BackupWanted);
            }
            Command::LetBackupGo(next, to) => {
                let next = next.unwrap_or_else(|| self.peer_now());
                let tried = self.may_plan().and_then(|()| self.reaches(&next));
                if tried.is_ok() {
                    self.next_peer = Some(next);
                }
                return told(&to, tried, Input::BackupUnwanted);
            }
            Command::HandOver(to) => {
                let status = self.node.status(clock::now());
                let tried = self.may_plan().and_then(|()| match status.not_protected {
                    Some(reason) => Err(format!("the VM is not handed over: {reason}")),
                    None => Ok(()),
                });
                return told(&to, tried, Input::HandOverWanted);
            }
            Command::Status(to) => {
                // Who asked may have gone.
                let _ = to.try_send(self.snapshot());
                return None;
            }
            Command::Arbiter { request, record } => match (self.asked.remove(&request), record) {
                (Some(_), None) => Input::ArbiterAsked { request, result: AskResult::Unreachable },
                (Some(generation), Some(record)) => {
                    let won = record == ArbiterRecord { generation, incarnation: self.incarnation }
                        || (generation > Generation::FIRST && mutant!(IgnoreLost));
                    Input::ArbiterAsked { request, result: if won { AskResult::Won } else { AskResult::Lost } }
                }
                (None, None) => Input::ArbiterRead { request, result: ReadResult::Unreachable },
                (None, Some(ArbiterRecord { generation: Generation::NONE, .. })) => {
                    Input::ArbiterRead { request, result: ReadResult::Empty }
                }
                (None, Some(record)) => Input::ArbiterRead { request, result: ReadResult::Record(record) },
            },
        })
    }

    /// Whether the pair is such that something can be planned for it (R21).
    fn may_plan(&self) -> Result<(), String> {
        let status = self.node.status(clock::now());
        if let Some(planned) = status.planned {
            return Err(format!("this node is busy with it: {planned}"));
        }
        match status.suspicion {
            Some(reason) if status.role == Role::Protected => Err(format!("the backup is suspected: {reason}")),
            _ if self.node.is_well_protected() => Ok(()),
            _ => Err(format!("this node is {}: only one that runs the VM with a backup can do that", status.role)),
        }
    }

    fn reaches(&self, peer: &Peer) -> Result<(), String> {
        match self.networks.iter().find(|network| !peer.heartbeat.contains_key(*network)) {
            Some(unknown) => Err(format!("no address of {} is given for the heartbeat network {unknown:?}", peer.name)),
            None => Ok(()),
        }
    }

    /// Where the backup is that this node has, or looks for.
    fn peer_now(&self) -> Peer {
        let heartbeat = self.networks.iter().cloned().zip(self.heartbeats.iter().map(Heartbeat::peer)).collect();
        Peer { name: self.peer_name.clone(), logging: self.peer, heartbeat }
    }

    /// Alone: whoever was to follow the backup that was let go is asked.
    pub(super) fn look_for_next_peer(&mut self) {
        if let Some(peer) = self.next_peer.take()
            && self.protect(peer).is_ok()
        {
            self.followed.push_back(Input::BackupWanted);
        }
    }

    /// From now on the peer is there; whoever is still dialled elsewhere is given up.
    ///
    /// # Errors
    /// A sentence that says why it cannot be: this node has one.
    fn protect(&mut self, peer: Peer) -> Result<(), String> {
        let (role, name) = (self.node.role(), &self.peer_name);
        if !self.node.runs_alone() {
            return Err(format!("this node is {role}: only one that runs the VM alone takes a new backup"));
        }
        let is_another = peer.logging != self.peer;
        if is_another && self.node.status(clock::now()).session != 0 {
            return Err(format!("{name} answers, and is to get the VM's state"));
        }
        self.reaches(&peer)?;
        for (network, heartbeat) in self.networks.iter().zip(&mut self.heartbeats) {
            peer.heartbeat.get(network).into_iter().for_each(|address| heartbeat.set_peer(*address));
        }
        (self.peer_name, self.peer) = (peer.name, peer.logging);
        if is_another && self.channel.end_dial() {
            self.followed.push_back(Input::DialFailed);
        }
        Ok(())
    }
}
