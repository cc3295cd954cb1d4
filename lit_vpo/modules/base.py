"""A video LLM under training: rows to log-probabilities, prompts to answers, questions to choices."""

from typing import Any, Literal

import torch
from lightning.pytorch.utilities import rank_zero_info
from typing_extensions import override

from lit_vpo.batch import Batch, PromptBatch, QuestionBatch
from lit_vpo.lora import LoRASettings, plain
from lit_vpo.losses import Logps
from lit_vpo.metrics import OptionAccuracy
from lit_vpo.models import load_processor, weights_hash
from lit_vpo.models.feature_cache import FeatureCache
from lit_vpo.models.shared_prefix import ATTENTION, register_attention, why_not_shared
from lit_vpo.modules.generation import generate
from lit_vpo.modules.guards import check_finite, check_rows, check_video_matters, check_windows, switch_dropout_off
from lit_vpo.modules.scoring import Features, score, video_inputs
from lit_vpo.modules.start import TUNINGS, Tuning, build_network
from lit_vpo.modules.trainables import DTypeName, TrainablesModule, adamw
from lit_vpo.optim import OptimizerFactory
from lit_vpo.schedules import Shape

IGNORED = ["optimizer", "lora", "loss"]  # objects, which a checkpoint read with weights_only=True must not hold


class VideoLMModule(TrainablesModule):
    """Base of the modules that train a video LLM; the vision tower stays frozen.

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
        max_new_tokens: Longest answer that is generated.
        temperature: Of sampled answers; null takes the likeliest token.
        top_p: Sample among the likeliest tokens that together have this probability.
        seed: Of the adapter's first values and of sampled answers.
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

    purpose = "generate"

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
        max_new_tokens: int = 128,
        temperature: float | None = None,
        top_p: float = 1.0,
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
        if max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be >= 1, got {max_new_tokens}")
        if temperature is not None and not temperature > 0:
            raise ValueError(f"temperature must be > 0, or null for the likeliest token, got {temperature}")
        if not 0 < top_p <= 1:
            raise ValueError(f"top_p must be in (0, 1], got {top_p}")
        self.tuning: Tuning = tuning
        self.lora = (lora or LoRASettings()) if tuning == "lora" else None
        self.adapter, self.init_from = adapter, init_from
        self.max_new_tokens, self.temperature, self.top_p = max_new_tokens, temperature, top_p
        self.gradient_checkpointing, self.check_video = gradient_checkpointing, check_video
        self.share_prefix = share_prefix
        self.feature_cache, self.feature_cache_gb = feature_cache, feature_cache_gb
        self.features: FeatureCache | None = None
        self.processor: Any = None
        self.guarded = self.video_guarded = False
        self.answers = torch.nn.ModuleDict({stage: OptionAccuracy() for stage in ("val", "test")})

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
    def setup(self, stage: str) -> None:
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
        media = batch["media"]
        if not media:  # a batch of text alone
            return []
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.tuning == "full"):
            if self.features is not None:
                features = self.features.encode(self.base, media, batch["video_keys"])
            else:
                features = self.family.encode(self.base, media)
        check_rows(batch, features, self.base.config, self.family.needs_token_types)
        return features

    def logps(self, batch: Any, features: Features, net: Any = None) -> Logps:
        """Log-probabilities of every row's response; see `score`.

        Args:
            batch: Rows with labels.
            features: From `encode`.
            net: A plain network in place of the policy's.
        """
        return score(self.base if net is None else net, self.family, batch, features, self.share_prefix)

    @torch.no_grad()
    def guard_first_step(self, batch: Any, logps: Logps) -> None:
        """Checks at the first training step that can: finite log-probabilities, and a video that matters.

        Raises:
            ValueError: From `lit_vpo.modules.guards`.
        """
        if not self.guarded:
            self.guarded = True
            check_finite(logps.tokens, "policy")
        if self.check_video and not self.video_guarded and batch["media"]:
            self.video_guarded = True
            blank = {k: torch.zeros_like(v) if k.startswith("pixel_values") else v for k, v in batch["media"].items()}
            check_video_matters(logps.tokens, self.logps(batch, self.family.encode(self.base, blank)).tokens)

    def generate(self, batch: PromptBatch, num_candidates: int = 1) -> list[tuple[str, bool]]:
        """Answer prompts; a prompt's video is encoded once, and the prompt read once, for all its candidates.

        Args:
            batch: Prompts.
            num_candidates: Answers to each; more than one need a temperature.

        Returns:
            Per candidate, those of a prompt together, the text, and whether it ended by itself (was not cut at
            `max_new_tokens`).

        Raises:
            ValueError: If candidates could not differ.
        """
        if num_candidates > 1 and self.temperature is None:
            raise ValueError("without a temperature all candidates are the likeliest answer; set temperature: 1.0")
        inputs = video_inputs(self.family, batch, self.encode(batch))
        addresses = [(self.seed, self.purpose, record["id"]) for record in batch["records"]]
        limits = (self.max_new_tokens, self.temperature, self.top_p)
        was_training = self.net.training
        self.net.eval()
        try:
            return generate(
                self.base, self.family, inputs, self.processor.tokenizer, *limits, addresses, num_candidates
            )
        finally:
            if was_training:
                self.policy_mode()

    def generations(self, batch: PromptBatch) -> list[dict[str, Any]]:
        """Each prompt's record with `response` and `finished`."""
        pairs = zip(batch["records"], self.generate(batch), strict=True)
        return [{**record, "response": text, "finished": finished} for record, (text, finished) in pairs]

    @override
    def on_predict_start(self) -> None:
        self.model_identity = {"name": self.model, "hash": weights_hash(self.net), "base": self.frozen_hash}

    @override
    def predict_step(self, batch: PromptBatch, batch_idx: int, dataloader_idx: int = 0) -> list[dict[str, Any]]:
        return [{**row, "model": self.model_identity} for row in self.generations(batch)]

    @override
    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Any]:
        return self.evaluate(batch, "val")

    @override
    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Any]:
        return self.evaluate(batch, "test")

    def evaluate(self, batch: Batch, stage: Literal["val", "test"]) -> dict[str, Any]:
        """One evaluation batch of any kind.

        Returns:
            What callbacks read: `generations` of prompts, `choices` of questions, or the subclass's own.
        """
        if batch["kind"] == "prompt":
            return {"generations": self.generations(batch)}
        if batch["kind"] == "question":
            return self.answer(batch, stage)
        return self.evaluate_objective(batch, stage)

    def evaluate_objective(self, batch: Any, stage: Literal["val", "test"]) -> dict[str, Any]:
        """The subclass's own kind of batch."""
        raise ValueError(f"{type(self).__name__} cannot evaluate a batch of kind {batch['kind']!r}")

    def answer(self, batch: QuestionBatch, stage: str) -> dict[str, Any]:
        """Choose the option that is likeliest as a whole response."""
        scores = self.logps(batch, self.encode(batch)).sums
        kinds = [str(record.get("meta", {}).get("kind", "question")) for record in batch["records"]]
        answers: Any = self.answers[stage]
        answers.update(scores, batch["question_index"], batch["answer"], kinds)
        return {"option_logps": scores}

    @override
    def on_validation_epoch_end(self) -> None:
        self.log_metrics("val")

    @override
    def on_test_epoch_end(self) -> None:
        self.log_metrics("test")

    def log_metrics(self, stage: str) -> None:
        """Log what an evaluation gathered, and start afresh."""
        answers: Any = self.answers[stage]
        if answers.update_called:
            self.log_dict({f"{stage}/questions/{name}": value for name, value in answers.compute().items()})
        answers.reset()
