//! From a scene to the bytes of a PNG file. Only additions, multiplications and comparisons of `f32`, which every
//! machine rounds alike: the same scene gives the same bytes everywhere.

use image::{
    ExtendedColorType, ImageEncoder, ImageError,
    codecs::png::{CompressionType, FilterType, PngEncoder},
};

use super::scene::{Dice, GRID_SIDE, Object, Scene, Shape, Size};

/// Samples on each side of a pixel, for smooth edges.
const SAMPLES: usize = 4;
/// Half the extent of an object, in cells.
const LARGE_RADIUS: f32 = 0.45;
const SMALL_RADIUS: f32 = 0.28;

/// An object in pixels, after jitter.
struct Figure {
    shape: Shape,
    centre: [f32; 2],
    radius: f32,
    rgb: [f32; 3],
}

/// Draws a scene on a dark ground. Place, extent and tint of every object vary a little within what its words allow.
///
/// Every colour is lighter than the ground in some channel and darker in none, so a shape has the same outline in all
/// colours; on grey, outlines learnt in one colour would say little about another.
pub(super) fn draw_png(scene: &Scene, image_size: usize, dice: &mut Dice) -> Result<Vec<u8>, ImageError> {
    let grey = 20.0 + 10.0 * dice.jitter();
    let ground = [0.0, 2.0, 6.0].map(|blueish| grey + blueish + 4.0 * dice.jitter());
    let mut pixels: Vec<f32> = ground
        .iter()
        .copied()
        .cycle()
        .take(image_size * image_size * 3)
        .collect();
    for &object in &scene.objects {
        paint(&mut pixels, image_size, &place(object, image_size, dice));
    }
    let bytes: Vec<u8> = pixels
        .iter()
        .map(|value| (value + 0.5).clamp(0.0, 255.0) as u8)
        .collect();
    let mut png = Vec::new();
    let side = image_size as u32;
    PngEncoder::new_with_quality(&mut png, CompressionType::Fast, FilterType::Adaptive).write_image(
        &bytes,
        side,
        side,
        ExtendedColorType::Rgb8,
    )?;
    Ok(png)
}

fn place(object: Object, image_size: usize, dice: &mut Dice) -> Figure {
    let cell_side = image_size as f32 / GRID_SIDE as f32;
    let radius = match object.size {
        Size::Large => LARGE_RADIUS,
        Size::Small => SMALL_RADIUS,
    } * (1.0 + 0.05 * dice.jitter())
        * cell_side;
    let slack = (0.5 * cell_side - radius).min(0.08 * cell_side);
    let middle = |index: usize| (index as f32 + 0.5) * cell_side;
    let centre = [
        middle(object.cell.column()) + slack * dice.jitter(),
        middle(object.cell.row()) + slack * dice.jitter(),
    ];
    let rgb = object.colour.rgb().map(|channel| channel + 12.0 * dice.jitter());
    Figure {
        shape: object.shape,
        centre,
        radius,
        rgb,
    }
}

fn paint(pixels: &mut [f32], image_size: usize, figure: &Figure) {
    let first = |centre: f32| (centre - figure.radius).max(0.0) as usize;
    let last = |centre: f32| ((centre + figure.radius) as usize + 1).min(image_size);
    let [cx, cy] = figure.centre;
    for y in first(cy)..last(cy) {
        for x in first(cx)..last(cx) {
            let coverage = coverage(figure, x, y);
            let at = (y * image_size + x) * 3;
            for (pixel, colour) in pixels[at..at + 3].iter_mut().zip(figure.rgb) {
                *pixel += coverage * (colour - *pixel);
            }
        }
    }
}

/// Part of a pixel that lies inside the figure, in `0.0..=1.0`.
fn coverage(figure: &Figure, x: usize, y: usize) -> f32 {
    let offset = |pixel: usize, sample: usize| pixel as f32 + (sample as f32 + 0.5) / SAMPLES as f32;
    let inside = (0..SAMPLES * SAMPLES)
        .filter(|sample| {
            let dx = (offset(x, sample % SAMPLES) - figure.centre[0]) / figure.radius;
            let dy = (offset(y, sample / SAMPLES) - figure.centre[1]) / figure.radius;
            is_inside(figure.shape, dx, dy)
        })
        .count();
    inside as f32 / (SAMPLES * SAMPLES) as f32
}

/// Whether a point lies in a shape of radius 1 around the origin; y grows downwards.
fn is_inside(shape: Shape, x: f32, y: f32) -> bool {
    let squared = x * x + y * y;
    match shape {
        Shape::Circle => squared <= 1.0,
        Shape::Ring => (0.3..=1.0).contains(&squared),
        Shape::Square => x.abs() <= 0.88 && y.abs() <= 0.88,
        // Apex up, base below: half as wide as it is far from the apex.
        Shape::Triangle => y <= 0.9 && 2.0 * x.abs() <= (y + 1.0) * 1.05,
        Shape::Cross => x.abs().min(y.abs()) <= 0.32 && x.abs().max(y.abs()) <= 0.98,
    }
}
