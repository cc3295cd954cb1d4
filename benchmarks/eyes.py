"""How well a base sees: its accuracy on the words of true captions, given the words before them (teacher-forced).

python benchmarks/eyes.py MODEL --shards runs/base/test --overlay runs/base/test/eyes.jsonl
"""

import argparse
from collections import Counter

import torch
from rich.progress import track

from lit_vpo.batch import IGNORE
from lit_vpo.datamodules import InstructionDataModule
from lit_vpo.datamodules.motion_world.language import PHRASINGS
from lit_vpo.datamodules.motion_world.scene import COLOURS, DIRECTIONS, SHAPES
from lit_vpo.datamodules.sources import Source
from lit_vpo.losses import response_mask
from lit_vpo.modules import SFTModule
from lit_vpo.modules.scoring import row_hidden

SINGLE = {"colour": set(COLOURS), "shape": set(SHAPES), "direction": set(DIRECTIONS)}
FIRST_WORDS = {act: {phrase.split()[0] for phrase in phrasings} for act, phrasings in PHRASINGS.items()}
VERBS = set().union(*FIRST_WORDS.values())


def judge(word: str, following: str, predicted: str) -> tuple[str, bool] | None:
    """Attribute of a true word and whether the predicted word is right; any phrasing of the true act's verb is."""
    for attribute, words in SINGLE.items():
        if word in words:
            return attribute, predicted == word
    if word not in VERBS:
        return None
    acts = [act for act, phrasings in PHRASINGS.items() if {word, f"{word} {following}"} & set(phrasings)]
    return "act", any(predicted in FIRST_WORDS[act] for act in acts)


@torch.no_grad()
def measure(
    model: str, shards: str, overlay: str, limit: int, init_from: str | None = None
) -> dict[str, tuple[int, int]]:
    """{attribute: (right, words)} over the overlay's whole-clip captions."""
    module = SFTModule(model, tuning="language_model", init_from=init_from)
    module.configure_model()
    data = InstructionDataModule(model, train=Source(shards, overlay))
    data.setup("fit")
    head, tokenizer = module.base.get_output_embeddings(), module.processor.tokenizer
    right: Counter[str] = Counter()
    words: Counter[str] = Counter()
    for batch in track(data.train_dataloader(), "clips"):
        predicted = head(row_hidden(module.base, module.family, batch, module.encode(batch))).argmax(-1)
        rows = response_mask(batch["labels"]).nonzero()[:, 0]
        for row, record in enumerate(batch["records"]):
            if record["meta"].get("task") != "caption":
                continue
            truth = batch["labels"][row][batch["labels"][row] != IGNORE]
            said = [tokenizer.decode(token).strip() for token in predicted[rows == row]]
            true = [tokenizer.decode(token).strip() for token in truth]
            for word, following, guess in zip(true, [*true[1:], ""], said, strict=True):
                if (verdict := judge(word, following, guess)) is not None:
                    words[verdict[0]] += 1
                    right[verdict[0]] += verdict[1]
    return {name: (right[name], words[name]) for name in words}


def main() -> None:
    """Parses the options, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--shards", required=True)
    parser.add_argument("--overlay", required=True)
    parser.add_argument("--init-from", help="checkpoint of a run of ours, laid over the model")
    args = parser.parse_args()
    counts = measure(args.model, args.shards, args.overlay, args.init_from)
    for name, (right, words) in sorted(counts.items()):
        print(f"{name}: {right / words:.3f} of {words} words")


if __name__ == "__main__":
    main()
