"""A video LLM under training: its network, what of it learns, and rows to log-probabilities."""

from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch.distributed.device_mesh import DeviceMesh
from typing_extensions import override

from lit_vpo.lora import LoRASettings, plain
from lit_vpo.losses import Logps
from lit_vpo.models import load_processor
from lit_vpo.models.feature_cache import FeatureCache
from lit_vpo.models.shared_prefix import ATTENTION, register_attention, why_not_shared
from lit_vpo.modules.guards import check_finite, check_rows, check_video_matters, check_windows, switch_dropout_off
from lit_vpo.modules.scoring import Features, score
from lit_vpo.modules.start import TUNINGS, Tuning, build_network
from lit_vpo.modules.trainables import DTypeName, TrainablesModule, adamw
from lit_vpo.optim import OptimizerFactory
from lit_vpo.schedules import Shape
from lit_vpo.sharded_strategy import ShardedStrategy
from lit_vpo.sharding import gathering, shard

NO_GENERATION = (
    "ranks with sharded weights cannot generate, because answers end at different tokens; leave prompts out of "
    "validation, and run predict on the checkpoint with trainer.strategy: auto"
)
IGNORED = ["optimizer", "lora", "loss"]  # objects, which a checkpoint read with weights_only=True must not hold


class PolicyModule(TrainablesModule):
    """A video LLM of which language model or adapter is trained; the vision tower stays frozen.

    Args:
        model: Folder, Hub name, shipped base or tiny model; see `lit_vpo.models.load_model`.
        tuning: `lora` (an adapter on the language model), `language_model`, or `full` (language model and projector).
        lora: Of the adapter; only with `tuning: lora`.
        adapter: PEFT folder of an adapter that is merged into the model before training begins.
        init_from: Checkpoint of an earlier run of ours, whose tensors replace the model's (an adapter in it is merged).
        family: Family of the model, by name or dotted path; read from the model by default.
        optimizer: Built on the trainable parameters; AdamW with lr 1e-4 by default.
        warmup_steps: Steps of the learning rate's linear rise.
        schedule: What follows it, up to `trainer.max_steps`.
        seed: Of the adapter's first values and of all that is drawn.
        dtype: Number format of the weights.
        gradient_checkpointing: Trade time for memory in the language model.
        check_video: Stop at the first step if blanking the video changes no log-probability.
        share_prefix: Compute video and prompt once for all responses to them; false computes each row on its own, and
            so do networks that cannot share (the log says why).
        feature_cache: Folder where the frozen tower's output is kept across epochs, rounds and runs.
        feature_cache_gb: Bound on that folder; what was not read for longest goes first.

    Raises:
        ValueError: Settings that exclude each other or are out of range.
    """

    def __init__(
        self,
        model: str,
        tuning: Tuning = "lora",
        lora: LoRASettings | None = None,
        adapter: str | None = None,
        init_from: str | None = None,
        family: str | None = None,
        optimizer: OptimizerFactory = adamw,
        warmup_steps: int = 0,
        schedule: Shape = "constant",
        seed: int = 0,
        dtype: DTypeName = "float32",
        gradient_checkpointing: bool = False,
        check_video: bool = True,
        share_prefix: bool = True,
        feature_cache: str | None = None,
        feature_cache_gb: float = 50.0,
    ) -> None:
        super().__init__(model, family, optimizer, warmup_steps, schedule, dtype, seed)
        self.save_hyperparameters(ignore=IGNORED)
        if tuning not in TUNINGS:
            raise ValueError(f"tuning must be one of {', '.join(TUNINGS)}, got {tuning!r}")
        if lora is not None and tuning != "lora":
            raise ValueError(f"lora settings have no effect with tuning: {tuning}; use tuning: lora or leave them out")
        self.tuning: Tuning = tuning
        self.lora = (lora or LoRASettings()) if tuning == "lora" else None
        self.adapter, self.init_from = adapter, init_from
        self.gradient_checkpointing, self.check_video = gradient_checkpointing, check_video
        self.share_prefix = share_prefix
        self.feature_cache, self.feature_cache_gb = feature_cache, feature_cache_gb
        self.features: FeatureCache | None = None
        self.processor: Any = None
        self.guarded = self.video_guarded = False

    @override
    def build(self) -> Any:
        self.processor = load_processor(self.model)
        net = build_network(
            self.model, self.family, self.dtype_name, self.tuning, self.lora, self.adapter, self.init_from, self.seed
        )
        if self.share_prefix:
            self.prepare_sharing(plain(net))
        return net

    @override
    def check_sharded(self, stage: str) -> None:
        if not isinstance(self.trainer.strategy, ShardedStrategy):
            raise ValueError(
                f"checkpoints of {type(self.trainer.strategy).__name__} are not those of unsharded runs; set "
                "trainer.strategy: {class_path: lit_vpo.sharded_strategy.ShardedStrategy}"
            )
        if stage == "predict":
            raise ValueError(NO_GENERATION)

    @override
    def shard(self, mesh: DeviceMesh) -> None:
        shard(self.base, mesh)

    @override
    def setup(self, stage: str) -> None:
        super().setup(stage)
        if self.feature_cache is not None and self.features is None:
            self.configure_model()
            folder, limit = self.feature_cache, self.feature_cache_gb
            self.features = FeatureCache(self.base, self.family, folder, limit, self.number_format)

    def prepare_sharing(self, net: Any) -> None:
        """Give the language model the attention of shared rows, or log why it cannot have it."""
        reason = why_not_shared(net)
        self.share_prefix = reason is None
        if reason is not None:
            rank_zero_info(f"every row is computed on its own: {reason}")
            return
        register_attention()
        net.set_attn_implementation({"text_config": ATTENTION})

    @override
    def settings(self) -> dict[str, Any]:
        scaling = {"lora_scaling": self.lora.alpha / self.lora.r} if self.lora else {}
        return {"tuning": self.tuning, **scaling}

    @property
    def has_adapter(self) -> bool:
        """Whether the network carries an adapter."""
        return hasattr(self.net, "peft_config")

    @property
    def base(self) -> Any:
        """The Hugging Face network inside a `PeftModel`, or the network itself."""
        return plain(self.net)

    @override
    def on_fit_start(self) -> None:
        self.guarded = self.video_guarded = False
        self.policy_mode()
        if self.gradient_checkpointing:
            self.base.gradient_checkpointing_enable({"use_reentrant": False})
        changed = switch_dropout_off(self.net)
        rank_zero_info(f"dropout: {changed} set to 0 (policy and reference must agree at step 0)")

    @override
    def on_train_start(self) -> None:
        super().on_train_start()
        check_windows(self.trainer)

    def policy_mode(self) -> None:
        """Training mode (in eval mode transformers skips gradient checkpointing), the frozen tower in eval mode."""
        self.train()
        self.base.get_submodule(self.family.vision).eval()

    def encode(self, batch: Any) -> Features:
        """Run tower and projector once; gradients flow only if the projector is trained.

        Args:
            batch: Rows with `media` and, for the feature cache, `video_keys`.

        Returns:
            V tensors of visual tokens, see `Family.encode`.

        Raises:
            ValueError: If rows and features do not fit.
        """
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.tuning == "full"):
            features = gathering(self.base, lambda: self._encode(batch))
        if features:
            check_rows(batch, features, self.base.config, self.family.needs_token_types)
        return features

    def _encode(self, batch: Any) -> Features:
        media = batch["media"]
        if not media:  # a batch of text alone
            return []
        if self.features is not None:
            return self.features.encode(self.base, media, batch["video_keys"])
        return self.family.encode(self.base, media)

    def logps(self, batch: Any, features: Features, net: Any = None) -> Logps:
        """Log-probabilities of every row's response; see `score`.

        Args:
            batch: Rows with labels.
            features: From `encode`.
            net: A plain network in place of the policy's.
        """
        net = self.base if net is None else net
        return gathering(net, lambda: score(net, self.family, batch, features, self.share_prefix))

    @torch.no_grad()
    def guard_first_step(self, batch: Any, logps: Logps) -> None:
        """Checks at the first training step that can: finite log-probabilities, and a video that matters.

        Raises:
            ValueError: From `lit_vpo.modules.guards`.
        """
        if not self.guarded:
            self.guarded = True
            check_finite(logps.tokens, "policy")
        if self.check_video and not self.video_guarded and self._all_ranks(bool(batch["media"])):
            self.video_guarded = True
            blank = {k: torch.zeros_like(v) if k.startswith("pixel_values") else v for k, v in batch["media"].items()}
            features = gathering(self.base, lambda: self.family.encode(self.base, blank))
            check_video_matters(logps.tokens, self.logps(batch, features).tokens)

    def _all_ranks(self, decision: bool) -> bool:
        """The same decision everywhere: sharded, a forward that one rank leaves out would hang the others."""
        return decision if self.device_mesh is None else self.trainer.strategy.reduce_boolean_decision(decision)
