"""The guest's file system: links of the host become links of the guest, and what the user asks for goes first."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from ftvmm.failure import Failure
from ftvmm.packing.guest_files import Directory, GuestFiles, HostFile, Link, Text
from ftvmm.packing.tracing import opened


def document(files: GuestFiles) -> dict[str, Any]:
    """What is at which path, without the links of a merged /usr."""
    merged = {"/bin", "/lib", "/lib64", "/sbin"}
    return {one["path"]: one["content"] for one in files.document(set()) if one["path"] not in merged}


def below(files: GuestFiles, directory: Path) -> dict[str, Any]:
    """The same below a directory of the host, by relative paths."""
    return {
        os.path.relpath(path, directory): content
        for path, content in document(files).items()
        if path.startswith(f"{directory}/")
    }


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """A directory with a file, and links to it: beside it, by a directory, and in a circle."""
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "file").write_text("content")
    (tmp_path / "real" / "beside").symlink_to("file")
    (tmp_path / "way").symlink_to("real")
    (tmp_path / "far").symlink_to(tmp_path / "way" / "beside")
    (tmp_path / "circle").symlink_to("circle")
    return tmp_path


def test_links_on_the_way_to_a_file_become_links(host: Path) -> None:
    files = GuestFiles()
    assert files.add_host(f"{host}/far") == f"{host}/real/file"
    assert below(files, host) == {
        "far": {"link": f"{host}/way/beside"},
        "way": {"link": "real"},
        "real": "directory",
        "real/beside": {"link": "file"},
        "real/file": {"host": f"{host}/real/file"},
    }
    assert files.add_host(f"{host}/way/../real/file") == f"{host}/real/file"


def test_what_the_host_does_not_have_is_named(host: Path) -> None:
    files = GuestFiles()
    for path, words in {"none": "No such file", "real/file/none": "Not a directory", "circle": "40 links"}.items():
        with pytest.raises(Failure, match=words):
            files.add_host(f"{host}/{path}")
    with pytest.raises(Failure, match="neither"):
        files.add_host("/dev/null")
    with pytest.raises(Failure, match="slash"):
        files.add_host("relative")


def test_directories_above_a_path_are_put_in_and_links_followed() -> None:
    files = GuestFiles()
    files.put("/a/b", Link("../c"))
    files.put("/a/b/d/e", Text("content"))
    assert document(files) == {
        "/a": "directory",
        "/a/b": {"link": "../c"},
        "/c": "directory",
        "/c/d": "directory",
        "/c/d/e": {"text": "content"},
    }


def test_what_is_there_is_replaced_only_where_asked() -> None:
    files = GuestFiles()
    files.put("/file", Text("first"))
    files.put("/file", Text("second"), replace=False)
    assert document(files) == {"/file": {"text": "first"}}
    files.put("/file", Text("third"))
    assert document(files) == {"/file": {"text": "third"}}


def test_a_file_takes_no_directory_s_place() -> None:
    files = GuestFiles()
    files.put("/a/b", Text(""))
    with pytest.raises(Failure, match="/a is a directory"):
        files.put("/a", Text(""))
    with pytest.raises(Failure, match="/a/b is no directory"):
        files.put("/a/b/c", Text(""))
    with pytest.raises(Failure, match="no path of a file"):
        files.put("/", Directory())


def test_a_tree_keeps_its_links_and_brings_along_what_they_lead_to(host: Path) -> None:
    (host / "tree").mkdir()
    (host / "tree" / "out").symlink_to("../real/file")
    (host / "tree" / "dangling").symlink_to("nowhere")
    files = GuestFiles()
    files.add_tree(f"{host}/tree")
    assert below(files, host) == {
        "tree": "directory",
        "tree/out": {"link": "../real/file"},
        "tree/dangling": {"link": "nowhere"},
        "real": "directory",
        "real/file": {"host": f"{host}/real/file"},
    }


def test_a_tree_under_another_path(host: Path) -> None:
    files = GuestFiles()
    files.put("/data/file", Text("replaced"))
    files.add_tree(f"{host}/real", "/data")
    assert document(files) == {
        "/data": "directory",
        "/data/beside": {"link": "file"},
        "/data/file": {"host": f"{host}/real/file"},
    }


def test_a_name_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"\xff")).write_text("")
    with pytest.raises(Failure, match="UTF-8"):
        GuestFiles().add_tree(str(tmp_path))


def test_permissions_are_the_host_s(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "file").chmod(0o4751)
    files = GuestFiles()
    files.add_host(f"{tmp_path}/file")
    files.put("/given", HostFile(f"{tmp_path}/file", 0o600, 0))
    found = {one["path"]: one["permissions"] for one in files.document(set())}
    assert (found[f"{tmp_path}/file"], found["/given"]) == (0o4751, 0o600)


def test_a_file_is_as_old_as_the_host_s_and_all_else_as_the_vm(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    os.utime(tmp_path / "file", ns=(0, 1_700_000_000_900_000_000))
    (tmp_path / "old").write_text("")
    os.utime(tmp_path / "old", (0, -5))
    files = GuestFiles()
    files.add_tree(f"{tmp_path}")
    files.put("/text", Text("made up"))
    modified = {os.path.basename(one["path"]): one["modified_s"] for one in files.document(set())}
    assert (modified["file"], modified["old"], modified["text"]) == (1_700_000_000, 0, None)
    assert modified[tmp_path.name] is None


def _hexadecimal(text: str) -> str:
    return "".join(f"\\x{byte:02x}" for byte in text.encode())


def _line(call: str, arguments: str, result: str) -> str:
    """A line of strace, with every string between quotes or angle brackets in hexadecimal."""
    for mark, end in (('"', '"'), ("<", ">")):
        parts = arguments.split(mark) if mark == end else arguments.replace(end, mark).split(mark)
        arguments = "".join(
            part if index % 2 == 0 else f"{mark}{_hexadecimal(part)}{end}" for index, part in enumerate(parts)
        )
    return f"{call}({arguments}) = {result}"


def test_a_trace_tells_what_was_read_and_what_was_made() -> None:
    lines = [
        _line("openat", 'AT_FDCWD</home>, "a (b), c", O_RDONLY|O_CLOEXEC', "3"),
        _line("openat", '4</home/sub>, "below", O_RDONLY|O_DIRECTORY', "5"),
        _line("open", '"/etc/both", O_RDWR', "3"),
        _line("openat2", 'AT_FDCWD</>, "/etc/second", {flags=O_RDONLY, resolve=0}, 24', "3"),
        _line("openat", 'AT_FDCWD</>, "/etc/missing", O_RDONLY', "-1 ENOENT (No such file or directory)"),
        _line("openat", 'AT_FDCWD</>, "/etc/written", O_WRONLY', "3"),
        _line("openat", 'AT_FDCWD</>, "/var/made", O_RDWR|O_CREAT, 0600', "3"),
        _line("open", '"/var/made", O_RDONLY', "3"),
        _line("rename", '"/var/old", "/var/new"', "0"),
        _line("open", '"/var/new", O_RDONLY', "3"),
        _line("mkdir", '"/var/directory", 0700', "0"),
        _line("open", '"/var/directory/in it", O_RDONLY', "3"),
        _line("open", '"/proc/self/maps", O_RDONLY', "3"),
        _line("open", '"/process", O_RDONLY', "3"),
        _line("newfstatat", 'AT_FDCWD</home>, "seen", {st_mode=S_IFREG|0644, st_size=3, ...}, 0', "0"),
        _line("newfstatat", '3</var/open>, "", {st_mode=S_IFREG|0644, st_size=3, ...}, AT_EMPTY_PATH', "0"),
        _line("access", '"/etc/allowed", R_OK', "0"),
        _line("access", '"/etc/forbidden", R_OK', "-1 EACCES (Permission denied)"),
        _line("stat", '"/var/made", {st_mode=S_IFREG|0644, st_size=3, ...}', "0"),
        _line("execve", '"/usr/bin/other", ["other"], 0x7ffc /* 3 vars */', "0"),
        "+++ exited with 0 +++",
    ]
    assert opened(lines) == {
        "/home/a (b), c", "/home/sub/below", "/home/seen", "/etc/allowed", "/etc/both", "/etc/second", "/process",
    }  # fmt: skip
