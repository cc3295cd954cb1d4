import json

import pytest
from clip_factory import write_shards

from lit_vpo.datamodules.manifest import Manifest
from lit_vpo.datamodules.overlay import Overlay, read_overlay, write_overlay
from lit_vpo.datamodules.quarantine import BadSample, Quarantine, read_quarantine
from lit_vpo.datamodules.reader import RecordReader


def test_rows_come_back_as_written_and_the_hash_is_of_their_content(tmp_path):
    rows = [{"key": "s0", "chosen": "ä cat", "rejected": "a dog"}, {"key": "s1", "r": 4, "scores": {"margin": 0.5}}]
    written = write_overlay(tmp_path / "sub" / "pairs.jsonl", rows)
    assert list(read_overlay(tmp_path / "sub" / "pairs.jsonl").rows) == rows
    assert read_overlay(tmp_path / "sub" / "pairs.jsonl").hash == written.hash
    assert len({written.hash, Overlay(tuple(rows[:1])).hash, Overlay(tuple(rows[::-1])).hash}) == 3
    assert [path.name for path in (tmp_path / "sub").iterdir()] == ["pairs.jsonl"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2: not JSON"),
        ("[1]", "line 2: a row must be an object"),
        ("{}", "line 2, field 'key'"),
        ('{"key": "a.b"}', "line 2, field 'key'"),
        ('{"key": "a", "chosen": 3}', "line 2, field 'chosen': must be str"),
        ('{"key": "a", "weight": true}', "line 2, field 'weight'"),
        ('{"key": "a", "mode": "ppo"}', "line 2, field 'mode'"),
        ('{"key": "a", "media": []}', "line 2, field 'media'"),
        ('{"key": "a", "media": {"start_s": "1"}}', "line 2, field 'media.start_s'"),
        ('{"key": "a", "media": {"frame_order": [0.5]}}', "line 2, field 'media.frame_order'"),
        ('{"key": "a", "history": [{"role": "user"}]}', "line 2, field 'history'"),
    ],
)
def test_a_bad_row_is_named_by_file_line_and_field(tmp_path, line, message):
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"key": "good"}\n' + line + "\n")
    with pytest.raises(ValueError, match=f"pairs.jsonl, {message}"):
        read_overlay(path)


def test_a_bad_row_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="line 1, field 'prompt'"):
        write_overlay(tmp_path / "pairs.jsonl", [{"key": "a", "prompt": 1}])
    assert not list(tmp_path.iterdir())


def test_missing_and_empty_files_are_refused(tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        read_overlay(tmp_path / "pairs.jsonl")
    (tmp_path / "pairs.jsonl").write_text("\n")
    with pytest.raises(ValueError, match="has no rows"):
        read_overlay(tmp_path / "pairs.jsonl")


def test_unknown_keys_are_refused_by_name_but_quarantined_ones_are_left_out(tmp_path, clips, caplog):
    folder = write_shards(tmp_path / "a", clips[:2])
    overlay = Overlay(tuple({"key": key} for key in ("s0", "gone", "s1")))
    with pytest.raises(ValueError, match="does not hold: gone"):
        RecordReader(Manifest.load(folder), overlay)
    Quarantine(folder).add("x.tar", "gone", "does not decode")
    assert [row["key"] for row in RecordReader(Manifest.load(folder), overlay).rows] == ["s0", "s1"]
    assert "1 rows left out" in caplog.text


def test_a_row_overrides_the_samples_json_and_media_are_merged(tmp_path, clips):
    own = {"prompt": "What?", "ground_truth": "a cat", "media": {"video": "x.mp4", "end_s": 1.0}, "meta": {"a": 1}}
    folder = write_shards(tmp_path / "a", clips[:1], [own])
    row = {"key": "s0", "ground_truth": "a dog", "media": {"end_s": 2.0}}
    record = RecordReader(Manifest.load(folder), Overlay((row,))).record(0)
    expected = own | row | {"id": "s0", "media": {"video": "x.mp4", "end_s": 2.0}}
    assert record == json.loads(json.dumps(expected))


def test_ids_are_the_key_or_numbered_where_a_key_has_several_rows(shards):
    manifest = Manifest.load(shards)
    rows = [{"key": "s0"}, {"key": "s1"}, {"key": "s0"}, {"key": "s2", "id": "mine"}]
    reader = RecordReader(manifest, Overlay(tuple(rows)))
    assert [row["id"] for row in reader.rows] == ["s0/0", "s1", "s0/1", "mine"]
    with pytest.raises(ValueError, match="'mine' stands twice"):
        RecordReader(manifest, Overlay(tuple([*rows, {"key": "s3", "id": "mine"}])))


def test_a_limit_keeps_the_first_rows_and_changes_the_hash(shards):
    manifest = Manifest.load(shards)
    limited = RecordReader(manifest, limit=2)
    assert [row["key"] for row in limited.rows] == ["s0", "s1"]
    assert limited.overlay_hash != RecordReader(manifest).overlay_hash == ""
    with pytest.raises(ValueError, match="limit must be >= 1"):
        RecordReader(manifest, limit=0)


SEPARATORS = "one\u2028two\u2029three\u0085four"


def test_line_separators_inside_a_text_are_no_ends_of_lines(tmp_path, shards):
    rows = [{"key": "s0", "chosen": SEPARATORS, "rejected": "a dog"}, {"key": "s1"}]
    write_overlay(tmp_path / "pairs.jsonl", rows)
    assert list(read_overlay(tmp_path / "pairs.jsonl").rows) == rows
    Quarantine(tmp_path).add("a.tar", "s0", SEPARATORS)
    assert read_quarantine(tmp_path)[0]["reason"] == SEPARATORS


@pytest.mark.parametrize(
    ("own", "reason"),
    [
        ([1], "must be an object, got list"),
        ("text", "must be an object, got str"),
        ({"prompt": 3}, "field 'prompt': must be str"),
        ({"media": []}, "field 'media': must be dict"),
        ({"meta": "x"}, "field 'meta': must be dict"),
        ({"meta": {"options": [1, 2]}}, "field 'meta.options'"),
        ({"history": [{"role": "user"}]}, "field 'history'"),
        ({"weight": float("nan")}, "field 'weight'"),
    ],
)
def test_a_samples_json_that_is_no_record_is_a_bad_sample(tmp_path, clips, own, reason):
    folder = write_shards(tmp_path / "a", clips[:1], [own])
    for overlay in (None, Overlay(({"key": "s0", "prompt": "What?"},))):
        with pytest.raises(BadSample, match=reason):
            RecordReader(Manifest.load(folder), overlay).record(0)


def test_null_fields_are_empty_on_both_sides(tmp_path, clips):
    folder = write_shards(tmp_path / "a", clips[:2], [{"media": None, "meta": None, "id": 5}, {"meta": {"a": 1}}])
    rows = ({"key": "s0", "media": {"end_s": 1.0}}, {"key": "s1", "media": None, "meta": None})
    reader = RecordReader(Manifest.load(folder), Overlay(rows))
    assert reader.record(0) == {"key": "s0", "id": "s0", "media": {"end_s": 1.0}, "meta": {}}
    assert reader.record(1) == {"key": "s1", "id": "s1", "media": {}, "meta": {"a": 1}}
