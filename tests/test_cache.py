"""The cache file: what is put is found again, and nothing that stands in its place costs a run."""

import json
import os

import pytest

from convbench.cache import Remembered, cache_folder


def opened(path, warnings, most=10):
    return Remembered(path, name="things", file_format=2, most=most, valid=lambda e: "x" in e, warn=warnings.append)


def test_what_is_put_is_found_again(tmp_path):
    warnings = []
    path = tmp_path / "new" / "things.json"
    opened(path, warnings).put("a", {"x": 1})
    assert opened(path, warnings).entries == {"a": {"x": 1}}
    assert json.loads(path.read_text()) == {"format": 2, "things": {"a": {"x": 1}}}
    assert [entry.name for entry in path.parent.iterdir()] == ["things.json"]
    assert warnings == []


def test_the_first_are_forgotten(tmp_path):
    file = opened(tmp_path / "things.json", [], most=2)
    for key in ("a", "b", "a", "c"):
        file.put(key, {"x": key})
    assert [*file.entries] == [*opened(tmp_path / "things.json", []).entries] == ["a", "c"]


@pytest.mark.parametrize("kind", ["folder", "full folder", "pipe", "file for a folder"])
def test_what_stands_in_its_place_is_two_warnings_and_left_alone(tmp_path, kind):
    """One because it cannot be read, one because it cannot be written; the second only once."""
    path = tmp_path / "cache" / "things.json"
    if kind == "file for a folder":
        path.parent.write_text("mine")
    elif kind == "pipe":
        path.parent.mkdir()
        os.mkfifo(path)
    else:
        path.mkdir(parents=True)
        if kind == "full folder":
            (path / "mine").touch()
    warnings = []
    file = opened(path, warnings)
    file.put("a", {"x": 1})
    file.put("b", {"x": 1})
    assert [*file.entries] == ["a", "b"]
    assert len(warnings) == 2
    assert "cannot be used" in warnings[0]
    assert "cannot be written (" in warnings[1]
    assert "\n" not in "".join(warnings)
    if kind == "file for a folder":
        assert path.parent.read_text() == "mine"
    else:
        assert [entry.name for entry in path.parent.iterdir()] == ["things.json"]  # nothing half written beside it
        assert not path.is_file()


@pytest.mark.parametrize("content", [
    b"", b"{", b"[]", b'{"format": 1, "things": {}}', b'{"format": 2, "things": []}', b'{"format": 2}',
    b'{"format": 2, "things": {"a": 1}}', b'{"format": 2, "things": {"a": {}}}', b"\xff", b"[" * 100_000,
], ids=range(10))  # fmt: skip
def test_a_damaged_file_is_one_warning_and_written_anew(tmp_path, content):
    path, warnings = tmp_path / "things.json", []
    path.write_bytes(content)
    file = opened(path, warnings)
    assert (file.entries, len(warnings)) == ({}, 1)
    file.put("a", {"x": 1})
    assert opened(path, warnings).entries == {"a": {"x": 1}}
    assert len(warnings) == 1


def test_without_the_variable_it_is_in_the_users_cache_folder(monkeypatch):
    platformdirs = pytest.importorskip("platformdirs")
    monkeypatch.delenv("CONVBENCH_CACHE")
    assert cache_folder() == platformdirs.user_cache_path("convbench")
