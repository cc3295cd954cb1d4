"""Four candidates of one video: encoded and read once, against `generate(num_return_sequences=4)`.

    python benchmarks/sampling.py [--new-tokens 64] [--repeats 5] [--threads 1]

Both draw from the same weights (60 M parameters, 1,568 visual tokens, random) until the last token; the ratio is the
median of the rounds' ratios.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from pair_step.measure import ratios
from pair_step.workload import Case, network, pair
from rich.progress import track

from lit_vpo.batch import IGNORE
from lit_vpo.models import get_family
from lit_vpo.modules.generation import PER_TOKEN, Decoding, generate
from lit_vpo.modules.scoring import video_inputs

CANDIDATES = 4
NEVER_ENDS = SimpleNamespace(eos_token_id=None, pad_token_id=0, decode=lambda ids, **_: " ".join(map(str, ids)))


def prompts(case: Case) -> dict[str, Any]:
    """The prompt of the pair benchmark, once."""
    batch: dict[str, Any] = dict(pair(case))
    length = int((batch["labels"][0] == IGNORE).sum())
    text = {name: batch[name][:1, :length] for name in PER_TOKEN}
    return batch | text | {"video_index": batch["video_index"][:1]}


def ours(net: Any, batch: dict[str, Any], new_tokens: int) -> list[str]:
    """This project's way."""
    family = get_family("qwen2_5_vl")
    inputs = video_inputs(family, batch, family.encode(net, batch["media"]))
    decoding = Decoding(new_tokens, 1.0)
    answers = generate(net, family, inputs, NEVER_ENDS, decoding, [("benchmark",)], CANDIDATES)
    return [NEVER_ENDS.decode(answer) for answer in answers]


def theirs(net: Any, batch: dict[str, Any], new_tokens: int) -> list[str]:
    """The library's way."""
    inputs = {name: batch[name] for name in PER_TOKEN} | batch["media"]
    limits = {"max_new_tokens": new_tokens, "do_sample": True, "temperature": 1.0, "top_k": 0, "eos_token_id": None}
    ids = net.generate(**inputs, **limits, num_return_sequences=CANDIDATES, pad_token_id=0)
    return [NEVER_ENDS.decode(row) for row in ids[:, batch["input_ids"].shape[1] :].tolist()]


def main() -> None:
    """Parses the options, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1, help="more wait for each other at every small step")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    case = Case("60m", 1568, 100, "lora")
    net, batch = network(case).eval(), prompts(case)
    seconds: dict[str, list[float]] = {"ours": [], "theirs": []}
    ways: dict[str, Callable[..., list[str]]] = {"ours": ours, "theirs": theirs}
    with torch.no_grad():
        for _ in track(range(chosen.repeats + 1), description="rounds"):
            for name, way in ways.items():
                start = time.perf_counter()
                answers = way(net, batch, chosen.new_tokens)
                seconds[name].append(time.perf_counter() - start)
                assert [len(answer.split()) for answer in answers] == [chosen.new_tokens] * CANDIDATES
    median, low, high = ratios(seconds["theirs"][1:], seconds["ours"][1:])
    for name, values in seconds.items():
        print(f"{name}: {statistics.median(values[1:]):.2f} s ({min(values[1:]):.2f} to {max(values[1:]):.2f})")
    print(f"ratio {median:.2f} ({low:.2f} to {high:.2f}); wanted: 2.0")


if __name__ == "__main__":
    main()
