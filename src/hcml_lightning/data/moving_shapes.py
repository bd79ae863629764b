"""[**known motion → frames** → video file → batch → model → loss → metric]

Textured shapes in known motion, drawn frame by frame.

The eight classes are four pairs that differ only in the direction of time. A single frame says nothing about its class,
and neither does an unordered set of frames, as far as that is possible:

* every frame of every class is drawn from one distribution. The frame is a torus on which the centre of the shape is
  uniform, so the shape never leaves it, and the texture of the shape is a random pattern on (log radius, angle), both
  periodic. Turning shifts the pattern along the angle, growing shifts it along the log radius, so that a shape that
  has turned or grown is as likely as one that has not, and its outline keeps its size;
* each class is exactly the time-reversed opposite of its partner.

All motion is similar (translation, rotation, zoom), so the flow between any two frames has a closed form, from the pose
of the shape in each of them.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

CLASSES = ("left", "right", "up", "down", "clockwise", "counterclockwise", "in", "out")

FloatArray = npt.NDArray[np.float32]

# Resolution of the texture on (log radius, angle): 16 cells per period of its finest wave.
_TEXTURE_CELLS = 128


@dataclass(frozen=True)
class Motion:
    """What moved in one synthetic video, and how.

    Attributes:
        pose: transformation from shape to frame, float64, shape (T, 2, 3): linear part, and centre in pixels, x first.
            Centres are not wrapped around the frame, so differences of centres are displacements.
        mask: pixels that show the shape, bool, shape (T, H, W).
    """

    pose: npt.NDArray[np.float64]
    mask: npt.NDArray[np.bool_]

    def flow(self, start: int, end: int) -> FloatArray:
        """Return the displacement of each pixel from frame `start` to frame `end`, shape (2, H, W), pixels, x first.

        A point that is covered in frame `end`, or outside it, still has the displacement of the surface it lies on.
        """
        height, width = self.mask.shape[1:]
        centre = self.pose[start, :, 2]
        change = self.pose[end, :, :2] @ np.linalg.inv(self.pose[start, :, :2]) - np.eye(2)
        offset = _wrapped_offset(centre[None], height, width)[0]
        flow = np.einsum("ij,jhw->ihw", change, offset)
        flow += (self.pose[end, :, 2] - centre)[:, None, None]
        return np.asarray(flow * self.mask[start], np.float32)


def render(
    name: str,
    rng: np.random.Generator,
    num_frames: int = 24,
    height: int = 64,
    width: int = 64,
) -> tuple[npt.NDArray[np.uint8], Motion]:
    """Draw one video of a class.

    Args:
        name: one of `CLASSES`.
        rng: source of everything that is random in the video.
        num_frames: T.
        height: H, pixels.
        width: W, pixels.

    Returns:
        RGB frames, uint8, shape (T, H, W, 3), and the true motion.

    Raises:
        ValueError: if the class is unknown.
    """
    if name not in CLASSES:
        raise ValueError(f"name must be one of {', '.join(CLASSES)}, got {name!r}")
    radius = min(height, width) * np.sqrt(rng.uniform(0.25, 0.45) / np.pi)
    centre, angle, log_scale = _trajectory(name, rng, num_frames, radius, height, width)
    offset = _wrapped_offset(centre, height, width)
    distance = np.hypot(offset[:, 0], offset[:, 1])
    direction = np.arctan2(offset[:, 1], offset[:, 0]) - angle[:, None, None]

    # An outline with lobes, of the same area for every number of lobes; it turns with the shape.
    lobes = rng.integers(2, 6)
    outline = radius * (1 + 0.15 * np.cos(lobes * direction + rng.uniform(0, 2 * np.pi)))
    cover = np.clip(outline - distance + 0.5, 0, 1)[..., None].astype(np.float32)
    log_radius = np.log(np.maximum(distance, 1e-3) / radius) - log_scale[:, None, None]

    base, background_base = _colours(rng)
    shown = cover[..., 0] > 0
    texture = _pattern(rng, _TEXTURE_CELLS, _TEXTURE_CELLS, waves=(2, 8), contrast=48)
    texture = _lookup(texture, log_radius[shown], direction[shown])
    # The pattern is finer than a pixel at the centre, so it fades there.
    texture *= np.clip((distance[shown] / radius - 0.1) / 0.2, 0, 1)[:, None]
    frames = np.broadcast_to(
        _pattern(rng, height, width, waves=(1, 6), contrast=16) + background_base,
        (*cover.shape[:3], 3),
    ).copy()
    frames[shown] += cover[shown] * (texture + base - frames[shown])

    pose = np.empty((num_frames, 2, 3))
    cos, sin = np.exp(log_scale) * np.cos(angle), np.exp(log_scale) * np.sin(angle)
    pose[:, 0, 0], pose[:, 0, 1], pose[:, 1, 0], pose[:, 1, 1] = cos, -sin, sin, cos
    pose[:, :, 2] = centre
    return np.clip(frames + 0.5, 0, 255).astype(np.uint8), Motion(pose, cover[..., 0] > 0.5)


def _trajectory(
    name: str, rng: np.random.Generator, num_frames: int, radius: float, height: int, width: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the centre (T, 2) in pixels, the angle (T,) in radians and the logarithm of the scale (T,)."""
    time = np.arange(num_frames) - rng.uniform(0, num_frames - 1)
    # On average over the shape, the same for all classes except zoom: 1.5 to 3 pixels per frame if a frame has 64.
    speed = rng.uniform(1.5, 3.0) * min(height, width) / 64
    # Points of a disc are 2/3 of its radius from its centre, on average.
    turn = speed / (2 / 3 * radius)
    sign = 1 if name in ("right", "down", "clockwise", "in") else -1
    centre = np.tile(rng.uniform((0, 0), (width, height)), (num_frames, 1))
    angle = np.full(num_frames, rng.uniform(0, 2 * np.pi))
    log_scale = np.full(num_frames, rng.uniform(0, 2 * np.pi))
    if name in ("left", "right"):
        centre[:, 0] += sign * speed * time
    elif name in ("up", "down"):
        centre[:, 1] += sign * speed * time
    elif name in ("clockwise", "counterclockwise"):
        angle += sign * turn * time
    else:
        # Zoom is slower, because all that grows beyond the outline is hidden in the next frame.
        log_scale += sign * 0.7 * turn * time
    return centre, angle, log_scale


def _wrapped_offset(
    centre: npt.NDArray[np.float64], height: int, width: int
) -> npt.NDArray[np.float64]:
    """Return the offset of each pixel from the nearest copy of each centre on the torus: (T, 2) -> (T, 2, H, W)."""
    x = (np.arange(width)[None] - centre[:, :1] + width / 2) % width - width / 2
    y = (np.arange(height)[None] - centre[:, 1:] + height / 2) % height - height / 2
    offset = np.empty((len(centre), 2, height, width))
    offset[:, 0], offset[:, 1] = x[:, None, :], y[:, :, None]
    return offset


def _pattern(
    rng: np.random.Generator, height: int, width: int, waves: tuple[int, int], contrast: float
) -> FloatArray:
    """Draw random waves, from `waves[0]` to `waves[1]` periods across the picture: RGB around 0, (H, W, 3)."""
    low, high = waves
    row, column = np.mgrid[-high : high + 1, -high : high + 1]
    count = np.hypot(row, column)
    gain = np.where((count >= low) & (count <= high), 1 / np.maximum(count, 1), 0)
    spectrum = np.zeros((3, height, width), np.complex128)
    phase = np.exp(2j * np.pi * rng.random((3, *count.shape)))
    spectrum[:, row % height, column % width] = phase * gain
    channels = np.fft.ifft2(spectrum).real
    channels *= contrast / channels.std(axis=(1, 2), keepdims=True)
    # Mostly brightness: video codecs keep only half of the resolution of colour.
    return (0.9 * channels[:1] + 0.3 * channels).transpose(1, 2, 0).astype(np.float32)


def _lookup(
    texture: FloatArray, log_radius: npt.NDArray[np.float64], direction: npt.NDArray[np.float64]
) -> FloatArray:
    """Read the texture at points of the (log radius, angle) plane, bilinearly: two arrays (P,) -> (P, 3)."""
    cells = len(texture)
    row, column = (axis * (cells / (2 * np.pi)) for axis in (log_radius, direction))
    top, left = np.floor(row).astype(np.int64), np.floor(column).astype(np.int64)
    down = (row - top).astype(np.float32)[:, None]
    right = (column - left).astype(np.float32)[:, None]
    flat = texture.reshape(-1, 3)
    above, below = (top % cells) * cells, ((top + 1) % cells) * cells
    left, after = left % cells, (left + 1) % cells
    upper = flat[above + left] * (1 - right) + flat[above + after] * right
    lower = flat[below + left] * (1 - right) + flat[below + after] * right
    return np.asarray(upper * (1 - down) + lower * down)


def _colours(rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
    """Draw mean colours of shape and background, one dark and one bright in random order, so the outline is visible."""
    pair = np.array([[105.0], [150.0]]) + rng.uniform(-20, 20, (2, 3))
    bright, dark = rng.permutation(pair).astype(np.float32)
    return bright, dark
