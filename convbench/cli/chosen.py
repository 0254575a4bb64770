"""Which backends a command uses, and on which devices."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import click

from convbench.cli.options import Command, several
from convbench.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from convbench.backends import BackendSpec


def _number(text: str) -> int:
    from convbench.backends import NUMBER

    number = text.removeprefix("cuda:")
    if not NUMBER.fullmatch(number):
        raise InputError(f"{text!r} is not a GPU; allowed are their numbers from 0, such as 1 or cuda:1")
    return int(number)


def device_option(help_text: str) -> Callable[[Command], Command]:
    """`--device`, as `devices`: numbers, none where it is left out."""
    return click.option("--device", "devices", type=several("gpu[,gpu…]", _number), default=(), help=help_text)


RUN_ON = "GPUs, such as 1 or 0,1 or cuda:1: backends that run on one run on each of these; on the first if left out."
"""What `--device` says where backends run."""


def check_devices(devices: Sequence[int], specs: Sequence[BackendSpec]) -> None:
    """Refuses `--device` where no backend can be told which GPU to take.

    Raises:
        InputError: so it is.
    """
    from convbench.tasks import Silent

    if devices and all(spec.index is None and not isinstance(spec.backend, Silent) for spec in specs):
        names = ", ".join(dict.fromkeys(spec.backend.name for spec in specs))
        raise InputError(f"--device chooses GPUs, and no backend here runs on one ({names}); `convbench list backends` "
                         "says which can")  # fmt: skip


def chosen_backends(
    texts: tuple[str, ...], devices: tuple[int, ...] = (), isolated_s: float | None = None
) -> list[BackendSpec]:
    """Those of the `-b` arguments, else the usable ones; on each of these devices where they can choose.

    Under `--isolate` each is asked in a process of its own before, for `isolated_s` seconds at most.
    """
    from convbench.backends import AUTO, available, load, parse_backend

    entries = {} if texts else {f"{name}:{AUTO}": entry for name, entry in available().items()}
    lost: dict[str, _Lost] = {}
    if isolated_s is not None:
        asked = {text: _lost(text, devices, isolated_s) for text in dict.fromkeys([*texts, *entries])}
        lost = {text: found for text, found in asked.items() if found}
    if texts:
        found: list[BackendSpec] = []
        for text in texts:
            of = lost.get(text)
            found += of.specs if of else []
            found += parse_backend(text, of.left if of else devices) if of is None or of.left else []
        return found
    for spec in (spec for of in lost.values() for spec in of.specs):
        _warn(f"backend {spec.backend.name!r} is left out: {spec.backend.probe()}")
    left = {text: lost[text].left if text in lost else devices for text in entries}
    loaded = {text: load(entry, _warn, left[text]) for text, entry in entries.items() if text not in lost or left[text]}
    usable = [replace(spec, algorithm=AUTO, text=text)
              for text, of in loaded.items() for spec in of if is_usable(spec)]  # fmt: skip
    if not usable:
        raise InputError("no usable backend; `convbench list backends` says why")
    return usable


@dataclass(frozen=True, slots=True, kw_only=True)
class _Lost:
    """What stands for a backend that ends or hangs its process, and the chosen devices on which it does not."""

    specs: tuple[BackendSpec, ...]
    left: tuple[int, ...] = ()


def _lost(text: str, devices: tuple[int, ...], isolated_s: float) -> _Lost | None:
    """None where the backend answers; else it is asked on each of several devices by itself."""
    from convbench.children import silent

    whole = silent(text, sys.argv[1:], isolated_s)
    if whole is None:
        return None
    each = {device: silent(text, sys.argv[1:], isolated_s, device) for device in devices if len(devices) > 1}
    specs = tuple(spec for spec in each.values() if spec)
    left = tuple(device for device, spec in each.items() if spec is None)
    return _Lost(specs=specs, left=left) if specs else _Lost(specs=(whole,))


def is_usable(spec: BackendSpec) -> bool:
    """Whether a backend that nobody asked for can be used; what its probe raises is a warning."""
    from convbench.tasks import probe

    try:
        return probe(spec.backend) is None
    except InputError as error:
        _warn(f"{error}; it is left out")
        return False


def files_of(specs: Sequence[BackendSpec]) -> dict[str, str]:
    """The backends from files, as `-b` calls them, by name."""
    found = {}
    for spec in specs:
        path, py, name = spec.text.rpartition(".py:")
        if py:
            found[spec.backend.name] = f"{path}.py:{name.partition(':')[0]}"
    return found


def _warn(text: str) -> None:
    click.echo(f"warning: {text}", err=True)
