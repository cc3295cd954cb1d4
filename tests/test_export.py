"""What is exported says the same as what was trained, in plain transformers and PEFT; and nothing half is left."""

import json
import pathlib

import peft
import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from lit_vpo import __version__
from lit_vpo.cli import main
from lit_vpo.export import export
from lit_vpo.lora import LoRASettings, plain
from lit_vpo.models import load_model, load_processor, weights_hash
from lit_vpo.modules import DPOModule, SFTModule, TowerModule
from lit_vpo.modules.scoring import video_inputs

ROOT = pathlib.Path(__file__).resolve().parents[1]
NAMES = ["tiny_qwen2_5_vl", "tiny_llava_onevision"]
BASE = "motion_world_base"
SMALL = LoRASettings(r=4, alpha=8)


def trained(module, rounds=0):
    """Stands for a run: what is trained moves, and where rounds end it is merged."""
    module.configure_model()
    for index in range(rounds + 1):
        generator = torch.Generator().manual_seed(index)
        with torch.no_grad():
            for _, tensor in sorted(module.named_parameters()):
                if tensor.requires_grad:
                    tensor.add_(0.02 * torch.randn(tensor.shape, generator=generator).to(tensor.dtype))
        if index < rounds:
            module.round += 1
            module.cross(merge=True, new_weight=None)
    return module.eval()


def save(module, path):
    checkpoint = {"state_dict": module.state_dict(), "hyper_parameters": dict(module.hparams), "global_step": 7}
    module.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, path)
    return str(path)


def make(kind, name):
    if kind in ("language_model", "full"):
        return trained(SFTModule(name, tuning=kind))
    rounds = 2 if "rounds" in kind else 0
    reference = "second_adapter" if "second_adapter" in kind else None
    return trained(DPOModule(name, lora=SMALL, reference=reference, round_steps=1 if rounds else None), rounds)


@torch.no_grad()
def logits(net, family, batch):
    return net(**video_inputs(family, batch, family.encode(plain(net), batch["media"]))).logits


def close(net, module, batch):
    """Equal logits to 1e-5, of the largest one where it exceeds 1: it sets the rounding of fp32."""
    expected = logits(module.net, module.family, batch)
    tolerance = 1e-5 * max(1.0, float(expected.abs().max()))
    torch.testing.assert_close(logits(net.eval(), module.family, batch), expected, atol=tolerance, rtol=0)
    assert (logits(load_model(module.model), module.family, batch) - expected).abs().max() > 1e-2


ADAPTERS = ["lora", "rounds", "second_adapter", "second_adapter rounds"]
CASES = [(kind, name) for name in NAMES for kind in ADAPTERS] + [("rounds", BASE)]


@pytest.mark.parametrize(
    ("kind", "name"), CASES + [(kind, name) for name in NAMES for kind in ("language_model", "full")]
)
def test_plain_transformers_loads_the_policy(kind, name, make_batch, tmp_path):
    module = make(kind, name)
    export(save(module, tmp_path / "c.ckpt"), "hf", str(tmp_path / "out"))
    net = AutoModelForImageTextToText.from_pretrained(tmp_path / "out")
    close(net, module, make_batch("instruction", name))
    text = "<video> the red square"
    ids = [
        p.tokenizer(text)["input_ids"] for p in (AutoProcessor.from_pretrained(tmp_path / "out"), load_processor(name))
    ]
    assert ids[0] == ids[1]
    assert f"| {weights_hash(net)} |" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_plain_peft_loads_the_policy_on_the_base_that_everyone_has(kind, name, make_batch, tmp_path):
    module = make(kind, name)
    export(save(module, tmp_path / "c.ckpt"), "peft", str(tmp_path / "out"))
    close(peft.PeftModel.from_pretrained(load_model(name), tmp_path / "out"), module, make_batch("instruction", name))
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["r"] == (12 if "rounds" in kind else 4) and config["base_model_name_or_path"] == name
    # and our own door takes it
    again = SFTModule(name, tuning="language_model", adapter=str(tmp_path / "out"))
    again.configure_model()
    close(again.net, module, make_batch("instruction", name))


def test_a_run_that_started_from_a_lora_run_is_one_adapter_of_their_base(make_batch, tmp_path):
    first = LoRASettings(r=2, alpha=8, targets=["q_proj", "v_proj"])
    start = save(trained(SFTModule(NAMES[0], lora=first)), tmp_path / "first.ckpt")
    module = trained(DPOModule(NAMES[0], lora=SMALL, init_from=start, round_steps=1), rounds=1)
    path = save(module, tmp_path / "c.ckpt")
    for to in ("peft", "hf"):
        export(path, to, str(tmp_path / to))
    batch = make_batch("instruction", NAMES[0])
    close(peft.PeftModel.from_pretrained(load_model(NAMES[0]), tmp_path / "peft"), module, batch)
    close(AutoModelForImageTextToText.from_pretrained(tmp_path / "hf"), module, batch)


def test_what_is_no_adapter_of_its_base_is_refused_as_one(tmp_path):
    whole = save(make("full", NAMES[0]), tmp_path / "whole.ckpt")
    with pytest.raises(ValueError, match=r"has no adapter \(it trained full\).*use --to hf"):
        export(whole, "peft", str(tmp_path / "out"))
    later = save(trained(SFTModule(NAMES[0], lora=SMALL, init_from=whole)), tmp_path / "later.ckpt")
    with pytest.raises(ValueError, match=r"started from whole weights .*use --to hf"):
        export(later, "peft", str(tmp_path / "out"))
    export(save(make("lora", NAMES[0]), tmp_path / "lora.ckpt"), "peft", str(tmp_path / "adapter"))
    merged = save(trained(SFTModule(NAMES[0], lora=SMALL, adapter=str(tmp_path / "adapter"))), tmp_path / "merged.ckpt")
    with pytest.raises(ValueError, match=r"started from a merged adapter .*use --to hf"):
        export(merged, "peft", str(tmp_path / "out"))


def test_a_tower_run_is_exported_without_its_heads(tmp_path):
    module = trained(TowerModule(NAMES[1], num_classes={"shape": 3}))
    path = save(module, tmp_path / "c.ckpt")
    export(path, "hf", str(tmp_path / "out"))
    assert weights_hash(str(tmp_path / "out")) == weights_hash(module.net) != weights_hash(NAMES[1])
    with pytest.raises(ValueError, match=r"has no adapter \(it trained a tower\)"):
        export(path, "peft", str(tmp_path / "other"))


def test_number_formats(tmp_path):
    module = trained(DPOModule(NAMES[1], lora=SMALL, dtype="bfloat16"))
    path = save(module, tmp_path / "c.ckpt")
    for to, dtype in (("hf", "auto"), ("hf", "float32"), ("peft", "bfloat16")):
        export(path, to, str(tmp_path / f"{to}-{dtype}"), dtype)
    stored = load_model(str(tmp_path / "hf-auto"), "auto")
    wide = load_model(str(tmp_path / "hf-float32"), "auto")
    assert (stored.dtype, wide.dtype) == (torch.bfloat16, torch.float32)
    assert weights_hash(stored) == weights_hash(wide)
    matrices = peft.load_peft_weights(str(tmp_path / "peft-bfloat16"), device="cpu")
    assert {tensor.dtype for tensor in matrices.values()} == {torch.bfloat16}


def test_the_card_names_where_it_comes_from(tmp_path):
    path = save(make("rounds", BASE), tmp_path / "c.ckpt")
    export(path, "peft", str(tmp_path / "out"))
    card = (tmp_path / "out" / "README.md").read_text()
    for fact in (
        f"| base | {BASE} |",
        f"| weights left frozen (sha256) | {weights_hash(BASE)} |",
        f"| checkpoint | {path}, step 7 |",
        "| rounds | 2 ended, 2 adapters merged |",
        f"| written by | lit_vpo {__version__} |",
        f'load_model("{BASE}")',
    ):
        assert fact in card


def test_wrong_words_and_files_are_named(tmp_path):
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "file").touch()
    (tmp_path / "text.ckpt").write_text("no checkpoint")
    (tmp_path / "empty.ckpt").touch()
    torch.save({"state_dict": {}}, tmp_path / "foreign.ckpt")
    torch.save({"state_dict": {}, "lit_vpo": {}}, tmp_path / "nameless.ckpt")
    out = str(tmp_path / "out")
    for arguments, message in (
        (("c.ckpt", "onnx", out), "--to takes peft or hf, got 'onnx'"),
        (("c.ckpt", "hf", out, "int8"), "--dtype takes float32, .*got 'int8'"),
        (("c.ckpt", "hf", str(tmp_path / "used")), "is no empty folder"),
        (("c.ckpt", "hf", str(tmp_path / "used" / "file")), "is no empty folder"),
        (("absent.ckpt", "hf", out), "cannot read the checkpoint"),
        (("text.ckpt", "hf", out), "cannot read the checkpoint"),
        (("empty.ckpt", "hf", out), "cannot read the checkpoint"),
        (("foreign.ckpt", "hf", out), "is not a checkpoint of this package"),
        (("nameless.ckpt", "hf", out), "does not name its model"),
    ):
        with pytest.raises(ValueError, match=message):
            export(str(tmp_path / arguments[0]), *arguments[1:])
    assert not (tmp_path / "out").exists()


def test_another_base_under_the_same_name_is_refused(tmp_path):
    folder = tmp_path / "base"
    load_model(NAMES[1]).save_pretrained(folder)
    load_processor(NAMES[1]).save_pretrained(folder)
    path = save(trained(SFTModule(str(folder), lora=SMALL)), tmp_path / "c.ckpt")
    other = load_model(NAMES[1])
    with torch.no_grad():
        other.get_input_embeddings().weight[0, 0] += 1
    other.save_pretrained(folder)
    with pytest.raises(ValueError, match=r"was trained on other weights than .*base has now"):
        export(path, "peft", str(tmp_path / "out"))


@pytest.mark.parametrize("to", ["hf", "peft"])
def test_a_full_disk_leaves_nothing_behind(to, tmp_path, monkeypatch):
    import lit_vpo.export

    def full(*args):
        raise OSError(28, "No space left on device")

    path = save(make("lora", NAMES[1]), tmp_path / "c.ckpt")
    (tmp_path / "out").mkdir()  # an empty folder may stand there
    with monkeypatch.context() as patch:
        patch.setattr(lit_vpo.export, "_write_card", full)  # the last file
        with pytest.raises(OSError, match="No space left"):
            export(path, to, str(tmp_path / "out"))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["c.ckpt", "out"]
    assert not list((tmp_path / "out").iterdir())
    export(path, to, str(tmp_path / "out"))
    assert (tmp_path / "out" / "README.md").is_file()


def test_the_command_exports_a_checkpoint_that_the_command_wrote(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    main(
        ["fit", "-c", "experiments/smoke/dpo.yaml", "--run_dir", str(tmp_path), "--trainer.max_steps", "2",
         "--trainer.limit_val_batches", "0", "--data.init_args.batch_size", "2", "--trainer.callbacks",
         "[{class_path: ModelCheckpoint, init_args: {every_n_train_steps: 2}}]"]
    )  # fmt: skip
    (path,) = (tmp_path / "checkpoints").glob("*.ckpt")
    main(["export", str(path), "--to", "peft", str(tmp_path / "out")])  # words in either order
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    written = peft.load_peft_weights(str(tmp_path / "out"), device="cpu")
    state = torch.load(path, weights_only=True)["state_dict"]
    assert (config["r"], config["lora_alpha"]) == (8, 16) and len(written) == len(state)
    for name, tensor in written.items():
        assert torch.equal(tensor, state["net." + name.replace(".weight", ".default.weight")]), name
