"""One vector for a picture, by vision encoders of transformers and by every family's own tower."""

import pytest
import torch
from transformers import Dinov2Config, Dinov2Model, SiglipConfig, SiglipImageProcessor, SiglipModel

from lit_vpo.models.image_features import PolicyTower, VisionModel, load_image_encoder
from lit_vpo.models.loading import load_model, load_processor, tiny_names

PICTURES = torch.randint(0, 256, (3, 3, 60, 60), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
TOWER = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 32, "patch_size": 16}


def siglip():
    text = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    return SiglipModel(SiglipConfig(vision_config=TOWER | {"intermediate_size": 32}, text_config=text))


@pytest.mark.parametrize("build", [siglip, lambda: Dinov2Model(Dinov2Config(**TOWER))], ids=["siglip", "dinov2"])
def test_a_vision_model_gives_its_own_pooled_features(build, tmp_path):
    net = build().eval()
    net.save_pretrained(tmp_path)
    processor = SiglipImageProcessor(size={"height": 32, "width": 32})
    processor.save_pretrained(tmp_path)
    encoder = load_image_encoder(str(tmp_path))
    assert isinstance(encoder, VisionModel)
    pixels = processor(images=list(PICTURES), return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        tower = getattr(net, "vision_model", net)
        pooled = tower(pixel_values=pixels).pooler_output
    found = encoder(PICTURES)
    assert torch.allclose(found, pooled / pooled.norm(dim=1, keepdim=True), atol=1e-6)


@pytest.mark.parametrize("name", tiny_names())
def test_every_family_turns_pictures_into_unit_vectors(name):
    encoder = load_image_encoder(name)
    assert isinstance(encoder, PolicyTower)
    found = encoder(PICTURES)
    assert len(found) == 3 and torch.allclose(found.norm(dim=1), torch.ones(3), atol=1e-5)
    assert torch.equal(found[1:2], encoder(PICTURES[1:2]))  # each by itself
    assert not torch.allclose(found[0], found[1], atol=1e-4)


def test_a_policys_vector_is_the_mean_over_its_visual_tokens():
    net, processor = load_model("tiny_llava_onevision"), load_processor("tiny_llava_onevision").video_processor
    pixels = processor(videos=[PICTURES[:1]], do_sample_frames=False, return_tensors="pt")["pixel_values_videos"]
    with torch.no_grad():
        tokens = net.model.get_video_features(pixels, return_dict=True).pooler_output[0]
    found = load_image_encoder("tiny_llava_onevision")(PICTURES[:1])
    assert torch.allclose(found[0], tokens.mean(0) / tokens.mean(0).norm(), atol=1e-6)


def test_a_folder_without_an_image_processor_is_refused(tmp_path):
    siglip().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="image processor"):
        load_image_encoder(str(tmp_path))
