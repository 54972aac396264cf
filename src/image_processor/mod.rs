//! From the bytes of an image file to the numbers a vision tower takes, as Hugging Face's image processors make them.
//!
//! The reference is Pillow 13 for all that is done in levels (`Image.open`, `ImageOps.exif_transpose`, `convert("RGB")`,
//! `resize`) and transformers 5.23 for the order of the steps and what follows, in its processors on NumPy and Pillow
//! (`CLIPImageProcessorPil`, `SiglipImageProcessorPil`, `LlavaImageProcessorPil`; the slow ones of 4.x):
//!
//! 1. decode, turn upright by EXIF, convert to RGB ([`decode`]);
//! 2. pad to a square with the mean colour, if [`ImageProcessor::pad_to_square`] (LLaVA's `do_pad`);
//! 3. resize in 8-bit levels, rounding after each of the two passes as Pillow does ([`resample`]);
//! 4. cut out the centre; an image that is too small is surrounded with zeros;
//! 5. rescale in f64, rounded once to f32; normalise in f32.
//!
//! # How close
//!
//! From the same levels the result is that of transformers, bit for bit: all steps but the decoder's are integer
//! arithmetic or IEEE operations in the same order. PNG, BMP, GIF, TIFF and WebP (the lossy one, too) decode to Pillow's
//! levels. Decoders of JPEG round differently, and ours is not libjpeg-turbo. Largest and mean difference of the levels:
//!
//! | JPEG | decoded | after resizing to 224 |
//! |---|---|---|
//! | grey; CMYK, YCCK | 1; 2 of 255, mean 0.01 | the same |
//! | 4:4:4 | 3, mean 0.01 | |
//! | 4:2:2 | 3, mean 0.18 | |
//! | 4:2:0 | 4, mean 0.38 | 3, mean 0.39 |
//!
//! The mean stays when the image is scaled down, because half of it is a bias: where colour is interpolated, two roundings
//! follow each other. Whoever wants Pillow's levels to the last takes PNG. `tests/numerics/images.rs` holds all of this.
//!
//! # Where it differs, knowingly
//!
//! * 16-bit greyscale (PNG, TIFF). Pillow's `convert("RGB")` clips the levels at 255, so that nearly all of a radiograph
//!   becomes white. Here the upper byte is kept, as Pillow itself does with every other 16-bit mode. An image that uses
//!   less than the 16 bits is dark then: bring it to 8 bits with the window that you want.
//! * Alpha is dropped, as `convert("RGB")` and thus transformers' `load_image` do it. A processor of transformers 5.23
//!   that is handed a `PIL.Image` with alpha blends it onto white instead.
//! * A GIF's first frame that does not cover its screen lies on black, not on the background colour.
//! * Not read: TIFF with a palette, in YCbCr, in floating point or grey with alpha. Orientation is taken from EXIF and XMP,
//!   not from the text chunks in which old versions of ImageMagick put EXIF into PNG.

mod decode;
mod error;
mod processor;
mod resample;
mod size;

pub use decode::{MAX_PIXELS, decode_rgb};
pub use error::ImageProblem;
pub use processor::{
    CLIP_MEAN, CLIP_STD, ImageProcessor, Normalize, Processed, Rescale, Resize, mean_colour,
};
pub use resample::Filter;
pub use size::{Size, TargetSize};
