"""The sides: one step each, loss and gradients left in the network."""

import logging
import tempfile
import warnings
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from lit_vpo.batch import IGNORE, PreferenceBatch
from lit_vpo.lora import add_lora, target_pattern
from lit_vpo.losses import DPOLoss, Logps
from lit_vpo.models import get_family
from lit_vpo.modules import DPOModule
from lit_vpo.modules.scoring import Features
from lit_vpo.modules.start import Tuning
from pair_step.workload import BETA, LORA, Case, network, pair, step_away, train_language_model, trained

FAMILY = "qwen2_5_vl"


class Side(ABC):
    """One way to compute a preference step."""

    def __init__(self, case: Case) -> None:
        self.case = case

    @property
    @abstractmethod
    def net(self) -> Any:
        """The network under training."""

    @abstractmethod
    def loss_and_backward(self, cached: bool) -> Tensor:
        """A step without its optimizer, as the side's own trainer does it."""

    def step(self, cached: bool) -> float:
        """Gradients of one pair, from none.

        Args:
            cached: Whether the reference's log-probabilities are given.

        Returns:
            The loss.
        """
        self.clear()
        with self.precision():
            return float(self.loss_and_backward(cached))

    def precision(self) -> torch.autocast:
        """bf16 on CUDA, as a trainer in mixed precision has it; fp32 on a CPU."""
        return torch.autocast("cuda", torch.bfloat16, enabled=self.case.device == "cuda")

    def clear(self) -> None:
        """Free the gradients, so that they are not there while another side is measured."""
        self.net.zero_grad(set_to_none=True)

    def grad_norm(self) -> float:
        """Norm of all gradients of the last step."""
        norms = [p.grad.double().norm() for p in trained(self.net) if p.grad is not None]
        return float(torch.stack(norms).norm())


class PairModule(DPOModule):
    """The project's module on a network of random weights."""

    def __init__(self, case: Case, online: bool) -> None:
        lora = LORA if case.tuning == "lora" else None
        tuning: Tuning = "lora" if case.tuning == "lora" else "language_model"
        super().__init__("tiny_qwen2_5_vl", loss=DPOLoss(BETA), lora=lora, tuning=tuning, check_video=False)
        self.case, self.online = case, online
        self.gradient_checkpointing = case.checkpointing
        self.guarded = True  # the first step's checks are not of the step
        self.given: Logps | None = None

    @override
    def configure_model(self) -> None:
        self.family = get_family(FAMILY)
        self.net = self.build()

    @override
    def build(self) -> Any:
        net = network(self.case)
        self.prepare_sharing(net)
        if self.case.tuning == "lora":
            net = add_lora(net, self.family, LORA, self.case.seed)
        else:
            train_language_model(net)
        if self.reference is not None and self.online:
            self.reference.attach(net)
        return net

    @override
    def reference_logps(self, batch: PreferenceBatch, features: Features) -> Logps:
        return self.given or super().reference_logps(batch, features)


class Ours(Side):
    """This project's module; `share` false computes every row on its own."""

    def __init__(self, case: Case, online: bool = True) -> None:
        super().__init__(case)
        warnings.filterwarnings("ignore", ".*self.trainer.*")  # `self.log` outside a trainer
        self.module = PairModule(case, online)
        self.module.configure_model()
        self.module.to(case.device)  # its metrics
        self.batch = pair(case)
        self.share = True
        with torch.no_grad(), self.precision():  # so far the policy is the reference
            self.logps = self.module.logps(self.batch, self.module.encode(self.batch))
        step_away(self.net, case)
        self.module.on_fit_start()
        self.module.guarded = True

    @property
    @override
    def net(self) -> Any:
        return self.module.net

    @override
    def loss_and_backward(self, cached: bool) -> Tensor:
        self.module.share_prefix = self.share
        self.module.given = self.logps if cached else None
        loss = self.module.training_step(self.batch, 0)["loss"]
        loss.backward()
        return loss.detach()


class Trl(Side):
    """TRL's DPOTrainer fed the only way that takes video: rows from a collator of one's own, nothing truncated."""

    def __init__(self, case: Case, online: bool = True) -> None:
        super().__init__(case)
        self.folder = tempfile.TemporaryDirectory()
        self.inputs = trl_rows(pair(case))
        self.trainer = self._trainer()
        model = self.trainer.model
        self.reference = self.trainer.compute_ref_log_probs(self.trainer.ref_model or model, self.inputs)
        if not online:
            self.trainer.ref_model = None
        step_away(model, case)

    def _trainer(self) -> Any:
        from datasets import Dataset
        from trl import DPOConfig, DPOTrainer

        logging.getLogger("trl").setLevel(logging.ERROR)
        cuda = self.case.device == "cuda"
        settings = DPOConfig(
            output_dir=self.folder.name,
            remove_unused_columns=False,
            max_length=None,
            beta=BETA,
            bf16=cuda,
            use_cpu=not cuda,
            gradient_checkpointing=self.case.checkpointing,
            gradient_checkpointing_kwargs={"use_reentrant": False},
            per_device_train_batch_size=1,
            report_to="none",
            disable_tqdm=True,
        )
        net, lora = network(self.case), self.case.tuning == "lora"
        if not lora:
            train_language_model(net)
        text = Dataset.from_list([{"prompt": "x", "chosen": "a", "rejected": "b"}])
        trainer = DPOTrainer(
            model=net,
            ref_model=None if lora else network(self.case),
            args=settings,
            data_collator=trl_rows,
            train_dataset=text,
            processing_class=_processor(),
            peft_config=_peft(net) if lora else None,
        )
        # what `train` would do before its first step
        trainer.current_gradient_accumulation_steps = 1
        if self.case.checkpointing:
            trainer.model.gradient_checkpointing_enable({"use_reentrant": False})
        return trainer

    @property
    @override
    def net(self) -> Any:
        return self.trainer.model

    @override
    def loss_and_backward(self, cached: bool) -> Tensor:
        self.trainer.precompute_ref_logps = cached
        given = dict(zip(("ref_chosen_logps", "ref_rejected_logps"), self.reference, strict=True)) if cached else {}
        return self.trainer.training_step(self.net, self.inputs | given)


def trl_rows(batch: Any) -> dict[str, Tensor]:
    """A batch as TRL wants it: chosen, then rejected, each row with a video of its own."""
    rows = {name: batch[name] for name in ("input_ids", "attention_mask", "mm_token_type_ids")}
    rows["completion_mask"] = (batch["labels"] != IGNORE).long()
    return rows | {name: torch.cat([value, value]) for name, value in batch["media"].items()}


def _processor() -> Any:
    from lit_vpo.models import load_processor

    return load_processor("tiny_qwen2_5_vl")


def _peft(net: Any) -> Any:
    from peft import LoraConfig

    pattern = target_pattern(net, get_family(FAMILY), LORA.targets)
    return LoraConfig(r=LORA.r, lora_alpha=LORA.alpha, lora_dropout=0.0, target_modules=pattern)
