"""A store gives back what was put, bounds itself by what was read last, and survives a damaged file."""

import logging
import os

import pytest
import torch

from lit_vpo.store import TensorStore

ONE, TWO = f"{1:016x}-float32", f"{2:016x}-float32"


def test_tensors_return_for_every_process_with_the_folder(tmp_path):
    tensors = {"a": torch.randn(3, 4), "b": torch.arange(5).bfloat16()}
    TensorStore(tmp_path, ONE).put("abc", tensors)
    other = TensorStore(tmp_path, ONE)
    assert other.get("abc").keys() == tensors.keys()
    assert all(torch.equal(value, tensors[name]) for name, value in other.get("abc").items())
    assert other.get("abd") is None and TensorStore(tmp_path, TWO).get("abc") is None


def test_other_namespaces_are_dropped_on_request(tmp_path):
    TensorStore(tmp_path, ONE).put("abc", {"a": torch.ones(1)})
    store = TensorStore(tmp_path, TWO)
    store.put("abc", {"a": torch.zeros(1)})
    mine = tmp_path / "models" / "ab" / "abc.safetensors"  # a user may name any folder
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"weights")
    store.drop_other_namespaces()
    assert {path.parents[1].name for path in tmp_path.rglob("*.safetensors")} == {TWO, "models"}
    assert store.get("abc")["a"] == 0


def test_a_damaged_file_counts_as_none_and_is_named(tmp_path, caplog):
    store = TensorStore(tmp_path, ONE)
    store.put("abc", {"a": torch.ones(100)})
    store.path("abc").write_bytes(store.path("abc").read_bytes()[:50])
    with caplog.at_level(logging.WARNING):
        assert store.get("abc") is None
    assert "abc.safetensors does not open" in caplog.text
    store.put("abc", {"a": torch.ones(100)})
    assert store.get("abc")["a"].sum() == 100


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    store = TensorStore(tmp_path, ONE)
    store.put("abc", {"a": torch.ones(1)})

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lit_vpo.store.save_file", full)
    with pytest.raises(OSError, match="No space left"):
        store.put("abc", {"a": torch.zeros(1)})
    assert store.get("abc")["a"] == 1
    assert [path.name for path in store.path("abc").parent.iterdir()] == ["abc.safetensors"]


def test_what_was_not_read_for_longest_goes_first(tmp_path):
    size = 1000 * 4
    store = TensorStore(tmp_path, ONE, limit_gb=4.5 * size / 1e9)
    for number in range(4):
        store.put(f"0{number}", {"a": torch.full((1000,), float(number))})
        os.utime(store.path(f"0{number}"), (number, number))
    assert store.get("00") is not None  # read now, so the last to go
    store.put("04", {"a": torch.zeros(1000)})
    kept = [number for number in range(5) if store.path(f"0{number}").exists()]
    assert kept == [0, 3, 4]
    assert store.used == sum(path.stat().st_size for path in tmp_path.rglob("*.safetensors")) < 4.5 * size


def test_bad_settings(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot make the cache folder"):
        TensorStore(tmp_path / "file", ONE)
    with pytest.raises(ValueError, match="must be > 0 GB, got 0"):
        TensorStore(tmp_path, ONE, limit_gb=0)
