//! Faults take effect.

use super::fault::{FaultKind, MILLISECOND, Paths};
use super::world::{Event, Local, World};
use crate::protocol::{Body, Generation, Header, Incarnation, Input, LogPosition, Message, OutputIndex, Path, Role};

impl World {
    pub(super) fn inject(&mut self, number: usize) {
        let fault = self.schedule.faults[number];
        let needs_pair = matches!(fault.kind, FaultKind::KillPrimary | FaultKind::HandOver | FaultKind::LetBackupGo);
        let protected = if needs_pair { self.protected() } else { None };
        if needs_pair && protected.is_none() {
            self.at(self.now + 5 * MILLISECOND, Event::Fault(number));
            return;
        }
        self.tell(|| format!("fault: {:?} until {} ms", fault.kind, fault.until / MILLISECOND));
        // A pair that comes through whole comes through kills, too.
        if fault.kind.kills() && !self.schedule.rides_out {
            // A VM that never had a backup dies with its only node.
            self.fatal_faults += if self.formed { 1 } else { 2 };
        }
        match fault.kind {
            FaultKind::Kill { host } => self.end_process(host),
            FaultKind::KillPrimary => {
                if let Some(host) = protected {
                    self.end_process(host);
                    self.at(self.now + fault.until.saturating_sub(fault.at), Event::Start { host });
                }
            }
            FaultKind::HandOver | FaultKind::LetBackupGo => {
                let hands_over = fault.kind == FaultKind::HandOver;
                let wanted = if hands_over { Input::HandOverWanted } else { Input::BackupUnwanted };
                if let Some(host) = protected {
                    self.local_now(host, 0, Local::Input(wanted));
                }
                // It ends of itself.
                let loser = if hands_over { protected } else { self.in_role(Role::Backup) };
                if let Some(host) = loser.filter(|_| self.schedule.explored.is_none()) {
                    self.at(self.now + fault.until.saturating_sub(fault.at), Event::Start { host });
                }
            }
            FaultKind::StateTorn { host } => self.hosts[host].state_torn = true,
            FaultKind::PowerOff { host } => {
                self.hosts[host].powered = false;
                self.end_process(host);
            }
            FaultKind::Restart { host } => self.restart(host),
            FaultKind::Bootstrap { host } => match self.hosts[host].process {
                None => self.start_process(host, true),
                Some(_) => self.step(host, Input::BootstrapRequested),
            },
            FaultKind::Freeze { host } => self.freeze(host, fault.until),
            FaultKind::FreezeAtRelease { host } => self.hosts[host].freeze_at_release_until = Some(fault.until),
            FaultKind::Cut { from, to, paths } => self.network.cut(from, to, paths, fault.until, false),
            FaultKind::Backlog { from, to } => self.network.cut(from, to, Paths::All, fault.until, true),
            FaultKind::Reset { slow_host } => self.reset(slow_host, fault.until),
            FaultKind::ArbiterOut { host } => self.hosts[host].arbiter_out_until = fault.until,
            FaultKind::ArbiterAnswersLost { host } => self.hosts[host].answers_lost_until = fault.until,
            FaultKind::ArbiterStale { host } => self.hosts[host].arbiter_stale_until = fault.until,
            FaultKind::ArbiterLate { host } => self.hosts[host].arbiter_late_until = fault.until,
            FaultKind::WriteFails { host } => self.hosts[host].write_fails = true,
            FaultKind::DevicesGone { host } => self.hosts[host].devices_gone_until = fault.until,
            FaultKind::FrameRefused { host } => self.hosts[host].frame_refused = true,
            FaultKind::ReadFails { host } => self.hosts[host].read_fails = true,
            FaultKind::GuestTraps { host } => self.trap(host),
            FaultKind::HostFails { host } => {
                self.local_now(host, 0, Local::Input(Input::HostFailed { reason: "a fault".to_owned() }));
            }
            FaultKind::ArbiterHangs { host } => self.hosts[host].arbiter_hangs_until = fault.until,
            FaultKind::SlowWrites { host } => self.hosts[host].slow_writes_until = fault.until,
            FaultKind::GuestComputes { host } => self.hosts[host].guest_computes_until = fault.until,
            FaultKind::ReplayStalls { host } => self.hosts[host].replay_stalled_until = fault.until,
            FaultKind::SlowReplay { host } => self.hosts[host].slow_replay_until = fault.until,
            FaultKind::Diverge { host } => {
                if let Some(position) = self.corrupt(host) {
                    let input = Input::Diverged { position, reason: "fingerprint".to_owned() };
                    self.local_now(host, 2 * MILLISECOND, Local::Input(input));
                }
            }
            FaultKind::Corrupt { host } => {
                self.corrupt(host);
            }
            FaultKind::SenderStalls { host } => self.hosts[host].sender_stalled_until = fault.until,
            FaultKind::Stray { host } => self.stray(host, fault.until),
        }
    }

    /// Where the VM runs and has a backup.
    pub(super) fn protected(&self) -> Option<usize> {
        self.in_role(Role::Protected).filter(|host| {
            self.hosts[*host].process.as_ref().is_some_and(|process| process.node.is_well_protected() && process.live)
        })
    }

    fn in_role(&self, role: Role) -> Option<usize> {
        self.hosts.iter().position(|host| host.process.as_ref().is_some_and(|process| process.node.role() == role))
    }

    pub(super) fn restart(&mut self, host: usize) {
        if self.hosts[host].process.is_none() {
            self.start_process(host, false);
        }
    }

    pub(super) fn freeze(&mut self, host: usize, until: u64) {
        let until = until.max(self.now);
        self.hosts[host].frozen_until = self.hosts[host].frozen_until.max(until);
        self.at(self.hosts[host].frozen_until, Event::Thaw(host));
    }

    /// The host goes on: its timer fires first, then everything that waited, in its order.
    pub(super) fn thaw(&mut self, host: usize) {
        if self.hosts[host].frozen_until > self.now {
            return;
        }
        let backlog = std::mem::take(&mut self.hosts[host].backlog);
        self.local_now(host, 0, Local::Tick);
        for event in backlog {
            self.at(self.now, event);
        }
    }

    fn reset(&mut self, slow_host: usize, slow_at: u64) {
        let Some(connection) = self.network.connections.iter().rposition(|connection| connection.open == [true; 2])
        else {
            return;
        };
        for end in self.network.connections[connection].ends {
            let at = if end.host == slow_host { slow_at } else { self.now };
            self.local(at, end.host, end.process, Local::PeerClosed { connection });
        }
    }

    /// Damages the guest of a host that replays; gives the position of the next entry.
    fn corrupt(&mut self, host: usize) -> Option<LogPosition> {
        let process = self.hosts[host].process.as_mut().filter(|process| process.replaying && !process.live)?;
        process.guest.corrupt();
        Some(process.guest.position.next())
    }

    fn trap(&mut self, host: usize) {
        let Some(process) = self.hosts[host].process.as_mut() else { return };
        if std::mem::take(&mut process.live) {
            let input = Input::GuestHalted { exit_status: 255, trap: Some("a trap".to_owned()) };
            self.local_now(host, 0, Local::Input(input));
        }
    }

    /// An old backup, of another life of the pair, answers fresh stamps and acknowledges everything (H12).
    pub(super) fn stray(&mut self, host: usize, until: u64) {
        let clock = self.hosts[host].clock(self.now).0;
        let header = Header {
            vm: [7; 16],
            generation: Generation::FIRST,
            incarnation: Incarnation(1),
            session: 1,
            sequence: clock,
            stamp: clock,
            echo: clock,
        };
        let everything = LogPosition(1 << 40);
        let answer =
            Body::Answer { stored: everything, replayed: everything, released: OutputIndex(1 << 40), lacks: 0 };
        let bytes = Message { header, body: answer }.encode();
        let path = Path::Heartbeat { network: 1 };
        self.local_now(host, 0, Local::Input(Input::Message { path, bytes }));
        if self.now + 20 * MILLISECOND < until {
            self.at(self.now + 20 * MILLISECOND, Event::Stray { host, until });
        }
    }
}
