"""The house: links, import guards, floors, what the wheel holds, and what no file may do."""

import ast
import os
import pathlib
import subprocess
import sys
import zipfile

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "lit_vpo"

# floor by module; a module may import from its own floor and below, and siblings of floor 2 never import each other
FLOORS = {
    0: {"atomic", "batch", "protocols", "schedules", "losses", "metrics", "randomness", "_torchvision_guard"},
    1: {
        "endpoint",
        "models",
        "lora",
        "ledger",
        "pristine",
        "logps_cache",
        "memory",
        "reference",
        "optim",
        "sharding",
        "sharded_strategy",
        "store",
    },
    2: {"modules", "datamodules", "preferences"},
    3: {"callbacks"},
    4: {
        "cli",
        "cli_pairs",
        "cli_runs",
        "cli_judging",
        "cli_select",
        "lightning_cli",
        "checkpoint_io",
        "pair_commands",
        "judging_commands",
        "pair_sampling",
        "prompt_commands",
        "recipe",
        "recipe_file",
        "recipe_log",
        "content",
        "results",
        "show",
        "compare",
        "score",
        "curves",
        "round_curves",
        "verbosity_curves",
        "judge_agreement",
        "generations",
        "export",
        "video_scan",
        "video_selection",
        "__main__",
    },
}
FLOOR_OF = {name: floor for floor, names in FLOORS.items() for name in names}


def sources():
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if parts != ("__init__",):
            yield path, parts[0]
    for folder in ("callbacks", "datamodules"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield path, folder


def imported(path):
    """Names of lit_vpo modules that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names = [node.module] if node.module != "lit_vpo" else [f"lit_vpo.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            if name.startswith("lit_vpo."):
                yield name.split(".")[1]


def test_every_file_stands_on_a_floor():
    assert {name for _, name in sources()} <= set(FLOOR_OF)


def test_imports_go_down_the_floors():
    wrong = []
    for path, name in sources():
        for other in imported(path):
            up = FLOOR_OF.get(other, 0) > FLOOR_OF[name]
            sideways = FLOOR_OF[name] == 2 and FLOOR_OF.get(other) == 2 and other != name
            # callbacks know modules and datamodules through protocols only
            around = name == "callbacks" and other in ("modules", "datamodules")
            if up or sideways or around:
                wrong.append(f"{path.relative_to(ROOT)} imports {other}")
    assert wrong == []


@pytest.mark.parametrize("folder", ["callbacks", "datamodules"])
def test_the_links_are_relative_and_the_plain_import_says_the_right_name(folder):
    link = PACKAGE / folder
    assert link.is_symlink() and os.readlink(link) == f"../{folder}"
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import {folder}"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode != 0 and f"lit_vpo.{folder}" in run.stderr.splitlines()[-1]


def test_the_wheel_holds_lit_vpo_alone(tmp_path):
    command = [
        sys.executable,
        "-m",
        "build",
        "--wheel",
        "--no-isolation",
        "--outdir",
        str(tmp_path),
        str(copy(tmp_path)),
    ]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        top = next(n for n in names if n.endswith("top_level.txt"))
        assert archive.read(top).decode().split() == ["lit_vpo"]
    for needed in (
        "lit_vpo/callbacks/step.py",
        "lit_vpo/datamodules/motion_world/scene.py",
        "lit_vpo/py.typed",
        "lit_vpo/models/assets/bases/motion_world_base/model.safetensors",
        "lit_vpo/models/assets/bases/motion_world_judge/model.safetensors",
        "lit_vpo/models/assets/tokenizer/tokenizer.json",
    ):
        assert needed in names


def copy(tmp_path):
    """The tracked sources in another folder, so that the build leaves nothing in the checkout."""
    import shutil

    skip = shutil.ignore_patterns(".*", "build", "*.egg-info", "runs", "__pycache__")
    return shutil.copytree(ROOT, tmp_path / "source", symlinks=True, ignore=skip)


@pytest.mark.parametrize(("word", "answer"), [("--version", "lit_vpo 0."), ("--help", "fit")])
def test_version_and_help_answer_even_beside_a_decoy(word, answer, tmp_path):
    """How fast they do is measured by benchmarks/startup.py."""
    (tmp_path / "callbacks").mkdir()
    (tmp_path / "callbacks" / "__init__.py").write_text("raise RuntimeError('the decoy was imported')")
    run = subprocess.run([sys.executable, "-m", "lit_vpo", word], capture_output=True, text=True, cwd=tmp_path)
    assert run.returncode == 0 and answer in run.stdout, run.stderr


def test_importing_the_package_imports_nothing_heavy():
    heavy = ("torch", "lightning", "transformers", "av")
    code = f"import sys, lit_vpo, lit_vpo.cli; print([m for m in {heavy} if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stdout.strip() == "[]", run.stderr


def test_the_torchvision_guard_lets_lightning_be_imported():
    code = "import lit_vpo, torchvision, lightning; from torchvision.transforms.v2 import functional; print('fine')"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stdout.strip().endswith("fine"), run.stderr


FORBIDDEN = {"pickle", "cPickle", "cloudpickle", "dill", "trust_remote_code", "estimated_stepping_batches"}


def forbidden(source):
    """No pickle, no eval or exec, no weights_only=False, no trust_remote_code, no estimated_stepping_batches.

    The last is wrong before the loaders exist (Lightning issue 20550).
    """
    found = []
    for node in ast.walk(ast.parse(source)):
        names = [getattr(node, "id", None), getattr(node, "attr", None), getattr(node, "arg", None)]
        if isinstance(node, ast.Import):
            names += [part for alias in node.names for part in alias.name.split(".")]
        if isinstance(node, ast.ImportFrom):
            names += [*(node.module or "").split("."), *(alias.name for alias in node.names)]
        found += [name for name in names if name in FORBIDDEN]
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("eval", "exec"):
            found.append(node.func.id)
        if isinstance(node, ast.keyword) and node.arg == "weights_only":
            found += [] if isinstance(node.value, ast.Constant) and node.value.value is True else ["weights_only"]
    return found


def test_no_forbidden_calls():
    assert {path: found for path, _ in sources() if (found := forbidden(path.read_text()))} == {}


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("import pickle", "pickle"),
        ("import pickle as p", "pickle"),
        ("from pickle import loads", "pickle"),
        ("from torch.utils import pickle", "pickle"),
        ("x.pickle.loads(b)", "pickle"),
        ("eval('1')", "eval"),
        ("exec('1')", "exec"),
        ("torch.load(p, weights_only=False)", "weights_only"),
        ("torch.load(p, weights_only=flag)", "weights_only"),
        ("M.from_pretrained(n, trust_remote_code=True)", "trust_remote_code"),
        ("trainer.estimated_stepping_batches", "estimated_stepping_batches"),
    ],
)
def test_what_is_forbidden_is_found(source, name):
    assert forbidden(source) == [name]
    assert forbidden("net.eval(); torch.load(p, weights_only=True)") == []
