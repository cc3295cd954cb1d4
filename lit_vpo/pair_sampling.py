"""`pairs sample`: candidates from a server, in the file that `predict` writes with several candidates."""

import base64
import io
import json
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from rich.console import Console
from rich.progress import track

from lit_vpo.atomic import append_line, read_lines, write_lines
from lit_vpo.datamodules.clips import ClipReader
from lit_vpo.datamodules.manifest import Manifest
from lit_vpo.datamodules.mix import Mix
from lit_vpo.datamodules.quarantine import BadSample
from lit_vpo.datamodules.reader import RecordReader
from lit_vpo.datamodules.responses import check_texts
from lit_vpo.endpoint import ChatEndpoint, Refused
from lit_vpo.modules.generation import answer_rows
from lit_vpo.randomness import seed_of

Row: TypeAlias = dict[str, Any]


@dataclass(frozen=True)
class Drawing:
    """How candidates are drawn; written beside each, so that only those of the same kind are kept.

    Args:
        num_candidates: Answers to each prompt.
        temperature: Of the sampling; 0 takes the likeliest token.
        top_p: Of the sampling.
        max_new_tokens: Longest answer.
        seed: With round, prompt and candidate the address of an answer's randomness.
        round: Rounds that have ended.
        num_frames: Send so many frames as images; None sends the video file.

    Raises:
        ValueError: Numbers out of range.
    """

    num_candidates: int = 2
    temperature: float = 1.0
    top_p: float = 0.9
    max_new_tokens: int = 1024
    seed: int = 0
    round: int = 0
    num_frames: int | None = None

    def __post_init__(self) -> None:
        if self.num_candidates < 1 or not self.temperature >= 0 or not 0 < self.top_p <= 1 or self.max_new_tokens < 1:
            raise ValueError(f"need num_candidates >= 1, temperature >= 0, 0 < top_p <= 1, max_new_tokens >= 1: {self}")
        if self.num_candidates > 1 and self.temperature == 0:
            raise ValueError("without a temperature all candidates are the likeliest answer; set --temperature 1")
        if self.round < 0 or (self.num_frames is not None and self.num_frames < 1):
            raise ValueError(f"need round >= 0 and num_frames >= 1, got {self.round} and {self.num_frames}")

    def request(self, prompt_id: str, candidate: int) -> Row:
        """Fields of the request for a candidate."""
        purpose = f"generate/round-{self.round}" if self.round else "generate"
        seed = seed_of(self.seed, purpose, prompt_id, candidate) % 2**31  # servers differ in how large one may be
        sampling = {"temperature": self.temperature, "top_p": self.top_p, "seed": seed}
        return {"max_tokens": self.max_new_tokens, **sampling}


class Answered(NamedTuple):
    """What became of a prompt."""

    place: int
    rows: list[Row]  # empty where it was dropped
    is_new: bool = False
    num_tokens: int = 0
    dropped: Row | None = None


class EndpointSampler:
    """Asks a server for candidates.

    Args:
        reader: The prompts.
        endpoint: The server.
        drawing: How candidates are drawn.
        kept: Answers that are there, by prompt.
    """

    def __init__(
        self, reader: RecordReader, endpoint: ChatEndpoint, drawing: Drawing, kept: dict[str, list[Row]]
    ) -> None:
        self.reader, self.endpoint, self.drawing, self.kept = reader, endpoint, drawing, kept
        self.clips = None if drawing.num_frames is None else ClipReader(reader, drawing.num_frames)
        self.identity = identity_of(endpoint, drawing)

    def answer(self, place: int) -> Answered:
        """All candidates of the prompt at a place, one after the other: the server reads its video once."""
        own = self.reader.rows[place]
        try:
            record = self.reader.record(place)
            check_texts(record, "prompt", with_ground_truth=False, num_negatives=1)
            kept = self.kept.get(record["id"], [])
            if kept and all({**row, **record, "id": row["id"]} == row for row in kept):
                return Answered(place, kept)
            messages = self._messages(place, record)
            numbers = range(self.drawing.num_candidates)
            found = [self.endpoint.ask(messages, **self.drawing.request(record["id"], number)) for number in numbers]
        except (BadSample, Refused) as error:
            return Answered(place, [], dropped={"id": own["id"], "key": own["key"], "reason": str(error)})
        rows = answer_rows(record, [(answer.text, answer.finished) for answer in found])
        tokens = sum(answer.num_tokens or 0 for answer in found)
        return Answered(place, [row | {"model": self.identity} for row in rows], True, tokens)

    def _messages(self, place: int, record: Row) -> list[Row]:
        turns = [*(record.get("history") or ()), {"role": "user", "content": record["prompt"]}]
        messages = [{"role": turn["role"], "content": [_text(turn["content"])]} for turn in turns]
        first = next(message for message in messages if message["role"] == "user")
        first["content"] = [*self._pictures(place, record), *first["content"]]
        return messages

    def _pictures(self, place: int, record: Row) -> Iterator[Row]:
        """The video as parts of a message: the file itself, or frames of what the record shows of it."""
        media = record["media"]
        if media.get("video", "") is None:
            return
        if self.clips is not None:
            clip = self.clips.clip(place, record)
            assert clip is not None
            for frame in clip.frames:
                yield {"type": "image_url", "image_url": {"url": _data_url("image/jpeg", _jpeg(frame))}}
            return
        if any(media.get(name) is not None for name in ("start_s", "end_s", "frame_indices", "frame_order", "splice")):
            raise ValueError(
                f"prompt {record['id']} shows a part or another order of its video; send it with --frames N"
            )
        kind = f"video/{self.reader.sample(place).video_extension}"
        yield {"type": "video_url", "video_url": {"url": _data_url(kind, self.reader.video(place))}}


def sample_candidates(
    shards: str,
    out: str,
    endpoint: ChatEndpoint,
    drawing: Drawing,
    overlay: str | None = None,
    limit: int | None = None,
    concurrency: int = 16,
) -> None:
    """Asks a server for candidates, writes them as `predict` does, and prints how fast they came.

    Answers go to `<out>.part` as they come, and to `out` in the prompts' order at the end. Those that are there and
    belong to the same prompts, model and drawing are kept, so a run that was cut goes on. A prompt that the server
    refuses, or whose video cannot be read, goes to `<out stem>.dropped.jsonl` with the reason.

    Args:
        shards: Folder with a manifest.
        out: The candidates, JSONL.
        endpoint: The server.
        drawing: How candidates are drawn.
        overlay: Prompts: a file, a comma list or a glob; None takes each sample's own.
        limit: Ask the first prompts only.
        concurrency: Requests at the same time.

    Raises:
        ValueError: If concurrency < 1, the server does not answer, or no prompt is answered.
    """
    if concurrency < 1:
        raise ValueError(f"concurrency must be >= 1, got {concurrency}")
    prompts = None if overlay is None else Mix.load(overlay).overlay
    reader = RecordReader(Manifest.load(shards), prompts, limit)
    path, part = Path(out), Path(f"{out}.part")
    kept = _kept([path, part], identity_of(endpoint, drawing), drawing.num_candidates)
    write_lines(part, (json.dumps(row, ensure_ascii=False) for rows in kept.values() for row in rows))
    begun = time.monotonic()
    answered = sorted(_ask(EndpointSampler(reader, endpoint, drawing, kept), part, concurrency))
    dropped = [each.dropped for each in answered if each.dropped is not None]
    write_lines(path.with_name(path.stem + ".dropped.jsonl"), (json.dumps(row) for row in dropped))
    if len(dropped) == len(answered):
        raise ValueError(f"no prompt of {len(answered)} was answered; the first: {dropped[0]['reason']}")
    write_lines(path, (json.dumps(row, ensure_ascii=False) for each in answered for row in each.rows))
    part.unlink()
    _report(out, answered, time.monotonic() - begun)


def identity_of(endpoint: ChatEndpoint, drawing: Drawing) -> Row:
    """What stands as `model` beside each answer."""
    return {"name": endpoint.model, "sampler": "endpoint", "drawing": asdict(drawing)}


def _ask(sampler: EndpointSampler, part: Path, concurrency: int) -> Iterator[Answered]:
    with ThreadPoolExecutor(concurrency) as pool:
        futures = [pool.submit(sampler.answer, place) for place in range(len(sampler.reader))]
        try:
            for future in track(as_completed(futures), "candidates", total=len(futures)):
                answered = future.result()
                if answered.is_new:
                    append_line(part, "\n".join(json.dumps(row, ensure_ascii=False) for row in answered.rows))
                yield answered
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _kept(files: list[Path], identity: Row, num_candidates: int) -> dict[str, list[Row]]:
    """Whole answers of the same kind, by prompt; a line that a kill cut is left out."""
    groups: dict[str, dict[str, Row]] = defaultdict(dict)
    for line in (line for path in files if path.is_file() for line in read_lines(path)):
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if row.get("model") == identity:
            groups[row.get("prompt_id", row["id"])][row["id"]] = row
    return {name: list(rows.values()) for name, rows in groups.items() if len(rows) == num_candidates}


def _report(out: str, answered: list[Answered], seconds: float) -> None:
    new = [each for each in answered if each.is_new]
    tokens = sum(each.num_tokens for each in new)
    speed = f"{tokens} tokens in {seconds:.1f} s, {tokens / seconds:.0f} tokens/s" if tokens else "tokens not counted"
    reasons = Counter(each.dropped["reason"][:80] for each in answered if each.dropped is not None)
    Console().print(
        f"{sum(len(each.rows) for each in answered)} answers to {len(answered) - reasons.total()} prompts, "
        f"{sum(len(each.rows) for each in new)} of them new ({speed}): {out}",
        *(f"dropped {number}: {reason}" for reason, number in reasons.items()),
        sep="\n",
        soft_wrap=True,
        markup=False,
    )


def _text(text: str) -> Row:
    return {"type": "text", "text": text}


def _data_url(kind: str, payload: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(payload).decode()}"


def _jpeg(frame: Any) -> bytes:
    """A frame (3, H, W) uint8 as JPEG."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(frame.permute(1, 2, 0).contiguous().numpy()).save(file, "JPEG", quality=92)
    return file.getvalue()
