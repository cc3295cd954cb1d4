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
