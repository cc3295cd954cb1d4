"""Captions of clips, what is kept of them, and the lists that the whole video's caption is written from."""

import pytest

from lit_vpo.preferences.clip_prompts import caption_lists, cleaned, clip_prompts
from lit_vpo.preferences.instructions import DEFAULT_PROMPTS, FIRST_CLIP_PROMPT, NEXT_CLIP_PROMPT
from lit_vpo.preferences.list_prompts import list_prompts


def selection(key="a", num_clips=3):
    clips = [[10 * n, 10 * n + 3] for n in range(num_clips)]
    return {"key": key, "id": f"{key}/selected", "meta": {"selection": {"frame_indices": clips}}}


def captions(key="a", num_clips=16, **changed):
    """Generations for the clips of a video; `changed` has fields of single ones, by `clip_NUMBER`."""
    rows = clip_prompts([selection(key, num_clips)])
    model = {"model": {"hash": "h"}, "finished": True}
    return [
        row | model | {"response": f"{key}{number}."} | changed.get(f"clip_{number}", {})
        for number, row in enumerate(rows)
    ]


def test_a_clip_is_asked_about_beside_the_one_before():
    rows = clip_prompts([selection()])
    assert [row["media"] for row in rows] == [
        {"frame_indices": [0, 3]},
        {"frame_indices": [0, 3, 10, 13]},
        {"frame_indices": [10, 13, 20, 23]},
    ]
    assert [row["prompt"] for row in rows] == [FIRST_CLIP_PROMPT, NEXT_CLIP_PROMPT, NEXT_CLIP_PROMPT]
    assert [row["id"] for row in rows] == [f"a/selected/clip-{n}" for n in range(3)]
    assert rows[2]["meta"] == {"clip": {"video": "a/selected", "number": 2, "total": 3}}
    for meta in (
        {},
        {"selection": {}},
        {"selection": [1]},
        {"selection": {"frame_indices": 4}},
        {"selection": {"frame_indices": [[1, 2, 3]]}},
    ):
        with pytest.raises(ValueError, match=r"a has no meta\.selection\.frame_indices"):
            clip_prompts([{"key": "a", "meta": meta}])


@pytest.mark.parametrize(
    ("response", "caption"),
    [
        ("A man walks.", "A man walks."),
        ("First this.\n\nThen that.\nA man walks.\n", "A man walks."),
        ("**Caption: A man walks.**", "A man walks."),
        ("**Detailed caption:** A man walks.", "A man walks."),
        ('Detailed Caption: "A man walks."', "A man walks."),
        ("\u201cA man walks.\u201d", "A man walks."),
        (
            "In video clip 2 he stops, unlike in video clip 1.",
            "In this video clip he stops, unlike in the previous clip.",
        ),
        ("Video clip 2 shows the man of video clip 1.", "This video clip shows the man of the previous clip."),
        ("A caption: nothing", "A caption: nothing"),
        ("N/A", "N/A"),
        (" \n", ""),
    ],
)
def test_what_is_kept_of_an_answer(response, caption):
    assert cleaned(response) == caption


def test_a_video_of_16_clips_has_13_lists():
    rows, dropped, skipped = list_prompts(captions(), ["drop", "shuffle", "reverse"], [16, 8, 4, 2], seed=0)
    assert dropped == [] and skipped == []
    expected = [f"{kind}-{r}" for kind in ("drop", "shuffle", "reverse") for r in (16, 8, 4, 2)]
    assert [row["id"] for row in rows] == [f"a/selected/{name}" for name in ("clean", *expected)]
    lines = {row["id"].rpartition("/")[2]: listed(row) for row in rows}
    assert lines["clean"] == [f"a{n}." for n in range(16)]
    assert [len(lines[f"drop-{r}"]) for r in (16, 8, 4, 2)] == [1, 2, 4, 8]  # really shorter, nothing repeats
    assert lines["reverse-2"] == [f"a{n}." for n in (*range(8, 16), *range(8))] == lines["shuffle-2"]
    assert lines["reverse-16"] == [f"a{n}." for n in reversed(range(16))]
    assert [row["difficulty"] for row in rows[1:5]] == pytest.approx([0, 1 / 3, 2 / 3, 1])
    (asked,) = {row["meta"]["asked"] for row in rows}  # the same for the whole video
    assert asked in DEFAULT_PROMPTS
    assert all(row["media"] == {"video": None} and row["key"] == "a" for row in rows)
    assert list_prompts(captions(), ["drop", "shuffle", "reverse"], [16, 8, 4, 2], seed=0)[0] == rows


def listed(row):
    """The captions of a prompt, numbered as they stand."""
    lines = [line for line in row["prompt"].splitlines() if line.startswith("- Caption ")]
    texts = [line.removeprefix(f"- Caption {number}: ") for number, line in enumerate(lines, start=1)]
    assert row["prompt"].index(lines[0]) > 0 and not any(text.startswith("- Caption") for text in texts)
    return texts


def test_of_4_clips_the_divisors_16_8_and_4_are_one():
    rows, _, skipped = list_prompts(captions(num_clips=4), ["drop", "shuffle", "reverse"], [16, 8, 4, 2], seed=0)
    assert [row["id"].rpartition("/")[2] for row in rows] == [
        "clean", "drop-16", "drop-2", "shuffle-16", "shuffle-2", "reverse-16", "reverse-2",
    ]  # fmt: skip
    kinds = ("drop", "shuffle", "reverse")
    assert skipped == [f"{kind} at r={r} is {kind} at r=16 on 4 captions" for kind in kinds for r in (8, 4)]
    rows, _, skipped = list_prompts(captions(num_clips=1), ["reverse"], [2], seed=0)
    assert len(rows) == 1 and skipped == ["reverse at r=2 leaves 1 unit(s) in the clean order; sample more frames"]


def test_a_list_that_reads_like_the_clean_one_is_skipped():
    """Of two clips told in the same words, and of two that are not."""
    same = {"clip_1": {"response": "a0."}}
    rows, _, skipped = list_prompts(captions(num_clips=2, **same), ["reverse", "drop"], [2], seed=0)
    assert [row["id"] for row in rows] == ["a/selected/clean", "a/selected/drop-2"]
    assert skipped == ["reverse at r=2 moves equal captions alone"]
    assert len(list_prompts(captions(num_clips=2), ["reverse", "drop"], [2], seed=0)[0]) == 3


def test_captions_of_another_video_are_spliced_in():
    """Four clips and eight: where the fourth of four stands, the seventh of eight is as far into the video."""
    rows, _, _ = list_prompts(captions("a", 4) + captions("b", 8), ["splice"], [4], seed=0)
    units = rows[1]["perturbation"]["units"]
    assert rows[1]["perturbation"]["other"] == "b" and units.count(-1) == 3
    assert listed(rows[1]) == [f"b{2 * n}." if unit < 0 else f"a{n}." for n, unit in enumerate(units)]


@pytest.mark.parametrize(
    ("flaw", "reason"),
    [
        ({"finished": False}, "unfinished_caption"),
        ({"response": "First.\n**N/A**"}, "not_available_caption"),
        ({"response": ""}, "not_available_caption"),
    ],
)
def test_a_video_without_all_captions_is_left_out_with_the_reason(flaw, reason):
    lists, dropped = caption_lists(captions("a", 3, clip_1=flaw) + captions("b", 3))
    assert list(lists) == ["b/selected"] and dropped == [{"key": "a", "id": "a/selected", "reason": reason}]
    assert caption_lists(captions(num_clips=3)[:2])[1][0]["reason"] == "missing_caption"


def test_what_is_no_caption_of_a_clip_is_refused():
    with pytest.raises(ValueError, match="x is no caption of a clip"):
        caption_lists([{"id": "x", "key": "x", "response": "?"}])
    with pytest.raises(ValueError, match="clip 0 of a/selected has two captions"):
        caption_lists(captions() + captions())
    with pytest.raises(ValueError, match="where the list stands"):
        list_prompts(captions(), ["drop"], [2], 0, prompt="Write a caption.")
    with pytest.raises(ValueError, match="r must be >= 2"):
        list_prompts(captions(), ["drop"], [1], 0)
    with pytest.raises(ValueError, match="unknown perturbation 'blur'"):
        list_prompts(captions(), ["blur"], [2], 0)
