"""The images of Debian's own programs that scenarios run, each packed by ``ftvmm pack`` of this tree."""

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from lab.provision.step import Shell, StepFailed, Tree, fingerprint_of

CONFIGURATIONS = Path("harness/vm/programs")
"""In the tree; in the guest they are in /etc."""
SEARCHED = "/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class Program:
    """A program and how it is started. ``package`` is Debian's; the image is called as the workload of scenarios."""

    image: str
    name: str
    package: str
    arguments: tuple[str, ...]
    configuration: str | None = None
    has_disk: bool = False

    def find(self) -> Path | None:
        found = shutil.which(self.name, path=SEARCHED)
        return Path(found) if found else None


PROGRAMS = (
    Program("redis", "redis-server", "redis-server", ("/etc/redis.conf",), "redis.conf", has_disk=True),
    # Four threads; what it does with connections and requests is told on the console.
    Program("memcached", "memcached", "memcached", ("-u", "root", "-t", "4", "-U", "0", "-l", "0.0.0.0", "-vv")),
    Program("nginx", "nginx", "nginx-light", ("-e", "stderr", "-c", "/etc/nginx.conf"), "nginx.conf"),
    Program("mosquitto", "mosquitto", "mosquitto", ("-c", "/etc/mosquitto.conf"), "mosquitto.conf"),
)


class Programs:
    """Packed again only when a program, its libraries or its configuration, the packer or the personality changes."""

    name = "programs"
    title = "Packed programs"

    def fingerprint(self, tree: Tree) -> str:
        package = tree.root / "ftvmm"
        packer = [package / "_core.abi3.so", package / "packing", package / "commands" / "pack.py"]
        paths = [*packer, _images(tree) / "linux.hvt", tree.root / CONFIGURATIONS]
        for program in filter(None, (program.find() for program in PROGRAMS)):
            paths += [program, *_libraries(program)]
        # Not all of them are in the tree.
        return fingerprint_of(root=Path("/"), paths=paths, facts=map(repr, PROGRAMS))

    def is_present(self, tree: Tree) -> bool:
        return all((_images(tree) / f"{program.image}.hvt").is_file() for program in PROGRAMS)

    def carry_out(self, tree: Tree, shell: Shell) -> None:
        for program in PROGRAMS:
            path = program.find()
            if path is None:
                raise StepFailed(f"{program.name} is not installed: `apt-get install {program.package}` brings it.")
            image = _images(tree) / f"{program.image}.hvt"
            command: list[str | Path] = [tree.python, "-m", "ftvmm", "pack", path, "-o", image]
            command += [f"--arg={argument}" for argument in program.arguments]
            if program.configuration is not None:
                host = tree.root / CONFIGURATIONS / program.configuration
                command.append(f"--file=/etc/{program.configuration}={host}")
            if program.has_disk:
                command.append("--disk")
            shell.run(command, failure=f"{program.name} could not be packed.")


def _images(tree: Tree) -> Path:
    return tree.root / "ftvmm" / "guests" / "images"


def _libraries(program: Path) -> list[Path]:
    """What the program's own loader finds for it, the loader included; nothing for a static one."""
    answer = subprocess.run(["ldd", program], capture_output=True, text=True, check=False)
    return [Path(path) for path in re.findall(r"(/\S+) \(0x", answer.stdout)]
