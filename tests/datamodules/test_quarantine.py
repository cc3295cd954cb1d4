from lit_vpo.datamodules.quarantine import Quarantine, forget, read_quarantine


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
