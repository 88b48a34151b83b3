"""`ftvmm pack`: what becomes of programs, and what is refused."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.command_line.command import COMMAND, assert_refused, ftvmm
from tests.guests.guest import REPOSITORY
from tests.packing.conftest import Compile, Pack

HELLO = '#include <stdio.h>\nint main(void) { puts("hello"); return 0; }\n'
SECONDS_MAX = 2.0


def figure(report: str, what: str) -> int:
    """The number behind a line of the summary."""
    found = re.search(rf"{what}[^:]*: (\d+)$", report, re.MULTILINE)
    assert found is not None, report
    return int(found[1])


def assert_runnable(image: Path) -> None:
    """The VMM's own pass finds nothing to refuse."""
    process = ftvmm("verify", image)
    assert process.returncode == 0, process.stdout
    assert process.stdout.splitlines()[-1] == "It can be run."


def holds_text(image: Path, text: str) -> bool:
    """Whether the package has a string: it is written behind its length."""
    content = text.encode()
    return bytes([len(content)]) + content in image.read_bytes()


@pytest.mark.parametrize("options", [("-static",), ("-static-pie",), ("-no-pie",), ("-pie",)])
def test_a_small_program(options: tuple[str, ...], compile_program: Compile, pack: Pack, image: Path) -> None:
    process = pack(compile_program("hello", HELLO, *options))
    assert process.returncode == 0, process.stderr
    is_static = options[0].startswith("-static")
    assert figure(process.stdout, "objects") == (1 if is_static else 3)
    assert figure(process.stdout, "system calls") > (20 if is_static else 500)
    assert_runnable(image)


def _compiler() -> str:
    return subprocess.run(["gcc", "-print-prog-name=cc1"], check=True, capture_output=True, text=True).stdout.strip()


@pytest.mark.parametrize("program", ["python3.11", "cc1", "go", "redis-server"])
def test_a_large_program(program: str, pack: Pack, image: Path) -> None:
    paths = {"python3.11": "/usr/bin/python3.11", "cc1": _compiler(), "go": "/usr/local/go/bin/go"}
    path = paths.get(program) or shutil.which(program)
    if path is None or not os.path.exists(path):
        pytest.skip(f"{program} is not installed")
    started = time.monotonic()
    process = pack(path)
    assert process.returncode == 0, process.stderr
    assert program != "redis-server" or time.monotonic() - started < SECONDS_MAX
    assert figure(process.stdout, "system calls") > 30
    assert_runnable(image)


def test_the_same_program_makes_the_same_image(compile_program: Compile, pack: Pack, image: Path) -> None:
    program = compile_program("hello", HELLO)
    images = []
    for _ in range(2):
        assert pack(program, "--add-tree", "/usr/share/zoneinfo/Etc").returncode == 0
        images.append(image.read_bytes())
        image.unlink()
    assert images[0] == images[1]


def test_arguments_and_environment_keep_their_blanks(compile_program: Compile, pack: Pack, image: Path) -> None:
    program = compile_program("hello", HELLO)
    process = pack(program, "--arg", "two words", "--arg", "", "--arg=--looks-like=an option", "--env", "A=b = c")
    assert process.returncode == 0, process.stderr
    assert all(holds_text(image, text) for text in (str(program), "two words", "--looks-like=an option", "A=b = c"))
    assert not holds_text(image, "another word")
    assert_refused(pack(program, "--env", "=x"), "NAME=VALUE")
    assert_refused(pack(program, "stray"), "stray", "--arg")


def test_files_and_trees_are_packed(compile_program: Compile, pack: Pack, image: Path, tmp_path: Path) -> None:
    program = compile_program("hello", HELLO)
    (tmp_path / "tree" / "below").mkdir(parents=True)
    (tmp_path / "tree" / "below" / "file").write_text("content of a file in a tree")
    (tmp_path / "tree" / "link").symlink_to("below/file")
    (tmp_path / "passwd").write_text("somebody:x:1:1::/:/bin/sh")
    tree, passwd = tmp_path / "tree", tmp_path / "passwd"
    process = pack(program, "--add-tree", f"/data={tree}", "--file", f"/etc/passwd={passwd}")
    assert process.returncode == 0, process.stderr
    for text in ("/data", "/data/below", "/data/below/file", "/data/link", "below/file", "/etc/passwd", "/etc/hosts"):
        assert holds_text(image, text), text
    assert holds_text(image, "content of a file in a tree")
    assert holds_text(image, passwd.read_text())
    assert b"nobody:x:65534" not in image.read_bytes()
    assert_refused(pack(program, "--file", "/etc/passwd"), "GUEST=HOST")
    assert_refused(pack(program, "--file", f"/a={tmp_path}/none"), f"{tmp_path}/none")
    assert_refused(pack(program, "--file", f"a={passwd}"), "'a'", "slash")
    assert_refused(pack(program, "--add-tree", passwd), "no directory")
    os.mkfifo(tmp_path / "tree" / "pipe")
    assert (
        f"left out, because neither file, directory nor link: {tree}/pipe" in pack(program, "--add-tree", tree).stderr
    )


def test_devices_are_those_that_were_asked_for(compile_program: Compile, pack: Pack, image: Path) -> None:
    program = compile_program("hello", HELLO, "-static")
    for options, devices in {
        (): (b"service",),
        ("--no-network",): (),
        ("--disk",): (b"service", b"storage"),
        ("--disk", "--no-network"): (b"storage",),
    }.items():
        assert pack(program, *options).returncode == 0
        content = image.read_bytes()
        # The first such note is the image's, the personality's own lies behind it.
        manifest = content[content.index(b"MFT1Solo5") :][:400]
        assert {name for name in (b"service", b"storage") if name in manifest} == set(devices)


def test_a_library_beside_the_usual_places_is_found_as_the_loader_finds_it(
    compile_program: Compile, pack: Pack, image: Path, tmp_path: Path
) -> None:
    compile_program("libown.so", "int own(void) { return 1; }", "-shared", "-fPIC")
    main = "int own(void); int main(void) { return own(); }"
    program = compile_program("main", main, "-L.", "-lown", f"-Wl,-rpath,{tmp_path}")
    process = pack(program)
    assert process.returncode == 0, process.stderr
    assert figure(process.stdout, "objects") == 4
    assert holds_text(image, str(tmp_path / "libown.so"))
    (tmp_path / "libown.so").unlink()
    assert_refused(pack(program), "libown.so", "not installed")


def test_a_packed_library_brings_what_it_needs(
    compile_program: Compile, pack: Pack, image: Path, tmp_path: Path
) -> None:
    compile_program("libown.so", "int own(void) { return 1; }", "-shared", "-fPIC")
    needing = "int own(void); int needing(void) { return own(); }"
    options = ("-shared", "-fPIC", "-L.", "-lown", f"-Wl,-rpath,{tmp_path}")
    library = compile_program("libneeding.so", needing, *options)
    program = compile_program("hello", HELLO)
    process = pack(program, "--file", f"/opt/libneeding.so={library}")
    assert process.returncode == 0, process.stderr
    assert figure(process.stdout, "objects") == 5
    assert holds_text(image, str(tmp_path / "libown.so"))
    # As on the host, the program hears of a library that is missing when it loads that one.
    (tmp_path / "libown.so").unlink()
    process = pack(program, "--file", f"/opt/libneeding.so={library}")
    assert (process.returncode, figure(process.stdout, "objects")) == (0, 4)
    assert "libneeding.so needs the library libown.so" in process.stderr


TRACED = r"""
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>
int main(int count, char **arguments) {
    if (count != 2 || chdir(arguments[1])) return 1;
    int (*plugin)(void) = (int (*)(void))dlsym(dlopen("./libplugin.so", RTLD_NOW), "plugin");
    close(open("a \"quoted\" file", O_RDONLY));
    close(open("made by it", O_CREAT | O_RDWR, 0600));
    close(open("made by it", O_RDONLY));
    close(open("missing", O_RDONLY));
    close(open("/proc/self/maps", O_RDONLY));
    printf("plugin %d\n", plugin());
    return 0;
}
"""
needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")


@needs_strace
def test_what_a_traced_program_opens_is_packed(
    compile_program: Compile, pack: Pack, image: Path, tmp_path: Path
) -> None:
    compile_program("libplugin.so", "int plugin(void) { return 5; }", "-shared", "-fPIC")
    program = compile_program("main", TRACED)
    (tmp_path / 'a "quoted" file').write_text("read by it")
    process = pack(program, "--trace", "--", tmp_path)
    assert process.returncode == 0, process.stderr
    # Its own output comes first.
    assert process.stdout.startswith("plugin 5\n")
    assert figure(process.stdout, "objects") == 4
    for name in ("libplugin.so", 'a "quoted" file'):
        assert holds_text(image, str(tmp_path / name)), name
    for path in (str(tmp_path / "made by it"), str(tmp_path / "missing"), "/proc", "/etc/ld.so.cache"):
        assert not holds_text(image, path), path


@needs_strace
def test_ctrl_c_ends_the_traced_program_and_not_the_packer(
    compile_program: Compile, personality: Path, image: Path, tmp_path: Path
) -> None:
    source = "#include <fcntl.h>\n#include <stdio.h>\n#include <unistd.h>\n"
    source += 'int main(int c, char **v) { open(v[1], O_RDONLY); puts("open"); fflush(stdout); for (;;) pause(); }'
    program = compile_program("main", source)
    (tmp_path / "read").write_text("read by it")
    process = subprocess.Popen(
        [*COMMAND, "pack", "--personality", personality, "-o", image, program, "--trace", "--", tmp_path / "read"],
        cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert (process.returncode, errors) == (0, "")
    assert holds_text(image, str(tmp_path / "read"))


def test_strace_that_is_missing_is_named(compile_program: Compile, pack: Pack, monkeypatch: pytest.MonkeyPatch) -> None:
    program = compile_program("hello", HELLO)
    monkeypatch.setenv("PATH", "/nonexistent")
    assert_refused(pack(program, "--trace"), "strace", "apt-get install strace")


def test_a_program_that_starts_others_is_packed_with_a_note(compile_program: Compile, pack: Pack) -> None:
    program = compile_program("forks", "#include <unistd.h>\nint main(void) { return fork() + execv(0, 0); }")
    process = pack(program)
    assert process.returncode == 0
    assert f"note: {program} asks for execv, fork" in process.stderr


@needs_strace
@pytest.mark.parametrize(
    ("does", "words"),
    [
        ("if (fork() == 0) _exit(0);", ("processes: 1",)),
        ('system("exit 3");', ("processes: 1", "programs: sh")),
        ('execl("/bin/true", "true", (char *)0);', ("programs: true",)),
    ],
)
def test_a_program_that_starts_others_while_it_is_traced_is_refused(
    compile_program: Compile, pack: Pack, does: str, words: tuple[str, ...]
) -> None:
    text = f"#include <stdlib.h>\n#include <unistd.h>\nint main(void) {{ {does} return 0; }}"
    assert_refused(pack(compile_program("starts", text), "--trace"), *words, "can start none", "Without --trace")


@needs_strace
def test_a_traced_program_may_start_threads(compile_program: Compile, pack: Pack) -> None:
    text = (
        "#include <pthread.h>\nstatic void *run(void *none) { return none; }\n"
        "int main(void) { pthread_t one; return pthread_create(&one, 0, run, 0) + pthread_join(one, 0); }"
    )
    assert pack(compile_program("threads", text), "--trace").returncode == 0


def test_what_is_no_program_is_refused(pack: Pack, image: Path, tmp_path: Path) -> None:
    for name, content, words in [
        ("script", "#!/bin/sh -e\necho\n", ("script for /bin/sh", "--file")),
        ("python", "#!/usr/bin/env python3\n", ("script for python3",)),
        ("text", "no program at all", ("no ELF file",)),
        ("empty", "", ("no ELF file",)),
    ]:
        (tmp_path / name).write_text(content)
        assert_refused(pack(tmp_path / name), str(tmp_path / name), *words)
    assert_refused(pack(tmp_path / "none"), str(tmp_path / "none"), "No such file")
    assert_refused(pack("no-such-program"), "no-such-program", "PATH")
    assert not image.exists()


def test_a_library_is_no_program(compile_program: Compile, pack: Pack) -> None:
    library = compile_program("libown.so", "int own(void) { return 1; }", "-shared", "-fPIC")
    assert_refused(pack(library), str(library), "shared library")


_BARE = ("-nostdlib", "-static", "-no-pie")
_START = ".globl _start\n.type _start, @function\n_start: ret\n.size _start, . - _start\n"
# One SYSCALL with a jump to it, one behind it, and no padding.
_NARROW = """
    .globl _start
    .type _start, @function
_start:
    cmp $1, %rdi
    je 1f
1:  syscall
2:  inc %rdi
    jns 2b
    ret
    .size _start, . - _start
"""


@pytest.mark.parametrize(
    ("source", "options", "words"),
    [
        (_START, ("-m32", "-nostdlib", "-static"), ("32-bit",)),
        (_START, (*_BARE, "-Wl,--omagic"), ("both writable and executable",)),
        (".globl main\nmain: movabs $main, %rax\nret\n", ("-pie", "-Wl,-z,notext"), ("DT_TEXTREL", "-fPIC")),
        (_START, (*_BARE, "-Wl,-Ttext-segment=0x100000"), ("linked at 0x100000", "personality")),
        (f"{_START}.bss\n.zero 0xd0000000\n", _BARE, ("limit",)),
        (_NARROW, _BARE, ("refused: _start+0x6", "no room for a jump")),
        (".globl main\nmain: ret\n", ("-Wl,--dynamic-linker=/nonexistent/ld.so",), ("/nonexistent/ld.so",)),
    ],
    ids=["32 bit", "writable code", "text relocations", "occupied", "too large", "no room", "no loader"],
)
def test_a_program_that_cannot_work_is_refused_by_name(
    source: str, options: tuple[str, ...], words: tuple[str, ...], compile_program: Compile, pack: Pack, image: Path
) -> None:
    program = compile_program("refused.s", source, *options)
    image.write_bytes(b"what was there")
    assert_refused(pack(program), "refused", *words)
    assert image.read_bytes() == b"what was there"


def test_an_image_that_cannot_be_written_is_named(compile_program: Compile, personality: Path) -> None:
    program = compile_program("hello", HELLO, "-static")
    process = ftvmm("pack", "--personality", personality, "-o", "/nonexistent/image.hvt", program)
    assert_refused(process, "/nonexistent/image.hvt", "No such file")


def test_a_personality_that_is_none_is_named(compile_program: Compile, pack: Pack, tmp_path: Path) -> None:
    program = compile_program("hello", HELLO, "-static")
    assert_refused(pack(program, "--personality", tmp_path / "none"), str(tmp_path / "none"), "make setup")
    assert_refused(pack(program, "--personality", program), str(program), "personality", "Solo5")


def test_verify_tells_where_in_which_library_an_instruction_lies(
    compile_program: Compile, pack: Pack, image: Path
) -> None:
    assert pack(compile_program("hello", HELLO)).returncode == 0
    report = json.loads(ftvmm("verify", "--json", image).stdout)
    places = [one["place"] for one in report["rewritten"]]
    assert all(place is not None for place in places)
    assert any(place.startswith("ld-linux-x86-64.so.2: ") for place in places)
    assert report["refused"] == []
