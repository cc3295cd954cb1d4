"""An address names a draw: the same one gives the same numbers, another one others."""

import torch

from lit_vpo.randomness import generator, seed_of


def test_addresses():
    assert seed_of(0, "lora", 1) == seed_of(0, "lora", 1)
    addresses = [(0, "lora", 1), (0, "lora", 2), (1, "lora", 1), (0, "generate", 1), (0, "lora1"), (0, "lora", "1")]
    assert len({seed_of(*address) for address in addresses}) == len(addresses)
    assert all(0 <= seed_of(i) < 2**63 for i in range(100))
    state = torch.get_rng_state()
    first = torch.rand(3, generator=generator(0, "a"))
    assert torch.equal(first, torch.rand(3, generator=generator(0, "a")))
    assert torch.equal(torch.get_rng_state(), state)
