//! Pillow's `Image.resize` for 8-bit RGB: the same filters, the same fixed-point arithmetic, the same levels.
//!
//! Each axis is a pass of its own, most often columns first. A pixel is the weighted sum of those within the filter's reach; when
//! scaling down, the filter is stretched by the factor, so that every pixel counts. Weights are computed in f64, divided by
//! their sum, and rounded to 22 binary places: with 8 bits of the level, a sign and one bit for overshoot, a sum fits 32
//! bits. It starts at one half, is shifted down and clipped, and the result of the first pass is again 8 bits.
//! <https://github.com/python-pillow/Pillow/blob/13.0.0/src/libImaging/Resample.c> is the reference.

use std::{borrow::Cow, f64::consts::PI, ops::Range};

use image::RgbImage;

use super::size::Size;

/// Binary places of a weight.
const PRECISION_BITS: u32 = 32 - 8 - 2;

/// Pillow's filters; in files they are numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filter {
    /// 0: the nearest pixel; scaling down skips pixels.
    Nearest,
    /// 1: sinc, windowed to three pixels on each side.
    Lanczos,
    /// 2: linear between neighbours.
    Bilinear,
    /// 3: cubic with a = -0.5.
    Bicubic,
    /// 4: the mean of an area.
    Box,
    /// 5: sinc, windowed to one pixel on each side.
    Hamming,
}

impl Filter {
    /// In the order of Pillow's numbers.
    pub const ALL: [Self; 6] = [
        Self::Nearest,
        Self::Lanczos,
        Self::Bilinear,
        Self::Bicubic,
        Self::Box,
        Self::Hamming,
    ];

    /// How far from its centre the filter reaches, in pixels.
    fn support(self) -> f64 {
        match self {
            Self::Nearest => 0.0,
            Self::Box => 0.5,
            Self::Bilinear | Self::Hamming => 1.0,
            Self::Bicubic => 2.0,
            Self::Lanczos => 3.0,
        }
    }

    fn weight(self, x: f64) -> f64 {
        let distance = x.abs();
        match self {
            Self::Nearest => 0.0,
            // Half open: a pixel on the border of two areas belongs to one.
            Self::Box => f64::from(u8::from(x > -0.5 && x <= 0.5)),
            Self::Bilinear => (1.0 - distance).max(0.0),
            Self::Bicubic => cubic(distance),
            Self::Hamming => match distance {
                0.0 => 1.0,
                1.0.. => 0.0,
                _ => {
                    let x = distance * PI;
                    x.sin() / x * (0.54 + 0.46 * x.cos())
                }
            },
            Self::Lanczos if (-3.0..3.0).contains(&x) => sinc(x) * sinc(x / 3.0),
            Self::Lanczos => 0.0,
        }
    }
}

fn cubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    match x {
        ..1.0 => ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0,
        ..2.0 => (((x - 5.0) * x + 8.0) * x - 4.0) * A,
        _ => 0.0,
    }
}

fn sinc(x: f64) -> f64 {
    if x == 0.0 {
        return 1.0;
    }
    let x = x * PI;
    x.sin() / x
}

/// A part of an image: the columns and rows that somebody wants to see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Window {
    pub(super) columns: Range<u32>,
    pub(super) rows: Range<u32>,
}

/// The window of what `image` would be at `size`, as `[rows, columns, 3]` levels. What lies outside of the window is not
/// computed, and what lies inside does not depend on it.
pub(super) fn resize(image: &RgbImage, size: Size, filter: Filter, window: &Window) -> Vec<u8> {
    let Window { columns, rows } = window;
    let (width, height) = image.dimensions();
    if filter == Filter::Nearest {
        let columns = nearest(width, size.width, columns);
        return pick(image, &columns, &nearest(height, size.height, rows));
    }
    // An axis whose length stays is left as it is.
    let mut across = (width != size.width).then(|| Axis::new(width, size.width, filter, columns));
    let mut down = (height != size.height).then(|| Axis::new(height, size.height, filter, rows));
    let columns = across.as_mut().map_or(columns.clone(), Axis::start_at_reach);
    let rows = down.as_mut().map_or(rows.clone(), Axis::start_at_reach);
    let source = cut(image, &columns, &rows);
    match (&across, &down) {
        (Some(across), Some(down)) if rows_come_first(image, size) => {
            mix_columns(&mix_rows(&source, columns.len(), down), columns.len(), across)
        }
        (Some(across), Some(down)) => {
            mix_rows(&mix_columns(&source, columns.len(), across), across.len(), down)
        }
        (Some(across), None) => mix_columns(&source, columns.len(), across),
        (None, Some(down)) => mix_rows(&source, columns.len(), down),
        (None, None) => source.into_owned(),
    }
}

/// Which pass is first shows, because levels are rounded between the two. Pillow 13 mixes rows first where the image loses
/// more than twice as many rows as columns; the versions before it never do. The rule was found by asking: it tells the
/// order of 2400 random sizes of both kinds.
fn rows_come_first(image: &RgbImage, size: Size) -> bool {
    let rows = i64::from(image.height()) - i64::from(size.height);
    let columns = i64::from(image.width()) - i64::from(size.width);
    rows > 0 && rows > 2 * columns
}

/// A window of an image.
fn cut<'a>(image: &'a RgbImage, columns: &Range<u32>, rows: &Range<u32>) -> Cow<'a, [u8]> {
    let stride = 3 * image.width() as usize;
    let levels = &image.as_raw()[stride * rows.start as usize..stride * rows.end as usize];
    if columns.len() == image.width() as usize {
        return Cow::Borrowed(levels);
    }
    let wanted = 3 * columns.start as usize..3 * columns.end as usize;
    Cow::Owned(
        levels
            .chunks_exact(stride)
            .flat_map(|row| &row[wanted.clone()])
            .copied()
            .collect(),
    )
}

/// Source of each pixel of the window. Pillow adds up the step rather than multiplying it, and so does this.
fn nearest(from: u32, to: u32, window: &Range<u32>) -> Vec<usize> {
    let step = f64::from(from) / f64::from(to);
    let positions = std::iter::successors(Some(step * 0.5), |position| Some(position + step));
    positions
        .map(|position| (position as usize).min(from as usize - 1))
        .take(window.end as usize)
        .skip(window.start as usize)
        .collect()
}

fn pick(image: &RgbImage, columns: &[usize], rows: &[usize]) -> Vec<u8> {
    let stride = 3 * image.width() as usize;
    let mut levels = Vec::with_capacity(3 * columns.len() * rows.len());
    for row in rows {
        let row = &image.as_raw()[stride * row..stride * (row + 1)];
        for column in columns {
            levels.extend_from_slice(&row[3 * column..3 * column + 3]);
        }
    }
    levels
}

/// For each pixel of one axis, the first pixel of the source that counts, and the weights from there on.
struct Axis {
    firsts: Vec<usize>,
    /// `ends[i - 1]..ends[i]` are the weights of pixel i.
    ends: Vec<usize>,
    weights: Vec<i32>,
}

impl Axis {
    fn new(from: u32, to: u32, filter: Filter, window: &Range<u32>) -> Self {
        let scale = f64::from(from) / f64::from(to);
        let stretch = scale.max(1.0);
        let support = filter.support() * stretch;
        let mut axis = Self {
            firsts: Vec::with_capacity(window.len()),
            ends: Vec::with_capacity(window.len()),
            weights: Vec::new(),
        };
        let mut exact = Vec::new();
        for pixel in window.clone() {
            let centre = (f64::from(pixel) + 0.5) * scale;
            // A cast cuts off the fraction, below zero too, where it then saturates.
            let first = (centre - support + 0.5) as u32;
            let end = ((centre + support + 0.5) as u32).min(from);
            exact.clear();
            exact.extend(
                (first..end)
                    .map(|source| filter.weight((f64::from(source) - centre + 0.5) * (1.0 / stretch))),
            );
            let sum: f64 = exact.iter().sum();
            let divisor = if sum == 0.0 { 1.0 } else { sum };
            axis.firsts.push(first as usize);
            axis.weights
                .extend(exact.iter().map(|weight| fixed(weight / divisor)));
            axis.ends.push(axis.weights.len());
        }
        axis
    }

    fn pixels(&self) -> impl Iterator<Item = (usize, &[i32])> {
        let starts = std::iter::once(&0).chain(&self.ends);
        let spans = starts.zip(&self.ends);
        self.firsts
            .iter()
            .zip(spans)
            .map(|(first, (start, end))| (*first, &self.weights[*start..*end]))
    }

    fn len(&self) -> usize {
        self.firsts.len()
    }

    /// Everything in the source that counts. From now on, the source is taken to begin there.
    fn start_at_reach(&mut self) -> Range<u32> {
        let ends = self.pixels().map(|(first, weights)| first + weights.len());
        let end = ends.max().unwrap_or(0);
        let start = self.firsts.iter().min().copied().unwrap_or(0);
        for first in &mut self.firsts {
            *first -= start;
        }
        start as u32..end as u32
    }
}

/// Half away from zero, as a cast of C does after adding a half of the same sign.
fn fixed(weight: f64) -> i32 {
    let scaled = weight * f64::from(1 << PRECISION_BITS);
    (scaled + if weight < 0.0 { -0.5 } else { 0.5 }) as i32
}

/// What sums start with, so that cutting them off rounds them.
const HALF: i32 = 1 << (PRECISION_BITS - 1);

#[inline(always)]
fn level(sum: i32) -> u8 {
    (sum >> PRECISION_BITS).clamp(0, 255) as u8
}

/// Columns are mixed, rows stay. `width` are the columns of the source.
fn mix_columns(source: &[u8], width: usize, axis: &Axis) -> Vec<u8> {
    accelerated(Across { source, width, axis })
}

/// Rows are mixed, columns stay. `width` are the columns of the source.
fn mix_rows(source: &[u8], width: usize, axis: &Axis) -> Vec<u8> {
    accelerated(Down { source, width, axis })
}

/// One of the two passes, from levels to levels.
trait Pass {
    /// Always inlined, so that it is compiled for whatever its caller is compiled for.
    fn run(self) -> Vec<u8>;
}

struct Across<'a> {
    source: &'a [u8],
    width: usize,
    axis: &'a Axis,
}

impl Pass for Across<'_> {
    #[inline(always)]
    fn run(self) -> Vec<u8> {
        let Across { source, width, axis } = self;
        let mut levels = vec![0; source.len() / width * axis.len()];
        // Four lanes for three channels: a pixel is then one load.
        let mut pixels = vec![[0_u8; 4]; width];
        let rows = source.chunks_exact(3 * width);
        for (row, out) in rows.zip(levels.chunks_exact_mut(3 * axis.len())) {
            for (pixel, levels) in pixels.iter_mut().zip(row.as_chunks::<3>().0) {
                *pixel = [levels[0], levels[1], levels[2], 0];
            }
            for ((first, weights), out) in axis.pixels().zip(out.as_chunks_mut::<3>().0) {
                let mut sums = [HALF; 4];
                for (pixel, weight) in pixels[first..].iter().zip(weights) {
                    for (sum, level) in sums.iter_mut().zip(pixel) {
                        *sum += i32::from(*level) * weight;
                    }
                }
                *out = [level(sums[0]), level(sums[1]), level(sums[2])];
            }
        }
        levels
    }
}

struct Down<'a> {
    source: &'a [u8],
    width: usize,
    axis: &'a Axis,
}

impl Pass for Down<'_> {
    #[inline(always)]
    fn run(self) -> Vec<u8> {
        let Down { source, width, axis } = self;
        let mut levels = vec![0; 3 * width * axis.len()];
        let mut sums = vec![HALF; 3 * width];
        for ((first, weights), out) in axis.pixels().zip(levels.chunks_exact_mut(3 * width)) {
            sums.fill(HALF);
            let rows = source[3 * width * first..].chunks_exact(3 * width);
            for (row, weight) in rows.zip(weights) {
                for (sum, level) in sums.iter_mut().zip(row) {
                    *sum += i32::from(*level) * weight;
                }
            }
            for (out, sum) in out.iter_mut().zip(&sums) {
                *out = level(*sum);
            }
        }
        levels
    }
}

/// Runs it with wider registers where the processor has them. Integers stay the same.
fn accelerated(pass: impl Pass) -> Vec<u8> {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        #[expect(unsafe_code, reason = "the processor has what the function is compiled for")]
        // SAFETY: AVX2 has been found on the line above.
        return unsafe { with_avx2(pass) };
    }
    pass.run()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn with_avx2(pass: impl Pass) -> Vec<u8> {
    pass.run()
}
