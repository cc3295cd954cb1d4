"""One vector for a picture: by a Hugging Face vision encoder, or by the tower of a policy."""

from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import normalize

from lit_vpo.models.loading import family_of, load_model, load_processor, model_type, weights_hash
from lit_vpo.models.registry import families


class ImageEncoder(Protocol):
    """Turns pictures into vectors; `identity` is what stands beside numbers that come from them."""

    identity: dict[str, Any]

    def __call__(self, pictures: Tensor) -> Tensor:
        """(N, dim) float32 on the CPU, L2-normalised.

        Args:
            pictures: (N, 3, H, W) uint8 RGB, at least one.
        """
        ...


def load_image_encoder(model: str, device: str = "cpu") -> ImageEncoder:
    """The encoder of a name.

    Args:
        model: What `load_model` takes: then the policy's own tower and projector are the encoder. Or folder or Hub name
            of a vision model that `AutoModel` and `AutoImageProcessor` load, such as SigLIP, CLIP or DINOv2.
        device: Where it runs.

    Raises:
        ValueError: If there is no such model, or it is neither.
    """
    policies = {name for family in families().values() for name in (family.name, family.model_type)}
    return PolicyTower(model, device) if model_type(model) in policies else VisionModel(model, device)


class VisionModel:
    """A Hugging Face model of single pictures: its image features, else its pooled states, else their mean.

    Args:
        model: Folder or Hub name.
        device: Where it runs.

    Raises:
        ValueError: If transformers cannot load it, or it gives no features of pictures.
    """

    def __init__(self, model: str, device: str = "cpu") -> None:
        from transformers import AutoImageProcessor, AutoModel

        try:
            self.net = AutoModel.from_pretrained(model).eval().to(device)
            self.processor = AutoImageProcessor.from_pretrained(model)  # type: ignore[no-untyped-call]
        except (OSError, ValueError) as error:
            raise ValueError(
                f"{model!r} is neither a policy nor a vision model with its image processor: {error}"
            ) from error
        self.identity = {"model": model, "hash": weights_hash(self.net)[:16]}

    @torch.no_grad()
    def __call__(self, pictures: Tensor) -> Tensor:
        """As `ImageEncoder`."""
        pixels = self.processor(images=list(pictures), return_tensors="pt")["pixel_values"].to(self.net.device)
        encode = getattr(self.net, "get_image_features", self.net)
        found = encode(pixel_values=pixels)
        pooled = getattr(found, "pooler_output", None)
        return normalize(
            (found.last_hidden_state.mean(1) if pooled is None else pooled).flatten(1).float(), dim=1
        ).cpu()


class PolicyTower:
    """A policy's tower and projector: the mean over a picture's visual tokens.

    Args:
        model: As for `load_model`.
        device: Where it runs.

    Raises:
        ValueError: If the model cannot be found.
    """

    def __init__(self, model: str, device: str = "cpu") -> None:
        self.family, self.net = family_of(model), load_model(model).to(device)  # type: ignore[arg-type]
        self.processor: Any = load_processor(model).video_processor
        # such families see frames in pairs: the picture twice is a still one
        self.num_frames = getattr(self.processor, "temporal_patch_size", 1)
        self.identity = {"model": model, "hash": weights_hash(self.net.get_submodule(self.family.vision))[:16]}

    @torch.no_grad()
    def __call__(self, pictures: Tensor) -> Tensor:
        """As `ImageEncoder`."""
        return normalize(torch.stack([self._vector(picture) for picture in pictures]), dim=1).cpu()

    def _vector(self, picture: Tensor) -> Tensor:
        video = picture.expand(self.num_frames, -1, -1, -1)
        media = self.processor(videos=[video], do_sample_frames=False, return_tensors="pt")
        tensors = {name: value.to(self.net.device) for name, value in media.items() if isinstance(value, Tensor)}
        return self.family.encode(self.net, tensors)[0].float().mean(0).flatten()  # of every layer that reads some
