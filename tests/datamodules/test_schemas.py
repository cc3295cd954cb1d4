import json
from pathlib import Path

import pytest

from lit_vpo.datamodules.schemas import SCHEMAS, find_files, read_annotations, register, strip_tags, to_records

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


def talk(*turns):
    return say(*turns, who="from", what="value")


HUMAN = ("human", "<image>\nWhat?")
ASKED = {"prompt": "What?", "history": []}


@pytest.mark.parametrize(
    ("name", "row", "expected"),
    [
        (
            "vs2_dpo",
            {
                "video": "a.mp4",
                "audio": "a.wav",
                "timestamps": [3, 9],
                "conversations": talk(HUMAN, ("gpt", "yes"), ("reject_gpt", "no"), ("gt", "truth")),
            },
            {
                **ASKED,
                **PAIR,
                "ground_truth": "truth",
                "mode": "dpo",
                "media": {"video": "a.mp4", "audio": "a.wav", "start_s": 3, "end_s": 9},
            },
        ),
        (
            "vs2p_dpo",
            {
                "video": "a.mp4",
                "use_audio": True,
                "conversations": talk(HUMAN, ("gpt", "truth"), ("chosen", "yes"), ("reject", "no")),
            },
            {
                **ASKED,
                **PAIR,
                "ground_truth": "truth",
                "mode": "dpo",
                "media": {"video": "a.mp4", "use_audio": True},
            },
        ),
        (
            "vs2_dpo",
            {
                "video": "a",
                "ce_only": True,
                "conversations": talk(HUMAN, ("gpt", "x"), ("reject_gpt", "y"), ("gt", "z")),
            },
            {**ASKED, "ground_truth": "z", "mode": "sft", "media": {"video": "a"}},
        ),
        (
            "vs2_sft",
            {"video": ["a.mp4"], "conversations": talk(HUMAN, ("gpt", "yes"))},
            {**ASKED, "ground_truth": "yes", "mode": "sft", "media": {"video": "a.mp4"}},
        ),
        (
            "hound_dpo",
            {"id": "1", "video": "sub/frames1", "prompt": "What?", **PAIR},
            {**ASKED, **PAIR, "mode": "dpo", "media": {"frames_dir": "sub/frames1"}, "meta": {"source_id": "1"}},
        ),
        (
            "hound_dpo",
            {"frame": "a.jpg", "prompt": "<image>\nWhat?", **PAIR},
            {**ASKED, **PAIR, "mode": "dpo", "media": {"image": "a.jpg"}},
        ),
        (
            "vista_dpo",
            {"video": "a.mp4", "prompt": "What?", **PAIR, "rejected_2": "never", "clip_w": "w.mp4", "bbox": "1,2"},
            {
                **ASKED,
                **PAIR,
                "mode": "dpo",
                "media": {"video": "a.mp4"},
                "negatives": [{"text": "never"}],
                "meta": {"clip_w": "w.mp4", "bbox": "1,2"},
            },
        ),
        (
            "rrpo",
            {
                "video": "a",
                "question": "<image>\nWhat?",
                "answer": "yes",
                "pred": "no",
                "answer_masked": "_",
                "pred_masked": "-",
            },
            {
                **ASKED,
                **PAIR,
                "ground_truth": "yes",
                "mode": "dpo",
                "media": {"video": "a"},
                "meta": {"answer_masked": "_", "pred_masked": "-"},
            },
        ),
        (
            "vlmrlaif",
            {
                "video": "a.mp4",
                "conversations": talk(HUMAN),
                "output_1": {"from": "llm", "value": "no"},
                "output_2": {"from": "llm", "value": "yes"},
                "preference": 2,
            },
            {**ASKED, **PAIR, "mode": "dpo", "media": {"video": "a.mp4"}},
        ),
        (
            "trl_dpo",
            {"prompt": "What?", "videos": ["a.mp4"], **PAIR},
            {**ASKED, **PAIR, "mode": "dpo", "media": {"video": "a.mp4"}},
        ),
        (
            "trl_dpo",
            {
                "prompt": [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "What?"}]}],
                "chosen": say(("assistant", "yes")),
                "rejected": say(("assistant", "no")),
            },
            {**ASKED, **PAIR, "mode": "dpo", "media": {}},
        ),
        (
            "trl_dpo",
            {
                "chosen": say(("user", "What?"), ("assistant", "yes")),
                "rejected": say(("user", "What?"), ("assistant", "no")),
            },
            {**ASKED, **PAIR, "mode": "dpo", "media": {}},
        ),
        (
            "swift_dpo",
            {
                "messages": say(("user", "What?"), ("assistant", "yes")),
                "rejected_messages": say(("user", "What?"), ("assistant", "no")),
                "videos": ["a.mp4"],
            },
            {**ASKED, **PAIR, "mode": "dpo", "media": {"video": "a.mp4"}},
        ),
        (
            "vs2_test",
            {"video": "video/0.mp4", "conversations": talk(HUMAN, ("gpt", "yes")), "events": ["a cat sits"]},
            {
                **ASKED,
                "ground_truth": "yes",
                "mode": "sft",
                "media": {"video": "video/0.mp4"},
                "events": [{"text": "a cat sits"}],
            },
        ),
        (
            "hound_test",
            {"id": "1", "video": "dir", "caption": "a cat", "conversations": talk(HUMAN, ("gpt", "yes"))},
            {
                **ASKED,
                "ground_truth": "yes",
                "mode": "sft",
                "media": {"frames_dir": "dir"},
                "meta": {"caption": "a cat", "source_id": "1"},
            },
        ),
        (
            "results",
            {"id": ["video/0.mp4", "a.wav"], "prompt": "What?", "pred1": "x", "pred2": "y", "ref": "yes"},
            {**ASKED, "ground_truth": "yes", "media": {"video": "video/0.mp4"}, "meta": {"predictions": ["x", "y"]}},
        ),
        (
            "results",
            {
                "id": "1",
                "modal_path": "d/1",
                "query": "What?",
                "model_prediction": {"status": "success", "message": "x"},
            },
            {**ASKED, "media": {"video": "d/1"}, "meta": {"predictions": ["x"]}},
        ),
        (
            "llamafactory_sft",
            {
                "messages": say(("user", "<video><audio>What?"), ("assistant", "yes")),
                "videos": ["a.mp4"],
                "audios": ["a.mp3"],
            },
            {**ASKED, "ground_truth": "yes", "mode": "sft", "media": {"video": "a.mp4", "audio": "a.mp3"}},
        ),
    ],
)
def test_every_public_format_by_its_fields(name, row, expected):
    (record,) = to_records(row, "f, row 1")
    assert record["meta"].pop("schema") == name
    assert record == {"meta": {}, **expected}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"conversations": talk(HUMAN, ("reject_gpt", "no")), "video": "a"}, "no turn from 'gpt' answers"),
        ({"conversations": talk(HUMAN, ("gpt", "t"), ("chosen", "y")), "video": "a"}, "no turn from 'reject' answers"),
        (
            {"conversations": talk(HUMAN, ("gpt", "a"), ("gpt", "b"), ("reject_gpt", "c"))},
            "answers the last question twice",
        ),
        ({"conversations": talk(HUMAN, ("gpt", "a"), ("reject_gpt", "c")), "timestamps": [1]}, "field 'timestamps'"),
        ({"conversations": talk(HUMAN, ("chosen", "a"), ("reject", "c")), "use_audio": "yes"}, "field 'use_audio'"),
        ({"conversations": talk(HUMAN), "output_1": "a", "output_2": "b", "preference": 3}, "field 'preference'"),
        ({"id": "1", "model_prediction": {"status": "error"}}, "status is 'error'"),
        ({"conversations": talk(HUMAN, ("gpt", "a")), "events": "x"}, "field 'events'"),
        ({"frame_indices": [], "response": "x", "video_path": "a"}, "file's name must say the perturbation"),
        (
            {
                "messages": say(("user", "A?"), ("assistant", "x")),
                "rejected_messages": say(("user", "B?"), ("assistant", "y")),
            },
            "turns before the two answers must be the same",
        ),
    ],
)
def test_what_a_format_does_not_allow_is_refused_by_field(row, message):
    with pytest.raises(ValueError, match=f"f.json, row 7.*{message}"):
        to_records(row, "f.json, row 7")


TALK = talk(("human", "What?"), ("gpt", "yes"))
OTHER = talk(("human", "What?"), ("gpt", "no"))
SAID, UNSAID = (say(("user", "What?"), ("assistant", text)) for text in ("yes", "no"))


@pytest.mark.parametrize(
    "row",
    [
        {"conversations": TALK, "rejected_response": "no"},
        {"conversations": TALK, "rejected_conversations": OTHER},
        {"messages": SAID, "rejected": "no"},
        {"messages": SAID, "rejected": UNSAID[-1]},
        {"messages": SAID, "rejected": UNSAID},
        {"messages": SAID[:1], "chosen": "yes", "rejected": "no"},
    ],
)
@pytest.mark.parametrize("media", [{"video": "a.mp4"}, {"videos": ["a.mp4"]}, {"videos": ["a.mp4"], "video": None}])
def test_pairs_in_mixed_spelling_keep_both_answers_and_the_video(row, media):
    (record,) = to_records(row | media, "f, row 1")
    del record["meta"]
    assert record == {**ASKED, **PAIR, "mode": "dpo", "media": {"video": "a.mp4"}}


@pytest.mark.parametrize(
    "media", [{"video": "a.mp4"}, {"video": ["a.mp4"]}, {"videos": "a.mp4"}, {"videos": ["a.mp4"]}]
)
@pytest.mark.parametrize(
    "row",
    [
        {"conversations": TALK},
        {"messages": SAID},
        {"conversations": TALK, "events": ["x"]},
        {"conversations": TALK, "caption": "x"},
        {"conversations": talk(HUMAN, ("gpt", "yes"), ("reject_gpt", "no"))},
        {"conversations": talk(HUMAN), "output_1": "yes", "output_2": "no", "preference": 1},
        {"prompt": "What?", **PAIR},
        {"prompt": "What?", **PAIR, "rejected_2": "never"},
        {"question": "What?", "answer": "yes", "pred": "no", "answer_masked": "_", "pred_masked": "-"},
        {"id": "1", "prompt": "What?", "pred": "x"},
    ],
)
def test_a_video_is_kept_in_either_spelling(row, media):
    assert to_records(row | media, "f, row 1")[0]["media"] == {"video": "a.mp4"}
    for wrong in ({"video": "a.mp4", "videos": ["a.mp4"]}, {"videos": ["a.mp4", "b.mp4"]}, {"video": ["a", "b"]}):
        with pytest.raises(ValueError, match=r"f, row 1, field 'videos?': (names files, and so|must name one file)"):
            to_records(row | wrong, "f, row 1")


@pytest.mark.parametrize(
    ("row", "field"),
    [
        ({"conversations": TALK, "rejected_answer": "no"}, "rejected_answer"),
        ({"conversations": TALK, "chosen": "yes"}, "chosen"),
        ({"conversations": TALK, "reject": "no", "events": []}, "reject"),
        ({"conversations": TALK, "Rejected": "no", "caption": "x"}, "Rejected"),
        ({"messages": SAID, "chosen_response": "no"}, "chosen_response"),
        ({"messages": SAID, "rejected_response": "no", "rejected": "no"}, "rejected_response"),
        ({"messages": SAID, "rejected_response": "no", "rejected_images": ["a"]}, "rejected_images"),
        ({"messages": SAID, "conversations": TALK, "rejected": "no"}, "conversations"),
        ({"messages": SAID, "rejected": ["no"]}, "rejected"),
        ({"conversations": TALK, "rejected_conversations": HUMAN}, "rejected_conversations"),
        ({"conversations": talk(HUMAN, ("gpt", "a"), ("reject_gpt", "b")), "ce_only": True}, "conversations"),
        ({"id": "1", "pred": "x"}, "prompt"),
        ({"id": "1", "pred": "x", "prompt": " "}, "prompt"),
    ],
)
def test_what_would_be_a_guess_is_refused(row, field):
    with pytest.raises(ValueError, match=f"f.json, row 7, field '{field}'"):
        to_records(row, "f.json, row 7")


def generations(path, kind, r, texts):
    rows = [{"video_id": n, "video_path": f"{n}.mp4", "frame_indices": [], "response": t, "info": {}} for n, t in texts]
    path = path / f"caption_caption_{kind}_{r}_False_False.jsonl"
    for rank in range(2):
        lines = [json.dumps(row) for row in rows[rank::2]]
        path.with_name(f"{path.name}.{rank}-2").write_text("\n".join(lines) + "\n")
    path.with_name(f"{path.name}.filtered").write_text("never read")
    return path


def test_temples_generations_become_pairs_of_the_clean_and_each_perturbed_one(tmp_path):
    clean = generations(tmp_path, "none", 1, [("a", "whole a"), ("b", "whole b"), ("c", "N/A")])
    drop = generations(tmp_path, "drop", 8, [("a", "part a"), ("c", "part c"), ("d", "part d"), ("b", "part b")])
    read = read_annotations(f"{clean},{drop}")
    told = {(row["media"]["video"], row["chosen"], row["rejected"], row["r"]) for row in read.records}
    assert told == {("a.mp4", "whole a", "part a", 8), ("b.mp4", "whole b", "part b", 8)}
    assert read.records[0]["perturbation"] == {"kind": "drop", "r": 8} and "ground_truth" not in read.records[0]
    assert len(read.left_out) == 2 and all("no clean response" in reason for _, reason in read.left_out)
    assert read_annotations(f"{tmp_path}/caption_*.jsonl.*").records == read.records
    with pytest.raises(ValueError, match="clean responses alone make no pairs"):
        read_annotations(clean)


def test_shards_of_ranks_are_all_there_or_refused(tmp_path):
    path = generations(tmp_path, "none", 1, [("a", "x"), ("b", "y")])
    assert [found.name[-3:] for found in find_files(path)] == ["0-2", "1-2"]
    extra = path.with_name(f"{path.name}.0-1")
    extra.write_text("")
    with pytest.raises(ValueError, match="has the shards 0-1, 0-2, 1-2: some are missing, or two runs wrote there"):
        find_files(path)
    extra.unlink()
    path.with_name(f"{path.name}.1-2").unlink()
    with pytest.raises(ValueError, match="has the shards 0-2"):
        find_files(str(path))
    with pytest.raises(ValueError, match=r"annotation file nothing.jsonl does not exist"):
        find_files("nothing.jsonl")


@pytest.mark.parametrize("date", ["2024-10", "03-10", "2-2"])
def test_a_date_behind_a_name_is_no_shard_of_a_rank(tmp_path, date):
    row = {"id": "1", "video": "a.mp4", "prompt": "What?", **PAIR}
    paths = [tmp_path / f"pairs.jsonl.{place}" for place in ("0-1", date)]
    for path in paths:
        path.write_text(json.dumps(row) + "\n")
    assert find_files(f"{tmp_path}/pairs.jsonl.*") == sorted(paths)
    assert find_files(tmp_path / "pairs.jsonl") == paths[:1]


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
    assert read.places == ["a.json:1", "a.json:1", "a.json:2"] and [
        record["ground_truth"] for record in read.records
    ] == ["a", "b", "a"]


def test_null_lists_of_files_name_none_and_line_separators_stay_in_the_text(tmp_path):
    row = {"messages": say(ASK, ("assistant", "one\u2028two")), "videos": None, "audios": None}
    for name, text in (("a.jsonl", json.dumps(row, ensure_ascii=False)), ("a.json", json.dumps([row]))):
        (tmp_path / name).write_text(text, encoding="utf-8")
        read = read_annotations(tmp_path / name)
        assert read.records[0]["media"] == {}
        assert read.records[0]["ground_truth"] == "one\u2028two"


def test_our_own_record_passes_unchanged():
    row = {"prompt": "What?", "media": {"video": "a.mp4", "start_s": 1}, "ground_truth": "x", "meta": {"a": 1}}
    assert to_records(row, "f, row 1") == [{**row, "meta": {"a": 1, "schema": "lit_vpo"}}]


def test_json_array_and_jsonl_are_the_same(tmp_path):
    rows = [{"messages": say(ASK, ("assistant", f"a{n}")), "videos": "a.mp4", "audios": ["a.mp3"]} for n in range(3)]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    one, other = read_annotations(tmp_path / "a.json"), read_annotations(tmp_path / "a.jsonl")
    assert one.records == other.records and one.records[0]["media"] == {"video": "a.mp4", "audio": "a.mp3"}
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
        ({"messages": say(ASK, ("assistant", "x")), "videos": ["a", "b"]}, "field 'videos': must name one file"),
        ({"messages": say(ASK, ("assistant", "x")), "rejected_response": ""}, "field 'rejected_response'"),
        ({"prompt": "x", "chosen": 1, "rejected": "y", "video": "a"}, "field 'chosen'"),
        ({"prompt": "x", "chosen": "z", "rejected": "y", "video": 3}, "field 'video': must name one file"),
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
    assert with_audio.records[0]["media"]["audio"].endswith(".mp3") and "<" not in with_audio.records[0]["prompt"]
    pairs = read_annotations(REAL / "dpo_en_demo.json")
    assert len(pairs.records) == 300 and {record["meta"]["schema"] for record in pairs.records} == {"llamafactory_dpo"}
