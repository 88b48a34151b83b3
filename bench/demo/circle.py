"""What the demonstration does, act by act: three hosts, two losses, and a VM that is protected after each of them."""

from collections.abc import Callable
from dataclasses import dataclass

from bench.demo.observation import Deed, Scene
from fault_injectors.fault import FaultRecord
from fault_injectors.host import PowerOff
from harness.promise import Expect, Promise
from harness.scenario import Plan
from harness.vm.pair import Node
from harness.vm.run import Run

CIRCLE = Plan(promise=Promise(expect=Expect.FAILOVER, renewals_min=2), faults=(PowerOff,))


@dataclass(frozen=True)
class Act:
    """A part of the demonstration.

    Attributes:
        headline: what is to be seen.
        perform: does it, and comes back when what is to follow has followed.
    """

    headline: str
    perform: Callable[[], None]


def circle(run: Run, scene: Scene, spare: Node) -> list[Act]:
    """The whole circle: whoever runs the VM loses its power, and is the spare of the one after the next.

    Args:
        run: a pair that serves.
        scene: where each deed is noted.
        spare: the third host's node.
    """
    first, second, third = run.primary, run.backup, spare
    lost: list[FaultRecord] = []

    def take_power(owner: Node, successor: Node, newcomer: Node) -> None:
        scene.deeds.append(Deed(run.client.progress().now_ns, f"take {owner.name}'s power away"))
        lost.append(run.inject(PowerOff(run.lab, owner.host)))
        run.pair.wait_until_protected(successor, newcomer)
        run.expect_service()

    def give_power_back(node: Node) -> None:
        run.heal(lost[-1])
        scene.deeds.append(Deed(run.client.progress().now_ns, f"give {node.name} its power back", is_fault=False))
        run.pair.start_manager(node)
        run.pair.wait_until_spare(node)

    return [
        Act(
            f"One VM on two hosts: {first.name} runs it and logs, {second.name} replays the log, {third.name} is a "
            "spare. A client writes and reads.",
            run.expect_protected,
        ),
        Act(
            f"{first.name} loses its power: {second.name} takes the VM over, and {third.name} becomes its backup.",
            lambda: take_power(first, second, third),
        ),
        Act(
            f"{first.name} comes back: its manager starts its node, which is the spare now.",
            lambda: give_power_back(first),
        ),
        Act(
            f"{second.name} loses its power: {third.name} takes the VM over, and {first.name} becomes its backup.",
            lambda: take_power(second, third, first),
        ),
    ]
