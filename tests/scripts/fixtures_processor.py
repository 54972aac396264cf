#!/usr/bin/env python3
"""Records what Pillow decodes and what transformers' image processors (those on NumPy and Pillow) make of it.

    python3 tests/scripts/record_fixtures.py --only processor      # or, without torch:
    python3 tests/scripts/fixtures_processor.py tests/fixtures

The images are drawn here: gradients, edges, a disc and noise, saved in every format and mode that matters. Of exact results
only a SHA-256 is stored, with five of the numbers; of those from JPEG, whose decoders differ, the levels of some rows.
"""

from __future__ import annotations

import hashlib
import io
import json
import struct
import sys
from pathlib import Path

import numpy as np
import PIL
import transformers
from PIL import Image, ImageOps
from safetensors.numpy import save_file
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

MEAN, STD = [0.5] * 3, [0.5] * 3

# What a preprocessor_config.json may say; `size` and `resample` in all their forms.
PROCESSORS = {
    "clip_224": CLIPImageProcessorPil(),
    "clip_336": CLIPImageProcessorPil(size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336}),
    "siglip_384": SiglipImageProcessorPil(size={"height": 384, "width": 384}),
    "siglip_512_bilinear": SiglipImageProcessorPil(size={"height": 512, "width": 512}, resample=2),
    "llava_padded": LlavaImageProcessorPil(do_pad=True),
    "upright": SiglipImageProcessorPil(size={"height": 52, "width": 52}),
    "upright_bilinear": SiglipImageProcessorPil(size={"height": 100, "width": 47}, resample=2),
    "lanczos": SiglipImageProcessorPil(size={"height": 41, "width": 29}, resample=1),
    "nearest": SiglipImageProcessorPil(size={"height": 41, "width": 29}, resample=0),
    "box": SiglipImageProcessorPil(size={"height": 41, "width": 29}, resample=4),
    "hamming": SiglipImageProcessorPil(size={"height": 41, "width": 29}, resample=5),
    "edges": CLIPImageProcessorPil(size={"shortest_edge": 40, "longest_edge": 50}, do_center_crop=False),
    "shortest_only": CLIPImageProcessorPil(size={"shortest_edge": 31}, do_center_crop=False),
    "small_crop_of_even": CLIPImageProcessorPil(do_resize=False, crop_size={"height": 31, "width": 44}),
    "crop_beyond": CLIPImageProcessorPil(do_resize=False, crop_size={"height": 120, "width": 45}),
    "levels": CLIPImageProcessorPil(size={"shortest_edge": 40}, crop_size={"height": 40, "width": 40},
                                    do_rescale=False, do_normalize=False),
    "not_rescaled": CLIPImageProcessorPil(size={"shortest_edge": 40}, crop_size={"height": 40, "width": 40},
                                          do_rescale=False, image_mean=[120.5, 110.25, 100.0], image_std=[60.0] * 3),
    "other_factor": CLIPImageProcessorPil(size={"shortest_edge": 40}, crop_size={"height": 40, "width": 40},
                                          rescale_factor=1 / 127.5, image_mean=MEAN, image_std=STD),
}  # fmt: skip


def photograph(width: int, height: int, noise: float, seed: int) -> Image.Image:
    """Smooth gradients, a disc, a bright and a dark bar, noise of a sensor."""
    y, x = np.mgrid[0:height, 0:width].astype(float)
    pixels = np.stack([
        128 + 100 * np.sin(x / 17 + y / 31),
        128 + 90 * np.cos(x / 19 - y / 27),
        120 + 110 * np.sin((x + y) / 40),
    ], -1)  # fmt: skip
    inside = (x - width * 0.4) ** 2 + (y - height * 0.5) ** 2 < (min(width, height) * 0.25) ** 2
    pixels[inside] = pixels[inside] * 0.4 + [150, 30, 60]
    pixels[int(height * 0.7) : int(height * 0.76)] = [250, 250, 240]
    pixels[:, int(width * 0.8) : int(width * 0.83)] = [5, 5, 20]
    pixels += np.random.default_rng(seed).normal(0, noise, pixels.shape)
    return Image.fromarray(np.clip(np.round(pixels), 0, 255).astype(np.uint8))


def saved(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def oriented(image: Image.Image, kind: str, orientation: int, **options) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return saved(image, kind, exif=exif, **options)


def as_ycck(cmyk_jpeg: bytes) -> bytes:
    """The same data, declared as YCCK by Adobe's marker."""
    at = cmyk_jpeg.index(b"Adobe") + 11
    assert cmyk_jpeg[at] == 0, "expected CMYK"
    return cmyk_jpeg[:at] + b"\x02" + cmyk_jpeg[at + 1 :]


def without_adobe(cmyk_jpeg: bytes) -> bytes:
    at = cmyk_jpeg.index(b"\xff\xee")
    (length,) = struct.unpack(">H", cmyk_jpeg[at + 2 : at + 4])
    return cmyk_jpeg[:at] + cmyk_jpeg[at + 2 + length :]


def exact_files() -> dict[str, bytes]:
    """Files that every decoder reads alike."""
    photo = photograph(83, 61, 5, 1)
    small = photograph(38, 27, 4, 2)
    alpha = Image.fromarray(np.random.default_rng(3).integers(0, 256, (27, 38), dtype=np.uint8))
    rgba = small.copy()
    rgba.putalpha(alpha)
    grey = photo.convert("L")
    palette = small.quantize(13)
    deep = np.random.default_rng(4).integers(0, 65536, (9, 14), dtype=np.uint16)
    files = {
        "photo.png": saved(photo, "PNG", optimize=True),
        "even.png": saved(photograph(64, 48, 2, 5), "PNG", optimize=True),
        "grey.png": saved(grey, "PNG"),
        "grey_alpha.png": saved(rgba.convert("LA"), "PNG"),
        "rgba.png": saved(rgba, "PNG"),
        "palette.png": saved(palette, "PNG"),
        "palette_transparent.png": saved(palette, "PNG", transparency=bytes([0, 90, 255, 255, 7])),
        "rgb_transparent.png": saved(small, "PNG", transparency=small.getpixel((3, 4))),
        "bits_1.png": saved(small.convert("1"), "PNG"),
        "bits_2.png": saved(small.quantize(4), "PNG", bits=2),
        "portrait.png": saved(photograph(61, 131, 0, 10).quantize(40), "PNG", optimize=True),
        "one.png": saved(photo.crop((7, 7, 8, 8)), "PNG"),
        "tall.png": saved(photo.crop((5, 0, 6, 61)), "PNG"),
        "wide.png": saved(photo.crop((0, 9, 83, 11)), "PNG"),
        "large.png": saved(photograph(520, 380, 0, 6).quantize(14), "PNG", optimize=True),
        "deep_rgb.tif": tiff_rgb16(np.stack([deep, deep[::-1], deep[:, ::-1]], -1)),
        "photo.tif": saved(small, "TIFF", compression="tiff_lzw"),
        "cmyk.tif": saved(small.convert("CMYK"), "TIFF", compression="tiff_lzw"),
        "bits_1.tif": saved(small.convert("1"), "TIFF"),
        "rgb.bmp": saved(small.crop((0, 0, 19, 13)), "BMP"),
        "palette.bmp": saved(small.crop((0, 0, 19, 13)).convert("L"), "BMP"),
        "rgba.webp": saved(rgba, "WEBP", lossless=True, exact=True),
        "lossy.webp": saved(photo, "WEBP", quality=80),
        "palette.gif": saved(palette, "GIF"),
        "transparent.gif": saved(palette, "GIF", transparency=3),
        "frames.gif": saved(palette, "GIF", save_all=True, append_images=[small.quantize(5)]),
        "upside.tif": oriented(small.crop((0, 0, 19, 13)), "TIFF", 6),
        "upside.webp": oriented(small.crop((0, 0, 19, 13)), "WEBP", 8, lossless=True),
    }
    for orientation in range(1, 9):
        files[f"orientation_{orientation}.png"] = oriented(small.crop((0, 0, 11, 8)), "PNG", orientation)
    xmp = '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    files["orientation_by_xmp.webp"] = saved(small.crop((0, 0, 11, 8)), "WEBP", lossless=True, xmp=xmp.encode())
    return files


def tiff_rgb16(pixels: np.ndarray) -> bytes:
    """Pillow reads RGB with 16 bits but does not write it."""
    height, width, _ = pixels.shape
    data = pixels.astype("<u2").tobytes()
    entries = [
        (256, 3, 1, width), (257, 3, 1, height), (258, 3, 3, 8 + len(data)), (259, 3, 1, 1), (262, 3, 1, 2),
        (273, 4, 1, 8), (277, 3, 1, 3), (278, 3, 1, height), (279, 4, 1, len(data)),
    ]  # fmt: skip
    bits = struct.pack("<HHH", 16, 16, 16)
    table = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    directory = struct.pack("<H", len(entries)) + table + struct.pack("<I", 0)
    return struct.pack("<2sHI", b"II", 42, 8 + len(data) + len(bits)) + data + bits + directory


def jpeg_files() -> dict[str, bytes]:
    photo = photograph(150, 110, 3, 7)
    small = photograph(38, 27, 2, 2)
    cmyk = saved(small.convert("CMYK"), "JPEG", quality=90)
    files = {
        "subsampled.jpg": saved(photo, "JPEG", quality=88),
        "full.jpg": saved(small, "JPEG", quality=90, subsampling=0),
        "half.jpg": saved(small, "JPEG", quality=90, subsampling=1),
        "progressive.jpg": saved(small, "JPEG", quality=80, progressive=True),
        "grey.jpg": saved(small.convert("L"), "JPEG", quality=85),
        "cmyk.jpg": cmyk,
        "cmyk_plain.jpg": without_adobe(cmyk),  # to Pillow the same
        "ycck.jpg": as_ycck(cmyk),
    }
    for orientation in range(1, 9):
        files[f"orientation_{orientation}.jpg"] = oriented(small.crop((0, 0, 24, 16)), "JPEG", orientation, quality=95)
    return files


def decoded(file: bytes) -> Image.Image:
    """transformers' `load_image`."""
    return ImageOps.exif_transpose(Image.open(io.BytesIO(file))).convert("RGB")


def deep_grey() -> dict[str, bytes]:
    """The one mode in which Brazier differs: recorded are Pillow's levels, and the samples."""
    deep = np.linspace(0, 65535, 60, dtype=np.uint16).reshape(6, 10)
    return {"deep.png": saved(Image.fromarray(deep), "PNG"), "deep.tif": saved(Image.fromarray(deep), "TIFF")}


def digest(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


# Which processor sees which file. Together: up and down, wide and tall, odd and even, one pixel.
CASES = {
    "clip_224": ["portrait.png", "photo.png", "even.png", "large.png", "grey.png", "rgba.png", "palette.png", "one.png", "tall.png", "wide.png"],
    "clip_336": ["photo.png", "large.png", "orientation_6.png"],
    "siglip_384": ["portrait.png", "photo.png", "large.png", "tall.png", "one.png"],
    "siglip_512_bilinear": ["photo.png", "large.png"],
    "llava_padded": ["photo.png", "tall.png", "wide.png", "large.png", "one.png"],
    "upright": ["portrait.png", "photo.png", "large.png"],
    "upright_bilinear": ["portrait.png"],
    "lanczos": ["portrait.png", "photo.png", "large.png", "tall.png"],
    "nearest": ["portrait.png", "photo.png", "large.png", "wide.png"],
    "box": ["portrait.png", "photo.png", "large.png", "one.png"],
    "hamming": ["portrait.png", "photo.png", "large.png", "wide.png"],
    "edges": ["portrait.png", "photo.png", "large.png", "even.png"],
    "shortest_only": ["photo.png", "large.png"],
    "small_crop_of_even": ["photo.png", "even.png", "large.png"],
    "crop_beyond": ["photo.png", "even.png"],
    "levels": ["portrait.png", "photo.png", "even.png"],
    "not_rescaled": ["photo.png"],
    "other_factor": ["photo.png"],
}  # fmt: skip
JPEG_CASES = {
    "clip_224": ["subsampled.jpg", "orientation_6.jpg"],
    "levels": ["subsampled.jpg", "cmyk.jpg", "grey.jpg"],
}  # fmt: skip


def record_processor(out: Path) -> None:
    exact, jpeg, deep = exact_files(), jpeg_files(), deep_grey()
    tensors = {f"file.{name}": np.frombuffer(data, np.uint8) for name, data in (exact | jpeg | deep).items()}
    levels = {}
    for name, file in (exact | deep).items():
        image = np.array(decoded(file))
        levels[name] = {"height": image.shape[0], "width": image.shape[1], "sha256": digest(image)}
    for name, file in jpeg.items():
        image = np.array(decoded(file))
        tensors[f"levels.{name}"] = image[:: row_step(image.shape[0])]
        levels[name] = {"height": image.shape[0], "width": image.shape[1]}
    for name, file in deep.items():
        tensors[f"levels.{name}"] = np.array(decoded(file))[:, :, 0]
        tensors[f"samples.{name}"] = np.array(Image.open(io.BytesIO(file))).astype(np.int32)
    cases = []
    for processor, names in CASES.items():
        for name in names:
            pixels = run(processor, decoded(exact[name]))
            flat = pixels.ravel()
            cases.append({
                "processor": processor, "file": name, "shape": list(pixels.shape), "sha256": digest(pixels),
                "sample": [float(value) for value in flat[:: max(1, flat.size // 5)]],
            })  # fmt: skip
    for processor, names in JPEG_CASES.items():
        for name in names:
            # Back to levels: what the numbers come from after resizing, and small.
            pixels = run(processor, decoded(jpeg[name]), do_rescale=False, do_normalize=False)
            tensors[f"resized.{processor}.{name}"] = pixels[:, 3::40].astype(np.uint8)
    about = {
        "versions": {"pillow": PIL.__version__, "transformers": transformers.__version__, "numpy": np.__version__},
        "processors": {name: json.loads(processor.to_json_string()) for name, processor in PROCESSORS.items()},
        "levels": levels,
        "cases": cases,
    }  # fmt: skip
    save_file(
        {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()},
        out / "processor.safetensors",
        metadata={"fixture": json.dumps(about)},
    )


def row_step(height: int) -> int:
    """Every how manieth row is stored."""
    return 1 if height < 25 else 4 if height < 100 else 10


def run(processor: str, image: Image.Image, **options) -> np.ndarray:
    pixels = PROCESSORS[processor](image, return_tensors="np", **options)["pixel_values"][0]
    return pixels if options else pixels.astype(np.float32)


if __name__ == "__main__":
    record_processor(Path(sys.argv[1]))
