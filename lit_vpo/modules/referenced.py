"""A policy beside its reference: which one it is, its log-probabilities, and its place in checkpoints."""

from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch.distributed.device_mesh import DeviceMesh
from typing_extensions import override

from lit_vpo.batch import PreferenceBatch
from lit_vpo.logps_cache import LogpsCache
from lit_vpo.losses import Logps
from lit_vpo.modules.base import VideoLMModule
from lit_vpo.modules.policy import IGNORED
from lit_vpo.modules.scoring import Features
from lit_vpo.protocols import HasWriters
from lit_vpo.reference import SECOND, Reference, ReferenceName, SecondAdapter, make_reference
from lit_vpo.sharding import gathering

_PER_ROW = ("input_ids", "attention_mask", "labels", "video_index", "mm_token_type_ids")


class ReferencedModule(VideoLMModule):
    """Base of the modules whose policy is compared with a reference.

    Args:
        model: See `VideoLMModule`.
        needs_reference: Whether there is one.
        reference: What the policy is compared with: `adapter_off` (the network without its adapter; default with
            `tuning: lora`), `second_adapter` (a frozen adapter beside the policy's), or `frozen_copy` (of all that is
            trained; default with other tunings). Every one begins as the policy's starting point.
        reference_cache: Folder that keeps the reference's log-probabilities by content, so that each pair is scored
            once for all epochs, runs and rounds that share the reference.
        kwargs: The other arguments of `VideoLMModule`.

    Raises:
        ValueError: As `VideoLMModule`, or for a reference that the tuning cannot have or that nothing asks for.
    """

    def __init__(
        self,
        model: str,
        needs_reference: bool = True,
        reference: ReferenceName | None = None,
        reference_cache: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(model, **kwargs)
        self.save_hyperparameters(ignore=IGNORED)
        if (reference or reference_cache) and not needs_reference:
            raise ValueError("the loss needs no reference; leave out `reference` and `reference_cache`")
        self.reference: Reference | None = make_reference(reference, self.tuning) if needs_reference else None
        self.reference_cache = reference_cache
        self.logps_cache: LogpsCache | None = None
        self.known_hash = ""  # of the reference, once it was asked for
        self.writers = ""  # whose answers the pairs are, once the data said so

    @override
    def build(self) -> Any:
        net = super().build()
        if self.reference is not None:
            self.reference.attach(net)
        return net

    @override
    def check_sharded(self, stage: str) -> None:
        super().check_sharded(stage)
        if self.reference_cache is not None:
            raise ValueError(
                "reference_cache cannot go with sharded weights, because a rank that finds its batch there would leave "
                "out a forward that the others wait in; leave out reference_cache"
            )

    @override
    def shard(self, mesh: DeviceMesh) -> None:
        super().shard(mesh)
        if self.reference is not None:
            self.reference.shard(mesh)

    @override
    def settings(self) -> dict[str, Any]:
        return super().settings() | {"reference": "none" if self.reference is None else self.reference.name}

    @override
    def kept_names(self) -> list[str]:
        second = (f".lora_A.{SECOND}.", f".lora_B.{SECOND}.")
        names = [name for name, _ in self.named_parameters() if any(part in name for part in second)]
        return super().kept_names() + names

    @override
    def on_fit_start(self) -> None:
        super().on_fit_start()
        if self.reference is not None:
            rank_zero_info(f"reference: {self.reference.name}, hash {self.reference_hash()[:12]}")

    @override
    def on_train_start(self) -> None:
        super().on_train_start()
        data = getattr(self.trainer, "datamodule", None)
        if isinstance(data, HasWriters) and self.trainer.global_step == 0:  # a run that goes on has pairs of its own
            self.writers = data.check_writers(self.policy_hash)
            rank_zero_info(self.writers)
        for logger in self.loggers if self.writers else []:
            logger.log_hyperparams({"writers": self.writers})

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["lit_vpo"] |= {"reference_hash": self.reference_hash(), "writers": self.writers}

    @override
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self.writers = str(checkpoint["lit_vpo"].get("writers", ""))
        saved = str(checkpoint["lit_vpo"].get("reference_hash"))
        # a second adapter is in the checkpoint and takes the place of this one
        if not isinstance(self.reference, SecondAdapter) and saved != self.reference_hash():
            raise ValueError(
                f"the checkpoint was trained against another reference (hash {saved[:12]}, here "
                f"{self.reference_hash()[:12]}); give the same model, adapter and init_from as in training"
            )
        self.forget_reference()

    def forget_reference(self) -> None:
        """The reference's weights changed: its hash is asked for anew, and its cache opened anew."""
        self.known_hash, self.logps_cache = "", None

    def reference_hash(self) -> str:
        """Content hash of the reference's weights; empty where there is none."""
        if self.reference is not None and not self.known_hash:
            self.known_hash = self.reference.hash(self.net, self.frozen_hash)
        return self.known_hash

    @torch.no_grad()
    def reference_logps(self, batch: PreferenceBatch, features: Features) -> Logps:
        """Score the compared rows (no ground truth) under the reference, or read their scores from its cache.

        Args:
            batch: B records with K compared roles.
            features: From `encode`.

        Returns:
            Of K B rows.
        """
        rows = compared(batch)
        if self.reference_cache is None:
            return self.score_reference(rows, features)
        if self.logps_cache is None:
            self.logps_cache = LogpsCache(self.reference_cache, self.reference_hash(), self.number_format)
        return self.logps_cache.logps(rows, lambda: self.score_reference(rows, features))

    def score_reference(self, batch: Any, features: Features) -> Logps:
        """Score rows under the reference; it encodes their videos itself where its projector may be another one."""
        assert self.reference is not None
        with self.reference.weights(self.net) as net:
            own = features
            if self.reference.encodes:
                own = gathering(net, lambda: self.family.encode(net, batch["media"]) if batch["media"] else [])
            return self.logps(batch, own, net)


def num_compared(batch: PreferenceBatch) -> int:
    """Roles of a batch that are compared: all but the ground truth."""
    return len(batch["labels"]) // len(batch["records"]) - batch["has_ground_truth"]


def compared(batch: PreferenceBatch) -> Any:
    """The batch without its ground-truth rows."""
    rows = num_compared(batch) * len(batch["records"])
    return {name: value[:rows] if name in _PER_ROW else value for name, value in dict[str, Any](batch).items()}
