//! The small worlds that are explored. Together they need every rule: each names those that it breaks a promise without.

use super::explore::{Beginning, NEVER, Offer, SmallWorld};
use super::fault::{FaultKind, Heartbeats, Paths};

fn one(kind: FaultKind, steps: &[u64]) -> Offer {
    Offer { kinds: vec![kind], steps: steps.to_vec() }
}

fn either(kind: fn(usize) -> FaultKind, steps: &[u64]) -> [Offer; 2] {
    [0, 1].map(|host| one(kind(host), steps))
}

fn both(kind: fn(usize) -> FaultKind, steps: &[u64]) -> Offer {
    Offer { kinds: [0, 1].map(kind).to_vec(), steps: steps.to_vec() }
}

fn cut(from: usize) -> FaultKind {
    FaultKind::Cut { from, to: 1 - from, paths: Paths::All }
}

fn log_cut(from: usize) -> FaultKind {
    FaultKind::Cut { from, to: 1 - from, paths: Paths::Log }
}

fn heartbeats_cut(from: usize) -> FaultKind {
    FaultKind::Cut { from, to: 1 - from, paths: Paths::Heartbeats }
}

fn kill(host: usize) -> FaultKind {
    FaultKind::Kill { host }
}

fn power_off(host: usize) -> FaultKind {
    FaultKind::PowerOff { host }
}

fn freeze(host: usize) -> FaultKind {
    FaultKind::Freeze { host }
}

fn reset(slow_host: usize) -> FaultKind {
    FaultKind::Reset { slow_host }
}

fn arbiter_out(host: usize) -> FaultKind {
    FaultKind::ArbiterOut { host }
}

fn arbiter_late(host: usize) -> FaultKind {
    FaultKind::ArbiterLate { host }
}

fn answers_lost(host: usize) -> FaultKind {
    FaultKind::ArbiterAnswersLost { host }
}

/// All small worlds.
pub fn small_worlds() -> Vec<SmallWorld> {
    let links = [either(cut, &[3, NEVER]), either(reset, &[0, 12]), either(freeze, &[4, 12])].concat();
    let parted = both(cut, &[3, NEVER]);
    let pair = |name| SmallWorld {
        name,
        begins: Beginning::Pair,
        heartbeats: Heartbeats { paths: 0, every: 2 },
        given: Vec::new(),
        offers: Vec::new(),
        faults_max: 1,
        harmless: false,
        needs: Vec::new(),
    };
    vec![
        SmallWorld {
            offers: [
                links.clone(),
                vec![parted.clone(), one(FaultKind::Bootstrap { host: 1 }, &[0])],
                either(kill, &[0]).to_vec(),
                [arbiter_late(0), answers_lost(0)].map(|kind| one(kind, &[6])).to_vec(),
            ]
            .concat(),
            begins: Beginning::Processes,
            needs: vec!["R2", "R14"],
            ..pair("a pair forms, with one fault")
        },
        SmallWorld {
            offers: [
                links,
                vec![parted],
                either(kill, &[0]).to_vec(),
                either(power_off, &[0]).to_vec(),
                vec![one(FaultKind::WriteFails { host: 0 }, &[0]), one(FaultKind::Diverge { host: 1 }, &[0])],
                vec![one(FaultKind::ReadFails { host: 0 }, &[0]), one(FaultKind::GuestTraps { host: 0 }, &[0])],
                vec![one(FaultKind::ReplayStalls { host: 1 }, &[4, NEVER])],
            ]
            .concat(),
            needs: vec![
                "R5-acknowledgement",
                "R5-lease",
                "R5-completion",
                "R5-order",
                "R6",
                "R7-lag",
                "R8",
                "R10",
                "R15",
                "R16-reissue",
                "R16-loser",
                "R17",
                "R17-read",
                "R17-trap",
            ],
            ..pair("a pair, with one fault")
        },
        SmallWorld {
            offers: either(log_cut, &[3, NEVER]).to_vec(),
            heartbeats: Heartbeats { paths: 1, every: 2 },
            needs: vec!["R7-acknowledge"],
            ..pair("a pair whose log is cut, while heartbeats pass")
        },
        SmallWorld {
            // As long as can be without a silence of DETECT. All that a backup says within a step has one stamp, so of two heartbeats one
            // may echo nothing new: the primary's silence counts for a heartbeat more than it lasts, and that has to be short.
            offers: either(freeze, &[3]).to_vec(),
            heartbeats: Heartbeats { paths: 0, every: 1 },
            harmless: true,
            ..pair("a healthy pair, with a pause")
        },
        SmallWorld {
            offers: either(heartbeats_cut, &[2, 10]).to_vec(),
            faults_max: 2,
            heartbeats: Heartbeats { paths: 1, every: 2 },
            harmless: true,
            ..pair("a healthy pair, its heartbeats cut off")
        },
        SmallWorld {
            given: vec![FaultKind::DevicesGone { host: 1 }],
            offers: either(cut, &[NEVER]).to_vec(),
            needs: vec!["R24"],
            ..pair("a pair that parts, its backup without devices")
        },
        SmallWorld {
            given: [0, 1].map(arbiter_out).to_vec(),
            offers: vec![both(cut, &[3, 10])],
            needs: vec!["R12"],
            ..pair("a pair without an arbiter, parted for a while")
        },
        SmallWorld {
            offers: vec![both(cut, &[NEVER]), both(answers_lost, &[16])],
            faults_max: 2,
            needs: vec!["R11"],
            ..pair("a pair that is parted, without the arbiter's answers")
        },
        SmallWorld {
            given: vec![FaultKind::ArbiterHangs { host: 0 }],
            offers: vec![one(cut(1), &[NEVER])],
            needs: vec!["R7-two-way"],
            ..pair("a primary that hears nothing, not even the arbiter")
        },
        SmallWorld {
            // It hears late that its log is gone, and looks late whether it may still let an output out.
            offers: vec![one(reset(0), &[12]), one(freeze(0), &[4])],
            faults_max: 2,
            heartbeats: Heartbeats { paths: 1, every: 2 },
            needs: vec!["R9"],
            ..pair("a slow primary, its log reset")
        },
        SmallWorld {
            given: vec![FaultKind::SlowWrites { host: 0 }],
            offers: vec![one(reset(0), &[12]), one(freeze(0), &[3])],
            faults_max: 2,
            needs: vec!["R19"],
            ..pair("a slow primary with a slow disk, its log reset")
        },
        SmallWorld {
            begins: Beginning::Survivor,
            offers: [
                either(kill, &[0]).to_vec(),
                either(reset, &[0, 12]).to_vec(),
                vec![one(freeze(0), &[4]), one(FaultKind::StateTorn { host: 0 }, &[0])],
            ]
            .concat(),
            faults_max: 2,
            needs: vec!["R13", "R14-state"],
            ..pair("a VM that runs alone and gets a backup, with two faults")
        },
        SmallWorld {
            given: vec![FaultKind::SlowWrites { host: 0 }],
            offers: vec![one(FaultKind::HandOver, &[0]), one(kill(0), &[0])],
            faults_max: 2,
            needs: vec!["R21-completion"],
            ..pair("a pair whose VM is handed over, with a slow disk")
        },
        SmallWorld {
            offers: vec![
                one(FaultKind::HandOver, &[0]),
                one(FaultKind::GuestComputes { host: 0 }, &[5]),
                one(kill(1), &[0]),
                one(arbiter_out(1), &[8]),
            ],
            faults_max: 2,
            needs: vec!["R21-silent"],
            ..pair("a pair whose VM is handed over, with a fault")
        },
        SmallWorld {
            offers: [
                vec![one(FaultKind::LetBackupGo, &[0])],
                either(kill, &[0]).to_vec(),
                either(reset, &[12]).to_vec(),
            ]
            .concat(),
            faults_max: 2,
            ..pair("a pair whose backup is let go, with a fault")
        },
        SmallWorld {
            offers: vec![
                one(kill(0), &[0]),
                one(FaultKind::Restart { host: 0 }, &[0]),
                one(FaultKind::Stray { host: 0 }, &[0]),
                one(FaultKind::Diverge { host: 1 }, &[0]),
                one(FaultKind::ReplayStalls { host: 1 }, &[4, NEVER]),
            ],
            faults_max: 2,
            needs: vec!["R1", "R3", "R7-diverged", "R9-drain"],
            ..pair("a pair that loses its primary, with another fault")
        },
    ]
}
