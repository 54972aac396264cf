//! What can be wrong with an image.

use thiserror::Error;

use super::{decode::MAX_PIXELS, size::Size};
use crate::fs::FsError;

/// What can be wrong with an image.
#[derive(Debug, Error)]
pub enum ImageProblem {
    /// The file could not be read.
    #[error(transparent)]
    Fs(#[from] FsError),
    /// Not an image of a known format, or a damaged one.
    #[error(
        "cannot decode it: {0}\n  hint: png, jpeg, webp, gif, bmp and tiff are read; of tiff \
         grey, RGB, RGBA and CMYK with 8 or 16 bits, and black and white"
    )]
    Decode(#[from] image::ImageError),
    /// Data that ends too early. Some decoders would fill the rest with grey.
    #[error(
        "cannot decode it: the {format} data is cut short after {length} bytes\n  hint: copy the file again"
    )]
    CutShort {
        /// Name of the format.
        format: &'static str,
        /// Bytes there are.
        length: usize,
    },
    /// Samples that are no levels.
    #[error("cannot decode it: its samples are {samples}\n  hint: save it with 8 bits per channel")]
    Samples {
        /// What they are.
        samples: &'static str,
    },
    /// A mistake in a decoder, not in the caller.
    #[error("cannot decode it: the decoder failed: {0}\n  hint: the file is damaged; save it again as png")]
    Decoder(String),
    /// So many pixels that it is refused before it is decoded: a small file can claim any size.
    #[error("{width} x {height} pixels, more than {MAX_PIXELS}\n  hint: scale it down")]
    TooManyPixels {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
    },
    /// So long and narrow that it would become huge, or vanish.
    #[error(
        "{width} x {height} pixels: with {what} it would have {resized_width} x {resized_height}, and 1 to \
         {MAX_PIXELS} are allowed\n  hint: crop it"
    )]
    TooNarrow {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
        /// What is done to it: `its short side at 336`.
        what: String,
        /// Width it would get.
        resized_width: u64,
        /// Height it would get.
        resized_height: u64,
    },
    /// The processor leaves images as large as they come.
    #[error(
        "{size} pixels after processing, and the vision tower takes {expected} x {expected}\n  hint: give the image processor a \
         crop_size, or a size with height and width"
    )]
    OtherSize {
        /// What came out.
        size: Size,
        /// Side of the square that was expected.
        expected: usize,
    },
}
