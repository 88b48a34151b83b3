"""Which Debian mirrors this machine's own apt uses: the box is built from them and from nowhere else."""

import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lab.box.failure import BoxFailed

FORMAT = "$(REPO_URI)\t$(ORIGIN)\t$(LABEL)\t$(CODENAME)"
INDEX_TARGETS = ("apt-get", "indextargets", "--format", FORMAT, "Created-By: Packages")


@dataclass(frozen=True)
class Mirrors:
    """URIs of the archive and of the security archive."""

    main: str
    security: str

    def lines(self, suite: str) -> list[str]:
        """Lines for a sources.list."""
        return [
            f"deb {self.main} {suite} main",
            f"deb {self.main} {suite}-updates main",
            f"deb {self.security} {suite}-security main",
        ]


def configured(*, suite: str, environment: Mapping[str, str]) -> Mirrors:
    """Ask apt. Raises BoxFailed where it has no mirror of Debian."""
    answer = subprocess.run(INDEX_TARGETS, capture_output=True, text=True, check=False, env=dict(environment))
    if answer.returncode != 0:
        raise BoxFailed(f"`apt-get indextargets` failed: {answer.stderr.strip()}")
    return choose(answer.stdout.splitlines(), suite=suite)


def choose(lines: Sequence[str], *, suite: str) -> Mirrors:
    """Pick the mirrors for a suite; on another release of Debian its mirrors, which carry the suite as well."""
    rows = [line.split("\t") for line in lines if line.count("\t") == 3]
    main = _first(rows, label="Debian", codename=suite)
    if main is None:
        raise BoxFailed(
            f"apt knows no Debian mirror, so there is nothing to build the box from: name one for {suite} in "
            "/etc/apt/sources.list.d/ and run `apt-get update`."
        )
    security = _first(rows, label="Debian-Security", codename=f"{suite}-security")
    if security is None:
        raise BoxFailed(
            f"apt knows no mirror of Debian's security archive: name one for {suite}-security in "
            "/etc/apt/sources.list.d/ and run `apt-get update`."
        )
    return Mirrors(main=main, security=security)


def _first(rows: Sequence[Sequence[str]], *, label: str, codename: str) -> str | None:
    matching = [row for row in rows if row[1] == "Debian" and row[2] == label]
    best = [row[0] for row in matching if row[3] == codename] or [row[0] for row in matching]
    return best[0] if best else None
