"""`ftvmm run`: one VM, live, without fault tolerance."""

import json
from typing import Any

import click

from ftvmm import _core
from ftvmm.commands.device_options import DeviceOptions
from ftvmm.commands.outcome import failure_of, finish
from ftvmm.failure import Failure

_DEVICES = "ftvmm.devices"


class _RunCommand(click.Command):
    """Takes the options that carry a device's name out of the arguments, which click knows no way to declare."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        devices, rest = DeviceOptions(), []
        options = [one for one in self.params if isinstance(one, click.Option) and not one.is_flag]
        with_value = {name for option in options for name in option.opts}
        pending = iter(args)
        for argument in pending:
            if not argument.startswith("-") or argument == "--":
                # The image, and what is the guest's.
                rest += [argument, *pending]
            elif not devices.take(argument):
                rest.append(argument)
                if argument in with_value:
                    rest += [value for value in [next(pending, None)] if value is not None]
        ctx.meta[_DEVICES] = devices
        return super().parse_args(ctx, rest)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_options(ctx, formatter)
        with formatter.section("Devices (each that the image declares, and no other)"):
            formatter.write_dl(
                [
                    ("--net:NAME=TAP", "Put network device NAME on the existing TAP interface TAP."),
                    ("--net-mac:NAME=MAC", "Its address; a random one by default."),
                    ("--block:NAME=PATH", "Put block device NAME on the file or block device PATH."),
                    ("--block-sector-size:NAME=BYTES", "The size of its sectors; 512 by default."),
                ]
            )


def _features(context: click.Context, option: click.Parameter, value: str | None) -> list[str]:
    """The names in a list with commas."""
    names = value.split(",") if value else []
    for name in names:
        if name not in _core.FEATURES:
            raise Failure(f"--features: {name!r} is none of {', '.join(_core.FEATURES)}")
    return names


@click.command(
    "run",
    cls=_RunCommand,
    context_settings={"allow_interspersed_args": False},
    options_metavar="[OPTIONS] [DEVICES]",
    epilog="Example: ftvmm run --mem=64 --net:service=tap0 --block:storage=disk.img kv.hvt -- --ipv4=10.0.0.2/24",
)
@click.option("--mem", "memory_mib", type=click.IntRange(1, 4096), default=512, show_default=True, metavar="MB",
              help="Memory of the VM, in MiB.")  # fmt: skip
@click.option("--features", callback=_features, metavar="LIST",
              help=f"Show the guest these features of the processor too: {','.join(_core.FEATURES)}.")  # fmt: skip
@click.option("--record", type=click.Path(dir_okay=False), metavar="FILE",
              help="Record the run, for `ftvmm replay FILE`.")  # fmt: skip
@click.option("--verbose", is_flag=True, help="At the end, tell the fingerprint and the digest of the final state.")
@click.argument("image", type=click.Path())
@click.argument("arguments", nargs=-1, metavar="[-- ARGS...]")
@click.pass_context
def run(
    context: click.Context,
    memory_mib: int,
    features: list[str],
    record: str | None,
    verbose: bool,
    image: str,
    arguments: tuple[str, ...],
) -> None:
    """Run a Solo5 hvt image, unmodified, until it halts.

    Console output goes to standard output. The exit status is the guest's; 2 for bad input, 255 when the guest was
    stopped by a fatal trap, 130 after Ctrl-C.
    """
    devices: DeviceOptions = context.meta[_DEVICES]
    config: dict[str, Any] = {
        "image": image,
        "memory_mib": memory_mib,
        "features": features,
        "arguments": list(arguments[1:] if arguments[:1] == ("--",) else arguments),
        "network": devices.network(),
        "block": devices.block(),
        "record": record,
    }
    try:
        outcome = _core.run(json.dumps(config))
    except _core.CoreError as error:
        raise failure_of(error) from None
    context.exit(finish(outcome, verbose=verbose))
