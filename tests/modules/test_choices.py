"""The policy as a judge: both orders and both verdicts of a video share its encoding and equal rows of their own."""

import pytest
import torch

from lit_vpo.modules import DPOModule
from lit_vpo.modules.scoring import score
from lit_vpo.preferences.comparisons import comparisons, questions
from lit_vpo.preferences.contexts import JudgeContexts, RetrospectionPrompts, true_events


def asked():
    """Both orders of two answers about one video."""
    record = {"key": "v", "prompt_id": "p", "prompt": "What moves?", "finished": True}
    texts = ("a red circle moves left", "a star spins, then it stops")
    rows = [record | {"id": f"p/{n}", "candidate": n, "response": text} for n, text in enumerate(texts)]
    contexts = JudgeContexts("own", {"v": {"context": "A red circle and a star."}}, true_events)
    return questions(comparisons(rows, contexts, 1), RetrospectionPrompts())


@pytest.mark.parametrize("name", ["tiny_qwen2_5_vl", "tiny_video_llava"])
def test_both_orders_share_one_video_and_equal_separate_rows(name, make_batch):
    module = DPOModule(name)
    module.configure_model()
    batch = make_batch("question", name, each=asked(), one_clip=True)
    assert len(batch["labels"]) == 4 and batch["video_index"].tolist() == [0, 0, 0, 0]
    videos, tower = [], module.base.get_submodule(module.family.vision)
    hook = tower.register_forward_hook(lambda *_: videos.append(1))
    rows = module.choices(batch)
    hook.remove()
    assert len(videos) == len(batch["video_keys"]) == 1
    with torch.no_grad():
        features = module.encode(batch)
        separate = score(module.base, module.family, batch, features, shared=False)
    alone, lengths = separate.sums.view(2, 2), separate.lengths.view(2, 2)
    assert [row["id"] for row in rows] == ["p/order-12", "p/order-21"]
    for row, logps, tokens in zip(rows, alone, lengths, strict=True):
        assert row["option_tokens"] == tokens.tolist() and min(row["option_tokens"]) > 1
        assert torch.allclose(torch.tensor(row["option_logps"]), logps, rtol=0, atol=1e-5)
        assert row["response"] == RetrospectionPrompts().verdicts[int(logps.argmax())] and row["finished"]
    assert not torch.equal(alone[0], alone[1])  # the orders do differ
