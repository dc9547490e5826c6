"""The demo's faces: drawn head, brows, eyes and mouth that move with the emotion and with the voice.

The shading (bright forehead and cheeks, dark eye sockets, bright bridge of the nose) is what Viola and Jones's Haar
features look for, so that an ordinary face detector finds the drawing.

Shapes: F frames, A = ``len(ACTIONS)`` facial actions, S = ``SIZE`` pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

SIZE = 160
ACTIONS = ("inner_brow", "outer_brow", "frown", "lids", "corners", "jaw", "stretch", "nod", "turn", "tilt")
"""Facial actions, 0 at rest (after the units of Ekman and Friesen's coding system)."""

EXPRESSIONS: dict[str, tuple[float, ...]] = {
    "neutral": (0, 0, 0, 0, 0, 0, 0, 0, 0, 0),
    "anger": (-0.5, 0.25, 1.0, -0.2, -0.5, 0.05, 0.1, 0.25, 0, 0),
    "happiness": (0.1, 0.2, -0.1, -0.3, 1.0, 0.25, 0.6, -0.1, 0, 0.25),
    "sadness": (0.7, -0.4, 0.25, -0.4, -0.9, 0, -0.25, 0.7, 0, 0.2),
    "worry": (0.75, 0.0, 0.6, 0.25, -0.4, 0.15, 0.2, 0.1, 0.15, 0),
    "surprise": (0.9, 1.0, -0.2, 0.8, 0.0, 0.75, -0.4, -0.25, 0, 0),
}
"""Each emotion's actions at full intensity."""

_RESTLESS = {"anger": 0.5, "happiness": 0.4, "worry": 0.6, "surprise": 0.15, "neutral": 0.1, "sadness": -0.05}

Frames = NDArray[np.uint8]
Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Look:
    """A person's looks: colours (RGB), proportions (1 = average) and resting face (A,)."""

    skin: Colour
    hair: Colour
    iris: Colour
    width: float
    eye_gap: float
    eye_size: float
    brow_weight: float
    mouth_width: float
    hair_height: float
    rest: tuple[float, ...]


def random_look(rng: np.random.Generator, spread: float) -> Look:
    """A person's looks; ``spread`` says how far resting faces differ between people."""
    tone = rng.uniform(0.0, 1.0)
    skin = np.array([236, 196, 170]) * (1 - tone) + np.array([150, 104, 78]) * tone
    hair = np.array([[40, 28, 22], [92, 60, 36], [170, 130, 80], [110, 110, 112]])[rng.integers(4)]
    iris = np.array([[70, 48, 30], [60, 90, 120], [70, 100, 60]])[rng.integers(3)]
    proportions = {name: float(rng.uniform(*bounds)) for name, bounds in _PROPORTIONS.items()}
    rest = tuple(float(value) for value in rng.normal(0, spread, len(ACTIONS)) * _NUISANCE)
    return Look(_colour(skin), _colour(hair), _colour(iris), rest=rest, **proportions)


_PROPORTIONS = {
    "width": (0.95, 1.05),
    "eye_gap": (0.96, 1.05),
    "eye_size": (0.92, 1.08),
    "brow_weight": (0.85, 1.25),
    "mouth_width": (0.9, 1.1),
    "hair_height": (0.88, 1.12),
}
_NUISANCE = np.array([1, 1, 1, 0.8, 1, 0.4, 1, 1, 1, 1])


def actions(
    emotion: str, intensity: float, look: Look, loudness: NDArray[np.float64], *, fps: float, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Facial actions (F, A) of one clip: the emotion waxes and wanes, the jaw follows the voice, eyes blink.

    Args:
        emotion: a key of ``EXPRESSIONS``.
        intensity: 0 (the resting face) to 1.
        look: whose face.
        loudness: (F,) in [0, 1], the voice at each frame.
        fps: frames per second.
        rng: the clip's generator.
    """
    num_frames = len(loudness)
    time = np.arange(num_frames) / fps
    peak, width = rng.uniform(0.25, 0.75), rng.uniform(0.25, 0.5)
    shape = np.exp(-(((np.linspace(0, 1, num_frames) - peak) / width) ** 2))
    track = np.outer(intensity * (0.4 + 0.6 * shape), np.array(EXPRESSIONS[emotion]))
    track += np.array(look.rest) + rng.normal(0, 0.08, len(ACTIONS)) * _NUISANCE
    restless = 0.25 + intensity * _RESTLESS[emotion]
    for name, amount in (("nod", 0.5), ("turn", 0.7), ("tilt", 0.4)):
        rate, phase = rng.uniform(0.4, 1.2) * (1 + restless), rng.uniform(0, 2 * np.pi)
        track[:, ACTIONS.index(name)] += amount * restless * np.sin(2 * np.pi * rate * time + phase)
    track[:, ACTIONS.index("jaw")] += 0.35 * loudness * rng.uniform(0.6, 1.2)
    blinks = rng.random(num_frames) < 0.25 / fps
    track[blinks, ACTIONS.index("lids")] = -1.0
    return track


def render(track: NDArray[np.float64], look: Look, rng: np.random.Generator) -> Frames:
    """Draw the face over a random background under random light: uint8 (F, S, S, 3), RGB."""
    backdrop = landscape(rng, horizon=False)
    gain = rng.uniform(0.8, 1.12)
    side = np.linspace(-1, 1, SIZE)[None, :] * rng.uniform(-0.15, 0.15)
    light = (gain * (1 + side))[:, :, None].astype(np.float32) * np.ones((SIZE, 1, 3), np.float32)
    scale, centre = rng.uniform(0.9, 1.08), rng.uniform(-5, 5, 2)
    grain = rng.normal(0, rng.uniform(1, 4), (SIZE, SIZE, 1)).astype(np.float32)
    shading, mask = _shading(look), _head_mask(look)
    frames = np.empty((len(track), SIZE, SIZE, 3), np.uint8)
    for index, action in enumerate(track):
        face = cv2.GaussianBlur(_draw(action, look, shading), (3, 3), 0)
        placed = _placement(action, scale, centre)
        flat = cv2.warpAffine(face, placed, (SIZE, SIZE), borderMode=cv2.BORDER_REPLICATE)
        alpha = cv2.warpAffine(mask, placed, (SIZE, SIZE))[:, :, None]
        picture = (backdrop + (flat - backdrop) * alpha) * light + np.roll(grain, 17 * index, axis=0)
        frames[index] = np.clip(picture, 0, 255).astype(np.uint8)
    return frames


def landscape(rng: np.random.Generator, horizon: bool = True) -> NDArray[np.float32]:
    """A picture with nobody in it, float32 (S, S, 3) in [0, 255]: sky and hills, or a plain wall."""
    top, bottom = (rng.uniform(70, 190) + rng.uniform(-28, 28, 3) for _ in range(2))
    mix = np.linspace(0, 1, SIZE)[:, None, None]
    picture = np.ascontiguousarray(np.broadcast_to(top * (1 - mix) + bottom * mix, (SIZE, SIZE, 3)), np.float32)
    if horizon:
        for shade in (0.8, 0.55):
            line = rng.uniform(0.45, 0.8) * SIZE + 14 * np.sin(
                np.linspace(0, rng.uniform(4, 9), SIZE) + rng.uniform(0, 6)
            )
            below = np.arange(SIZE)[:, None] > line[None, :]
            picture[below] = np.array([70, 120, 60], np.float32) * shade
    return picture


def _colour(values: NDArray[np.float64]) -> Colour:
    red, green, blue = (int(value) for value in values)
    return red, green, blue


def _placement(action: NDArray[np.float64], scale: float, centre: NDArray[np.float64]) -> NDArray[np.float64]:
    nod, turn, tilt = np.clip(action[-3:], -2, 2)
    matrix: NDArray[np.float64] = cv2.getRotationMatrix2D((SIZE / 2, SIZE * 0.8), float(5 * tilt), scale)
    matrix[:, 2] += (3.5 * turn + centre[0], 3.0 * nod + centre[1])
    return matrix


_X, _Y = np.meshgrid(np.arange(SIZE, dtype=np.float32), np.arange(SIZE, dtype=np.float32))
_CX, _CY = SIZE / 2, SIZE / 2 + 4


def _blob(x: float, y: float, width: float, height: float) -> NDArray[np.float32]:
    blob: NDArray[np.float32] = np.exp(-(((_X - x) / width) ** 2) - ((_Y - y) / height) ** 2)
    return blob


def _half_width(look: Look) -> float:
    return 46 * look.width


def _eyes(look: Look) -> tuple[float, float, float]:
    """Where the eyes are: x of the left, x of the right, y of both."""
    gap = 20.5 * look.eye_gap
    return _CX - gap, _CX + gap, _CY - 10


def _shading(look: Look) -> NDArray[np.float32]:
    """The bare head (S, S, 3): skin lit from the front, eye sockets and jaw in shade, hair."""
    left, right, eye_y = _eyes(look)
    light = 1.02 - 0.35 * ((_X - _CX) / 62) ** 2 - 0.12 * ((_Y - _CY) / 62) ** 2
    light += 0.14 * _blob(_CX, _CY - 38, 34, 14) + 0.10 * _blob(_CX, _CY + 2, 6, 18)
    for x in (left, right):
        light -= 0.26 * _blob(x, eye_y, 15, 9)
        light += 0.14 * _blob(x, _CY + 14, 13, 9)
    light -= 0.14 * _blob(_CX, _CY + 20, 9, 3) + 0.12 * _blob(_CX, _CY + 46, 16, 4)
    head = np.clip(np.array(look.skin, np.float32) * light[:, :, None], 0, 255)
    hairline = _CY - 44 * look.hair_height + 0.006 * (_X - _CX) ** 2
    crown = (hairline > _Y) | (np.abs(_X - _CX) > _half_width(look) * 1.02)
    hair = np.array(look.hair, np.float32) * (0.8 + 0.2 * np.cos(_X / 3.0))[:, :, None]
    head[crown] = hair[crown]
    neck = (np.abs(_X - _CX) < 22) & (_Y > _CY + 54)
    head[neck] = np.array(look.skin, np.float32) * 0.72
    return np.ascontiguousarray(head)


def _head_mask(look: Look) -> NDArray[np.float32]:
    mask = np.zeros((SIZE, SIZE), np.float32)
    centre = (int(_CX), int(_CY - 2))
    cv2.ellipse(mask, centre, (int(_half_width(look) + 4), 66), 0, 0, 360, 1.0, -1)
    cv2.rectangle(mask, (int(_CX - 22), int(_CY + 50)), (int(_CX + 22), SIZE), 1.0, -1)
    blurred: NDArray[np.float32] = cv2.GaussianBlur(mask, (5, 5), 0)
    return blurred


def _draw(action: NDArray[np.float64], look: Look, shading: NDArray[np.float32]) -> NDArray[np.float32]:
    face = shading.copy()
    lids, corners, jaw, stretch = action[3:7]
    left, right, eye_y = _eyes(look)
    for x, side in ((left, -1), (right, 1)):
        _draw_eye(face, look, x, eye_y, lids)
        _draw_brow(face, look, (x, eye_y), side, action[:3])
    _draw_nose(face, look)
    _draw_mouth(face, look, corners, jaw, stretch)
    return face


_SHIFT = 4
_ONE = 1 << _SHIFT


def _points(points: NDArray[np.float64]) -> NDArray[np.int32]:
    """Points in cv2's fixed-point sub-pixel units."""
    return np.rint(points * _ONE).astype(np.int32).reshape(-1, 1, 2)


def _draw_eye(face: NDArray[np.float32], look: Look, x: float, y: float, lids: float) -> None:
    width = 10 * look.eye_size
    height = float(np.clip(4.6 * (1 + 0.75 * lids) * look.eye_size, 0.6, 10))
    angle = np.linspace(0, 2 * np.pi, 20)
    opening = np.stack([x + width * np.cos(angle), y + height * np.sin(angle)], axis=1)
    cv2.fillPoly(face, [_points(opening)], (225, 222, 218), cv2.LINE_AA, _SHIFT)
    if height > 1.5:
        centre, radius = (int(x * _ONE), int(y * _ONE)), min(4.8, height + 0.6)
        cv2.circle(face, centre, int(radius * _ONE), look.iris, -1, cv2.LINE_AA, _SHIFT)
        cv2.circle(face, centre, int(2.2 * _ONE), (12, 10, 10), -1, cv2.LINE_AA, _SHIFT)
    lid = np.stack([x + 1.1 * width * np.cos(angle[9:20]), y + (height + 0.6) * np.sin(angle[9:20])], axis=1)
    cv2.polylines(face, [_points(lid)], False, (50, 34, 30), 2, cv2.LINE_AA, _SHIFT)


def _draw_brow(
    face: NDArray[np.float32], look: Look, eye: tuple[float, float], side: int, brow: NDArray[np.float64]
) -> None:
    inner, outer, frown = brow
    x, y = eye
    rise = np.array([5.5 * inner - 5.0 * frown, 3.0 * (inner + outer) - 1.5 * frown, 5.5 * outer])
    across = np.array([-side * (11.0 + 2.0 * frown), 0.0, side * 13.0])
    level = np.array([y - 13.0, y - 15.5, y - 12.0]) - np.clip(rise, -7.5, 10)
    curve = np.stack([x + across, level - np.array([0.0, 0.0, -0.5])], axis=1)
    weight = max(2, round(3.2 * look.brow_weight))
    cv2.polylines(face, [_points(curve)], False, look.hair, weight, cv2.LINE_AA, _SHIFT)


def _draw_nose(face: NDArray[np.float32], look: Look) -> None:
    shade = tuple(int(0.62 * channel) for channel in look.skin)
    base = np.array([[_CX - 7, _CY + 16], [_CX - 3, _CY + 19], [_CX + 3, _CY + 19], [_CX + 7, _CY + 16]])
    cv2.polylines(face, [_points(base)], False, shade, 2, cv2.LINE_AA, _SHIFT)


def _draw_mouth(face: NDArray[np.float32], look: Look, corners: float, jaw: float, stretch: float) -> None:
    half = 16.5 * look.mouth_width * (1 + 0.22 * np.clip(stretch, -1.2, 1.2))
    gap = 11.0 * float(np.clip(jaw, 0, 1.2))
    bend = 7.5 * float(np.clip(corners, -1.4, 1.4))
    across = np.linspace(-1, 1, 9)
    middle = _CY + 32 + gap / 3 - bend * across**2
    arch = 1 - across**2
    upper, lower = middle - (1.8 + 0.3 * gap) * arch, middle + (2.6 + 0.8 * gap) * arch
    x = _CX + half * across
    lips = np.concatenate([np.stack([x, upper], 1), np.stack([x, lower], 1)[::-1]])
    red = (int(0.75 * look.skin[0]), int(0.48 * look.skin[1]), int(0.5 * look.skin[2]))
    cv2.fillPoly(face, [_points(lips)], red, cv2.LINE_AA, _SHIFT)
    inside = np.concatenate(
        [np.stack([x, middle - 0.25 * gap * arch], 1), np.stack([x, middle + 0.5 * gap * arch], 1)[::-1]]
    )
    cv2.polylines(face, [_points(np.stack([x, middle], 1))], False, (70, 26, 30), 1, cv2.LINE_AA, _SHIFT)
    if gap > 1.2:
        cv2.fillPoly(face, [_points(inside)], (58, 18, 22), cv2.LINE_AA, _SHIFT)
