import base64
import io
import json
import re

import pytest
import torch
from PIL import Image

from lit_vpo.preferences.blind import chosen_side
from lit_vpo.show import mark_differences, show, strip, write_blind_page, write_page

ROW = {
    "id": "a/reverse-4",
    "key": "a",
    "prompt": "Describe <b>it</b>.",
    "chosen": "a red square moves, then a blue circle spins.",
    "rejected": "a blue circle spins, then a red square moves.",
    "perturbation": {"kind": "reverse", "r": 4},
    "r": 4,
    "difficulty": 2 / 3,
    "scores": {"margin": 0.125},
    "media": {},
}


def frames_of(row):
    return torch.arange(2 * 3 * 4 * 5, dtype=torch.uint8).reshape(2, 3, 4, 5)


def picture(uri):
    return Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/png;base64,"))))


def test_strip_holds_the_frames_side_by_side():
    frames = frames_of(ROW)
    image = picture(strip(frames))
    assert image.size == (10, 4)
    for t, y, x in ((0, 0, 0), (1, 3, 4), (1, 0, 2)):
        assert image.getpixel((t * 5 + x, y)) == tuple(frames[t, :, y, x].tolist())


def test_large_frames_are_made_small():
    assert picture(strip(torch.zeros(8, 3, 448, 448, dtype=torch.uint8))).size == (8 * 112, 112)


def test_differing_words_are_marked_and_the_text_is_whole():
    chosen, rejected = mark_differences("the red square grows", "the blue square grows twice")
    assert chosen == "the <mark>red</mark> square grows"
    assert rejected == "the <mark>blue</mark> square grows <mark>twice</mark>"
    assert mark_differences("", "x") == ("", "<mark>x</mark>")
    for side, marked in zip(("chosen", "rejected"), mark_differences(ROW["chosen"], ROW["rejected"]), strict=True):
        assert re.sub(r"</?mark>", "", marked) == ROW[side]


def test_page_shows_everything_and_loads_nothing(tmp_path):
    out = tmp_path / "new" / "pairs.html"
    write_page([ROW, {**ROW, "id": "b/drop-2"}], out, frames_of)
    page = out.read_text(encoding="utf-8")
    assert page.count("<section>") == 2 and page.count("data:image/png;base64,") == 2
    for text in ("a/reverse-4", "b/drop-2", "perturbation: reverse", "r: 4", "difficulty: 0.667", "margin: 0.125"):
        assert text in page
    assert not re.search(r"(src|href|url)\s*[=(]\s*[\"']?(?!data:)[\w/.]*:?//", page)
    assert "default-src 'none'" in page
    for tag in ("script", "link", "iframe", "object"):
        assert f"<{tag}" not in page


@pytest.mark.parametrize("field", ["id", "prompt", "chosen", "rejected", "kind", "score name", "score", "error"])
def test_no_text_becomes_markup(tmp_path, field):
    evil = "<script>alert('x')</script>\"onload=\"y&amp;"
    row = dict(ROW)
    decode = frames_of
    if field == "kind":
        row["perturbation"] = {"kind": evil, "r": 4}
    elif field == "score name":
        row["scores"] = {evil: 1.0}
    elif field == "score":
        row["scores"] = {"judge": [evil]}
    elif field == "error":

        def decode(row):
            raise ValueError(evil)

    else:
        row[field] = evil
    write_page([row], tmp_path / "pairs.html", decode)
    page = (tmp_path / "pairs.html").read_text(encoding="utf-8")
    assert "<script" not in page and '"onload' not in page
    assert "&lt;script&gt;" in page


def test_a_blind_page_is_the_same_whichever_answer_is_chosen(tmp_path):
    """It depends on the texts on its sides alone: with the answers exchanged and the other side drawn it is equal."""
    seeds = {chosen_side(seed, ROW["id"]): seed for seed in range(20)}
    exchanged = ROW | {"chosen": ROW["rejected"], "rejected": ROW["chosen"]}
    for row, side in ((ROW, 1), (exchanged, 2)):
        write_blind_page([row], tmp_path / f"{side}.html", frames_of, seeds[side])
    page = (tmp_path / "1.html").read_text(encoding="utf-8")
    assert page == (tmp_path / "2.html").read_text(encoding="utf-8")
    assert (tmp_path / "1.csv").read_bytes() == (tmp_path / "2.csv").read_bytes()
    texts = [re.sub("<[^>]*>", "", side) for side in re.findall(r"<b>[12]</b><p>(.*?)</p>", page)]
    assert texts == [ROW["chosen"], ROW["rejected"]]
    body = page[page.index("<body>") :]
    for told in ("chosen", "rejected", "perturbation", "difficulty", "margin"):
        assert told not in body


def test_blind_pages_need_two_answers_and_room_for_the_sheet(tmp_path):
    with pytest.raises(ValueError, match="1 rows have no two answers to compare, such as a/reverse-4"):
        write_blind_page([{**ROW, "rejected": ""}], tmp_path / "p.html", frames_of, 0)
    with pytest.raises(ValueError, match=r"give the page a name that ends in \.html"):
        write_blind_page([ROW], tmp_path / "p.csv", frames_of, 0)
    assert list(tmp_path.iterdir()) == []


def test_a_sheet_that_may_be_filled_in_keeps_its_page(tmp_path):
    write_blind_page([ROW], tmp_path / "p.html", frames_of, 0)
    page = (tmp_path / "p.html").read_bytes()
    with pytest.raises(ValueError, match="may hold answers"):
        write_blind_page([{**ROW, "prompt": "?"}], tmp_path / "p.html", frames_of, 1)
    assert (tmp_path / "p.html").read_bytes() == page


def test_a_video_that_does_not_decode_says_so_in_its_place(tmp_path):
    def decode(row):
        if row["id"] == "bad":
            raise ValueError("the video has no frames")
        return frames_of(row)

    write_page([{**ROW, "id": "bad"}, ROW], tmp_path / "pairs.html", decode)
    page = (tmp_path / "pairs.html").read_text(encoding="utf-8")
    assert "no frames: the video has no frames" in page and page.count("<img") == 1


def encode(path, colours):
    """A video of one frame per colour; FFV1 keeps every pixel."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=4, width=16, height=16, pix_fmt="bgr0")
        for colour in colours:
            frame = av.VideoFrame.from_ndarray(torch.tensor(colour).expand(16, 16, 3).to(torch.uint8).numpy(), "rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def test_show_reads_overlay_and_videos(tmp_path, capsys):
    from lit_vpo.datamodules.manifest import index

    colours = [(30 * i, 255 - 30 * i, 7) for i in range(8)]
    (tmp_path / "videos").mkdir()
    encode(tmp_path / "videos" / "a.mkv", colours)
    index(tmp_path / "videos")
    overlay = tmp_path / "pairs.jsonl"
    overlay.write_text("".join(json.dumps({**ROW, "id": f"a/{i}"}) + "\n" for i in range(3)))
    show(str(overlay), str(tmp_path / "videos"), n=2, out=str(tmp_path / "pairs.html"))
    page = (tmp_path / "pairs.html").read_text(encoding="utf-8")
    assert page.count("<section>") == 2 and "a/0" in page and "a/2" not in page
    image = picture(re.search(r'src="([^"]+)"', page)[1])
    assert [image.getpixel((16 * i + 8, 8)) for i in range(8)] == colours
    assert "2 pairs" in capsys.readouterr().out
    (tmp_path / "videos" / "a.mkv").write_bytes(b"gone")
    show(str(overlay), str(tmp_path / "videos"), n=1, out=str(tmp_path / "pairs.html"))
    assert "no frames: member .mkv is cut" in (tmp_path / "pairs.html").read_text(encoding="utf-8")


def test_show_goes_on_after_text_alone_and_after_a_json_that_is_no_record(tmp_path):
    from lit_vpo.datamodules.manifest import index

    colours = [(30 * i, 255 - 30 * i, 7) for i in range(8)]
    for name in ("a", "b"):
        encode(tmp_path / f"{name}.mkv", colours)
    (tmp_path / "b.json").write_text("[1]")
    index(tmp_path)
    order = [3, 3, 0, 1]
    rows = [
        {**ROW, "id": "text", "media": {"video": None}},
        {**ROW, "id": "broken", "key": "b", "chosen": "still shown"},
        {**ROW, "id": "ordered", "media": {"frame_order": order}},
    ]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    show(str(tmp_path / "pairs.jsonl"), out=str(tmp_path / "pairs.html"))
    page = (tmp_path / "pairs.html").read_text(encoding="utf-8")
    assert page.count("<section>") == 3 and page.count("<p>text alone</p>") == 1
    assert "no frames: member .json must be an object" in page and "still shown" in re.sub("</?mark>", "", page)
    image = picture(re.search(r'src="([^"]+)"', page)[1])
    plan = [0, 2, 4, 7]  # four frames spread over eight
    assert [image.getpixel((16 * i + 8, 8)) for i in range(4)] == [colours[plan[n]] for n in order]
