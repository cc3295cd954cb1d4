import functools
import http.server
import multiprocessing
import re
import threading
import time
from pathlib import Path

import fsspec
import pytest

from lit_vpo.datamodules.clips import ClipReader
from lit_vpo.datamodules.manifest import Manifest
from lit_vpo.datamodules.quarantine import BadSample
from lit_vpo.datamodules.reader import RecordReader
from lit_vpo.datamodules.stores import ColdStore, LocalStore, RangeStore, Store, trim


class Ranges(http.server.SimpleHTTPRequestHandler):
    """A file server that knows byte ranges, and fails the requests whose numbers are named."""

    failing: set[int] = set()
    asked: list[str] = []

    def do_GET(self):
        self.asked.append(self.headers.get("Range", ""))
        if len(self.asked) in self.failing:
            return self.send_error(503)
        payload = Path(self.translate_path(self.path)).read_bytes()
        first, _, last = self.headers["Range"].removeprefix("bytes=").partition("-")
        piece = payload[int(first) : int(last) + 1]
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{last}/{len(payload)}")
        self.send_header("Content-Length", str(len(piece)))
        self.end_headers()
        self.wfile.write(piece)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(shards):
    Ranges.failing, Ranges.asked = set(), []
    handler = functools.partial(Ranges, directory=str(shards))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as served:
        thread = threading.Thread(target=served.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{served.server_port}"
        served.shutdown()
        thread.join()


def payloads(shards, store):
    reader = RecordReader(Manifest.load(shards, remote=True), store=store)
    return [reader.video(row) for row in range(len(reader))], [reader.record(row) for row in range(len(reader))]


def test_every_store_gives_the_same_records_and_bytes(shards, clips, tmp_path, server):
    memory = fsspec.filesystem("memory")
    for path in shards.glob("*.tar"):
        memory.pipe(f"/data/{path.name}", path.read_bytes())
    stores = {
        "local": LocalStore(shards),
        "memory": RangeStore("memory://data"),
        "http": RangeStore(server),
        "pipe": ColdStore(f"pipe:cat {shards}/{{shard}}", str(tmp_path / "pipe")),
        "file": ColdStore(f"{shards}/{{shard}}", str(tmp_path / "file")),
    }
    expected = payloads(shards, None)
    assert expected[0] == clips
    for name, store in stores.items():
        assert payloads(shards, store) == expected, name
    assert len(Ranges.asked) == 12 and all(asked.startswith("bytes=") for asked in Ranges.asked)


def test_a_remote_clip_is_read_by_its_range_alone(shards, server):
    manifest = Manifest.load(shards, remote=True)
    row = {"media": {"video": "x"}}
    there = ClipReader(RecordReader(manifest, store=RangeStore(server)), 4).clip(5, row)
    assert there.frames.equal(ClipReader(RecordReader(manifest), 4).clip(5, row).frames)
    offset, size, _ = manifest.samples[5].members["mp4"]
    assert Ranges.asked == [f"bytes={offset}-{offset + size - 1}"]


def test_a_failing_server_is_asked_again_and_then_given_up(shards, clips, server):
    reader = RecordReader(Manifest.load(shards), store=RangeStore(server, attempts=3, wait_s=0.0))
    Ranges.failing = {1, 2}
    assert reader.video(0) == clips[0] and len(Ranges.asked) == 3
    Ranges.failing = {4, 5, 6}
    with pytest.raises(BadSample, match="cannot read the file after 3 tries: ClientResponseError"):
        reader.video(0)
    assert len(Ranges.asked) == 6


def test_pauses_double_and_a_missing_file_is_not_waited_for(monkeypatch, tmp_path):
    class Broken(Store):
        def _read(self, name, offset, size):
            raise ConnectionError

    pauses = []
    monkeypatch.setattr("lit_vpo.datamodules.stores.time.sleep", pauses.append)
    with pytest.raises(BadSample, match="after 4 tries: ConnectionError"):
        Broken(attempts=4, wait_s=0.5).read("a.tar", 0, 1)
    assert pauses == [0.5, 1.0, 2.0]
    for store in (LocalStore(tmp_path), RangeStore("memory://nothing")):
        with pytest.raises(BadSample, match="cannot open the file"):
            store.read("a.tar", 0, 1)
    assert len(pauses) == 3


def test_a_cold_shard_is_fetched_once_and_the_cache_stays_bounded(shards, clips, tmp_path):
    counted = f"pipe:echo {{shard}} >> {tmp_path}/log; cat {shards}/{{shard}}"
    sizes = [path.stat().st_size for path in sorted(shards.glob("*.tar"))]
    cache = tmp_path / "cache"
    store = ColdStore(counted, str(cache), cache_gb=(max(sizes) + 1) / 1e9)
    reader = RecordReader(Manifest.load(shards), store=store)
    assert [reader.video(row) for row in (0, 3, 1, 4, 5, 0)] == [clips[n] for n in (0, 3, 1, 4, 5, 0)]
    fetched = (tmp_path / "log").read_text().split()
    assert fetched == ["shard-000000.tar", "shard-000001.tar", "shard-000000.tar"]
    assert sum(path.stat().st_size for path in cache.glob("*.shard")) <= store.max_bytes


def test_a_cache_too_small_for_the_shards_in_use_says_so_once(shards, tmp_path, caplog):
    sizes = [path.stat().st_size for path in sorted(shards.glob("*.tar"))]
    for cache_gb, warnings in ((sum(sizes) / 1e9, 0), ((max(sizes) + 1) / 1e9, 1)):
        store = ColdStore(f"{shards}/{{shard}}", str(tmp_path / str(warnings)), cache_gb)
        reader = RecordReader(Manifest.load(shards), store=store)
        for row in (0, 4, 1, 5, 2):
            reader.video(row)
        found = [record.message for record in caplog.records if "was fetched again" in record.message]
        assert len(found) == warnings
    assert "shard shard-000000.tar was fetched again: the cache" in found[0] and "raise cache_gb" in found[0]


def test_what_a_killed_fetch_left_neither_blocks_nor_stays(shards, clips, tmp_path):
    (tmp_path / "awake").touch()
    first_sleeps = f"pipe:mv {tmp_path}/awake {tmp_path}/asleep 2>&- && sleep 9; cat {shards}/{{shard}}"
    cache = tmp_path / "cache"
    reader = RecordReader(Manifest.load(shards), store=ColdStore(first_sleeps, str(cache)))
    killed = multiprocessing.get_context("fork").Process(target=reader.video, args=(0,))
    killed.start()
    while not ((tmp_path / "asleep").exists() and list(cache.glob("*.part"))):
        assert killed.is_alive()
        time.sleep(0.01)
    (left,) = cache.glob("*.part")
    assert reader.video(5) == clips[5] and left.exists()  # its process is at work
    killed.kill()
    killed.join()
    for path in cache.glob("*.shard"):
        path.unlink()
    assert reader.video(5) == clips[5] and not left.exists()
    assert reader.video(0) == clips[0]


def test_a_shard_that_came_in_part_is_fetched_again_and_then_given_up(shards, clips, tmp_path, caplog):
    mark = tmp_path / "again"
    once = f"pipe:if [ -e {mark} ]; then cat {shards}/{{shard}}; else touch {mark}; head -c 700 {shards}/{{shard}}; fi"
    reader = RecordReader(Manifest.load(shards), store=ColdStore(once, str(tmp_path / "a"), wait_s=0.0))
    assert reader.video(0) == clips[0] and "fetched again" not in caplog.text
    for number, command in enumerate(("head -c 700", "false")):
        store = ColdStore(f"pipe:{command} {shards}/{{shard}}", str(tmp_path / f"b{number}"), attempts=2, wait_s=0.0)
        with pytest.raises(BadSample, match="after 2 tries: OSError"):
            RecordReader(Manifest.load(shards), store=store).video(0)


def test_a_shards_name_is_no_shell_command(tmp_path):
    store = ColdStore("pipe:printf %s {shard}", str(tmp_path / "a"))
    name = f"x; touch {tmp_path}/made"
    assert store.read(name, 0, len(name)) == name.encode() and not (tmp_path / "made").exists()


def test_trim_removes_what_was_unused_longest(tmp_path):
    import os

    for age, name in enumerate("abc"):
        (tmp_path / name).write_bytes(b"12345")
        os.utime(tmp_path / name, (age, age))
    trim(tmp_path, re.compile("[a-c]"), 10)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b", "c"]


def test_files_that_a_cache_did_not_write_stay(shards, tmp_path):
    foreign = ["my_precious.shard", "0" * 23 + ".shard", "x" + "0" * 24 + ".shard", "sub/" + "0" * 24 + ".shard"]
    (tmp_path / "sub").mkdir()
    for name in foreign:
        (tmp_path / name).write_bytes(b"mine")
    old = tmp_path / ("0" * 24 + ".shard")
    old.write_bytes(b"old")
    store = ColdStore(f"{shards}/{{shard}}", str(tmp_path), cache_gb=1e-9)
    assert store.read("shard-000000.tar", 0, 9) and not old.exists()
    assert all((tmp_path / name).read_bytes() == b"mine" for name in foreign)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ColdStore("pipe:cat /data", "c"), "must say where a shard's name goes"),
        (lambda: ColdStore("{shard}", "c", cache_gb=0), "cache_gb must be > 0"),
        (lambda: ColdStore("s3://b/{shard}", "c"), "nothing opens s3:// here.*pipe:aws s3 cp s3://bucket/{shard} -"),
        (lambda: RangeStore("nosuch://x"), "nosuch://x cannot be read: Protocol not known"),
        (lambda: LocalStore(".", attempts=0), "attempts must be >= 1"),
    ],
)
def test_wrong_stores_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
