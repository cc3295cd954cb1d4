import multiprocessing

import pytest

from lit_vpo.datamodules.quarantine import Quarantine, forget, read_quarantine, reason_name


def test_a_sample_counts_once_and_is_written_once(tmp_path):
    first = Quarantine(tmp_path)
    assert [first.add("a.tar", "x", "cut"), first.add("a.tar", "x", "cut"), len(first)] == [True, False, 1]
    again = Quarantine(tmp_path)
    assert again.add("a.tar", "x", "cut") and len(again) == 1  # met again by another run: counted, not written
    assert again.add("a.tar", "x", "empty prompt", "x/1") and again.reasons() == ["cut", "empty prompt"]
    assert [line["id"] for line in read_quarantine(tmp_path)] == ["x", "x/1"]


def test_a_stage_forgets_its_own_lines(tmp_path):
    Quarantine(tmp_path, "pack").add("half.mp4", "half", "cut")
    Quarantine(tmp_path, "index").add("a.tar", "x", "cut")
    forget(tmp_path, "index")
    assert [line["key"] for line in read_quarantine(tmp_path)] == ["half"]
    forget(tmp_path, "pack")
    assert not (tmp_path / "quarantine.jsonl").exists()


def test_reasons_have_short_names_that_do_not_tell_samples_apart(tmp_path):
    assert reason_name("member .mp4 is cut: 3 of 8 bytes") == "member_mp4_is_cut"
    assert reason_name("member .mp4 changed since it was indexed (crc32)") == "member_mp4_changed_since_it_was_indexed"
    assert reason_name("1 rejected responses where num_negatives is 2") == reason_name(
        "3 rejected responses where num_negatives is 4"
    )
    assert reason_name("the video has no frame between 9.0 s and 11.5 s") == reason_name(
        "the video has no frame between 1.25 s and 2.0 s"
    )
    assert reason_name("(?)") == "other"
    quarantine = Quarantine(tmp_path)
    for number in range(3):
        quarantine.add("a.tar", f"x{number}", f"member .mp4 is cut: {number} of 8 bytes")
    quarantine.add("a.tar", "y", "empty prompt")
    assert quarantine.counts() == {"member_mp4_is_cut": 3, "empty_prompt": 1}


@pytest.mark.parametrize("cut", [1, 2, 30])
def test_a_line_cut_while_it_was_written_is_left_out_and_spoils_no_other(tmp_path, caplog, cut):
    for key in "xy":
        Quarantine(tmp_path).add("a.tar", key, "ein kaputtes Bild: \u00e4\u4e2d")
    path = tmp_path / "quarantine.jsonl"
    path.write_bytes(path.read_bytes()[: -1 - cut])
    resumed = Quarantine(tmp_path)
    assert f"{path}, line 2 is left out: it was cut" in caplog.text
    assert resumed.add("a.tar", "y", "cut") and len(resumed) == 1
    assert [line["key"] for line in read_quarantine(tmp_path)] == ["x", "y"]


def test_a_last_line_without_its_newline_is_kept(tmp_path):
    Quarantine(tmp_path).add("a.tar", "x", "cut")
    path = tmp_path / "quarantine.jsonl"
    path.write_text(path.read_text().rstrip())
    Quarantine(tmp_path).add("a.tar", "y", "cut")
    assert [line["key"] for line in read_quarantine(tmp_path)] == ["x", "y"]


@pytest.mark.parametrize("line", ["{]}", "{}", '{"key": "x"}', "[1]", "3"])
def test_a_line_that_is_none_of_a_quarantine_is_named(tmp_path, line):
    Quarantine(tmp_path).add("a.tar", "x", "cut")
    with (tmp_path / "quarantine.jsonl").open("a") as file:
        file.write(f"{line}\n")
    with pytest.raises(ValueError, match=r"quarantine.jsonl, line 2: not a line of a quarantine"):
        Quarantine(tmp_path)


def _note(folder, writer):
    quarantine = Quarantine(folder)
    for number in range(50):
        quarantine.add("a.tar", f"{writer}_{number}", "long " * 3000)


def test_lines_of_several_processes_do_not_mix(tmp_path):
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_note, args=(tmp_path, writer)) for writer in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    found = sorted(line["id"] for line in read_quarantine(tmp_path))
    assert found == sorted(f"{writer}_{number}" for writer in range(4) for number in range(50))
