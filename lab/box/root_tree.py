"""The box's root file tree: mmdebstrap unpacks and configures Debian's packages, then ours is laid over it.

In the end what differs from one build to the next is taken out: logs, caches, identities, times.
"""

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from lab.box import contents
from lab.box.commands import SOURCE_DATE_EPOCH, BoxFailed, Commands
from lab.box.tools import Mirrors

OVERLAY = Path(__file__).parent / "root"
"""Files as they are in the box, at their paths."""
BEFORE_THE_KERNEL = ("etc/initramfs-tools/conf.d/ftvmm", "usr/share/initramfs-tools/modules.d/ftvmm")
"""Those that the kernel package's initrd is made by."""
MODES = {"etc/sudoers.d/vagrant": 0o440}
"""Other modes than 644."""
USER_ID = 1000
PASSWORD = "$6$ftvmmbox$JCI67z03rXH3uONRTx0ip4nz0qPQOwaabv3dkUVJY0AM9u.6W2sMYe8wI8C35vlCdrMxG78IklWG8wWF65GNR/"
"""crypt(3) of `vagrant`, for the serial console; written down because a salt drawn anew would change every build."""
UNITS = Path("etc/systemd/system")
GENERATORS = Path("etc/systemd/system-generators")
UDEV_RULES = Path("etc/udev/rules.d")
MERGED_USR = Path("/usr/share/mmdebstrap/hooks/merged-usr")
"""mmdebstrap's own hook: without it /usr would be merged by a package that brings all of Perl into the box."""
EMPTIED = ("etc/machine-id", "etc/resolv.conf")
"""Must be there and say nothing: a clone finds its own identity, and the build host's name servers are its own."""
REMOVED = (
    # Identities
    *("etc/ssh/ssh_host_*", "var/lib/dbus/machine-id", "var/lib/systemd/random-seed", "etc/hostid"),
    # The build's own settings
    *("etc/fstab", "etc/apt/apt.conf.d/99mmdebstrap", "etc/dpkg/dpkg.cfg.d/99mmdebstrap"),
    # Caches and what apt downloaded
    *("var/lib/apt/lists/*", "var/cache/apt/*", "var/cache/ldconfig/*", "var/cache/debconf/*-old", "var/cache/man/*"),
    *("usr/lib/udev/hwdb.bin", "var/lib/systemd/catalog/database", "tmp/*", "var/tmp/*", "run/*"),
    # An empty list of modules, for which a service would run at each boot; whoever writes another file there has it
    "etc/modules-load.d/modules.conf",
    # Former states of databases
    *("etc/passwd-", "etc/shadow-", "etc/group-", "etc/gshadow-", "etc/subuid-", "etc/subgid-", "etc/.pwd.lock"),
    *("var/lib/dpkg/*-old", "var/lib/ucf/*.[0-9]", "var/lib/dpkg/lock*"),
)
"""Patterns of paths in the tree. A pattern that matches nothing is no error: packages come and go."""
EMPTIED_DIRECTORY = "var/log"
"""Its files go, its directories stay: services write there."""
UPDATED = ("etc/.updated", "var/.updated")
"""systemd compares their times to /usr's and would otherwise bring caches up to date at the first boot."""


def unpack(commands: Commands, *, root: Path, mirrors: Mirrors) -> None:
    """Install the packages into ``root``, which does not exist yet."""
    command = ["mmdebstrap", "--variant=apt", "--mode=root", "--format=directory", "--architectures=amd64"]
    command += [f"--include={','.join(contents.PACKAGES)}", "--aptopt=APT::Install-Recommends false"]
    command.append("--dpkgopt=force-unsafe-io")  # a tree that a crash spoils is made anew
    command += [f"--dpkgopt=path-exclude={pattern}" for pattern in contents.LEFT_OUT]
    command.append(f"--hook-directory={MERGED_USR}")
    for name in BEFORE_THE_KERNEL:
        command.append(f'--essential-hook=install -D -m 644 "{OVERLAY / name}" "$1/{name}"')
    command += [contents.SUITE, str(root), *mirrors.lines(contents.SUITE)]
    commands.run(command, failure="mmdebstrap could not install the box's packages: see the end of the log.")


def customise(commands: Commands, *, root: Path, keys: str) -> None:
    """Add the overlay, the user vagrant who is let in by ``keys``, and the choice of units."""
    _overlay(root)
    _user(commands, root=root, keys=keys)
    _units(root)


def manifest(commands: Commands, *, root: Path, into: Path) -> None:
    """Write one ``package=version`` a line, sorted."""
    query = 'chroot "$1" dpkg-query --show --showformat=\'${Package}=${Version}\\n\' | sort >"$2"'
    commands.run(["sh", "-c", query, "sh", root, into], failure="dpkg-query could not list the box's packages.")


def _overlay(root: Path) -> None:
    for source in sorted(path for path in OVERLAY.rglob("*") if path.is_file()):
        name = source.relative_to(OVERLAY)
        target = root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
        target.chmod(MODES.get(name.as_posix(), 0o644))


def _user(commands: Commands, *, root: Path, keys: str) -> None:
    add: list[str | Path] = ["chroot", root, "useradd", "--uid", str(USER_ID), "--create-home", "--shell", "/bin/bash"]
    add += ["--groups", "kvm", "--password", PASSWORD, "vagrant"]
    commands.run(add, failure="The user vagrant could not be added.")
    directory = root / "home/vagrant/.ssh"
    directory.mkdir(mode=0o700)
    (directory / "authorized_keys").write_text(keys)
    (directory / "authorized_keys").chmod(0o600)
    for path in (directory, directory / "authorized_keys"):
        os.chown(path, USER_ID, USER_ID)


def _units(root: Path) -> None:
    units = root / UNITS
    for wants in [*units.glob("*.wants"), *units.glob("*.requires")]:
        shutil.rmtree(wants)
    for unit in contents.MASKED_UNITS:
        _link(units / unit, "/dev/null")
    for directory, names in ((GENERATORS, contents.MASKED_GENERATORS), (UDEV_RULES, contents.MASKED_UDEV_RULES)):
        (root / directory).mkdir(exist_ok=True)
        for name in names:
            _link(root / directory / name, "/dev/null")
    for unit, target in contents.ENABLED_UNITS.items():
        template = unit.partition("@")[0] + "@.service" if "@" in unit else unit
        home = UNITS if (root / UNITS / template).is_file() else Path("lib/systemd/system")
        assert (root / home / template).is_file(), f"no package in the box brings {unit}"
        (units / f"{target}.wants").mkdir(exist_ok=True)
        _link(units / f"{target}.wants" / unit, f"/{home / template}")


def _link(path: Path, target: str) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(target)


def check_modules(root: Path, *, wanted: Iterable[str]) -> str:
    """Look for each module, as a file or built in, and return the kernel's release. Raises BoxFailed."""
    releases = sorted(path.name for path in (root / "usr/lib/modules").glob("*"))
    if len(releases) != 1:
        raise BoxFailed(f"The box should have one kernel, and has {len(releases)}: {' '.join(releases) or 'none'}.")
    directory = root / "usr/lib/modules" / releases[0]
    present = {_module_name(path.name) for path in directory.rglob("*.ko*")}
    present |= {_module_name(line) for line in (directory / "modules.builtin").read_text().split()}
    if missing := sorted(module for module in wanted if _module_name(module) not in present):
        raise BoxFailed(
            f"The kernel {releases[0]} in the box lacks {', '.join(missing)}: lab/box/contents.py says what each is "
            "for. Choose another kernel package there."
        )
    return releases[0]


def _module_name(file: str) -> str:
    """A module's name has no directory, no ``.ko.xz``, and ``-`` is the same as ``_``."""
    return file.rpartition("/")[2].partition(".")[0].replace("-", "_")


def scrub(root: Path) -> None:
    """Do so; the same packages then give the same tree."""
    for name in EMPTIED:
        path = root / name
        path.unlink(missing_ok=True)
        path.write_bytes(b"")
        path.chmod(0o644)
    for pattern in REMOVED:
        for path in root.glob(pattern):
            _remove(path)
    for directory, _, names in os.walk(root / EMPTIED_DIRECTORY):
        for name in names:
            os.unlink(os.path.join(directory, name))
    for name in UPDATED:
        (root / name).write_text(f"TIMESTAMP_NSEC={SOURCE_DATE_EPOCH}000000000\n")
    _fix_times(root)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _fix_times(root: Path) -> None:
    """Let no file be younger than the box's day."""
    for directory, subdirectories, names in os.walk(root, topdown=False):
        for name in [*names, *subdirectories]:
            _fix_time(os.path.join(directory, name))
    _fix_time(str(root))


def _fix_time(path: str) -> None:
    seconds = min(int(os.lstat(path).st_mtime), SOURCE_DATE_EPOCH)
    os.utime(path, (seconds, seconds), follow_symlinks=False)
