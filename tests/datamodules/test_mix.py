import pytest

from lit_vpo.datamodules.manifest import Manifest
from lit_vpo.datamodules.mix import Mix, OverlayShare, overlay_files, part_of, read_parts, write_part
from lit_vpo.datamodules.order import interleave
from lit_vpo.datamodules.overlay import write_overlay
from lit_vpo.datamodules.quarantine import Quarantine
from lit_vpo.datamodules.reader import RecordReader


def rows_of(prefix, count):
    return [{"key": f"s{n % 6}", "id": f"{prefix}{n}", "r": n} for n in range(count)]


@pytest.fixture
def rounds(tmp_path):
    """Three rounds of 8, 4 and 2 rows that speak of the same ids."""
    for number, count in ((1, 8), (2, 4), (3, 2)):
        write_overlay(tmp_path / f"round{number}.jsonl", rows_of("pair", count))
    return tmp_path


def test_several_overlays_join_in_order_with_ids_of_their_own(rounds, shards):
    named = [f"{rounds}/round{number}.jsonl" for number in (1, 2, 3)]
    mixes = [
        Mix.load([OverlayShare(path) for path in named]),
        Mix.load(",".join(named)),
        Mix.load(f"{rounds}/round?.jsonl"),
        Mix.load([OverlayShare(f"{named[0]}, {named[1]}"), OverlayShare(named[2])]),
    ]
    assert len({mix.overlay.hash for mix in mixes}) == 1
    assert [row["id"] for row in mixes[0].overlay.rows][7:13] == [
        "0/pair7", "1/pair0", "1/pair1", "1/pair2", "1/pair3", "2/pair0"
    ]  # fmt: skip
    assert mixes[0].weights == () and len(RecordReader(Manifest.load(shards), mixes[0].overlay)) == 14


def test_one_overlay_keeps_its_ids(rounds):
    assert [row["id"] for row in Mix.load(f"{rounds}/round3.jsonl").overlay.rows] == ["pair0", "pair1"]


def test_origins_follow_the_rows_that_the_reader_keeps(rounds, clips, tmp_path):
    from clip_factory import write_shards

    folder = write_shards(tmp_path / "five", clips[:5])
    Quarantine(folder).add("x.tar", "s5", "does not decode")
    shares = [OverlayShare(f"{rounds}/round1.jsonl", 0.5), OverlayShare(f"{rounds}/round2.jsonl", 1.0)]
    mix = Mix.load(shares)
    reader = RecordReader(Manifest.load(folder), mix.overlay)
    assert mix.origins(reader).tolist() == [0] * 7 + [1] * 4  # round 1's row of s5 is not there
    assert [row["id"][0] for row in reader.rows] == [str(number) for number in mix.origins(reader)]
    limited = RecordReader(Manifest.load(folder), mix.overlay, limit=8)
    assert mix.origins(limited).tolist() == [0] * 7 + [1]


@pytest.mark.parametrize("weight", [0.0, -1.0, 1.5])
def test_weights_outside_0_to_1_are_refused(rounds, weight):
    with pytest.raises(ValueError, match=r"weight of overlay .*round1.jsonl must lie in \(0, 1\]"):
        Mix.load([OverlayShare(f"{rounds}/round1.jsonl", weight)])


def test_lists_take_turns_in_the_ratio_of_what_they_show():
    # a turn: 4 of 4 and 2 of 4 elements, evenly spread
    turn = [(0, 0), (1, 0), (0, 1), (0, 2), (1, 1), (0, 3)]
    assert interleave([4, 4], [1.0, 0.5], 0) == turn
    assert interleave([4, 4], [1.0, 0.5], 1) == [(n, p + 2 * n) for n, p in turn]  # list 1 goes on where it stands
    assert interleave([4, 4], [1.0, 0.5], 2) == turn
    assert interleave([3], [1.0], 1, 2) == [(0, 2), (0, 0)]
    assert interleave([3], [1.0], 1, 99) == interleave([3], [1.0], 0)


@pytest.mark.parametrize("size", [1, 5, 7, 13, 99])
def test_no_part_of_the_stream_holds_an_element_twice_and_its_lists_stand_in_their_ratio(size):
    counts, weights = [11, 7, 3], [0.5, 1.0, 0.4]
    shown = [6, 7, 1]  # 5.5, 7 and 1.2, rounded
    for part in range(20):
        found = interleave(counts, weights, part, size)
        assert len(set(found)) == len(found) == min(size, 14)
        for number, many in enumerate(shown):
            assert abs(sum(n == number for n, _ in found) - len(found) * many / 14) <= 1.5


def test_a_glob_without_a_match_and_a_missing_file_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no overlay matches"):
        Mix.load(f"{tmp_path}/*.jsonl")
    with pytest.raises(ValueError, match="does not exist"):
        Mix.load(f"{tmp_path}/a.jsonl")


def test_a_weight_too_small_for_one_row_is_refused_with_the_fix(rounds):
    path = f"{rounds}/round1.jsonl"
    assert Mix.load([OverlayShare(path, 0.07)]).weights == (0.07,)
    with pytest.raises(ValueError, match=r"weight 0.06 of overlay .*round1.jsonl shows none of its 8 rows; .*0.12"):
        Mix.load([OverlayShare(f"{rounds}/round2.jsonl"), OverlayShare(path, 0.06)])


@pytest.mark.parametrize("world", [2, 3, 16])
def test_parts_of_ranks_merge_into_the_overlay_of_a_single_rank(tmp_path, world):
    rows = rows_of("r", 12)
    write_part(tmp_path / "alone.jsonl", rows, 0, 1)
    for rank in range(world):
        write_part(tmp_path / "pairs.jsonl", rows[rank::world], rank, world)  # of 16 ranks, 4 kept nothing
    assert sorted(tmp_path.glob("pairs*")) == sorted(part_of(tmp_path / "pairs.jsonl", n, world) for n in range(world))
    assert overlay_files(f"{tmp_path}/p*.jsonl") == [tmp_path / "pairs.jsonl"]
    merged, alone = (Mix.load(f"{tmp_path}/{name}.jsonl").overlay for name in ("pairs", "alone"))
    assert merged.rows == alone.rows and merged.hash == alone.hash
    assert [row["id"] for row in merged.rows][:4] == ["r0", "r6", "r1", "r7"] and len(merged.rows) == 12


def test_parts_that_are_all_empty_are_an_overlay_without_rows(tmp_path):
    for rank in range(2):
        write_part(tmp_path / "pairs.jsonl", [], rank, 2)
    with pytest.raises(ValueError, match=r"overlay .*pairs.jsonl has no rows"):
        read_parts(tmp_path / "pairs.jsonl")


def test_incomplete_and_mixed_parts_are_refused(tmp_path):
    path = tmp_path / "pairs.jsonl"
    write_part(path, rows_of("r", 2), 1, 3)
    with pytest.raises(ValueError, match=r"incomplete: pairs.0-3.jsonl, pairs.2-3.jsonl is missing"):
        read_parts(path)
    write_part(path, rows_of("r", 2), 0, 2)
    with pytest.raises(ValueError, match=r"holds pairs.0-2.jsonl, pairs.1-3.jsonl: remove those that are old"):
        read_parts(path)
    part_of(path, 0, 2).unlink()
    write_overlay(path, rows_of("r", 2))
    with pytest.raises(ValueError, match=r"holds pairs.1-3.jsonl, pairs.jsonl: remove"):
        read_parts(path)


@pytest.mark.parametrize("name", ["rows.2024-10.jsonl", "rows.3-3.jsonl", "rows.03-10.jsonl", "rows.0-0.jsonl"])
def test_a_date_in_a_name_is_no_part_of_a_rank(tmp_path, name):
    write_overlay(tmp_path / "rows.jsonl", rows_of("r", 2))
    write_overlay(tmp_path / name, rows_of("d", 1))
    assert overlay_files(f"{tmp_path}/*.jsonl") == sorted([tmp_path / name, tmp_path / "rows.jsonl"])
    assert len(read_parts(tmp_path / "rows.jsonl").rows) == 2 and len(read_parts(tmp_path / name).rows) == 1
