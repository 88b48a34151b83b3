"""The arbiter is etcd, a member on each host: members die, their leader is cut off, a majority or a record is lost."""

from __future__ import annotations

import pytest

from fault_injectors.etcd import ChangedEtcdKey, CutEtcdLeader, KillEtcdMember
from fault_injectors.host import PowerOff
from fault_injectors.networks import HostPairCut
from fault_injectors.vmm import KillVmm
from harness.lab.interface import Host
from harness.promise import ArbiterKind, Expect, Promise, unnoticed
from harness.scenario import scenario
from harness.vm.pair import Role
from harness.vm.run import Run

ETCD = ArbiterKind.ETCD
# Without a leader nobody wins. The others elect one when they have not heard it for one to two times etcd's election
# timeout of 1 s, and once more where the vote was split; a candidate asks on meanwhile, and the client's connections
# ask again up to 1 s later. 2,706 ms was the longest of 22 such takeovers.
ELECTION_MS_MAX = 6000.0
# As long as nobody can win, and then the takeover.
HELD_MS_MAX = 30_000.0

ELECTION = Promise(expect=Expect.FAILOVER, stall_ms_max=ELECTION_MS_MAX)
HELD = Promise(expect=Expect.FAILOVER, stall_ms_max=HELD_MS_MAX)


def host_of(run: Run, which: str) -> Host:
    """The primary's, the backup's, or the spare one."""
    pair = {"primary": run.primary.host, "backup": run.backup.host}
    names = {host.name for host in pair.values()}
    return pair.get(which) or next(host for host in run.lab.fault_tolerant_hosts if host.name not in names)


@scenario(Promise(expect=Expect.FAILOVER), faults=(PowerOff,), arbiter=ETCD)
def test_primary_loses_power_with_a_member_that_follows(run: Run) -> None:
    """Two members are left, and they have their leader: the takeover takes as long as with any arbiter."""
    survivor = run.backup
    run.etcd.lead(host_of(run, "spare"))
    run.inject(PowerOff(run.lab, run.primary.host))
    run.expect_takeover(survivor)


@scenario(ELECTION, faults=(PowerOff,), arbiter=ETCD)
def test_primary_loses_power_with_the_member_that_leads(run: Run) -> None:
    """The two members that are left elect another leader first."""
    survivor = run.backup
    run.etcd.lead(run.primary.host)
    run.inject(PowerOff(run.lab, run.primary.host))
    run.expect_takeover(survivor)


@scenario(ELECTION, faults=(KillEtcdMember, KillVmm), arbiter=ETCD)
@pytest.mark.parametrize("leads", ["backup", "spare"])
def test_leader_is_killed_and_then_the_primary_vmm(run: Run, leads: str) -> None:
    """The takeover waits for the election, also where the survivor's own member is the one that died."""
    survivor, victim = run.backup, run.primary
    run.etcd.lead(host_of(run, leads))
    run.inject(KillEtcdMember(run.lab, host_of(run, leads), run.etcd))
    run.inject(KillVmm(run.lab, victim.host, victim.process.pid))
    run.expect_takeover(survivor)


@scenario(ELECTION, faults=(CutEtcdLeader, KillVmm), arbiter=ETCD)
@pytest.mark.parametrize("leads", ["primary", "backup", "spare"])
def test_leader_is_cut_off_and_then_the_primary_vmm_is_killed(run: Run, leads: str) -> None:
    """A leader without followers may take what the survivor asks, and grants nothing: the others do, with a new one."""
    survivor, victim = run.backup, run.primary
    leader = host_of(run, leads)
    run.etcd.lead(leader)
    with run.under(CutEtcdLeader(run.lab, leader, run.etcd)):
        run.inject(KillVmm(run.lab, victim.host, victim.process.pid))
        run.expect_takeover(survivor)


@scenario(unnoticed(), faults=(KillEtcdMember,), arbiter=ETCD)
def test_majority_is_lost_and_nobody_notices(run: Run) -> None:
    """A healthy pair does not ask the arbiter: it runs on while two of three members are gone."""
    hosts = run.primary.host, run.backup.host
    with run.under(*[KillEtcdMember(run.lab, host, run.etcd) for host in hosts]):
        run.await_confirmations()
        run.expect_together()


@scenario(HELD, faults=(KillEtcdMember, PowerOff), arbiter=ETCD)
def test_majority_is_lost_and_then_the_primary_loses_power(run: Run) -> None:
    """Nobody can win, so nobody goes on; the members are started again over what they had, and the backup does."""
    survivor = run.backup
    hosts = survivor.host, host_of(run, "spare")
    run.etcd.lead(run.primary.host)
    with run.under(*[KillEtcdMember(run.lab, host, run.etcd) for host in hosts]):
        run.inject(PowerOff(run.lab, run.primary.host))
        run.pair.wait_for_event(survivor, "arbiter", operation="read", outcome="unreachable")
        run.expect_roles({survivor: Role.CANDIDATE})
    run.expect_takeover(survivor)


@scenario(
    Promise(expect=Expect.ONE_SURVIVOR, stall_ms_max=ELECTION_MS_MAX),
    faults=(KillEtcdMember, HostPairCut),
    arbiter=ETCD,
)
@pytest.mark.parametrize("lost", ["primary", "backup"])
def test_member_is_lost_while_the_hosts_are_cut_from_each_other(run: Run, lost: str) -> None:
    """Two members are left, one of them beyond the cut: exactly one node survives, and the other halts itself."""
    nodes = run.primary, run.backup
    hosts = nodes[0].host, nodes[1].host
    run.etcd.lead(host_of(run, lost))
    with run.under(KillEtcdMember(run.lab, host_of(run, lost), run.etcd), HostPairCut(run.lab, *hosts)):
        run.expect_one_survivor(*nodes)


@scenario(Promise(expect=Expect.GOES_ON, stall_ms_max=HELD_MS_MAX), faults=(KillEtcdMember, HostPairCut), arbiter=ETCD)
def test_third_member_is_lost_while_the_hosts_are_cut_from_each_other(run: Run) -> None:
    """Each side of the cut has one member, and nobody a majority: nobody goes live; when it heals the VM goes on."""
    primary, backup = run.primary, run.backup
    run.etcd.lead(host_of(run, "spare"))
    cut = HostPairCut(run.lab, primary.host, backup.host)
    with run.under(KillEtcdMember(run.lab, host_of(run, "spare"), run.etcd), cut):
        run.pair.wait_for_event(primary, "arbiter", outcome="unreachable")
        run.pair.wait_for_event(backup, "arbiter", outcome="unreachable")
        run.expect_roles({primary: Role.PROTECTED, backup: Role.CANDIDATE})
    run.expect_service()


@scenario(HELD, faults=(ChangedEtcdKey, PowerOff), arbiter=ETCD)
def test_newest_key_is_changed_by_hand_when_the_primary_dies(run: Run) -> None:
    """A generation is put once: one that somebody put again says nothing of its owner, and nobody asks for the next."""
    survivor = run.backup
    run.etcd.lead(survivor.host)
    with run.under(ChangedEtcdKey(run.lab, run.etcd, run.pair.vm)):
        run.inject(PowerOff(run.lab, run.primary.host))
        run.pair.wait_for_event(survivor, "arbiter", operation="read", outcome="unreachable")
        run.expect_roles({survivor: Role.CANDIDATE})
    run.expect_takeover(survivor)
