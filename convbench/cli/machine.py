"""`convbench machine`: which machine this is, and what it can do at most."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from convbench.cli.chosen import RUN_ON, check_devices, device_option, is_usable
from convbench.cli.options import format_option, print_tables
from convbench.errors import InputError

if TYPE_CHECKING:
    from convbench.backends import Backend, Device
    from convbench.render import Table


@click.command(name="machine")
@click.option("--measure", is_flag=True, help="Measure the ceilings now, some seconds for each device.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads; all CPUs of this process if left out.")
@device_option(RUN_ON)
@format_option
def command(measure: bool, threads: int | None, devices: tuple[int, ...], output_format: str) -> None:
    """Say which machine this is, and what it can do at most: peaks, bandwidths, launch latency, floors of algorithms.

    Ceilings are remembered by machine, threads and BLAS; without --measure those that are remembered are shown. `run`
    measures them by itself where there are none, and the floors of its rows in any case.

    \b
    Example:
      convbench machine
      convbench machine --measure --threads 1
      convbench machine --device 0,1
    """
    from convbench import calibrate, session
    from convbench.machine import cpu_count

    cpus = cpu_count()
    if threads is not None and threads > cpus:
        raise InputError(f"--threads must be at most {cpus}, the CPUs of this process; got {threads}")
    threads = threads or cpus
    identities: list[Table] = []
    measured: list[Table] = []
    here = _devices(devices)
    for device, backends in here:
        identities.append(_identity(device))
        found = None
        if calibrate.measurable(device):
            if measure:
                with session.measuring_lock(_say):
                    found = calibrate.measure_and_remember(device, threads, _warn, backends)
            else:
                found = calibrate.recall(device, threads, _warn, backends)
        if found is not None:
            from convbench.datasheet import matching_datasheet
            from convbench.render.machine import ceilings_table

            measured.append(ceilings_table(device.name, found, matching_datasheet(device.machine())))
        elif calibrate.measurable(device):
            _say(f"no ceilings of {device.name} are remembered for --threads {threads}: --measure measures them")
    if measure:
        measured.append(_floors(here, threads))
    # CSV holds one table: the ceilings, where there are any.
    tables = [*measured, *identities] if output_format == "csv" else [*identities, *measured]
    print_tables(tables, output_format)


def _floors(here: list[tuple[Device, list[Backend]]], threads: int) -> Table:
    from threadpoolctl import threadpool_limits

    from convbench import session
    from convbench.backends import PlanOptions
    from convbench.floor import backend_floors
    from convbench.render.machine import floors_table

    with session.measuring_lock(_say), threadpool_limits(threads):
        options = PlanOptions(threads=threads)
        return floors_table({(device.name, backend.name): backend_floors(backend, options)
                             for device, backends in here for backend in backends})  # fmt: skip


def _identity(device: Device) -> Table:
    from convbench.render.machine import identity_table

    return identity_table(device.name, device.machine())


def _devices(numbers: tuple[int, ...]) -> list[tuple[Device, list[Backend]]]:
    """The devices of the usable backends, each once, with these; of GPUs those of these numbers."""
    from convbench.backends import available, load
    from convbench.tasks import ask

    found: dict[str, tuple[Device, list[Backend]]] = {}
    specs = [spec for entry in available().values() for spec in load(entry, _warn, numbers)]
    usable = [spec for spec in specs if is_usable(spec)]
    check_devices(numbers, usable)
    for spec in usable:
        device: Device = ask(spec.backend, "device")
        found.setdefault(device.name, (device, []))[1].append(spec.backend)
    return [*found.values()]


def _say(text: str) -> None:
    click.echo(text, err=True)


def _warn(text: str) -> None:
    _say(f"warning: {text}")
