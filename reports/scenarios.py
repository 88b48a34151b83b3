"""Runs the suite and makes its report: the program behind ``make scenarios``.

Ends with one line that says how many scenarios passed and where the report is; exits with pytest's status.
"""

import os
import platform
import shlex
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[1]
LAB = os.environ.get("LAB", "netns")
# The report of one lab does not take the place of another's.
SUFFIX = "" if LAB == "netns" else f"-{LAB}"
RESULTS = ROOT / "reports" / f"allure-results{SUFFIX}"
REPORT = ROOT / "reports" / f"allure-report{SUFFIX}"
JUNIT = ROOT / ".state" / f"scenarios{SUFFIX}.xml"
NODE = ROOT / ".tools" / "bin" / "node"
ALLURE = ROOT / ".tools" / "node" / "node_modules" / "allure" / "cli.js"
REPORT_LOG = ROOT / ".state" / "logs" / "allure-generate.log"
REPORT_SECONDS_MAX = 300
# How many labs run side by side. Of the Vagrant lab there is one.
LABS_AT_ONCE = 2 if LAB == "netns" else 1
# The property that a second attempt has, as `harness.begin_anew_plugin` calls it.
BEGUN_ANEW = "begun anew"


@dataclass(frozen=True)
class Count:
    """How the scenarios of one run ended, as pytest counted them."""

    total: int
    failed: int
    skipped: int
    begun_anew: int = 0

    @property
    def passed(self) -> int:
        return self.total - self.failed - self.skipped


def main() -> int:
    """Run pytest and then Allure.

    ``LAB``, ``SCENARIO`` (pytest's -k), ``JOBS`` (labs at once) and ``ARGS`` come from make's environment.
    """
    JUNIT.parent.mkdir(parents=True, exist_ok=True)
    JUNIT.unlink(missing_ok=True)
    status = _run_pytest()
    _write_environment()
    report = _make_report()
    print(closing_line(_count(), status=status, report=report), flush=True)
    return status


def closing_line(count: Count | None, *, status: int, report: str) -> str:
    """The one line that a run ends with; ``status`` is pytest's."""
    if count is None:
        return f"The scenarios did not run to their end (pytest's exit status {status}); {report}"
    if count.total == 0:
        return f"No scenario was run (pytest's exit status {status}); {report}"
    parts = [f"{count.passed} of {count.total} scenarios passed"]
    parts += [f"{count.failed} failed"] if count.failed else []
    parts += [f"{count.skipped} skipped"] if count.skipped else []
    parts += [f"{count.begun_anew} begun anew because the machine stood still"] if count.begun_anew else []
    if status not in (0, 1):
        parts.append(f"pytest's exit status {status}")
    return f"{', '.join(parts)}; {report}"


def _run_pytest() -> int:
    command = [
        sys.executable,
        "-m",
        "pytest",
        "scenarios/",
        f"--lab={LAB}",
        "--progress",
        f"--alluredir={RESULTS}",
        "--clean-alluredir",
    ]
    command += [f"--junit-xml={JUNIT}", "-o", "junit_family=xunit2"]
    if selection := os.environ.get("SCENARIO", "").strip():
        command += ["-k", selection]
    arguments = shlex.split(os.environ.get("ARGS", ""))
    jobs = int(os.environ.get("JOBS") or LABS_AT_ONCE)
    # A lab that is kept for somebody to look at ends the run, which only one process can.
    if jobs > 1 and "--keep-lab" not in arguments:
        # More processes than labs with a VM that runs: the others gather and judge, or bring up the next lab's hosts.
        command += [f"--numprocesses={jobs + 2}", f"--labs-at-once={jobs}", "--maxschedchunk=1"]
    command += arguments
    # Ctrl-C reaches pytest by itself, being in the same process group: it takes the lab down, and we wait for it.
    signal.signal(signal.SIGINT, lambda *_: None)
    with subprocess.Popen(command, cwd=ROOT) as pytest:
        signal.signal(signal.SIGTERM, lambda *_: pytest.terminate())
        return pytest.wait()


def _write_environment() -> None:
    """What the report says of where it comes from: who signs it off has to know which commit it judges."""
    if not RESULTS.is_dir():
        return
    values = {
        "lab": LAB,
        "commit": _commit(),
        "kernel": platform.release(),
        "processors": os.cpu_count(),
        "Python": platform.python_version(),
    }
    lines = [f"{name}={value}\n" for name, value in values.items()]
    (RESULTS / "environment.properties").write_text("".join(lines))


def _commit() -> str:
    describe = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    try:
        done = subprocess.run(describe, cwd=ROOT, capture_output=True, text=True, check=False)
    except OSError:
        return "unknown"
    return done.stdout.strip() or "unknown"


def _make_report() -> str:
    if not RESULTS.is_dir() or not any(RESULTS.iterdir()):
        return "no report, because there are no results"
    # Beside an older report Allure writes a second one and leaves the first where people look.
    shutil.rmtree(REPORT, ignore_errors=True)
    command: list[str | Path] = [
        NODE,
        ALLURE,
        "generate",
        RESULTS,
        "--config",
        "reports/allurerc.mjs",
        "--output",
        REPORT,
    ]
    REPORT_LOG.parent.mkdir(parents=True, exist_ok=True)
    with REPORT_LOG.open("w") as log:
        try:
            status = subprocess.run(
                command,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                timeout=REPORT_SECONDS_MAX,
                check=False,
            ).returncode
        except (OSError, subprocess.TimeoutExpired) as error:
            log.write(f"{error}\n")
            status = 1
    if status != 0 or not (REPORT / "index.html").is_file():
        return f"the report could not be made, see {REPORT_LOG.relative_to(ROOT)}"
    return f"report: {REPORT / 'index.html'} (`make report{f' LAB={LAB}' if SUFFIX else ''}` shows it)".replace(
        f"{ROOT}/", ""
    )


def _count() -> Count | None:
    try:
        suites = ElementTree.parse(JUNIT).getroot().iter("testsuite")
    except (OSError, ElementTree.ParseError):
        return None
    total = failed = skipped = 0
    begun_anew: set[tuple[str | None, str | None]] = set()
    for suite in suites:
        # JUnit's attributes count a scenario twice whose test passed and whose oracles then failed it: count cases.
        endings: dict[tuple[str | None, str | None], set[str]] = {}
        for case in suite.iter("testcase"):
            ending = endings.setdefault((case.get("classname"), case.get("name")), set())
            ending.update(child.tag for child in case if child.tag in ("failure", "error", "skipped"))
            if any(told.get("name") == BEGUN_ANEW for told in case.iter("property")):
                begun_anew.add((case.get("classname"), case.get("name")))
        total += len(endings)
        failed += sum(bool(ending & {"failure", "error"}) for ending in endings.values())
        skipped += sum(ending == {"skipped"} for ending in endings.values())
    return Count(total=total, failed=failed, skipped=skipped, begun_anew=len(begun_anew))


if __name__ == "__main__":
    sys.exit(main())
