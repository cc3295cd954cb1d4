import json
from pathlib import Path

import pytest

from lit_vpo.datamodules.schemas import SCHEMAS, read_annotations, register, strip_tags, to_records

REAL = Path(__file__).parents[2].parent / "shared" / "annotations" / "llamafactory"


def say(*turns, who="role", what="content"):
    return [{who: role, what: text} for role, text in turns]


ASK = ("user", "<video><audio>\nWhy is this video funny?")
PAIR = {"chosen": "yes", "rejected": "no"}
DPO = {"prompt": "Why is this video funny?", "history": [], "media": {"video": "a.mp4"}, "mode": "dpo", **PAIR}


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("swift_dpo", {"messages": say(ASK, ("assistant", "yes")), "rejected_response": "no", "videos": ["a.mp4"]}),
        (
            "llamafactory_dpo",
            {
                "conversations": say(("human", ASK[1]), who="from", what="value"),
                "chosen": {"from": "gpt", "value": "yes"},
                "rejected": {"from": "gpt", "value": "no"},
                "videos": ["a.mp4"],
            },
        ),
        ("hound_dpo", {"id": "9", "video": "a.mp4", "prompt": "<video>\nWhy is this video funny?", **PAIR, "extra": 1}),
    ],
)
def test_three_ways_of_writing_one_pair(name, row):
    (record,) = to_records(row, "f, row 1")
    assert record.pop("meta")["schema"] == name
    assert record == DPO


def test_every_answer_of_a_conversation_is_a_record_with_the_turns_before_as_history():
    turns = [("system", "Be short."), ("user", "<video>Who?"), ("assistant", "A cat."), ("user", "Where?")]
    row = {"messages": say(*turns, ("assistant", "Here.")), "videos": ["a.mp4"]}
    first, second = to_records(row, "f, row 1")
    system = ("system", "Be short.")
    assert first["history"] == say(system) and (first["prompt"], first["ground_truth"]) == ("Who?", "A cat.")
    assert second["history"] == say(system, ("user", "Who?"), ("assistant", "A cat."))
    assert (second["prompt"], second["ground_truth"], second["mode"]) == ("Where?", "Here.", "sft")
    assert first["media"] == second["media"] == {"video": "a.mp4"}


def test_records_know_their_row(tmp_path):
    turns = [ASK, ("assistant", "a"), ("user", "And?"), ("assistant", "b")]
    rows = [{"messages": say(*turns), "videos": ["a.mp4"]}, {"messages": say(*turns[:2]), "videos": ["b.mp4"]}]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    read = read_annotations(tmp_path / "a.json")
    assert read.row_numbers == [1, 1, 2] and [record["ground_truth"] for record in read.records] == ["a", "b", "a"]


def test_null_lists_of_files_name_none_and_line_separators_stay_in_the_text(tmp_path):
    row = {"messages": say(ASK, ("assistant", "one\u2028two")), "videos": None, "audios": None}
    for name, text in (("a.jsonl", json.dumps(row, ensure_ascii=False)), ("a.json", json.dumps([row]))):
        (tmp_path / name).write_text(text, encoding="utf-8")
        read = read_annotations(tmp_path / name)
        assert read.num_ignored_audios == 0 and read.records[0]["media"] == {}
        assert read.records[0]["ground_truth"] == "one\u2028two"


def test_our_own_record_passes_unchanged():
    row = {"prompt": "What?", "media": {"video": "a.mp4", "start_s": 1}, "ground_truth": "x", "meta": {"a": 1}}
    assert to_records(row, "f, row 1") == [{**row, "meta": {"a": 1, "schema": "lit_vpo"}}]


def test_json_array_and_jsonl_are_the_same(tmp_path):
    rows = [{"messages": say(ASK, ("assistant", f"a{n}")), "videos": "a.mp4", "audios": ["a.mp3"]} for n in range(3)]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    one, other = read_annotations(tmp_path / "a.json"), read_annotations(tmp_path / "a.jsonl")
    assert one == other and one.num_ignored_audios == 3
    assert [record["ground_truth"] for record in one.records] == ["a0", "a1", "a2"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([], "a row must be an object"),
        ({"caption": "x"}, r"fields \['caption'\] are of no known format \(lit_vpo, "),
        ({"messages": [{"role": "user"}]}, "field 'messages': each turn"),
        ({"messages": say(ASK)}, "field 'messages': the last turn must be the assistant's"),
        ({"messages": []}, "field 'messages'"),
        ({"messages": say(("assistant", "x"))}, "field 'messages': the turn before the answer"),
        ({"messages": say(ASK, ("assistant", "x")), "videos": ["a", "b"]}, "field 'videos': must name one video"),
        ({"messages": say(ASK, ("assistant", "x")), "rejected_response": ""}, "field 'rejected_response'"),
        ({"prompt": "x", "chosen": 1, "rejected": "y", "video": "a"}, "field 'chosen'"),
        ({"prompt": "x", "chosen": "z", "rejected": "y", "video": 3}, "field 'media.video'"),
        ({"prompt": "x", "media": {"end_s": "9"}}, "field 'media.end_s'"),
    ],
)
def test_a_bad_row_is_named_by_file_row_and_field(tmp_path, row, message):
    path = tmp_path / "a.json"
    path.write_text(json.dumps([{"messages": say(ASK, ("assistant", "x"))}, row]))
    with pytest.raises(ValueError, match=rf"a.json, row 2.*{message}"):
        read_annotations(path)


def test_unreadable_files_are_refused(tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        read_annotations(tmp_path / "a.json")
    (tmp_path / "a.json").write_text("[{")
    with pytest.raises(ValueError, match=r"a.json: not a JSON array"):
        read_annotations(tmp_path / "a.json")
    (tmp_path / "a.jsonl").write_text("{}\n{\n")
    with pytest.raises(ValueError, match=r"a.jsonl, row 2: not JSON"):
        read_annotations(tmp_path / "a.jsonl")


def test_tags_are_stripped_wherever_they_stand():
    assert strip_tags("<video>\n<image> What <audio>now?") == "What now?"


def test_a_users_format_goes_on_the_registry():
    @register("mine", lambda row: "question_text" in row)
    def mine(row, where):
        return {"prompt": row["question_text"], "media": {"video": row["file"]}}

    try:
        assert to_records({"question_text": "What?", "file": "a.mp4"}, "f, row 1")[0]["meta"] == {"schema": "mine"}
    finally:
        SCHEMAS.pop()


@pytest.mark.real
@pytest.mark.skipif(not REAL.is_dir(), reason="no real annotations beside the checkout")
def test_real_files_of_llamafactory():
    videos = read_annotations(REAL / "mllm_video_demo.json")
    assert [record["media"]["video"] for record in videos.records] == [
        f"mllm_demo_data/{n}" for n in ("1.mp4", "2.avi", "3.mp4")
    ]
    assert videos.records[0]["prompt"] == "Why is this video funny?"
    with_audio = read_annotations(REAL / "mllm_video_audio_demo.json")
    assert with_audio.num_ignored_audios == len(with_audio.records) and "<" not in with_audio.records[0]["prompt"]
    pairs = read_annotations(REAL / "dpo_en_demo.json")
    assert len(pairs.records) == 300 and {record["meta"]["schema"] for record in pairs.records} == {"llamafactory_dpo"}
