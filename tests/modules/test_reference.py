"""Three references and a cache: all the starting point's log-probabilities, whatever the policy has become."""

from dataclasses import replace

import pytest
import torch

from lit_vpo.datamodules import Clip, Collator
from lit_vpo.logps_cache import row_keys
from lit_vpo.lora import LoRASettings
from lit_vpo.models import load_model, load_processor, weights_hash
from lit_vpo.modules import DPOModule

SMALL = LoRASettings(r=4, alpha=8)
NAME = "tiny_qwen2_5_vl"
KINDS = [
    ("lora", "adapter_off"),
    ("lora", "second_adapter"),
    ("lora", "frozen_copy"),
    ("language_model", "frozen_copy"),
    ("full", "frozen_copy"),
]


def adamw(params):
    return torch.optim.AdamW(params, lr=1e-2)


def make(tuning="lora", reference=None, **more):
    lora = SMALL if tuning == "lora" else None
    module = DPOModule(NAME, tuning=tuning, lora=lora, reference=reference, optimizer=adamw, **more)
    module.configure_model()
    return module


def pair_logps(module, batch):
    with torch.no_grad():
        return module.pair_logps(batch, module.encode(batch))


@pytest.mark.parametrize("tuning, reference", KINDS)
def test_every_reference_is_the_starting_point_before_and_after_training(
    make_batch, loader, trainer, tuning, reference
):
    batch = make_batch("preference", NAME, with_ground_truth=True)
    plain = DPOModule(NAME, lora=SMALL)
    plain.configure_model()
    start = pair_logps(plain, batch).reference
    module = make(tuning, reference, gradient_checkpointing=True)
    module.train()  # a reference never is in training mode
    torch.testing.assert_close(pair_logps(module, batch).reference.tokens, start.tokens)
    trained = set(module.trainable_names())
    trainer(max_steps=3).fit(module, loader([batch] * 3))  # the guards at step 0: policy = reference, ln 2
    after = pair_logps(module, batch)
    torch.testing.assert_close(after.reference.tokens, start.tokens)
    assert (after.policy.sums[:4] - start.sums).abs().max() > 0.1
    assert set(module.trainable_names()) == trained
    assert all((p.grad is None) == (name not in trained) for name, p in module.named_parameters())


def test_the_default_follows_the_tuning():
    assert [make(tuning).reference.name for tuning in ("lora", "full")] == ["adapter_off", "frozen_copy"]


def test_hashes_name_the_weights():
    base = weights_hash(load_model(NAME))
    assert make("lora").reference_hash() == make("full").reference_hash() == base
    second, other = make("lora", "second_adapter"), make("lora", "second_adapter", seed=1)
    assert len({base, second.reference_hash(), other.reference_hash()}) == 3


def test_a_copy_shares_what_is_frozen():
    module = make("language_model")
    own, copied = dict(module.net.named_parameters()), dict(module.reference.net.named_parameters())
    assert all((own[name] is copied[name]) == (not own[name].requires_grad) for name in own)


@pytest.mark.parametrize("tuning, reference", KINDS)
def test_resumed_equals_straight(make_batch, loader, trainer, tmp_path, tuning, reference):
    batches = [make_batch("preference", NAME, first=2 * i) for i in range(4)]
    straight = make(tuning, reference)
    trainer(max_steps=4).fit(straight, loader(batches))
    run = trainer(max_steps=2)
    run.fit(make(tuning, reference), loader(batches))
    run.save_checkpoint(tmp_path / "cut.ckpt")
    resumed = make(tuning, reference)
    trainer(max_steps=4).fit(resumed, loader(batches[2:] * 2), ckpt_path=tmp_path / "cut.ckpt")
    a, b = straight.state_dict(), resumed.state_dict()
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a if "weight" in name)


def test_a_second_adapter_comes_from_the_checkpoint(make_batch, loader, trainer, tmp_path):
    module = make("lora", "second_adapter")
    run = trainer(max_steps=1)
    run.fit(module, loader([make_batch("preference", NAME)]))
    with torch.no_grad():
        [p.add_(0.1) for name, p in module.named_parameters() if ".reference." in name]
    module.known_hash = ""
    run.save_checkpoint(tmp_path / "moved.ckpt")
    fresh = make("lora", "second_adapter")
    trainer().validate(
        fresh, loader([make_batch("preference", NAME)]), ckpt_path=tmp_path / "moved.ckpt", verbose=False
    )
    assert fresh.reference_hash() == module.reference_hash()


def test_another_reference_is_refused(make_batch, loader, trainer, tmp_path):
    run = trainer(max_steps=1)
    run.fit(make("full"), loader([make_batch("preference", NAME)]))
    run.save_checkpoint(tmp_path / "full.ckpt")
    other = make("full")
    with torch.no_grad():
        [p.mul_(1.01) for p in other.reference.net.lm_head.parameters()]
    with pytest.raises(ValueError, match="trained against another reference"):
        trainer().validate(other, loader([make_batch("preference", NAME)]), ckpt_path=tmp_path / "full.ckpt")
    kinds = make("lora", "second_adapter")
    lora = trainer(max_steps=1)
    lora.fit(make("lora"), loader([make_batch("preference", NAME)]))
    lora.save_checkpoint(tmp_path / "lora.ckpt")
    with pytest.raises(ValueError, match="does not fit this module: missing"):
        trainer().validate(kinds, loader([make_batch("preference", NAME)]), ckpt_path=tmp_path / "lora.ckpt")


def counted(module):
    calls, score = [], module.score_reference
    module.score_reference = lambda *args: calls.append(1) or score(*args)
    return calls


def test_cached_logps_are_those_computed_and_computed_once(make_batch, tmp_path):
    folder = str(tmp_path / "cache")
    batches = [make_batch("preference", NAME, first=2 * i) for i in range(2)]
    online = [pair_logps(make(), batch).reference for batch in batches]
    first = make(reference_cache=folder)
    calls = counted(first)
    for _ in range(2):
        for batch, expected in zip(batches, online, strict=True):
            got = pair_logps(first, batch).reference
            assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))
    assert len(calls) == 2
    mixed = make_batch("preference", NAME, first=1)  # of another run and other batches: one known record, one of each
    another = make(reference_cache=folder)
    calls = counted(another)
    expected = pair_logps(make(), mixed).reference
    for _ in range(2):
        torch.testing.assert_close(pair_logps(another, mixed).reference.tokens, expected.tokens, atol=1e-5, rtol=1e-5)
    assert len(calls) == 1


def keys(collator, clip, **more):
    example = {"id": "a", "key": "a", "prompt": "What moves?", "chosen": "a red star", "rejected": "a ball"} | more
    return row_keys(collator([(example, clip)]))


def test_another_content_is_another_key():
    collator = Collator(load_processor(NAME), "preference")
    frames = torch.randint(0, 256, (4, 3, 60, 60), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    clip = Clip(frames, [0.0, 0.5, 1.0, 1.5], 2.0)
    before = keys(collator, clip)
    assert before == keys(collator, replace(clip), id="b", key="b")  # content, not name
    assert len(set(before)) == 2
    views = [replace(clip, frames=frames.flip(0)), replace(clip, fps=4.0), replace(clip, frames=frames // 2), None]
    others = [keys(collator, view) for view in views] + [keys(collator, clip, prompt="What is seen?")]
    assert len({key for pair in [before, *others] for key in pair}) == 2 * (1 + len(others))
    changed = keys(collator, clip, chosen="a red ball")
    assert changed[0] != before[0] and changed[1] == before[1]


def test_another_reference_empties_the_cache(make_batch, tmp_path):
    batch, folder = make_batch("preference", NAME), tmp_path / "cache"
    pair_logps(make(reference_cache=str(folder)), batch)
    assert {path.parents[1].name for path in folder.rglob("*.safetensors")} == {
        f"{weights_hash(load_model(NAME))[:16]}-float32"
    }
    other = make("lora", "second_adapter", reference_cache=str(folder))
    calls = counted(other)
    pair_logps(other, batch)
    assert len(calls) == 1
    names = {path.parents[1].name for path in folder.rglob("*.safetensors")}
    assert names == {f"{other.reference_hash()[:16]}-float32"}


def test_a_stale_cache_trips_the_guard_at_step_0(make_batch, loader, trainer, tmp_path):
    batch = make_batch("preference", NAME)
    module = make(reference_cache=str(tmp_path / "cache"))
    trainer(max_steps=1).fit(module, loader([batch]))
    store = module.logps_cache.store
    for path in store.folder.rglob("*.safetensors"):
        store.put(path.stem, {name: tensor - 1 for name, tensor in store.get(path.stem).items()})
    with pytest.raises(ValueError, match="policy and reference differ by"):
        trainer(max_steps=1).fit(make(reference_cache=str(tmp_path / "cache")), loader([batch]))
