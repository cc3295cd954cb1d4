"""A self-contained page of pairs: frames, prompt, chosen and rejected with the differing words marked, scores.

Blind, it does not say which is which, and people say on a sheet which they find better.

Nothing is fetched and nothing runs in it: images are data URIs, all text is escaped, a content policy forbids the rest.
"""

import base64
import io
import json
from collections.abc import Callable, Iterable, Mapping
from difflib import SequenceMatcher
from html import escape
from pathlib import Path
from typing import Any

from torch import Tensor

from lit_vpo.preferences.blind import sides, write_sheet

Row = Mapping[str, Any]
_NUM_FRAMES = 8
_HEIGHT = 112  # pixels of the strip
_HEAD = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>pairs</title>
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<style>
body { font: 15px/1.5 sans-serif; max-width: 70em; margin: 2em auto; padding: 0 1em; color: #222 }
section { border-top: 1px solid #ccc; padding: 1em 0 }
img { max-width: 100%; image-rendering: pixelated }
h2 { font-size: 1em; margin: 0 } .facts { color: #666 }
.texts { display: grid; grid-template-columns: 1fr 1fr; gap: 1.5em } .texts p { margin: .2em 0; white-space: pre-wrap }
.chosen mark { background: #cfeccf } .rejected mark { background: #f6cfcf }
</style></head><body>
"""


def show(
    overlay: str,
    shards: str | None = None,
    n: int = 20,
    out: str = "pairs.html",
    blind: bool = False,
    seed: int = 0,
) -> None:
    """Writes a page of the first pairs of an overlay.

    Args:
        overlay: JSONL of pairs: a file, a comma list or a glob.
        shards: Folder of the videos; None means the overlay's folder.
        n: How many rows at most.
        out: The page.
        blind: Hide which answer is chosen, and all else that is known of it; a sheet to fill in goes beside the page
            (.csv), for `lit_vpo.judge_agreement`.
        seed: With a pair's id the address of the side on which a blind page shows the chosen answer.

    Raises:
        ValueError: If the overlay or the shards' manifest cannot be read; blind, also if a row is no pair or the sheet
            is there.
    """
    from lit_vpo.datamodules.check import num_frames_of
    from lit_vpo.datamodules.clips import ClipReader
    from lit_vpo.datamodules.manifest import Manifest
    from lit_vpo.datamodules.mix import Mix
    from lit_vpo.datamodules.quarantine import BadSample
    from lit_vpo.datamodules.reader import RecordReader

    reader = RecordReader(Manifest.load(shards or Path(overlay).parent), Mix.load(overlay).overlay, limit=n)
    place = {row["id"]: number for number, row in enumerate(reader.rows)}

    def row_of(number: int) -> Row:
        try:
            return reader.record(number)
        except BadSample:
            # the page goes on with what the overlay says; frames_of meets the same fault and tells it
            return reader.rows[number]

    def frames_of(row: Row) -> Tensor | None:
        number = place[row["id"]]
        record = reader.record(number)
        clip = ClipReader(reader, num_frames_of(record, _NUM_FRAMES)).clip(number, record)
        return None if clip is None else clip.frames

    rows = [row_of(number) for number in range(len(reader))]
    if blind:
        sheet = write_blind_page(rows, out, frames_of, seed)
        print(f"{len(rows)} blind pairs: {out}; to fill in: {sheet}")
    else:
        write_page(rows, out, frames_of)
        print(f"{len(rows)} pairs: {out}")


def write_page(rows: Iterable[Row], out: str | Path, frames_of: Callable[[Row], Tensor | None]) -> None:
    """Writes the page.

    Args:
        rows: Records with prompt, chosen and rejected, and what else they have of r, perturbation and scores.
        out: The page; its folder is made.
        frames_of: (T, 3, H, W) uint8 frames of a row's video, None for text alone. A ValueError (a video that cannot be
            decoded) is written in place of the frames.
    """
    _write([_section(row, frames_of, ("chosen", "rejected"), _facts(row)) for row in rows], out)


def write_blind_page(
    rows: Iterable[Row], out: str | Path, frames_of: Callable[[Row], Tensor | None], seed: int
) -> Path:
    """Writes a page that depends on which answer is chosen by nothing but the side that is drawn for it.

    Args:
        rows: As for `write_page`.
        out: The page; its folder is made.
        frames_of: As for `write_page`.
        seed: See `lit_vpo.preferences.blind.chosen_side`.

    Returns:
        The sheet to fill in, which it writes beside the page (.csv).

    Raises:
        ValueError: If a row lacks one of the two answers, or there is a sheet; then nothing is written.
    """
    rows, sheet = list(rows), Path(out).with_suffix(".csv")
    single = [str(row.get("id")) for row in rows if not (row.get("chosen") and row.get("rejected"))]
    if single:
        raise ValueError(f"{len(single)} rows have no two answers to compare, such as {', '.join(single[:3])}")
    if sheet == Path(out):
        raise ValueError(f"{out} is where the sheet goes; give the page a name that ends in .html")
    write_sheet(sheet, rows, seed)
    blinded = [dict(row) | dict(zip("12", sides(row, seed), strict=True)) for row in rows]
    _write([_section(row, frames_of, ("1", "2"), "") for row in blinded], out)
    return sheet


def _write(sections: Iterable[str], out: str | Path) -> None:
    path = Path(out)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(_HEAD + "".join(sections) + "</body></html>\n", encoding="utf-8")


def mark_differences(first: str, second: str) -> tuple[str, str]:
    """Both texts as HTML with the words that the other one does not have there in `<mark>`."""
    words = first.split(), second.split()
    parts: tuple[list[str], list[str]] = ([], [])
    for tag, a, b, c, d in SequenceMatcher(None, *words, autojunk=False).get_opcodes():
        for side, (start, end) in enumerate(((a, b), (c, d))):
            text = escape(" ".join(words[side][start:end]))
            if text:
                parts[side].append(text if tag == "equal" else f"<mark>{text}</mark>")
    return " ".join(parts[0]), " ".join(parts[1])


def strip(frames: Tensor) -> str:
    """Frames side by side as a PNG data URI.

    Args:
        frames: (T, 3, H, W) uint8.
    """
    from PIL import Image

    num_frames, _, height, width = frames.shape
    pixels = frames.permute(2, 0, 3, 1).reshape(height, num_frames * width, 3)
    image = Image.fromarray(pixels.contiguous().cpu().numpy())
    if height > _HEIGHT:
        image = image.resize((round(image.width * _HEIGHT / height), _HEIGHT))
    file = io.BytesIO()
    image.save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def _section(row: Row, frames_of: Callable[[Row], Tensor | None], names: tuple[str, str], facts: str) -> str:
    """One pair; its answers stand in the fields of these names, and under them on the page."""
    first, second = mark_differences(*(row.get(name) or "" for name in names))
    try:
        frames = frames_of(row)
        picture = "<p>text alone</p>" if frames is None else f'<img alt="frames" src="{strip(frames)}">'
    except ValueError as error:
        picture = f"<p>no frames: {escape(str(error))}</p>"
    return f"""<section>
<h2>{escape(str(row.get("id", "")))}</h2>
<div class="facts">{facts}</div>
{picture}
<p>{escape(row.get("prompt") or "")}</p>
<div class="texts"><div class="{names[0]}"><b>{names[0]}</b><p>{first}</p></div>
<div class="{names[1]}"><b>{names[1]}</b><p>{second}</p></div></div>
</section>
"""


def _facts(row: Row) -> str:
    perturbation = row.get("perturbation") or {}
    facts = {"perturbation": perturbation.get("kind"), "r": row.get("r"), "difficulty": row.get("difficulty")}
    facts |= row.get("scores") or {}
    return escape(" · ".join(f"{name}: {_short(value)}" for name, value in facts.items() if value is not None))


def _short(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
