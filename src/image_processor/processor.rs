//! What is done to an image after decoding, in which order.

use image::{Rgb, RgbImage};

use super::{
    decode::{MAX_PIXELS, decode_rgb},
    error::ImageProblem,
    resample::{Filter, Window, resize},
    size::{Centre, Size, TargetSize, too_narrow},
};

/// Mean of CLIP's training images, per channel, of values in 0..1.
pub const CLIP_MEAN: [f64; 3] = [0.48145466, 0.4578275, 0.40821073];
/// Standard deviation of CLIP's training images, per channel, of values in 0..1.
pub const CLIP_STD: [f64; 3] = [0.26862954, 0.26130258, 0.27577711];

/// What a `preprocessor_config.json` says. A step that is `None` is not taken.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ImageProcessor {
    /// The colour with which the shorter side is first padded to the longer one, the image in the middle: `do_pad` of
    /// `LlavaImageProcessor`, which takes [`mean_colour`].
    pub pad_to_square: Option<[u8; 3]>,
    /// `do_resize`, with `size` and `resample`.
    pub resize: Option<Resize>,
    /// `do_center_crop`, with `crop_size`.
    pub center_crop: Option<Size>,
    /// `do_rescale`.
    pub rescale: Option<Rescale>,
    /// `do_normalize`.
    pub normalize: Option<Normalize>,
}

/// How large an image becomes, and how what lies between its pixels is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resize {
    /// `size`.
    pub size: TargetSize,
    /// `resample`.
    pub filter: Filter,
}

/// Levels, 0 to 255, to numbers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Rescale {
    /// `rescale_factor`: multiplied in f64 and rounded to f32, as transformers does on NumPy.
    Factor(f64),
    /// Multiplied by 1/255 in f32. For about half of the levels the last bit is another than that of `Factor(1.0 / 255.0)`.
    /// Models whose folder names no processor, and those that are trained from nothing, have always had their numbers so.
    SinglePrecision,
}

impl Rescale {
    /// The number as which `rescale_factor` is written.
    pub fn factor(self) -> f64 {
        match self {
            Self::Factor(factor) => factor,
            Self::SinglePrecision => 1.0 / 255.0,
        }
    }

    fn apply(self, level: u8) -> f32 {
        match self {
            Self::Factor(factor) => (f64::from(level) * factor) as f32,
            Self::SinglePrecision => f32::from(level) * (1.0 / 255.0),
        }
    }
}

/// Per channel, `(value - mean) / std` in f32.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Normalize {
    /// `image_mean`.
    pub mean: [f64; 3],
    /// `image_std`.
    pub std: [f64; 3],
}

/// An image as numbers.
#[derive(Debug, Clone, PartialEq)]
pub struct Processed {
    /// `[3, height, width]`: red, green, blue.
    pub pixels: Vec<f32>,
    /// Rows and columns.
    pub size: Size,
}

impl ImageProcessor {
    /// `CLIPImageProcessor` of a tower that sees squares of `side` pixels: shortest side to that length, bicubic, cut to the
    /// centre, CLIP's mean and standard deviation.
    pub const fn clip(side: u32) -> Self {
        Self {
            pad_to_square: None,
            resize: Some(Resize {
                size: TargetSize::ShortestEdge(side),
                filter: Filter::Bicubic,
            }),
            center_crop: Some(Size::square(side)),
            rescale: Some(Rescale::Factor(1.0 / 255.0)),
            normalize: Some(Normalize {
                mean: CLIP_MEAN,
                std: CLIP_STD,
            }),
        }
    }

    /// `SiglipImageProcessor` of a tower that sees squares of `side` pixels: squeezed to that, bicubic, to -1..1.
    pub const fn siglip(side: u32) -> Self {
        Self {
            resize: Some(Resize {
                size: TargetSize::Exact(Size::square(side)),
                filter: Filter::Bicubic,
            }),
            center_crop: None,
            normalize: Some(Normalize {
                mean: [0.5; 3],
                std: [0.5; 3],
            }),
            ..Self::clip(side)
        }
    }

    /// Size that every image gets; `None` if that depends on the image.
    pub fn output_size(&self) -> Option<Size> {
        match (self.center_crop, self.resize.map(|resize| resize.size)) {
            (Some(size), _) | (None, Some(TargetSize::Exact(size))) => Some(size),
            (None, Some(TargetSize::ShortestEdge(side))) if self.pad_to_square.is_some() => {
                Some(Size::square(side))
            }
            (None, Some(TargetSize::Edges { shortest, longest })) if self.pad_to_square.is_some() => {
                Some(Size::square(shortest.min(longest)))
            }
            _ => None,
        }
    }

    /// Decodes an image file's bytes and processes the image.
    ///
    /// # Errors
    /// As [`decode_rgb`] and [`ImageProcessor::apply`].
    pub fn process(&self, bytes: &[u8]) -> Result<Processed, ImageProblem> {
        self.apply(decode_rgb(bytes)?)
    }

    /// Processes a decoded image.
    ///
    /// # Errors
    /// If padding or resizing would make more than [`MAX_PIXELS`] of it, or nothing.
    pub fn apply(&self, image: RgbImage) -> Result<Processed, ImageProblem> {
        let image = match self.pad_to_square {
            Some(colour) => padded(image, colour)?,
            None => image,
        };
        let from = Size {
            height: image.height(),
            width: image.width(),
        };
        let (resized, filter) = match self.resize {
            Some(Resize { size, filter }) => (size.of(from)?, filter),
            None => (from, Filter::Box),
        };
        let size = self.center_crop.unwrap_or(resized);
        let down = Centre::of(resized.height, size.height);
        let across = Centre::of(resized.width, size.width);
        let window = Window {
            columns: across.from..across.from + across.length,
            rows: down.from..down.from + down.length,
        };
        // Only what the crop leaves is ever computed.
        let levels = match resized == from && size == from {
            true => image.into_raw(),
            false => resize(&image, resized, filter, &window),
        };
        Ok(self.numbers(&levels, size, across, down))
    }

    /// `[rows, columns, 3]` levels to `[3, height, width]` numbers, zeros around them before they are normalised.
    fn numbers(&self, levels: &[u8], size: Size, across: Centre, down: Centre) -> Processed {
        let (height, width) = (size.height as usize, size.width as usize);
        let mut pixels = Vec::with_capacity(3 * height * width);
        for channel in 0..3 {
            // A channel has 256 values: the arithmetic is done once for each.
            let table = self.table(channel);
            let start = pixels.len();
            pixels.resize(start + height * width, table[0]);
            let rows = levels.chunks_exact(3 * across.length as usize);
            let out = pixels[start..].chunks_exact_mut(width).skip(down.before as usize);
            for (row, out) in rows.zip(out) {
                let out = &mut out[across.before as usize..][..across.length as usize];
                for (value, levels) in out.iter_mut().zip(row.as_chunks::<3>().0) {
                    *value = table[usize::from(levels[channel])];
                }
            }
        }
        Processed { pixels, size }
    }

    fn table(&self, channel: usize) -> [f32; 256] {
        std::array::from_fn(|level| {
            let level = level as u8;
            let value = match self.rescale {
                Some(rescale) => rescale.apply(level),
                None => f32::from(level),
            };
            match &self.normalize {
                Some(Normalize { mean, std }) => (value - mean[channel] as f32) / std[channel] as f32,
                None => value,
            }
        })
    }
}

/// The levels that are nearest to zero once they are normalised, as `LlavaImageProcessor` cuts them to whole numbers.
pub fn mean_colour(mean: [f64; 3]) -> [u8; 3] {
    mean.map(|mean| (mean * 255.0) as u8)
}

/// In the middle of a square.
fn padded(image: RgbImage, colour: [u8; 3]) -> Result<RgbImage, ImageProblem> {
    let (width, height) = image.dimensions();
    let side = width.max(height);
    if width == height {
        return Ok(image);
    }
    if u64::from(side) * u64::from(side) > MAX_PIXELS {
        let what = "its sides padded to a square".to_owned();
        return Err(too_narrow(Size { height, width }, what, side.into(), side.into()));
    }
    let mut square = RgbImage::from_pixel(side, side, Rgb(colour));
    let (left, top) = ((side - width) / 2, (side - height) / 2);
    image::imageops::replace(&mut square, &image, left.into(), top.into());
    Ok(square)
}
