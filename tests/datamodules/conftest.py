import pytest
from clip_factory import clip_bytes, write_shards

from lit_vpo.models.loading import load_processor


@pytest.fixture(scope="session")
def llava():
    return load_processor("tiny_llava_onevision")


@pytest.fixture(scope="session")
def qwen():
    return load_processor("tiny_qwen2_5_vl")


@pytest.fixture(scope="session")
def clips():
    """Six short clips as bytes."""
    return [clip_bytes(num_frames=16, side=32, seed=seed) for seed in range(6)]


@pytest.fixture(scope="session")
def shards(tmp_path_factory, clips):
    return write_shards(tmp_path_factory.mktemp("data") / "shards", clips, max_samples=4)
