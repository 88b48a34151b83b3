"""A trace event as a sentence for people who have not read the protocol."""

from typing import Any

TEMPLATES = {
    "node-started": "starts",
    "suspect": "suspects its peer: {reason}",
    "closed-log": "closes the log at position {position}: nothing more is accepted",
    "drained": "has replayed the log to its end, position {position}",
    "attached": "attaches network card and disk",
    "announced": "announces the VM's address to the switches",
    "live": "is live",
    "first-output": "sends its first output",
    "paused": "notices that it was stopped for {gap_ms:.0f} ms",
    "divergence": "halts itself, because its replay diverged: {reason}",
    "halted": "halts itself: {reason}",
    "stopped": "has stopped with exit status {exit_status}",
}
TRANSFER = {
    "begun": "copies the VM's memory to a spare while the VM runs",
    "stopping": "stops the VM for the rest",
    "resumed": "lets the VM go on",
    "given-up": "gives the copy up: {reason}",
}
ARBITER = {
    "won": "wins generation {wanted}",
    "lost": "does not get generation {wanted}, which another node has",
    "unreachable": "cannot reach the arbiter to ask for generation {wanted}",
}


def sentence(event: dict[str, Any]) -> str | None:
    """Tell an event in a few words; None for one that people need not hear of."""
    if event["event"] == "role":
        reason = f" ({event['reason']})" if event.get("reason") else ""
        return f"{event['from']} becomes {event['to']}{reason}"
    if event["event"] == "arbiter":
        template = ARBITER.get(str(event["outcome"])) if event["operation"] == "ask" else None
    elif event["event"] == "transfer":
        template = TRANSFER.get(event["state"])
    else:
        template = TEMPLATES.get(event["event"])
    return None if template is None else template.format_map(event)
