"""Shared by all modules: one Hugging Face network, an injected optimizer, checkpoints of trainable tensors alone."""

from abc import abstractmethod
from typing import Any, Literal

import torch
from lightning import LightningModule
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.nn.utils import get_total_norm
from typing_extensions import override

from lit_vpo.models import Family, family_of, weights_hash
from lit_vpo.modules.guards import check_frozen, check_ranks_agree
from lit_vpo.optim import OptimizerFactory, param_groups, scheduled
from lit_vpo.schedules import Shape, warmup_then
from lit_vpo.sharding import full

DTypeName = Literal["float32", "bfloat16"]


def adamw(params: Any) -> torch.optim.Optimizer:
    """The default optimizer: AdamW, lr 1e-4."""
    return torch.optim.AdamW(params, lr=1e-4)


class TrainablesModule(LightningModule):
    """A network of which a part is trained.

    Subclasses build the network in `build` and say in `freeze` what stays as it is.

    Args:
        model: Folder, Hub name, shipped base or tiny model; see `lit_vpo.models.load_model`.
        family: Family of the model, by name or dotted path; read from the model by default.
        optimizer: Built on the trainable parameters.
        warmup_steps: Steps of the learning rate's linear rise.
        schedule: What follows the rise, up to `trainer.max_steps`.
        dtype: Number format of the weights.
        seed: Of everything that this module draws.

    Raises:
        ValueError: If the schedule is impossible.
    """

    def __init__(
        self,
        model: str,
        family: str | None,
        optimizer: OptimizerFactory,
        warmup_steps: int,
        schedule: Shape,
        dtype: DTypeName,
        seed: int,
    ) -> None:
        super().__init__()
        warmup_then(schedule, warmup_steps, warmup_steps + 1)
        self.model, self.family_name, self.optimizer = model, family, optimizer
        self.warmup_steps, self.schedule = warmup_steps, schedule
        self.dtype_name, self.seed = dtype, seed
        self.net: Any = None
        self.family: Family
        self.frozen_hash = ""  # of the weights that are not trained, as they are now
        self.base_hash = ""  # and as they were before any merge

    @abstractmethod
    def build(self) -> Any:
        """The network, its trainable part marked by `requires_grad`."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """What must be equal for a checkpoint of this module to mean the same, as plain types."""

    @property
    def network(self) -> Any:
        """The network (a `PeftModel` around it where there is an adapter); None before `configure_model`."""
        return self.net

    @property
    def number_format(self) -> str:
        """What the network computes in: format of its weights and of autocast, which cached results belong to."""
        precision = "" if self._trainer is None else f"-{self._trainer.precision}"
        return f"{self.dtype_name}{precision}"

    @property  # type: ignore[misc]  # read-only on purpose
    @override
    def strict_loading(self) -> bool:
        # a checkpoint holds the trainable tensors only; `on_load_checkpoint` compares the keys exactly
        return False

    @override
    def configure_model(self) -> None:
        if self.net is not None:  # runs once per entry point
            return
        self.family = family_of(self.model, self.family_name)
        self.net = self.build()
        self.frozen_hash = self.base_hash = weights_hash(self.net, frozen_only=True)
        if self.device_mesh is not None:
            self.shard(self.device_mesh["data_parallel"])

    @override
    def setup(self, stage: str) -> None:
        if self.device_mesh is not None:
            self.check_sharded(stage)

    def check_sharded(self, stage: str) -> None:
        """Refuse what cannot be done with weights in shards; modules that can be sharded override it.

        Args:
            stage: fit, validate, test or predict.

        Raises:
            ValueError: By default always.
        """
        raise ValueError(f"{type(self).__name__} keeps its weights whole on every rank; set trainer.strategy: ddp")

    def shard(self, mesh: DeviceMesh) -> None:
        """Split the network, which every rank has whole, over the ranks.

        Args:
            mesh: See `lit_vpo.sharding.shard`.
        """

    @override
    def configure_optimizers(self) -> Any:
        optimizer = self.optimizer(param_groups(self))
        return scheduled(optimizer, self.schedule, self.warmup_steps, self.trainer.max_steps)

    @override
    def on_train_start(self) -> None:
        check_ranks_agree(self.frozen_hash, self.trainer.strategy.broadcast(self.frozen_hash))

    @override
    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        if self.logs_now:
            self.log("grad_norm", full(get_total_norm([p.grad for p in self.parameters() if p.grad is not None])))

    @property
    def logs_now(self) -> bool:
        """Whether the optimizer step under way will be logged."""
        every = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        return bool(every) and (self.trainer.global_step + 1) % every == 0

    @override
    def on_fit_end(self) -> None:
        check_frozen(self.frozen_hash, weights_hash(self.net, frozen_only=True))

    def trainable_names(self) -> list[str]:
        """Names of the trained tensors in this module's state."""
        return [name for name, p in self.named_parameters() if p.requires_grad]

    def kept_names(self) -> list[str]:
        """Names of the tensors that a checkpoint holds: the trained ones."""
        return self.trainable_names()

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        state = checkpoint["state_dict"]  # empty on the ranks of a sharded run that do not write
        checkpoint["state_dict"] = {name: state[name] for name in self.kept_names()} if state else {}
        checkpoint["lit_vpo"] = {"frozen_hash": self.base_hash, "settings": self.settings()}

    @override
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.configure_model()  # `load_from_checkpoint` comes here first
        check_keys(checkpoint["state_dict"], self.kept_names())
        ours = checkpoint.get("lit_vpo", {})
        different = {
            k: (v, self.settings().get(k)) for k, v in ours.get("settings", {}).items() if self.settings().get(k) != v
        }
        if different:
            text = "; ".join(f"{k}: checkpoint {old!r}, here {new!r}" for k, (old, new) in different.items())
            raise ValueError(f"the checkpoint was trained with other settings ({text})")
        if ours.get("frozen_hash") != self.base_hash:
            raise ValueError(
                f"the checkpoint was trained on other frozen weights (hash {str(ours.get('frozen_hash'))[:12]}, here "
                f"{self.base_hash[:12]}); give the same model, adapter and init_from as in training"
            )


def check_keys(state: dict[str, Tensor], expected: list[str]) -> None:
    """Compare a checkpoint's tensors with those that are trained here.

    Raises:
        ValueError: If one is missing or unexpected, by name.
    """
    missing, unexpected = sorted(set(expected) - set(state)), sorted(set(state) - set(expected))
    if missing or unexpected:
        raise ValueError(
            f"the checkpoint does not fit this module: missing {_some(missing)}; unexpected {_some(unexpected)}. Is "
            "`tuning` (or the LoRA targets) another one?"
        )


def _some(names: list[str]) -> str:
    return f"{', '.join(names[:5])}{f' and {len(names) - 5} more' if len(names) > 5 else ''}" if names else "none"
