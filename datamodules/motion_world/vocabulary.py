"""Trains the tokenizer that ships with the package on MotionWorld text.

Run it with `python -m lit_vpo.datamodules.motion_world.vocabulary`.
"""

from collections.abc import Iterator

from lit_vpo.models.tokenizer import TOKENIZER_FILE, train_tokenizer

from .scene import sample_scene
from .tasks import MIXES, rows

VOCABULARY = 768  # every word of the world is one token; no merge is left after 727


def texts(num_scenes: int = 3000) -> Iterator[str]:
    """Prompts and answers of every task, from the train split."""
    for index in range(num_scenes):
        for row in rows(sample_scene("train", 0, index), MIXES["habits"], 4):
            yield row["prompt"]
            yield row["ground_truth"]


def main() -> None:
    """Trains the tokenizer and writes it into the package."""
    tokenizer = train_tokenizer(texts(), VOCABULARY)
    TOKENIZER_FILE.parent.mkdir(parents=True, exist_ok=True)
    tokenizer.backend_tokenizer.save(str(TOKENIZER_FILE))


if __name__ == "__main__":
    main()
