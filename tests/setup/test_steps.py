"""A step is done once, done again when its inputs change, and picked up where an interruption left it."""

import io
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from lab.provision.step import Shell, Stamps, StepFailed, Tree, fingerprint_of, perform


@dataclass
class CopyStep:
    """Copies ``source`` to ``result`` with a command, and counts how often."""

    fails: bool = False
    runs: int = 0
    name: str = "copy"
    title: str = "Copy"
    said: io.StringIO = field(default_factory=io.StringIO)

    def fingerprint(self, tree: Tree) -> str:
        return fingerprint_of(root=tree.root, paths=[tree.root / "source"])

    def is_present(self, tree: Tree) -> bool:
        return (tree.root / "result").is_file()

    def carry_out(self, tree: Tree, shell: Shell) -> None:
        self.runs += 1
        shell.run(["cp", "--verbose", tree.root / "source", tree.root / "result"], failure="cp failed.")
        if self.fails:
            shell.run(["sh", "-c", "echo the reason; exit 3"], failure="The copy was not good.")

    def perform(self, tree: Tree) -> bool:
        return perform(self, number="[1/1]", tree=tree, stamps=Stamps(tree.state), progress=self.said)


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    (tmp_path / "source").write_text("first")
    return Tree(root=tmp_path, cargo_directory=Path("/usr/bin"))


def test_a_finished_step_is_skipped_in_silence(tree: Tree) -> None:
    step = CopyStep()
    assert step.perform(tree)
    first = step.said.getvalue()
    assert not step.perform(tree)
    assert step.runs == 1
    assert step.said.getvalue() == first


def test_a_step_is_done_again_when_its_input_changes(tree: Tree) -> None:
    step = CopyStep()
    step.perform(tree)
    (tree.root / "source").write_text("other")  # same length, whatever the clock says
    assert step.perform(tree)
    assert (tree.root / "result").read_text() == "other"


def test_a_step_is_done_again_when_its_result_was_removed(tree: Tree) -> None:
    step = CopyStep()
    step.perform(tree)
    (tree.root / "result").unlink()
    assert step.perform(tree)
    assert (tree.root / "result").is_file()


def test_a_failed_step_shows_its_log_and_is_tried_again(tree: Tree) -> None:
    step = CopyStep(fails=True)
    with pytest.raises(StepFailed, match=r"The copy was not good\. The whole log is \.state/logs/copy\.log"):
        step.perform(tree)
    assert "the reason" in step.said.getvalue()
    step.fails = False
    assert step.perform(tree)
    assert step.runs == 2


def test_a_step_that_fails_after_an_earlier_success_is_not_taken_for_done(tree: Tree) -> None:
    step = CopyStep()
    step.perform(tree)
    (tree.root / "source").write_text("second")
    step.fails = True
    with pytest.raises(StepFailed):
        step.perform(tree)
    (tree.root / "source").write_text("first")
    step.fails = False
    assert step.perform(tree), "the result is of the second source, so the first stamp must be gone"


def test_a_missing_command_is_a_failure_with_its_sentence(tree: Tree, tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as log, pytest.raises(StepFailed, match="Not there"):
        Shell(tree, log).run(["no-such-program"], failure="Not there.")


def test_builds_do_not_follow_variables_that_redirect_them(
    tree: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CARGO_TARGET_DIR", "/elsewhere")
    monkeypatch.setenv("MAKEFLAGS", "-j8")
    with (tmp_path / "log").open("w") as log:
        Shell(tree, log).run(["env"], failure="env failed.")
    printed = (tmp_path / "log").read_text()
    assert "PATH=" in printed
    assert "/elsewhere" not in printed
    assert "MAKEFLAGS" not in printed


def test_build_output_does_not_count_as_input(tmp_path: Path) -> None:
    (tmp_path / "crate" / "src").mkdir(parents=True)
    (tmp_path / "crate" / "src" / "lib.rs").write_text("")
    before = fingerprint_of(root=tmp_path, paths=[tmp_path / "crate"])
    (tmp_path / "crate" / "target").mkdir()
    (tmp_path / "crate" / "target" / "object").write_text("built")
    assert fingerprint_of(root=tmp_path, paths=[tmp_path / "crate"]) == before
    (tmp_path / "crate" / "src" / "main.rs").write_text("")
    assert fingerprint_of(root=tmp_path, paths=[tmp_path / "crate"]) != before
