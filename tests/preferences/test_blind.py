"""Blind sheets: what was written comes back, filled in or not, and every mistake is named."""

import pytest

from lit_vpo.preferences.blind import check_shown, chosen_side, read_sheet, sides, write_sheet

NAMES = [f"clip-{n}/round-1" for n in range(200)]


def test_sides_are_drawn_from_seed_and_id():
    sides = [chosen_side(3, name) for name in NAMES]
    assert sides == [chosen_side(3, name) for name in NAMES] != [chosen_side(4, name) for name in NAMES]
    assert 70 < sides.count(1) < 130 and set(sides) == {1, 2}


def pair(name, chosen="a star", rejected="a box"):
    return {"id": name, "chosen": chosen, "rejected": rejected}


def test_both_texts_are_shown_on_the_sides_that_were_drawn():
    for name in NAMES[:20]:
        shown = sides(pair(name), 3)
        assert shown[chosen_side(3, name) - 1] == "a star" and set(shown) == {"a star", "a box"}


def test_a_sheet_comes_back_as_it_was_filled_in(tmp_path):
    path = tmp_path / "new" / "pairs.csv"
    names = ["a", 'b, "quoted"', "c", "d", "ü"]
    write_sheet(path, map(pair, names), 0)
    assert path.read_bytes().startswith(b"id,better,shown\r\na,,")
    assert {name: rating.better for name, rating in read_sheet(path).items()} == dict.fromkeys(names)
    text = "\ufeff" + path.read_text()
    for name, answer in (("a", "1"), ('"b, ""quoted"""', " 2 "), ("c", "Tie")):
        text = text.replace(f"\n{name},", f"\n{name},{answer}")
    path.write_text(text + "\n")
    ratings = read_sheet(path)
    assert [ratings[name].better for name in names] == [1, 2, 0, None, None]
    check_shown(ratings, {name: pair(name) for name in names}, 0)


def test_what_was_shown_says_nothing_of_what_was_chosen(tmp_path):
    """The sheet of the exchanged pair, drawn on the other side, is the same."""
    seeds = {chosen_side(seed, "a"): seed for seed in range(20)}
    write_sheet(tmp_path / "1.csv", [pair("a")], seeds[1])
    write_sheet(tmp_path / "2.csv", [pair("a", "a box", "a star")], seeds[2])
    assert (tmp_path / "1.csv").read_bytes() == (tmp_path / "2.csv").read_bytes()


def test_another_overlay_and_another_seed_are_found_out(tmp_path):
    pairs = {name: pair(name) for name in NAMES}
    write_sheet(tmp_path / "s.csv", pairs.values(), 3)
    ratings = read_sheet(tmp_path / "s.csv")
    num = sum(chosen_side(3, name) != chosen_side(4, name) for name in NAMES)
    with pytest.raises(ValueError, match=f"{num} of 200 rated pairs were shown otherwise.*give the --seed"):
        check_shown(ratings, pairs, 4)
    with pytest.raises(ValueError, match="1 of 200 rated pairs were shown otherwise, such as clip-7/round-1"):
        check_shown(ratings, pairs | {NAMES[7]: pair(NAMES[7], "a blue star")}, 3)
    with pytest.raises(ValueError, match="rates 200 pairs that are not given: clip-0/round-1"):
        check_shown(ratings, {}, 3)


def test_answers_are_not_written_over(tmp_path):
    write_sheet(tmp_path / "pairs.csv", [pair("a")], 0)
    with pytest.raises(ValueError, match="may hold answers; remove it, or give the page another --out"):
        write_sheet(tmp_path / "pairs.csv", [pair("a")], 0)


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "must begin with the line id,better,shown .* got nothing"),
        ("id;better;shown\na;1;x\n", "must begin with the line id,better,shown .* got id;better;shown"),
        ("id,better,shown\na,left,x\nb,1,x\nc,3,x\n", r"1, 2, tie or empty.*: line 2 \(a,left,x\); line 4 \(c,3,x\)"),
        ("id,better,shown\na,1\n", r"in three columns: line 2 \(a,1\)"),
        ("id,better,shown\na,1,x\nb,2,x\na,1,x\n", "1 ids stand twice: a; keep one line"),
    ],
)
def test_mistakes_are_named(tmp_path, text, message):
    (tmp_path / "s.csv").write_text(text)
    with pytest.raises(ValueError, match=rf"s\.csv.*{message}"):
        read_sheet(tmp_path / "s.csv")


def test_no_sheet(tmp_path):
    with pytest.raises(ValueError, match="`data show OVERLAY --blind` writes the sheet"):
        read_sheet(tmp_path / "none.csv")
