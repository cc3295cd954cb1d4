"""Records and clips to model inputs, through the family's own processor; the batch is checked before any forward.

Every video is processed once for a batch, however many records and rows of text look at it. Responses are tokenised
apart from their prompt and joined by ids, so chosen and rejected share the prompt's tokens exactly.
"""

import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from lit_vpo.batch import IGNORE, Batch

from .responses import Kind, Record, is_pair
from .texts import Texts, weight_of
from .video import Clip


class _Row(NamedTuple):
    """A row of the batch to come."""

    example: int
    text: str
    clip: Clip | None


class _MediaRun(NamedTuple):
    """Tokens of a video in a prompt: they replace the placeholder and some tokens around it."""

    before: int
    after: int
    ids: list[int]


class Collator:
    """Turn examples into one batch.

    Args:
        processor: A family's processor (tokenizer, chat template and video processor).
        kind: What a row is: an answer to learn, one of a pair, a prompt to continue, or a question's option.
        with_ground_truth: Preference batches get a last block of rows that hold the ground truth.
        num_negatives: Rejected responses of a record in a preference batch.

    Attributes:
        texts: What the tokenizer makes of the records' texts.

    Raises:
        ValueError: An unknown kind, a number below 1, or a tokenizer without the tokens that are needed.

    """

    def __init__(self, processor: Any, kind: Kind, with_ground_truth: bool = False, num_negatives: int = 1) -> None:
        self.texts = Texts(processor, kind, with_ground_truth, num_negatives)
        self.processor, self.kind, self.with_ground_truth = processor, kind, with_ground_truth
        self.tokenizer, self.eos_token_id = self.texts.tokenizer, self.texts.eos_token_id
        pad = self.tokenizer.pad_token_id
        self.pad_token_id = self.eos_token_id if pad is None else pad
        # Llama's tokenizer opens a text with its bos where the template does not; Qwen's has none to open with
        opens = self.tokenizer.bos_token_id in self.tokenizer("")["input_ids"]
        self.opening: str = self.tokenizer.bos_token if opens else ""
        self.video_token_id = self.tokenizer.convert_tokens_to_ids(processor.video_token)
        self.needs_token_types = "mm_token_type_ids" in processor.model_input_names

    def __call__(self, examples: Sequence[tuple[Record, Clip | Sequence[Clip | None] | None]]) -> Batch:
        """Build a batch.

        Args:
            examples: Records that passed :meth:`Texts.check` (the loader asks it before it reads a video) with their
                clips, at least one; one clip for all rows of a record (None for a record of text alone), or a list of
                one for each of them (:meth:`Texts.responses`). A clip object in several places is one video.

        Returns:
            The batch of this collator's kind (``lit_vpo.batch``).

        Raises:
            ValueError: The processor's output breaks the batch contract.

        """
        assert examples, "a batch needs at least one example"
        records = [record for record, _ in examples]
        rows = self._rows(examples)
        views, seen = _views([(records[row.example], row.clip) for row in rows])
        prompts, media = self._process(views)
        responses = self.texts.tokenize([row.text for row in rows])
        batch: dict[str, Any] = {"kind": self.kind, "records": records, "media": media}
        batch |= self._text([(prompts[view], response) for view, response in zip(seen, responses, strict=True)])
        videos = _numbers([clip for _, clip in views])
        batch["video_index"] = torch.tensor([videos[view] for view in seen])
        batch["video_keys"] = [_key(views[videos.index(video)][1]) for video in range(max(videos) + 1)]
        return cast(Batch, batch | self._extras(records, rows))

    def _rows(self, examples: Sequence[tuple[Record, Any]]) -> list[_Row]:
        """The batch's rows; those of preference batches stand in blocks: chosen, then rejected, then ground truth."""
        groups = []
        for number, (record, clips) in enumerate(examples):
            rows = self.texts.responses(record)
            clips = clips if isinstance(clips, list) else [clips] * len(rows)
            groups.append([_Row(number, row.text, clip) for row, clip in zip(rows, clips, strict=True)])
        if self.kind == "preference":
            return [row for block in zip(*groups, strict=True) for row in block]
        return [row for group in groups for row in group]

    def _process(self, examples: Sequence[tuple[Record, Clip | None]]) -> tuple[list[list[int]], dict[str, Tensor]]:
        """Prompt ids with expanded placeholders, and the tensors of the batch's videos, each processed once."""
        texts = [self._prompt(record, clip is not None) for record, clip in examples]
        prompts: list[list[int]] = self.tokenizer(texts, add_special_tokens=False)["input_ids"]
        videos = _numbers([clip for _, clip in examples])
        leaders = [videos.index(video) for video in range(max(videos) + 1)]  # the first example that shows it
        if not leaders:
            return prompts, {}
        expanded, media = self._process_videos([texts[i] for i in leaders], [examples[i][1] for i in leaders])
        runs = [self._media_run(prompts[i], ids) for i, ids in zip(leaders, expanded, strict=True)]
        prompts = [
            self._expand(prompt, runs[video]) if video >= 0 else prompt
            for prompt, video in zip(prompts, videos, strict=True)
        ]
        self._check_placeholders([prompts[i] for i in leaders], media)
        return prompts, media

    def _process_videos(self, texts: list[str], clips: Sequence[Any]) -> tuple[list[list[int]], dict[str, Tensor]]:
        """What the family's processor makes of videos, each with one text."""
        metadata = []
        for clip in clips:
            shown = len(clip.frames)
            # frames_indices over their own count: the processor then takes fps as the rate of the frames it is given
            metadata.append({"total_num_frames": shown, "fps": clip.fps, "frames_indices": list(range(shown))})
        inputs = self.processor(
            text=texts,
            videos=[clip.frames for clip in clips],
            videos_kwargs={"do_sample_frames": False, "video_metadata": metadata, "return_metadata": True},
            # the prompt has its special tokens; some classes ask for tensors, which texts of different length cannot be
            text_kwargs={"add_special_tokens": False, "return_tensors": None},
        )
        ids: list[list[int]] = inputs.pop("input_ids")
        if "video_second_per_grid" in inputs:  # Qwen2.5-Omni's processor takes one rate for all: 2 frames per second
            frames = self.processor.video_processor.temporal_patch_size
            inputs["video_second_per_grid"] = [frames / clip.fps for clip in clips]
        unused = ("attention_mask", "mm_token_type_ids", "video_metadata")
        return ids, {name: _stack(value) for name, value in inputs.items() if name not in unused}

    def _media_run(self, plain: list[int], expanded: list[int]) -> _MediaRun:
        """What the processor put in the place of a video's placeholder, which may take neighbours with it."""
        place = plain.index(self.video_token_id)
        same = [a == b for a, b in zip(plain, expanded, strict=False)]
        before = place - min(place, (same + [False]).index(False))
        tail = len(plain) - place - 1
        same = [a == b for a, b in zip(reversed(plain), reversed(expanded), strict=False)]
        after = tail - min(tail, (same + [False]).index(False))
        return _MediaRun(before, after, expanded[place - before : len(expanded) - (tail - after)])

    def _expand(self, plain: list[int], run: _MediaRun) -> list[int]:
        place = plain.index(self.video_token_id)
        return plain[: place - run.before] + run.ids + plain[place + 1 + run.after :]

    def _prompt(self, record: Record, with_video: bool) -> str:
        # text parts, never plain strings: several families' templates loop over parts and would print nothing
        turns = [_turn(turn["role"], turn["content"]) for turn in record.get("history") or ()]
        turns.append(_turn("user", record["prompt"]))
        if with_video:
            # a conversation is about a video shown when it began: before the user's first words
            first = next(turn for turn in turns if turn["role"] == "user")
            first["content"].insert(0, {"type": "video"})
        text: str = self.processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        return text if text.startswith(self.opening) else self.opening + text

    def _check_placeholders(self, prompts: list[list[int]], media: dict[str, Tensor]) -> None:
        counts = [sum(token == self.video_token_id for token in prompt) for prompt in prompts]
        if "video_grid_thw" in media:
            merge = int(self.processor.video_processor.merge_size) ** 2
            expected = [int(grid.prod()) // merge for grid in media["video_grid_thw"]]
        else:
            # families without a grid give every clip of one shape the same number of features
            expected = [max(counts[0], 1)] * len(prompts)
        if counts != expected:
            raise ValueError(
                f"the prompts hold {counts} video placeholders where the videos make {expected} features; "
                "is the chat template the one of this model?"
            )

    def _text(self, rows: list[tuple[list[int], list[int]]]) -> dict[str, Tensor]:
        left = self.kind == "prompt"
        ids = [prompt + response for prompt, response in rows]
        text = {
            "input_ids": _pad(ids, self.pad_token_id, left),
            "attention_mask": _pad([[1] * len(row) for row in ids], 0, left),
        }
        if not left:
            text["labels"] = _pad([[IGNORE] * len(prompt) + response for prompt, response in rows], IGNORE, left)
        if self.needs_token_types:
            types = self.processor.create_mm_token_type_ids([prompt for prompt, _ in rows])
            text["mm_token_type_ids"] = _pad(
                [prompt + [0] * len(response) for prompt, (_, response) in zip(types, rows, strict=True)], 0, left
            )
        return text

    def _extras(self, records: list[Record], rows: list[_Row]) -> dict[str, Any]:
        weight = torch.tensor([weight_of(record) for record in records])
        if self.kind == "instruction":
            return {"weight": weight}
        if self.kind == "preference":
            compared = torch.tensor([float(is_pair(record)) for record in records])
            return {"weight": weight, "is_pair": compared, "has_ground_truth": self.with_ground_truth}
        if self.kind == "question":
            answers = [record["meta"]["options"].index(record["ground_truth"]) for record in records]
            return {"question_index": torch.tensor([row.example for row in rows]), "answer": torch.tensor(answers)}
        return {}


def _views(seen: Sequence[tuple[Record, Clip | None]]) -> tuple[list[tuple[Record, Clip | None]], list[int]]:
    """The different (record, clip) pairs, and which one each row shows: a prompt is made once for each."""
    numbers: dict[tuple[int, int], int] = {}
    indices = [numbers.setdefault((id(record), id(clip)), len(numbers)) for record, clip in seen]
    return [seen[indices.index(number)] for number in range(len(numbers))], indices


def _numbers(clips: Sequence[Clip | None]) -> list[int]:
    """Number of each example's video among the batch's videos, -1 for text alone; one clip object is one video."""
    numbers: dict[int, int] = {}
    return [-1 if clip is None else numbers.setdefault(id(clip), len(numbers)) for clip in clips]


def _key(clip: Clip | None) -> str:
    """Hash of what is seen: frames in their order, and their rate."""
    assert clip is not None
    digest = hashlib.blake2b(f"{tuple(clip.frames.shape)} {clip.fps}".encode(), digest_size=16)
    digest.update(clip.frames.contiguous().numpy().data)
    return digest.hexdigest()


def _turn(role: str, text: str) -> dict[str, Any]:
    return {"role": role, "content": [{"type": "text", "text": text}]}


def _stack(value: Any) -> Tensor:
    """A processor's output over V videos as one tensor, cat'ed on dim 0 over videos."""
    if isinstance(value, Tensor):
        return value
    if isinstance(value[0], Tensor):
        if len({item.shape for item in value}) > 1:
            raise ValueError(
                "this family needs clips of one shape in a batch; set size and num_frames so that they agree"
            )
        return torch.stack(list(value))
    return torch.tensor(value)


def _pad(rows: list[list[int]], value: int, left: bool) -> Tensor:
    """(R, S) long."""
    length = max(map(len, rows))
    padded = [[value] * (length - len(row)) + row if left else row + [value] * (length - len(row)) for row in rows]
    return torch.tensor(padded, dtype=torch.long)
