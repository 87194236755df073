"""The JSONL cache: what is put is there again, whatever a kill has left behind."""

import json
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from icm_study.text.answers import JsonlCache

TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
KEYS = st.dictionaries(TEXTS, st.one_of(TEXTS, st.integers()), min_size=1, max_size=3)


@given(st.lists(st.tuples(KEYS, TEXTS), max_size=8))
def test_reopened_it_is_the_dictionary_that_was_put(entries):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "new" / "cache.jsonl"
        cache = JsonlCache(path)
        expected = {}
        for key, text in entries:
            cache.put(key, text)
            expected[json.dumps(key, sort_keys=True)] = text
        again = JsonlCache(path)
        assert len(again) == len(cache) == len(expected)
        for key, _ in entries:
            assert again.get(key) == cache.get(key) == expected[json.dumps(key, sort_keys=True)]


def test_the_order_of_a_key_is_irrelevant_and_an_unknown_key_has_nothing(tmp_path):
    cache = JsonlCache(tmp_path / "c.jsonl")
    cache.put({"a": 1, "b": "x"}, "text")
    assert cache.get({"b": "x", "a": 1}) == "text"
    assert cache.get({"a": 1}) is None


def test_every_cut_of_the_last_line_costs_that_entry_only(tmp_path):
    path = tmp_path / "c.jsonl"
    cache = JsonlCache(path)
    cache.put({"k": 1}, "one")
    whole = len(path.read_bytes())
    cache.put({"k": 2}, "two")
    full = path.read_bytes()
    for cut in range(whole + 1, len(full) - 1):
        path.write_bytes(full[:cut])
        with pytest.warns(UserWarning, match=r"1 broken line\(s\), the first is line 2"):
            resumed = JsonlCache(path)
        assert (resumed.get({"k": 1}), resumed.get({"k": 2})) == ("one", None)
        resumed.put({"k": 2}, "again")
        with pytest.warns(UserWarning, match="broken"):
            assert JsonlCache(path).get({"k": 2}) == "again"


def test_only_the_line_end_is_missing(tmp_path):
    path = tmp_path / "c.jsonl"
    JsonlCache(path).put({"k": 1}, "one")
    path.write_bytes(path.read_bytes()[:-1])
    cache = JsonlCache(path)
    cache.put({"k": 2}, "two")
    assert [JsonlCache(path).get({"k": k}) for k in (1, 2)] == ["one", "two"]


@pytest.mark.parametrize(
    "line", ["[1]", "3", '{"key": 1, "text": "x"}', '{"key": {"k": 1}}', "\udcff"]
)
def test_a_line_that_is_no_entry_is_reported(tmp_path, line):
    path = tmp_path / "c.jsonl"
    path.write_bytes(line.encode("utf-8", "surrogateescape") + b"\n")
    with pytest.warns(UserWarning, match="line 1"):
        assert len(JsonlCache(path)) == 0


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match="is a folder"):
        JsonlCache(tmp_path)


def test_a_text_is_on_the_disk_when_put_returns(tmp_path, monkeypatch):
    path, synced = tmp_path / "c.jsonl", []
    monkeypatch.setattr(os, "fsync", lambda _: synced.append(len(path.read_text().splitlines())))
    cache = JsonlCache(path)
    for k in range(3):
        cache.put({"k": k}, "x")
    assert synced == [1, 2, 3]
