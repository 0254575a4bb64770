"""Devices on which nothing runs any more in this process, as a GPU after a kernel wrote where it may not."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from convbench.errors import ConvbenchError, shown
from convbench.result import Row, Status
from convbench.tasks import ask, describe

if TYPE_CHECKING:
    from convbench.backends import Device
    from convbench.tasks import Task


MOST_CHARACTERS = 300
"""Of what a device says: it stands in the reason of many rows."""


class DeviceLostError(ConvbenchError):
    """A device is lost, and another process can go on with the rows that are left."""


@dataclass(frozen=True, slots=True)
class Lost:
    """Why, by the name of the device; a device is asked after each row that went wrong on it."""

    reasons: dict[str, str] = field(default_factory=dict)

    def row(self, task: Task) -> Row | None:
        """The row of a task whose device is lost; None where it is not."""
        reason = self.reasons.get(task.key.device)
        return Row(key=task.key, status=Status.FAILED, reason=reason) if reason else None

    def found_after(self, task: Task) -> bool:
        """Whether the device of a row that just went wrong is lost with it, and was not before."""
        name = task.key.device
        said = None if name in self.reasons else _said(ask(task.backend, "device"))
        if said:
            self.reasons[name] = (
                f"{name} runs nothing more in this process since {task.key.label()} failed ({said}); "
                "with --isolate a fresh process goes on"
            )
        return bool(said)


def _said(device: Device) -> str | None:
    """What a device says of itself; one that raises, or says what is no text, is lost, too."""
    if not hasattr(device, "lost"):
        return None
    try:
        said = device.lost()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001  a device may raise anything
        return describe(error)
    if isinstance(said, str):
        return " ".join(said.split())[:MOST_CHARACTERS]
    return None if said is None else f"lost() gave {shown(said)}"


def finish(device: Device) -> None:
    """Returns when all that was enqueued on a device has ended; raises what went wrong with it."""
    synchronize = getattr(device, "synchronize", None)
    if synchronize is not None:
        synchronize()
