#!/usr/bin/env python3
"""Images per second on one thread: Brazier, transformers' processor on Pillow and NumPy, and the least that Pillow needs.

    cargo bench --bench images --no-run          # prints where the executable is
    python3 benches/compare/images.py --brazier target/release/deps/images-HASH

Draws photographs, saves them as JPEG and PNG, and lets the sides take turns: each round, each side works through all of them
once. From the bytes in memory to `[3, side, side]` in f32. Where all can be equal (PNG), the results are compared first.

`transformers` is `load_image` and `CLIPImageProcessorPil` or `SiglipImageProcessorPil`. `pillow` is what a careful programmer
would write instead: decode, resize, crop, one table of 256 numbers for each channel.
"""

from __future__ import annotations

import argparse
import io
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"

import numpy as np
import PIL
import transformers
from PIL import Image, ImageOps
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

SIZES = [(640, 480), (480, 640), (1024, 768), (500, 375), (333, 500)]


def photograph(width: int, height: int, seed: int) -> Image.Image:
    y, x = np.mgrid[0:height, 0:width].astype(float)
    pixels = np.stack([128 + 90 * np.sin(x / f + y / (f + 9)) * np.cos(y / 60) for f in (23, 31, 47)], -1)
    pixels[int(height * 0.7) : int(height * 0.75)] = [250, 250, 240]
    pixels += np.random.default_rng(seed).normal(0, 6, pixels.shape)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def draw(folder: Path, kind: str, count: int) -> list[Path]:
    paths = []
    for index in range(count):
        paths.append(folder / f"{index}.{kind}")
        photograph(*SIZES[index % len(SIZES)], index).save(paths[-1], quality=90)
    return paths


def processor(kind: str, side: int) -> CLIPImageProcessorPil | SiglipImageProcessorPil:
    square = {"height": side, "width": side}
    if kind == "clip":
        return CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size=square)
    return SiglipImageProcessorPil(size=square)


def by_transformers(kind: str, side: int) -> Callable[[bytes], np.ndarray]:
    process = processor(kind, side)

    def run(data: bytes) -> np.ndarray:
        image = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
        return process(image, return_tensors="np")["pixel_values"][0]

    return run


def by_pillow(kind: str, side: int) -> Callable[[bytes], np.ndarray]:
    process = processor(kind, side)
    levels = (np.arange(256) * (1 / 255)).astype(np.float32)
    mean, std = (np.array(values, np.float32) for values in (process.image_mean, process.image_std))
    tables = (levels - mean[:, None]) / std[:, None]

    def run(data: bytes) -> np.ndarray:
        image = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
        width, height = image.size
        if kind == "clip":
            short = min(width, height)
            image = image.resize((side * width // short, side * height // short), Image.BICUBIC)
            left, top = (image.width - side) // 2, (image.height - side) // 2
            image = image.crop((left, top, left + side, top + side))
        else:
            image = image.resize((side, side), Image.BICUBIC)
        pixels = np.asarray(image)
        return np.stack([tables[channel][pixels[:, :, channel]] for channel in range(3)])

    return run


class Brazier:
    def __init__(self, executable: str, kind: str, side: int, paths: list[Path]) -> None:
        command = [executable, kind, str(side), *map(str, paths)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def ask(self, line: str) -> float:
        self.process.stdin.write(f"{line}\n".encode())
        self.process.stdin.flush()
        return float(self.process.stdout.readline())

    def pixels(self, index: int) -> np.ndarray:
        count = int(self.ask(f"pixels {index}"))
        return np.frombuffer(self.process.stdout.read(4 * count), np.float32)


def seconds(run: Callable[[bytes], np.ndarray], files: list[bytes]) -> float:
    started = time.perf_counter()
    for data in files:
        run(data)
    return time.perf_counter() - started


def compare(executable: str, kind: str, side: int, paths: list[Path], rounds: int) -> None:
    files = [path.read_bytes() for path in paths]
    brazier = Brazier(executable, kind, side, paths)
    rivals = {"transformers": by_transformers(kind, side), "pillow": by_pillow(kind, side)}
    furthest = 0.0
    for index, data in enumerate(files):
        expected = rivals["transformers"](data).ravel()
        assert np.array_equal(rivals["pillow"](data).ravel(), expected), "the two rivals differ"
        furthest = max(furthest, float(np.abs(brazier.pixels(index) - expected).max()))
    times = {"brazier": [], **{name: [] for name in rivals}}
    for _ in range(rounds):
        times["brazier"].append(brazier.ask("run 1"))
        for name, run in rivals.items():
            times[name].append(seconds(run, files))
    brazier.process.stdin.close()
    brazier.process.wait()
    rates = {name: len(files) / statistics.median(values) for name, values in times.items()}
    ratios = ", ".join(
        f"{statistics.median(theirs / ours for theirs, ours in zip(times[name], times['brazier'])):.2f} x {name}"
        for name in rivals
    )
    speeds = ", ".join(f"{name} {rate:.0f}" for name, rate in rates.items())
    print(f"{kind} {side} {paths[0].suffix}: {speeds} images/s; {ratios}; numbers differ by up to {furthest:.3g}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--brazier", required=True, help="executable of `cargo bench --bench images --no-run`")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--images", type=int, default=20)
    arguments = parser.parse_args()
    print(f"Pillow {PIL.__version__}, transformers {transformers.__version__}, NumPy {np.__version__}, one thread", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for suffix in ("jpg", "png"):
            paths = draw(Path(folder), suffix, arguments.images)
            for kind, side in (("clip", 224), ("clip", 336), ("siglip", 384)):
                compare(arguments.brazier, kind, side, paths, arguments.rounds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
