"""What is remembered from run to run: small JSON files in the user's cache folder."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convbench.files import open_regular

if TYPE_CHECKING:
    from collections.abc import Callable

LONGEST_FILE = 16 << 20
"""A longer file is not ours."""


def cache_folder() -> Path:
    """CONVBENCH_CACHE, else the user's cache folder."""
    if folder := os.environ.get("CONVBENCH_CACHE"):
        return Path(folder)
    from platformdirs import user_cache_path

    return user_cache_path("convbench")


class Remembered:
    """Entries by key, kept in a JSON file: {"format": N, NAME: {key: entry}}.

    What is wrong with the file costs what it would have held and never a run: `warn` gets one line. A key that is put
    again moves to the end; of more than `most` the first are forgotten.
    """

    def __init__(
        self, path: Path, *, name: str, file_format: int, most: int, valid: Callable[[Any], bool],
        warn: Callable[[str], object],
    ) -> None:  # fmt: skip
        self._path, self._name, self._format, self._most = path, name, file_format, most
        self._warn = warn
        self.entries = self._read(valid)

    def _read(self, valid: Callable[[Any], bool]) -> dict[str, Any]:
        try:
            with open_regular(self._path, "rb") as file:
                content = json.loads(file.read(LONGEST_FILE))
            found = content[self._name]
            if content["format"] != self._format or not all(valid(entry) for entry in found.values()):
                raise ValueError("of another format")  # noqa: TRY301  one place says what happens to such a file
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            self._warn(f"{self._path} cannot be used ({type(error).__name__}): {self._name} are measured anew")
            return {}
        return dict(found)

    def put(self, key: str, entry: Any) -> bool:
        """Remembers an entry, in memory and in the file; whether the file could be written."""
        self.entries.pop(key, None)  # to the end, among the latest
        self.entries[key] = entry
        for old in [*self.entries][: -self._most]:
            del self.entries[old]
        return self._write()

    def _write(self) -> bool:
        new = self._path.with_suffix(f".{os.getpid()}")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            if self._path.exists() and not self._path.is_file():
                raise FileExistsError(None, "it is not a regular file")
            new.write_text(json.dumps({"format": self._format, self._name: self.entries}, indent=0), encoding="utf-8")
            new.replace(self._path)  # whole, or not at all
        except OSError as error:
            with suppress(OSError):
                new.unlink()
            self._warn(f"{self._path} cannot be written ({error.strerror}): {self._name} are not remembered")
            self._warn = lambda _text: None  # once is enough
            return False
        return True
