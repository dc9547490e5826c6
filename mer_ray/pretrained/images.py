"""Face frames as a model's pixels: which frames of a clip, and the library's own image processor over a batch of them.

Shapes: F frames, H, W pixels, N images, S the model's input size.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mer_ray.errors import PluginError
from mer_ray.pretrained.forward import Item


def evenly(frames: NDArray[np.uint8], count: int) -> NDArray[np.uint8]:
    """``count`` frames, one from the middle of each of as many equal stretches; fewer than that are repeated in order.

    Args:
        frames: (F, ...), F at least 1.
        count: at least 1; for no repetition ask for ``min(count, len(frames))``.

    Returns:
        (count, ...).

    >>> evenly(np.arange(10), 3).tolist(), evenly(np.arange(2), 4).tolist()
    ([1, 5, 8], [0, 0, 1, 1])
    """
    return frames[(2 * np.arange(count) + 1) * len(frames) // (2 * count)]


def frame_items(clip: int, faces: NDArray[np.uint8], num_frames: int | None = None) -> list[Item]:
    """An item of size 1 for each frame of a clip, so that frames of many clips share batches.

    Args:
        clip: index of the clip in the call.
        faces: (F, H, W, 3).
        num_frames: at most so many frames, ``evenly``; None: all.
    """
    if num_frames is not None and num_frames < len(faces):
        faces = evenly(faces, num_frames)
    return [Item(clip, 1, frame) for frame in faces]


class Images:
    """Batches of RGB images through an image processor of transformers, those of one size together.

    Args:
        processor: of the torchvision kind (``CLIPImageProcessor``, ``ViTImageProcessor``, ... and not ``...Pil``).
    """

    def __init__(self, processor: Any) -> None:
        self.processor = processor

    @classmethod
    def load(cls, processor_class: Any, folder: Path, **options: Any) -> Images:
        """With the processor of a folder of weights; ``options`` take the place of what stands there.

        Raises:
            PluginError: there is none.
        """
        try:
            return cls(processor_class.from_pretrained(folder, local_files_only=True, **options))
        except (OSError, ValueError) as error:
            raise PluginError(
                f"weights {folder}: no {processor_class.__name__} in them: {error}. It is preprocessor_config.json, "
                "published beside the weights"
            ) from error

    def __call__(self, images: Sequence[NDArray[np.uint8]]) -> Tensor:
        """Pixels of each image.

        Args:
            images: N arrays, uint8 (H, W, 3), RGB, of any sizes; may be read-only.

        Returns:
            float32 (N, 3, S, S).
        """
        return self._process(images)

    def resized(self, images: Sequence[NDArray[np.uint8]]) -> Tensor:
        """The first half of the call: uint8 (N, 3, S, S), a quarter of the bytes to bring to a device."""
        return self._process(images, do_rescale=False, do_normalize=False)

    def normalised(self, pixels: Tensor) -> Tensor:
        """The second half: float32 pixels of ``resized`` ones, on the device where they are."""
        processor = self.processor
        made: Tensor = processor.rescale_and_normalize(
            pixels,
            processor.do_rescale,
            processor.rescale_factor,
            processor.do_normalize,
            tuple(processor.image_mean),  # it is remembered under them
            tuple(processor.image_std),
        )
        return made

    def _process(self, images: Sequence[NDArray[np.uint8]], **options: Any) -> Tensor:
        made = self.processor(
            images=[image.transpose(2, 0, 1).copy() for image in images],
            input_data_format="channels_first",
            disable_grouping=False,
            return_tensors="pt",
            **options,
        )
        pixels: Tensor = made["pixel_values"]
        return pixels
