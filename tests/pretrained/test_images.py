import numpy as np
import pytest
import torch
from transformers import CLIPImageProcessor, ViTImageProcessor

from mer_ray.errors import PluginError
from mer_ray.pretrained.images import Images, evenly, frame_items


@pytest.mark.parametrize(
    ("frames", "count", "expected"),
    [
        (10, 3, [1, 5, 8]),
        (7, 7, list(range(7))),
        (9, 1, [4]),
        (1, 4, [0, 0, 0, 0]),
        (3, 5, [0, 0, 1, 2, 2]),
    ],
)
def test_frames_are_taken_from_the_middle_of_equal_stretches(frames, count, expected):
    assert evenly(np.arange(frames), count).tolist() == expected


@pytest.mark.parametrize(("at_most", "expected"), [(None, [0, 1, 2, 3, 4]), (9, [0, 1, 2, 3, 4]), (2, [1, 3])])
def test_each_frame_is_an_item_of_its_clip(at_most, expected):
    faces = np.arange(5, dtype=np.uint8).reshape(5, 1, 1, 1).repeat(3, axis=-1)
    items = frame_items(7, faces, at_most)
    assert [item.payload[0, 0].tolist() for item in items] == [[i] * 3 for i in expected]
    assert {(item.clip, item.size) for item in items} == {(7, 1)}


@pytest.mark.parametrize(
    "processor",
    [
        CLIPImageProcessor(size={"shortest_edge": 40}, crop_size={"height": 32, "width": 32}),
        ViTImageProcessor(size={"height": 24, "width": 24}),
        ViTImageProcessor(size={"height": 24, "width": 24}, do_normalize=False),
    ],
)
def test_a_batch_of_many_sizes_is_what_the_processor_makes_of_each(processor):
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (size, size, 3), dtype=np.uint8) for size in (16, 64, 3, 16, 33, 1)]
    for image in images:
        image.setflags(write=False)
    resized = Images(processor).resized(images)
    assert resized.dtype == torch.uint8
    in_halves = Images(processor).normalised(resized)
    made = Images(processor)(images)
    torch.testing.assert_close(in_halves, made, rtol=0, atol=1e-6)
    for pixels, image in zip(made, images, strict=True):
        alone = processor(images=image.copy(), input_data_format="channels_last", return_tensors="pt")["pixel_values"]
        torch.testing.assert_close(pixels, alone[0], rtol=0, atol=1e-6)
    assert made.dtype == torch.float32


def test_a_folder_without_a_processor_is_told(tmp_path):
    with pytest.raises(PluginError, match=r"preprocessor_config\.json"):
        Images.load(CLIPImageProcessor, tmp_path)
