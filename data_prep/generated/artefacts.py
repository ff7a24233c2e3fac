"""What goes wrong on glass: pen marks, areas out of focus, dust. Painted on RGB in place."""

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw
from scipy import ndimage

from histodiff.data_prep.generated.fields import enlarged, smooth_noise

_PENS = ((25, 70, 190), (15, 120, 70), (25, 25, 30))
_SMALL = 8

Pixels = npt.NDArray[np.uint8]


def draw_pen(rng: np.random.Generator, pixels: Pixels) -> None:
    """A felt-pen stroke near an edge of the slide."""
    height, width = pixels.shape[:2]
    small = Image.new("L", (width // _SMALL, height // _SMALL), 0)
    draw = ImageDraw.Draw(small)
    steps = np.linspace(0, 1, 14)
    bow = rng.uniform(0.05, 0.16)
    across = rng.uniform(0.05, 0.14) + bow * np.sin(np.pi * steps * rng.uniform(0.7, 1.4))
    along = 0.12 + 0.7 * steps
    points = (
        np.stack([along, across], axis=1) if rng.uniform() < 0.5 else np.stack([across, along], 1)
    )
    line = [tuple(point) for point in (points * small.size).tolist()]
    thickness = max(2, round(0.022 * small.size[0]))
    draw.line(line, fill=255, width=thickness, joint="curve")
    soft = ndimage.gaussian_filter(np.asarray(small, dtype=np.float32) / 255, 1.0)
    ink = enlarged(np.clip(soft * 3 - 1, 0, 1), height=height, width=width)
    streaks = smooth_noise(rng, height=height, width=width, scale_px=14, along_px=160)
    ink = np.clip(ink, 0, 1) * np.clip(0.85 + 0.08 * streaks, 0, 1)
    colour = np.array(_PENS[rng.integers(0, len(_PENS))]) / 255
    for channel in range(3):
        seen = pixels[..., channel] * (1 - ink * (1 - colour[channel]))
        pixels[..., channel] = np.clip(seen, 0, 255)


def blur_area(rng: np.random.Generator, pixels: Pixels) -> None:
    """An area out of focus, with a soft border."""
    height, width = pixels.shape[:2]
    side = max(8, min(height, width) // 4)
    top, left = rng.integers(0, height - side), rng.integers(0, width - side)
    area = pixels[top : top + side, left : left + side]
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    wavy = smooth_noise(rng, height=side, width=side, scale_px=side / 5)
    amount = np.clip((0.85 + 0.12 * wavy - np.hypot(x, y)) * 6, 0, 1)
    sigma = rng.uniform(2.5, 5)
    for channel in range(3):
        plane = area[..., channel].astype(np.float32)
        blurred = ndimage.gaussian_filter(plane, sigma)
        area[..., channel] = plane * (1 - amount) + blurred * amount


def sprinkle_dust(rng: np.random.Generator, pixels: Pixels) -> None:
    """A few dark specks on the glass."""
    height, width = pixels.shape[:2]
    for _ in range(rng.integers(4, 14)):
        radius = int(rng.integers(2, 7))
        y, x = rng.integers(radius, height - radius), rng.integers(radius, width - radius)
        grid_y, grid_x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
        shade = 1 - 0.6 * np.exp(-(grid_x**2 + grid_y**2) / (radius**2 / 3))
        area = pixels[y - radius : y + radius + 1, x - radius : x + radius + 1]
        area[:] = area * shade[..., None]
