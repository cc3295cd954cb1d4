"""The trained network as an ordinary Hugging Face folder."""

from pathlib import Path
from typing import Literal

from lightning.pytorch import Callback, LightningModule, Trainer
from typing_extensions import override

from lit_vpo.models.loading import save_model
from lit_vpo.protocols import HasAdapter, HasNetwork


class SavePretrained(Callback):
    """Writes network and processor with `save_pretrained` when `fit` has ended.

    Args:
        path: The folder to write; plain transformers loads it again.
        dtype: Number format of the stored weights.

    Raises:
        ValueError: Before training, if the module has no `network`, its weights are sharded, or the network carries an
            adapter.
    """

    def __init__(self, path: str, dtype: Literal["float32", "bfloat16", "float16"] = "float32") -> None:
        self.path = Path(path)
        self.dtype = dtype

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if not isinstance(pl_module, HasNetwork):
            raise ValueError(
                f"SavePretrained needs a module with `network` and `model`; {type(pl_module).__name__} has none"
            )
        if pl_module.device_mesh is not None:
            raise ValueError(
                "SavePretrained writes from one rank, which has a shard of this network: use the command export --to hf"
            )

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if isinstance(pl_module, HasAdapter) and pl_module.has_adapter:
            raise ValueError(
                "SavePretrained writes whole networks; this one carries an adapter: use the command export --to hf"
            )

    @override
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, HasNetwork)
        if trainer.is_global_zero:
            save_model(pl_module.network, pl_module.model, self.path, self.dtype)
