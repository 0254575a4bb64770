"""The version of a run's lines, and the ladder that brings older ones up to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from convbench.accuracy import DEFAULT_ACCURACY
from convbench.backends import AUTO
from convbench.errors import InputError, shown

if TYPE_CHECKING:
    from collections.abc import Callable


def upgrade_1_to_2(entry: dict[str, Any]) -> dict[str, Any]:
    """A version 1 run was measured by one process."""
    return entry | {"process": 0} if entry["type"] == "round" else entry


def upgrade_2_to_3(entry: dict[str, Any]) -> dict[str, Any]:
    """`auto` was free to take algorithms of what is the default accuracy now."""
    if entry["type"] != "case":
        return entry
    accuracy = DEFAULT_ACCURACY if entry["key"]["algorithm"] == AUTO else None
    return entry | {"key": entry["key"] | {"accuracy": accuracy}}


def upgrade_3_to_4(entry: dict[str, Any]) -> dict[str, Any]:
    """Floors were not measured."""
    return entry | {"floor_s": None} if entry["type"] == "case" else entry


def upgrade_4_to_5(entry: dict[str, Any]) -> dict[str, Any]:
    """What plans say of themselves was not kept, no meters were read, and nothing limited workspaces.

    One device's canaries stood for all; which one, an empty name does not say.
    """
    if entry["type"] == "case":
        return entry | {"notes": [], "build_s": None, "key": entry["key"] | {"workspace_limit_bytes": None}}
    added: dict[str, dict[str, Any]] = {"round": {"meters": {}}, "canary": {"device": ""}}
    return entry | added.get(entry["type"], {})


# Schema history.  1: first public version.  2: `round` lines gained `process`.  3: keys gained `accuracy`; `phases`
# lines.  4: `case` lines gained `floor_s`.  5: `case` lines gained `notes` and `build_s`, `round` lines `meters`, keys
# `workspace_limit_bytes`, `canary` lines `device`.
SCHEMA_VERSION = 5
UPGRADES: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {
    1: upgrade_1_to_2, 2: upgrade_2_to_3, 3: upgrade_3_to_4, 4: upgrade_4_to_5,
}  # fmt: skip
"""One step of the ladder per old version: applied to every line, tested on a committed file of that version."""


def schema_of(entry: Any) -> int:
    """The schema version in a file's first line, once it is known to be readable.

    Raises:
        InputError: there is none, or one that this version does not read.
    """
    if type(entry) is not dict or type(entry.get("type")) is not str:
        raise InputError("damaged line (it has no type)")
    if entry["type"] != "header":
        raise InputError(f"expected the header, got a line of type {shown(entry['type'])}")
    found = entry.get("schema_version")
    if found is None:
        raise InputError("the header has no schema_version: this is not a convbench result file")
    if type(found) is not int or found > SCHEMA_VERSION:
        raise InputError(
            f"written by a newer convbench (schema version {shown(found)}, this one reads up to {SCHEMA_VERSION}): "
            "upgrade"
        )
    if found < SCHEMA_VERSION and found not in UPGRADES:
        raise InputError(f"schema version {shown(found)} is too old for this convbench: measure again")
    return found
