"""An estimate of a training step's peak memory, from the shapes of the language model and of one batch."""

from collections import Counter
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import nn

from lit_vpo.batch import IGNORE
from lit_vpo.models.shared_prefix import pack

# linear layers of one decoder layer that read the same tensor
_SAME_INPUT = {
    "q_proj": "attention",
    "k_proj": "attention",
    "v_proj": "attention",
    "gate_proj": "mlp",
    "up_proj": "mlp",
}
FP32 = 4  # bytes


@dataclass(frozen=True)
class Load:
    """What one batch asks of the language model.

    Attributes:
        tokens: That it computes, padding included.
        repeated: Keys and values that branches of shared rows take from their trunk once more.
        scored: Positions whose logits are needed.
    """

    tokens: int
    repeated: int
    scored: int


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes on one device at the peak of a step, which is where the backward pass begins.

    Attributes:
        weights: Everything that is stored but adapters: network, frozen copy of a reference, buffers.
        adapters: LoRA matrices.
        gradients: Of all that is trained.
        optimizer: Its state.
        activations: What the language model keeps for the backward pass.
        logits: One chunk of them, its log-softmax and its gradient, in fp32.
    """

    weights: int
    adapters: int
    gradients: int
    optimizer: int
    activations: int
    logits: int

    @property
    def total(self) -> int:
        """Sum of the parts, bytes."""
        return sum(int(getattr(self, field.name)) for field in fields(self))

    def __str__(self) -> str:
        """A table in GiB."""
        parts = [(field.name, getattr(self, field.name)) for field in fields(self)] + [("total", self.total)]
        return "\n".join(f"{name:12s}{value / 2**30:10.3f} GiB" for name, value in parts)


def load_of(batch: Any, shared: bool, video_token: int) -> Load:
    """The load of a batch with labels.

    Args:
        batch: Rows (`lit_vpo.batch.Rows`).
        shared: Whether rows share what they begin with (`lit_vpo.models.shared_prefix`).
        video_token: What stands in the place of a video's features.
    """
    scored = int((batch["labels"][:, 1:] != IGNORE).sum())
    if not shared:
        return Load(batch["input_ids"].numel(), 0, scored)
    packing = pack(batch, video_token)
    repeated = sum(trunk * (len(branches) - 1) for trunk, branches in packing.segments)
    return Load(len(packing.source), repeated, scored)


def estimate_memory(
    module: nn.Module,
    decoder: Any,
    load: Load,
    checkpointing: bool = False,
    autocast: bool = False,
    optimizer_states: int = 2,
    chunk: int = 2048,
) -> MemoryEstimate:
    """Peak memory of one step on one device that holds everything (nothing sharded).

    The vision tower counts with its weights alone: frozen, it keeps no activations.

    Args:
        module: All that is stored.
        decoder: The language model inside it, with its configuration as `config`.
        load: Of the batch.
        checkpointing: Whether each layer keeps its input only, and is computed again in the backward pass.
        autocast: Whether linear layers and attention compute in 16 bits whatever the weights are.
        optimizer_states: Tensors that the optimizer keeps per parameter; 2 for Adam and its kin.
        chunk: Positions whose logits live at once.
    """
    trained = sum(p.numel() * p.element_size() for p in module.parameters() if p.requires_grad)
    adapters = sum(p.numel() * p.element_size() for name, p in module.named_parameters() if ".lora_" in name)
    stored = sum(t.numel() * t.element_size() for t in (*module.parameters(), *module.buffers()))
    config = decoder.config
    return MemoryEstimate(
        weights=stored - adapters,
        adapters=adapters,
        gradients=trained,
        optimizer=optimizer_states * trained,
        activations=activations(decoder, load, checkpointing, autocast),
        logits=3 * FP32 * min(load.scored, chunk) * config.vocab_size,
    )


def activations(decoder: Any, load: Load, checkpointing: bool, autocast: bool) -> int:
    """Bytes that a decoder of gated layers keeps for the backward pass.

    Per token and layer: inputs of both norms and of every trained linear layer, queries, keys, values and output of
    attention, gate, its activation and up of the MLP. With checkpointing: every layer's input, and one layer in full.

    Args:
        decoder: The language model.
        load: Of the batch.
        checkpointing: See `estimate_memory`.
        autocast: See `estimate_memory`.
    """
    config, width = decoder.config, _bytes(decoder)
    hidden, layers, tokens = config.hidden_size, config.num_hidden_layers, load.tokens
    head = getattr(config, "head_dim", None) or hidden // config.num_attention_heads
    computed = 2 if autocast else width
    keys = computed * 2 * head * config.num_key_value_heads
    layer = tokens * (_norms(decoder, width) + keys + _attention_and_mlp(config, head, computed)) + load.repeated * keys
    layer += tokens * _linear_inputs(decoder, width, computed) // layers
    ends = tokens * (FP32 * hidden + 2 * width * head)  # input of the last norm; cosines and sines of positions
    return int(ends + (layers * tokens * hidden * width + layer if checkpointing else layers * layer))


def _bytes(decoder: Any) -> int:
    return int(decoder.get_input_embeddings().weight.element_size())


def _norms(decoder: Any, width: int) -> int:
    """Bytes per token that a layer's two norms keep: the input in fp32, its scale, and what a trained weight needs."""
    hidden = decoder.config.hidden_size
    norm = decoder.layers[0].input_layernorm.weight
    return int(2 * FP32 * (hidden + 1) + (2 * width * hidden if norm.requires_grad else 0))


def _attention_and_mlp(config: Any, head: int, computed: int) -> int:
    """Bytes per token of queries, outputs and their scales; of gate, its activation and up."""
    heads = config.num_attention_heads
    return int(computed * (2 * heads * head + 3 * config.intermediate_size) + FP32 * heads)


def _linear_inputs(decoder: Any, width: int, computed: int) -> int:
    """Bytes per token that all trained linear layers of the decoder keep of their inputs.

    Layers that read one tensor keep it once, but where an input is cast each keeps a cast of its own.
    """
    kept: Counter[str] = Counter()
    for name, layer in decoder.layers.named_modules():
        if not isinstance(layer, nn.Linear) or not layer.weight.requires_grad:
            continue
        own = computed if computed != width else layer.weight.element_size()
        path, _, target = name.partition(".lora_")[0].rpartition(".")
        reads_adapter = ".lora_B." in name
        cast = computed != width or layer.weight.element_size() != width
        source = name if cast or reads_adapter else f"{path}.{_SAME_INPUT.get(target, target)}"
        kept[source] = layer.in_features * own
    return sum(kept.values())


def measured_peak(device: torch.device) -> tuple[int, str]:
    """Bytes at the peak so far, and what was counted.

    Args:
        device: Where training runs.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device), "allocated tensors on the device"
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # kilobytes on Linux
    return peak, "high-water mark of the process's resident memory, libraries and data included"
