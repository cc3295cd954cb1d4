"""Pretraining of a tiny base's eyes: vision tower and projector learn what each visual token should tell."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from lit_vpo.models import load_model, load_processor
from lit_vpo.modules.start import mark_trainable, restore
from lit_vpo.modules.trainables import DTypeName, TrainablesModule, adamw
from lit_vpo.optim import OptimizerFactory
from lit_vpo.schedules import Shape


class TowerModule(TrainablesModule):
    """Trains vision tower and projector through linear heads on the visual tokens that the language model will read.

    A batch holds `media` (the processor's tensors of V short videos), `presence` (V, N) float 0/1, `labels`
    {name: (V, N) long, -1 where absent} and `targets` (V, N, K) float, for the first N visual tokens of each video. The
    loss is the sum of presence (binary cross-entropy), one cross-entropy per label and smooth L1 on present tokens. The
    checkpoint holds tower, projector and heads.

    Args:
        model: Folder, Hub name, shipped base or tiny model.
        num_classes: Classes of each label.
        num_targets: Regression targets per token.
        presence_weight: Weight of present tokens, which are few.
        init_from: Checkpoint of an earlier tower run to start from.
        family: Family of the model, by name or dotted path.
        optimizer: Built on tower and heads; AdamW with lr 1e-4 by default.
        warmup_steps: Steps of the learning rate's linear rise.
        schedule: What follows it.
        seed: Of the heads' first values.
        dtype: Number format of the weights.

    Raises:
        ValueError: Without any label, or for numbers out of range.
    """

    def __init__(
        self,
        model: str,
        num_classes: dict[str, int],
        num_targets: int = 3,
        presence_weight: float = 4.0,
        init_from: str | None = None,
        family: str | None = None,
        optimizer: OptimizerFactory = adamw,
        warmup_steps: int = 0,
        schedule: Shape = "constant",
        seed: int = 0,
        dtype: DTypeName = "float32",
    ) -> None:
        super().__init__(model, family, optimizer, warmup_steps, schedule, dtype, seed)
        self.save_hyperparameters(ignore=["optimizer"])
        if not num_classes or min(num_classes.values()) < 2 or num_targets < 1 or presence_weight <= 0:
            raise ValueError(
                "TowerModule needs num_classes with at least 2 classes each, num_targets >= 1 and presence_weight > 0, "
                f"got {num_classes}, {num_targets} and {presence_weight}"
            )
        self.num_classes, self.num_targets, self.presence_weight = dict(num_classes), num_targets, presence_weight
        self.init_from = init_from
        self.heads: nn.ModuleDict

    @override
    def build(self) -> Any:
        net: Any = load_model(self.model, self.dtype_name, self.family.name)
        if self.init_from is not None:
            restore(net, self.init_from)
        mark_trainable(net, [self.family.vision, *self.family.projector])
        width = self._freeze_unread(net)
        sizes = {"presence": 1, "targets": self.num_targets} | {f"label_{k}": n for k, n in self.num_classes.items()}
        with torch.random.fork_rng(devices=[]):  # linear layers draw from the global generator
            torch.manual_seed(self.seed)
            self.heads = nn.ModuleDict({name: nn.Linear(width, size) for name, size in sizes.items()})
        return net

    def _freeze_unread(self, net: Any) -> int:
        """Freezes what no visual token depends on (a norm after the chosen layer): DDP refuses unused parameters.

        Returns:
            Features of a visual token, those for all layers of the language model together.
        """
        blank = torch.zeros(2, 3, 64, 64, dtype=torch.uint8)
        processor: Any = load_processor(self.model)
        media = processor.video_processor([blank], return_tensors="pt", do_sample_frames=False)
        with torch.enable_grad():
            tokens = torch.cat(self.family.encode(net, dict(media))).flatten(1)
            tokens.sum().backward()  # type: ignore[no-untyped-call]
        for parameter in net.parameters():
            parameter.requires_grad_(parameter.grad is not None)
            parameter.grad = None
        return tokens.shape[1]

    @override
    def settings(self) -> dict[str, Any]:
        return {"num_classes": self.num_classes, "num_targets": self.num_targets}

    @override
    def on_fit_start(self) -> None:
        self.train()

    @override
    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        return self.step(batch, "")

    @override
    def validation_step(self, batch: dict[str, Any], batch_idx: int, dataloader_idx: int = 0) -> None:
        self.step(batch, "val/")

    def step(self, batch: dict[str, Any], prefix: str) -> Tensor:
        """Loss of a batch; logs its parts and the accuracy of each label."""
        present = batch["presence"] > 0  # (V, N)
        tokens = [video[: present.shape[1]].flatten(1) for video in self.family.encode(self.net, batch["media"])]
        # the heads see embeddings' units, so that visual tokens come out as large as words and the language model's
        # first layers can change both alike
        states = torch.stack(tokens).float() / self.net.get_input_embeddings().weight.std()  # (V, N, hidden)
        out = {name: head(states) for name, head in self.heads.items()}
        weight = torch.tensor(self.presence_weight, device=states.device)
        logits = out["presence"][..., 0]
        losses = {"presence": F.binary_cross_entropy_with_logits(logits, batch["presence"], pos_weight=weight)}
        losses["targets"] = 4 * F.smooth_l1_loss(out["targets"][present], batch["targets"][present], beta=0.2)
        values = {"accuracy/presence": ((logits > 0) == present).float().mean()}
        for name, labels in batch["labels"].items():
            predicted, wanted = out[f"label_{name}"][present], labels[present]
            losses[name] = F.cross_entropy(predicted, wanted, ignore_index=-1)
            values[f"accuracy/{name}"] = (predicted.argmax(-1) == wanted)[wanted >= 0].float().mean()
        total: Tensor = torch.stack(list(losses.values())).sum()
        values |= {f"loss/{name}": value.detach() for name, value in losses.items()} | {"loss/total": total.detach()}
        size = len(batch["presence"])
        self.log_dict({prefix + name: value for name, value in values.items()}, batch_size=size)
        return total
