"""Tokens of every row before anything is decoded: of the videos from the manifest, of the texts by the tokenizer."""

import hashlib
import json
import logging
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_only
from rich.progress import track

from lit_vpo.store import TensorStore

from .batching import Lengths
from .clips import ClipReader
from .collate import Collator
from .quarantine import BadSample
from .reader import RecordReader
from .video import Clip

log = logging.getLogger(__name__)

_CHUNK = 1024
_Record = dict[str, Any]


def known_lengths(
    reader: RecordReader, collator: Collator, clip_reader: ClipReader, folder: str | Path | None
) -> Lengths:
    """The same as :func:`row_lengths`, kept for the next start: a resumed run reads no record before its first batch.

    Args:
        reader: As there.
        collator: As there.
        clip_reader: As there.
        folder: Of the run; ranks that share it read the same numbers. None keeps nothing.

    """
    if folder is None:
        return row_lengths(reader, collator, clip_reader)[0]
    texts, processor = collator.texts, collator.processor
    model = [type(processor).__name__, processor.to_json_string(), texts.tokenizer.backend_tokenizer.to_str()]
    rows = [texts.kind, texts.with_ground_truth, texts.num_negatives, repr(clip_reader.sampling), clip_reader.size]
    store = TensorStore(Path(folder) / "lengths", f"{_digest(model)[:16]}-{texts.kind}")
    key = _digest([reader.manifest_hash, reader.overlay_hash, *rows])
    if (kept := store.get(key)) is not None:
        return Lengths(kept["visual"].numpy(), kept["text"].numpy())
    lengths, all_read = row_lengths(reader, collator, clip_reader)
    if all_read:  # what could not be read now may be there at the next start
        try:
            store.put(key, {"visual": torch.from_numpy(lengths.visual), "text": torch.from_numpy(lengths.text)})
        except OSError as error:
            log.warning("plan: the rows' lengths are not kept in %s (%s)", store.folder, error.strerror)
    return lengths


def row_lengths(reader: RecordReader, collator: Collator, clip_reader: ClipReader) -> tuple[Lengths, bool]:
    """What every row costs: each view of its video once, its prompt and history, and all its responses.

    Reads all records once (a line of the overlay, or the sample's json), but no video. A row that cannot be used has
    text of length 1. The few tokens of the chat template itself do not count.

    Args:
        reader: The rows.
        collator: Knows a record's responses and their tokens.
        clip_reader: Knows how many frames of which size a video gives.

    Returns:
        The lengths, and whether every record could be read.

    """
    visual, text = np.zeros(len(reader), np.int64), np.ones(len(reader), np.int64)
    shapes: dict[tuple[int, int, int], int] = {}
    unusable, num_read = Counter[str](), 0
    starts = range(0, len(reader), _CHUNK)
    for start in track(starts, "tokens of all rows", transient=True, disable=getattr(rank_zero_only, "rank", 0) > 0):
        rows = range(start, min(start + _CHUNK, len(reader)))
        texts: list[str] = []
        owners: list[int] = []
        for row in rows:
            try:
                record = reader.record(row)
                num_read += 1
                collator.texts.check_characters(record)
                views = _views(record, collator)
                visual[row] = sum(_visual(view, row, clip_reader, collator, shapes) for view in views)
            except BadSample as error:
                unusable[str(error)] += 1
                continue
            said = collator.texts.all(record)
            texts, owners = texts + said, owners + [row] * len(said)
        ids = collator.texts.tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []
        for row, own in zip(owners, ids, strict=True):
            text[row] += len(own)
    if unusable:
        reasons = "; ".join(f"{count} x {reason}" for reason, count in unusable.most_common(3))
        log.warning("plan: %d rows count as one token, they cannot be used now: %s", unusable.total(), reasons)
    return Lengths(visual, text), num_read == len(reader)


def _views(record: _Record, collator: Collator) -> list[_Record]:
    """Different views of the video that a record's responses look at."""
    views = [response.media for response in collator.texts.responses(record)]
    different = {json.dumps(view, sort_keys=True): view for view in views}
    return [view for view in different.values() if view.get("video", "") is not None]


def _visual(
    view: _Record, row: int, clip_reader: ClipReader, collator: Collator, shapes: dict[tuple[int, int, int], int]
) -> int:
    sample = clip_reader.reader.sample(row)
    start, end = view.get("start_s") or 0.0, view.get("end_s")
    seconds = min(sample.duration_s, sample.duration_s if end is None else end) - start
    frames = max(1, round(sample.num_frames * seconds / sample.duration_s)) if sample.duration_s else 1
    frames = min(frames, sample.num_frames)
    # another video's frames that are spliced in take the size of this one's, which they replace
    shape = clip_reader.rule(view).shape(frames, sample.fps, sample.height, sample.width, clip_reader.size)
    if shape not in shapes:
        shapes[shape] = _placeholders(shape, collator)
    return shapes[shape]


def _placeholders(shape: tuple[int, int, int], collator: Collator) -> int:
    """Tokens that the family's own processor makes of a clip of a shape, asked with an empty one."""
    frames, height, width = shape
    clip = Clip(torch.zeros(frames, 3, height, width, dtype=torch.uint8), [float(i) for i in range(frames)], 1.0)
    batch = Collator(collator.processor, "prompt")([({"prompt": "a", "media": {}}, clip)])
    return int((batch["input_ids"] == collator.video_token_id).sum())


def _digest(values: list[Any]) -> str:
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()
