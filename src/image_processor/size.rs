//! How large an image becomes.

use std::fmt;

use super::{decode::MAX_PIXELS, error::ImageProblem};

/// Height and width in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Rows.
    pub height: u32,
    /// Columns.
    pub width: u32,
}

impl Size {
    /// As high as wide.
    pub const fn square(side: u32) -> Self {
        Self {
            height: side,
            width: side,
        }
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} x {}", self.width, self.height)
    }
}

/// The keys of `size` in a `preprocessor_config.json`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TargetSize {
    /// `height` and `width`: exactly so, whatever the image's shape.
    Exact(Size),
    /// `shortest_edge`: the shorter side gets this length, the other one follows.
    ShortestEdge(u32),
    /// `shortest_edge` and `longest_edge`: as above, but smaller where the longer side would exceed its limit.
    Edges {
        /// Length of the shorter side.
        shortest: u32,
        /// Limit of the longer side.
        longest: u32,
    },
}

impl TargetSize {
    /// Size that an image of size `from` gets.
    ///
    /// # Errors
    /// If it would have no pixel, or more than [`MAX_PIXELS`].
    pub(super) fn of(self, from: Size) -> Result<Size, ImageProblem> {
        let (short, long) = (from.height.min(from.width), from.height.max(from.width));
        let (new_short, new_long) = match self {
            Self::Exact(size) => return checked(from, self, size.width.into(), size.height.into()),
            Self::ShortestEdge(edge) => follow(edge, short, long),
            Self::Edges { shortest, longest } => within(shortest, longest, short, long),
        };
        let (width, height) = match from.width <= from.height {
            true => (new_short, new_long),
            false => (new_long, new_short),
        };
        checked(from, self, width, height)
    }
}

/// transformers' `get_resize_output_image_size`: the longer side is cut to a whole number, not rounded.
fn follow(edge: u32, short: u32, long: u32) -> (u64, u64) {
    (edge.into(), u64::from(edge) * u64::from(long) / u64::from(short))
}

/// transformers' `get_size_with_aspect_ratio`, in f64 as there.
fn within(shortest: u32, longest: u32, short: u32, long: u32) -> (u64, u64) {
    let [edge, limit, min, max] = [shortest, longest, short, long].map(f64::from);
    if max / min * edge <= limit {
        return follow(shortest, short, long);
    }
    let raw = limit * min / max;
    let edge = raw.round_ties_even() as u64;
    if u64::from(short) == edge {
        return (short.into(), long.into());
    }
    (edge, (raw * max / min) as u64)
}

fn checked(from: Size, target: TargetSize, width: u64, height: u64) -> Result<Size, ImageProblem> {
    let fits = width > 0 && height > 0 && width.saturating_mul(height) <= MAX_PIXELS;
    match (u32::try_from(width), u32::try_from(height)) {
        (Ok(width), Ok(height)) if fits => Ok(Size { height, width }),
        _ => Err(too_narrow(from, target.to_string(), width, height)),
    }
}

/// The error of an image that would get so large.
pub(super) fn too_narrow(from: Size, what: String, resized_width: u64, resized_height: u64) -> ImageProblem {
    ImageProblem::TooNarrow {
        width: from.width,
        height: from.height,
        what,
        resized_width,
        resized_height,
    }
}

impl fmt::Display for TargetSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(size) => write!(f, "its size at {size}"),
            Self::ShortestEdge(edge) => write!(f, "its short side at {edge}"),
            Self::Edges { shortest, longest } => {
                write!(
                    f,
                    "its short side at {shortest} and its long side within {longest}"
                )
            }
        }
    }
}

/// Where the centre of one axis is taken from and put, as transformers' `center_crop` does: of an odd difference the
/// larger half lies behind what is kept, and before what is padded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Centre {
    /// First pixel that is kept.
    pub(super) from: u32,
    /// Pixels that are kept.
    pub(super) length: u32,
    /// Pixels of padding before them.
    pub(super) before: u32,
}

impl Centre {
    pub(super) fn of(length: u32, cropped: u32) -> Self {
        Self {
            from: length.saturating_sub(cropped) / 2,
            length: length.min(cropped),
            before: cropped.saturating_sub(length).div_ceil(2),
        }
    }
}
