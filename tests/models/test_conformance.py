"""What every family must do; a family is covered by being registered and having a tiny builder of its name."""

import re

import pytest
import torch

from lit_vpo.lora import lora_layers
from lit_vpo.models import feature_cache, load_model, shared_prefix, tiny_names
from lit_vpo.models.registry import families, video_token
from lit_vpo.models.shared_prefix import Segment
from lit_vpo.modules import DPOModule, SFTModule, TowerModule, scoring
from lit_vpo.modules.generation import Decoding, decoded, generate
from lit_vpo.modules.scoring import video_inputs

NAMES = tiny_names()
FPS = [2.0, 8.0]  # the seconds of a grid step differ, and with them the positions of families that read them
SECONDS = ("second_per_grid_ts", "video_second_per_grid")
PER_TOKEN = ("input_ids", "attention_mask", "mm_token_type_ids")


def amplify(net):
    """Initial weights are so small that attention hardly matters: a wrong mask, video or position would hide."""
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(2 if parameter.dim() > 1 else 1)
    return net


def build(name, **settings):
    module = DPOModule(name, max_new_tokens=8, **settings)
    module.configure_model()
    amplify(module.net)
    with torch.no_grad():
        [p.add_(0.05) for n, p in module.named_parameters() if "lora_B" in n]
    return module


@pytest.fixture(scope="module", params=NAMES)
def module(request):
    """One network per family; tests leave it as they found it."""
    return build(request.param)


@pytest.fixture
def batch(make_batch, module):
    return make_batch("preference", module.model, fps=FPS)


def text_of(batch):
    return {name: batch[name] for name in PER_TOKEN if name in batch}


def pixels_of(media, index):
    """The processor's tensors repeated for rows, as a batch without shared videos would hold them."""
    parts = media["pixel_values_videos"]
    lengths = media["video_grid_thw"].prod(1).tolist() if "video_grid_thw" in media else [1] * len(parts)
    pixels = torch.cat([parts.split(lengths)[i] for i in index.tolist()])
    return {name: value[index] for name, value in media.items() if name != "pixel_values_videos"} | {
        "pixel_values_videos": pixels
    }


def logps_of(module, batch, features=None, share=True):
    features = module.encode(batch) if features is None else features
    module.share_prefix = share
    try:
        return module.logps(batch, features)
    finally:
        module.share_prefix = True


def test_every_family_has_a_tiny_model():
    assert [f"tiny_{name}" for name in sorted(families())] == NAMES


def test_every_family_shares(module):
    assert module.share_prefix, shared_prefix.why_not_shared(module.base)


@torch.no_grad()
def test_features_of_a_video_equal_pixels_in_every_row(module, batch):
    net, family, media, index = module.base, module.family, batch["media"], batch["video_index"]
    expected = net(**text_of(batch), **pixels_of(media, index), use_cache=False).logits
    features = family.encode(net, media)
    seen = batch["attention_mask"].bool()

    def logits(videos):
        return net(**text_of(batch), **family.video_kwargs(features, videos, media), use_cache=False).logits[seen]

    torch.testing.assert_close(logits(index), expected[seen], atol=1e-5, rtol=1e-5)
    assert (logits(1 - index) - expected[seen]).abs().max() > 1e-2  # with the videos exchanged it would show


@torch.no_grad()
def test_positions_are_those_of_transformers(module, batch, monkeypatch):
    net, family, media, index = module.base, module.family, batch["media"], batch["video_index"]
    model, seen = net.get_submodule(family.language_model), []
    forward = model.forward
    monkeypatch.setattr(model, "forward", lambda *a, **k: (seen.append(k["position_ids"]), forward(*a, **k))[1])
    net(**text_of(batch), **pixels_of(media, index), use_cache=False)
    kwargs = family.video_kwargs(family.encode(net, media), index, media)
    ours = family.position_ids(net, text_of(batch) | kwargs)
    theirs = torch.arange(ours.shape[-1]).expand_as(ours) if seen[0] is None else seen[0]
    mask = batch["attention_mask"].bool()
    assert ours.shape == theirs.shape and torch.equal(ours[..., mask], theirs[..., mask])


def test_a_shared_row_equals_separate_rows_in_value_and_gradient(module, make_batch):
    batch = make_batch("preference", module.model, fps=FPS, with_ground_truth=True)
    results = []
    for share in (True, False):
        module.zero_grad()
        logps = logps_of(module, batch, share=share)
        (logps.sums * torch.linspace(-1, 2, len(logps.sums))).sum().backward()
        grads = [p.grad.flatten() for p in module.parameters() if p.grad is not None]
        results.append((logps.tokens.detach(), torch.cat(grads)))
    (shared, shared_grads), (separate, separate_grads) = results
    torch.testing.assert_close(shared, separate, atol=1e-5, rtol=1e-5)
    assert (shared_grads - separate_grads).norm() < 1e-5 * separate_grads.norm()


@torch.no_grad()
def test_a_row_of_text_alone_beside_a_video(module, make_batch):
    batch = make_batch("preference", module.model, fps=FPS, text_alone=(0,))
    assert batch["video_index"].tolist() == [-1, 0, -1, 0]
    shared, separate = (logps_of(module, batch, share=share).tokens for share in (True, False))
    torch.testing.assert_close(shared, separate, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_video_after_different_words(module, make_batch):
    """A system turn stands before the video: rows of one clip then have no trunk with it in common."""
    turn = {"role": "system", "content": "be brief"}
    batch = make_batch("preference", module.model, fps=FPS, one_clip=True, each=[{}, {"history": [turn]}])
    assert batch["video_index"].tolist() == [0] * 4 and len(batch["video_keys"]) == 1
    shared, separate = (logps_of(module, batch, share=share).tokens for share in (True, False))
    torch.testing.assert_close(shared, separate, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_seconds_matter_and_belong_to_their_video(module, batch):
    names = [name for name in SECONDS if name in batch["media"]]
    if not names:
        pytest.skip("this family reads no seconds")
    exchanged = batch | {"media": batch["media"] | {name: batch["media"][name].flip(0) for name in names}}
    right, wrong = logps_of(module, batch), logps_of(module, exchanged)
    assert (right.tokens - wrong.tokens).abs().max() > 1e-3
    torch.testing.assert_close(wrong.tokens, logps_of(module, exchanged, share=False).tokens, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_two_videos_of_one_batch_do_not_see_each_other(module, batch):
    features = module.encode(batch)
    before = logps_of(module, batch, features)
    after = logps_of(module, batch, [features[0], features[1] + 1])
    first = batch["video_index"][before.rows] == 0
    assert torch.equal(before.tokens[first], after.tokens[first])
    assert (before.tokens[~first] - after.tokens[~first]).abs().max() > 1e-3


@torch.no_grad()
def test_a_wrong_mask_shows(module, batch, monkeypatch):
    attention = shared_prefix.shared_prefix_attention

    def one_sequence(self, *args, segments=None, **kwargs):  # branches see each other
        joined = segments and tuple(Segment(trunk, (sum(branches),)) for trunk, branches in segments)
        return attention(self, *args, segments=joined, **kwargs)

    from transformers import AttentionInterface

    right = logps_of(module, batch).tokens
    monkeypatch.setitem(AttentionInterface._global_mapping, shared_prefix.ATTENTION, one_sequence)
    assert (logps_of(module, batch).tokens - right).abs().max() > 1e-3


@torch.no_grad()
def test_wrong_positions_show(module, batch, monkeypatch):
    right = logps_of(module, batch).tokens
    positions = scoring.packed_positions

    def shifted(packing, leaders):  # the second branch goes on where the first one ended
        result, start = positions(packing, leaders), 0
        for trunk, branches in packing.segments:
            second = start + trunk + branches[0]
            start += trunk + sum(branches)
            result[..., second:start] += branches[0]
        return result

    monkeypatch.setattr(scoring, "packed_positions", shifted)
    wrong = logps_of(module, batch)
    rejected = wrong.rows >= len(batch["records"])
    assert (wrong.tokens - right)[rejected].abs().max() > 1e-3
    assert torch.equal(wrong.tokens[~rejected], right[~rejected])


@torch.no_grad()
def test_blanking_the_video_shows(module, batch):
    blank = {k: torch.zeros_like(v) if k.startswith("pixel_values") else v for k, v in batch["media"].items()}
    right = logps_of(module, batch).tokens
    assert (logps_of(module, batch | {"media": blank}).tokens - right).abs().max() > 1e-3


@pytest.mark.parametrize("share", [True, False])
def test_rows_that_do_not_fit_their_videos_are_refused(module, batch, monkeypatch, share):
    monkeypatch.setattr(module, "share_prefix", share)
    names = [name for name in (*PER_TOKEN, "labels") if name in batch]
    token = video_token(module.base.config)
    place = int((batch["input_ids"][0] == token).long().argmax())
    cut = {name: torch.cat([batch[name][:, :place], batch[name][:, place + 1 :]], 1) for name in names}
    with pytest.raises(ValueError, match="was a row truncated"):
        module.encode(batch | cut)
    if module.family.needs_token_types:
        with pytest.raises(ValueError, match="no mm_token_type_ids"):
            module.encode({name: value for name, value in batch.items() if name != "mm_token_type_ids"})
    monkeypatch.setattr(module.base.config.get_text_config(), "max_position_embeddings", 20)
    with pytest.raises(ValueError, match="longer than the model's 20 positions"):
        module.encode(batch)


@pytest.mark.parametrize("name", NAMES)
def test_gradient_checkpointing_changes_nothing(make_batch, name):
    batch = make_batch("preference", name, size=1)
    grads = []
    for checkpointing in (False, True):
        module = build(name, gradient_checkpointing=checkpointing)
        module.policy_mode()
        if checkpointing:
            module.base.gradient_checkpointing_enable({"use_reentrant": False})
            assert module.base.is_gradient_checkpointing
        module.logps(batch, module.encode(batch)).sums.sum().backward()
        grads.append(torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None]))
    torch.testing.assert_close(*grads)


def test_lora_is_on_all_of_the_language_model_and_nowhere_else(module):
    plain = load_model(module.model)
    linear = {name for name, m in plain.named_modules() if isinstance(m, torch.nn.Linear)}
    speaking = {name for name in linear if re.match(re.escape(module.family.language_model) + r"\.", name)}
    assert {name.removeprefix("base_model.model.") for name, _ in lora_layers(module.net)} == speaking
    assert speaking and linear - speaking - {module.family.head}
    inside = dict(plain.named_modules()) | dict(plain.named_parameters())
    assert {module.family.vision, module.family.head, *module.family.projector} <= set(inside)


@torch.no_grad()
def test_generation_from_encoded_videos_equals_generation_from_pixels(module, make_batch):
    batch = make_batch("prompt", module.model, fps=FPS)
    assert not batch["attention_mask"].all()  # prompts differ in length: there is left padding
    ids = module.base.generate(**text_of(batch), **batch["media"], max_new_tokens=8, do_sample=False)
    answers = ids[:, batch["input_ids"].shape[1] :]
    tokenizer = module.processor.tokenizer
    assert [text for text, _ in module.generate(batch)] == tokenizer.batch_decode(answers, skip_special_tokens=True)
    assert answers.unique(dim=0).shape == answers.shape  # two videos, two answers


@pytest.mark.parametrize("name", NAMES)
def test_cached_features_are_those_of_the_tower_and_carry_the_projectors_gradients(make_batch, tmp_path, name):
    batch, online = make_batch("preference", name, fps=FPS), SFTModule(name, tuning="full")
    cached = SFTModule(name, tuning="full", feature_cache=str(tmp_path / "features"))
    layers, results = [], []
    for module in (online, cached):
        module.configure_model()
        amplify(module.net)
        module.setup("fit")
    for layer in feature_cache._layers(cached.base, cached.family):  # what is inside a layer runs only if it does
        next(layer.children()).register_forward_hook(lambda *_: layers.append(1))
    for module in (online, cached, cached):
        module.zero_grad()
        features = torch.cat([each.flatten() for each in module.encode(batch)])
        (features * torch.linspace(-1, 1, len(features))).sum().backward()
        grads = [p.grad.flatten() for p in module.parameters() if p.grad is not None]
        results.append((features.detach(), torch.cat(grads), len(layers)))
    assert 0 < results[1][2] == results[2][2]
    for features, grads, _ in results[1:]:
        torch.testing.assert_close(features, results[0][0], atol=1e-5, rtol=1e-5)
        assert (grads - results[0][1]).norm() < 1e-5 * results[0][1].norm()


class Counted:
    """How often the tower ran, and the shapes of the tokens that the language model saw."""

    def __init__(self, module):
        self.videos, self.tokens = 0, []
        family = module.family
        tower, layer = (module.base.get_submodule(name) for name in (family.vision, f"{family.language_model}.norm"))
        self.hooks = [tower.register_forward_hook(self.see), layer.register_forward_pre_hook(self.read)]

    def see(self, *_):
        self.videos += 1

    def read(self, _, inputs):
        self.tokens.append(tuple(inputs[0].shape[:2]))

    def stop(self):
        [hook.remove() for hook in self.hooks]


def test_candidates_are_separate_samples_and_cost_one_prompt(module, make_batch, monkeypatch):
    monkeypatch.setattr(module, "decoding", Decoding(8, 1.0))
    batch = make_batch("prompt", module.model, fps=FPS)
    width, addresses = batch["input_ids"].shape[1], [(0, "generate", record["id"]) for record in batch["records"]]
    inputs = video_inputs(module.family, batch, module.encode(batch))
    settings = (module.base.eval(), module.family, inputs, module.processor.tokenizer, Decoding(8, 1.0))
    separate = [module.generate(batch)]  # candidate 0 is what one candidate is
    for number in (1, 2):
        answers = generate(*settings, [(*address, number) for address in addresses])
        separate.append([decoded(module.processor.tokenizer, answer) for answer in answers])
    counted = Counted(module)
    together = module.generate(batch, num_candidates=3)
    counted.stop()
    assert together == [answers[prompt] for prompt in range(2) for answers in separate]
    assert len(set(together)) == 6
    assert counted.videos == 1
    assert counted.tokens[0] == (2, width - 1) and set(counted.tokens[1:]) == {(6, 1)}


def test_candidates_need_a_temperature(module, make_batch):
    with pytest.raises(ValueError, match="without a temperature"):
        module.generate(make_batch("prompt", module.model, size=1), num_candidates=2)


@pytest.mark.parametrize("name", NAMES)
def test_the_tower_learns(make_batch, name):
    tower = TowerModule(name, num_classes={"kind": 2})
    tower.configure_model()
    present = torch.ones(2, 8)
    batch = {"media": make_batch("prompt", name)["media"], "presence": present, "targets": torch.ones(2, 8, 3)}
    tower.step(batch | {"labels": {"kind": present.long()}}, "").backward()
    assert all(p.grad is not None for p in tower.parameters() if p.requires_grad)
    assert any(n.startswith(f"net.{tower.family.vision}.") for n, p in tower.named_parameters() if p.requires_grad)
