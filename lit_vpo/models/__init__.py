"""Networks: one file per family on a registry, tiny builders, and one door to load them."""

from lit_vpo.models.loading import family_of, load_model, load_processor, tiny_names, weights_hash
from lit_vpo.models.registry import Family, get_family, register

__all__ = [
    "Family",
    "family_of",
    "get_family",
    "load_model",
    "load_processor",
    "register",
    "tiny_names",
    "weights_hash",
]
