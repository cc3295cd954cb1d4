"""Randomness has an address: every draw comes from a generator seeded by what it is for, never from the global one."""

import hashlib

import torch


def seed_of(*address: object) -> int:
    """A 63-bit seed that depends on the whole address.

    Args:
        address: For example (seed, "generate", record id); anything whose `repr` is stable.
    """
    return int.from_bytes(hashlib.sha256(repr(address).encode()).digest()[:8], "big") >> 1


def generator(*address: object) -> torch.Generator:
    """A CPU generator seeded by `seed_of(*address)`, so that draws do not depend on the device."""
    return torch.Generator().manual_seed(seed_of(*address))
