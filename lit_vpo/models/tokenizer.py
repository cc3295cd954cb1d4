"""The tokenizer of the tiny models: byte-level BPE, so that any text has tokens, with a ChatML template."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

TOKENIZER_FILE = Path(__file__).parent / "assets" / "tokenizer" / "tokenizer.json"
PAD_TOKEN = "<|endoftext|>"
EOS_TOKEN = "<|im_end|>"
MEDIA_TOKENS = {
    "vision_start_token": "<|vision_start|>",
    "vision_end_token": "<|vision_end|>",
    "image_token": "<|image_pad|>",
    "video_token": "<|video_pad|>",
}
SPECIAL_TOKENS = [PAD_TOKEN, "<|im_start|>", EOS_TOKEN, *MEDIA_TOKENS.values()]

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for content in message['content'] %}"
    "{% if content['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif content['type'] == 'video' %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% else %}{{ content['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def train_tokenizer(texts: Iterable[str], vocab_size: int = 700) -> "PreTrainedTokenizerFast":
    """Train the byte-level BPE on texts; the same texts give the same tokenizer.

    Args:
        texts: What the models will read and write.
        vocab_size: Tokens in all, at least the 256 bytes and the special tokens.

    Raises:
        ValueError: If `vocab_size` is too small.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    if vocab_size < 256 + len(SPECIAL_TOKENS):
        raise ValueError(f"vocab_size must be >= {256 + len(SPECIAL_TOKENS)}, got {vocab_size}")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return _wrap({}, tokenizer_object=tokenizer)


def load_tokenizer(more_tokens: Mapping[str, str] | None = None) -> "PreTrainedTokenizerFast":
    """The tokenizer that ships with the package (`TOKENIZER_FILE`).

    Args:
        more_tokens: Special tokens of a family by the names of their attributes; new ones follow the vocabulary.
    """
    return _wrap(more_tokens or {}, tokenizer_file=str(TOKENIZER_FILE))


def _wrap(more_tokens: Mapping[str, str], **source: Any) -> "PreTrainedTokenizerFast":
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        **source,
        eos_token=EOS_TOKEN,
        pad_token=PAD_TOKEN,
        extra_special_tokens={"im_start_token": "<|im_start|>", **MEDIA_TOKENS, **more_tokens},
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )
