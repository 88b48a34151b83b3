"""`ftvmm pack`: a Linux program in an image of its own."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click

from ftvmm import _core
from ftvmm.commands.outcome import failure_of
from ftvmm.failure import Failure
from ftvmm.packing.guest_files import GuestFiles, HostFile, Link, add_default_files
from ftvmm.packing.libraries import SEARCHED, Library, Loader, MissingLibrary
from ftvmm.packing.tracing import trace

PERSONALITY = Path(__file__).parents[1] / "guests" / "images" / "linux.hvt"
"""Where `make -C ftvmm/guests` puts the guest that serves a program's system calls."""

ENVIRONMENT = {"HOME": "/root", "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
"""What a program finds in its environment unless it is told otherwise."""

_MEGABYTE = 1_000_000


@dataclass(frozen=True)
class _Program:
    """What is packed: its path on host and guest, and what the core says of it."""

    path: str
    report: _core.ProgramReport


def _pair(option: str, value: str) -> tuple[str, str]:
    """The two sides of the first equals sign."""
    left, sign, right = value.partition("=")
    if not (left and sign and right):
        raise Failure(f"{option} {value!r} has to be of the form GUEST=HOST.")
    return left, right


def _environment(values: tuple[str, ...]) -> dict[str, str]:
    environment = dict(ENVIRONMENT)
    for value in values:
        name, sign, content = value.partition("=")
        if not (name and sign):
            raise Failure(f"--env {value!r} has to be of the form NAME=VALUE.")
        environment[name] = content
    return environment


def _find_program(name: str) -> _Program:
    """The program, looked for as a shell does where it is no path."""
    path = shutil.which(name) if "/" not in name and not os.path.exists(name) else name
    if path is None:
        raise Failure(f"{name}: there is no such file, here or in PATH.")
    path = os.path.abspath(path)
    return _Program(path, _core.examine_program(path))


@dataclass
class _Libraries:
    """The paths in the guest of the loader and of all libraries, it included, and what is to be said of them."""

    loader: str | None
    paths: set[str]
    notes: list[str]


def _add_libraries(files: GuestFiles, program: _Program, environment: dict[str, str]) -> _Libraries:
    """Adds the loader and all libraries that the program, or a library among the files, needs."""
    loader_path = program.report["loader"]
    if loader_path is None:
        # A static program loads none.
        return _Libraries(None, set(), [])
    if not os.path.isfile(loader_path):
        raise Failure(f"{program.path} is started by {loader_path}, which is not installed.")
    loader = Loader(loader_path, environment)
    found = _Libraries(files.add_host(loader_path), set(), [])
    found.paths = {str(found.loader), *_add(files, loader.libraries(program.path))}
    while pending := [(path, file) for path, file in files.libraries() if path not in found.paths]:
        for path, file in pending:
            found.paths.add(path)
            try:
                _add(files, loader.libraries(program.path, file.host))
            except MissingLibrary as error:
                # As on the host, the program hears of it when it loads that one.
                found.notes.append(error.message)
    return found


def _add(files: GuestFiles, libraries: list[Library]) -> list[str]:
    """Adds libraries where the loader will look for them, and returns their paths in the guest."""
    for library in libraries:
        if "/" not in library.name and os.path.dirname(library.path) not in SEARCHED:
            # The loader knows the place from its cache, which lists what this host has and so is not packed.
            files.put(f"{SEARCHED[0]}/{library.name}", Link(library.path), replace=False)
    return [files.add_host(library.path) for library in libraries]


def _traced(program: _Program, arguments: tuple[str, ...], environment: dict[str, str]) -> tuple[str, ...]:
    """The files that the program opens or looks at.

    Raises:
        Failure: it cannot be traced, or it does what it cannot do in the VM.
    """
    done = trace(program.path, arguments, environment)
    if done.processes or done.programs:
        others = [f"processes: {done.processes}"] if done.processes else []
        others += [f"programs: {', '.join(done.programs)}"] if done.programs else []
        raise Failure(
            f"{program.path} started others while it was traced ({'; '.join(others)}); in the VM it can start none. "
            "Give it options under which it needs none, as `master_process off;` in nginx's configuration. Without "
            "--trace it is packed all the same."
        )
    return done.files


def _add_files(files: GuestFiles, given: tuple[str, ...], trees: tuple[str, ...], traced: tuple[str, ...]) -> None:
    for path in traced:
        files.add_host(path)
    for tree in trees:
        guest, sign, host = tree.partition("=")
        files.add_tree(host if sign else tree, guest if sign else None)
    for value in given:
        guest, host = _pair("--file", value)
        if not os.path.isfile(host):
            raise Failure(f"--file {value}: {host} is no file.")
        files.put(guest, HostFile.at(os.path.abspath(host)))


@click.command("pack", epilog="Example: ftvmm pack /usr/bin/redis-server -o redis.hvt --arg --save --arg ''")
@click.option("-o", "--output", "image", required=True, type=click.Path(dir_okay=False), metavar="IMAGE",
              help="The image to write.")  # fmt: skip
@click.option("--file", "given", multiple=True, metavar="GUEST=HOST", help="Pack the file HOST as GUEST.")
@click.option("--add-tree", "trees", multiple=True, metavar="[GUEST=]DIR",
              help="Pack the directory DIR and all that is in it.")  # fmt: skip
@click.option("--arg", "arguments", multiple=True, metavar="ARG", help="An argument of the program.")
@click.option("--env", "variables", multiple=True, metavar="NAME=VALUE", help="A variable in its environment.")
@click.option("--trace", "is_traced", is_flag=True,
              help="Run the program here until it ends or Ctrl-C, and pack what it opens or looks at.")  # fmt: skip
@click.option("--disk", "has_disk", is_flag=True,
              help="The VM has a block device, `storage`: an ext4 file system on /data.")  # fmt: skip
@click.option("--no-network", is_flag=True, help="The VM has no network device, `service`.")
@click.option("--exact-clock", "has_exact_clock", is_flag=True, help="Each look at the clock is a real one: slower.")
@click.option("--personality", type=click.Path(), default=str(PERSONALITY), metavar="PATH",
              help="Another guest to serve the system calls.")  # fmt: skip
@click.argument("name", metavar="PROGRAM")
@click.argument("trace_arguments", nargs=-1, type=click.UNPROCESSED, metavar="[-- ARGS...]")
def pack(
    image: str,
    given: tuple[str, ...],
    trees: tuple[str, ...],
    arguments: tuple[str, ...],
    variables: tuple[str, ...],
    is_traced: bool,
    has_disk: bool,
    no_network: bool,
    has_exact_clock: bool,
    personality: str,
    name: str,
    trace_arguments: tuple[str, ...],
) -> None:
    """Pack the Linux program PROGRAM, as it is, with its libraries and files into an image that `ftvmm run` runs.

    There is no Linux kernel in the image: a small guest, the personality, serves the program's system calls. Code that
    is not packed cannot be loaded, and no other program can be started. Libraries are found as the program's own loader
    finds them. With --trace the program is run here with ARGS, by default those of --arg.

    \b
    Exit status: 0 the image is written; 2 it cannot be, and why.
    """
    started = time.monotonic()
    if trace_arguments and not is_traced:
        raise Failure(f"{trace_arguments[0]!r} is no option: arguments of the program are given with --arg.")
    if not os.path.isfile(personality):
        raise Failure(f"{personality}, which serves the program's system calls, is not there: `make setup` builds it.")
    environment = _environment(variables)
    try:
        program = _find_program(name)
        traced = _traced(program, trace_arguments or arguments, environment) if is_traced else ()
        files = GuestFiles()
        program_file = files.add_host(program.path)
        _add_files(files, given, trees, traced)
        libraries = _add_libraries(files, program, environment)
        add_default_files(files)
        request = {
            "personality": personality,
            "program": program.path,
            "program_file": program_file,
            "loader_file": libraries.loader,
            "arguments": [program.path, *arguments],
            "environment": [f"{variable}={value}" for variable, value in environment.items()],
            "files": files.document({program_file, *libraries.paths}),
            "has_network": not no_network,
            "has_disk": has_disk,
            "has_exact_clock": has_exact_clock,
        }
        report = _core.pack(json.dumps(request), image)
    except _core.CoreError as error:
        raise failure_of(error) from None
    _tell(image, report, traced, time.monotonic() - started)
    for note in [*_notes(program, files), *libraries.notes]:
        click.echo(f"ftvmm: note: {note}", err=True)


def _tell(image: str, report: _core.PackReport, traced: tuple[str, ...], seconds: float) -> None:
    mebibytes = report["end"] / (1 << 20)
    click.echo(f"{image}: {report['image_bytes'] / _MEGABYTE:.1f} MB, for a VM with more than {mebibytes:.0f} MiB")
    click.echo(f"  objects (program, loader, libraries): {report['objects']}")
    click.echo(f"  system calls made calls of the personality: {report['system_calls']}")
    click.echo(f"  other instructions made undefined: {report['undefined']}")
    click.echo(f"  files, directories and links: {report['files']}")
    for path in traced:
        click.echo(f"    found by --trace: {path}")
    click.echo(f"  {seconds:.1f} s")


def _notes(program: _Program, files: GuestFiles) -> Iterator[str]:
    """What may turn out to be in the way."""
    if names := program.report["starts_processes"]:
        yield f"{program.path} asks for {', '.join(names)}; where it calls them, no process is started."
    if files.skipped:
        yield f"left out, because neither file, directory nor link: {', '.join(files.skipped)}"
