//! From a file to the numbers a vision tower expects; how is the image processor's business.

use std::path::{Path, PathBuf};

use thiserror::Error;

use super::{batch::PixelImage, options::ImageOptions};
use crate::{
    fs,
    image_processor::{ImageProblem, Size},
};

pub(super) const MAX_FILE_BYTES: u64 = 1 << 29;

/// An image that cannot be used.
#[derive(Debug, Error)]
#[error("image {}: {problem}", path.display())]
pub struct ImageError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong.
    pub problem: ImageProblem,
}

/// Reads, decodes and processes one image.
///
/// # Errors
/// With the path: the file is missing, or as [`decode_image`].
pub fn load_image(path: &Path, options: &ImageOptions) -> Result<PixelImage, ImageError> {
    fs::read_at_most(path, MAX_FILE_BYTES)
        .map_err(ImageProblem::from)
        .and_then(|bytes| decode_image(&bytes, options))
        .map_err(|problem| ImageError {
            path: path.into(),
            problem,
        })
}

/// Decodes and processes one image; the first frame of an animation.
///
/// # Errors
/// If it is damaged, of an unknown format, or too large, or does not come out as the square that is expected.
pub fn decode_image(bytes: &[u8], options: &ImageOptions) -> Result<PixelImage, ImageProblem> {
    let image = options.processor.process(bytes)?;
    let Size { height, width } = image.size;
    if height != width || height as usize != options.image_size {
        return Err(ImageProblem::OtherSize {
            size: image.size,
            expected: options.image_size,
        });
    }
    Ok(PixelImage {
        pixels: image.pixels.into(),
        size: options.image_size,
    })
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use image::{DynamicImage, GrayImage, ImageBuffer, ImageFormat, Luma, Rgb, RgbImage, Rgba, RgbaImage};

    use super::*;

    /// Numbers from 0 to 1 of a square, as a new model has them.
    fn plain(image_size: usize) -> ImageOptions {
        let mut options = ImageOptions::clip(image_size, 1);
        options.processor.normalize = None;
        options
    }

    fn encode(image: impl Into<DynamicImage>, format: ImageFormat) -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        image.into().write_to(&mut bytes, format).unwrap();
        bytes.into_inner()
    }

    /// Bytes, since a scale of 1/255 and back is exact after rounding.
    fn decode(bytes: &[u8], options: &ImageOptions) -> Vec<u8> {
        let image = decode_image(bytes, options).unwrap();
        assert_eq!(image.pixels.len(), 3 * image.size * image.size);
        image
            .pixels
            .iter()
            .map(|value| (value * 255.0).round() as u8)
            .collect()
    }

    #[test]
    fn channels_come_first_and_are_normalised() {
        let image = RgbImage::from_fn(2, 2, |x, y| Rgb([x as u8, 10 + y as u8, 255]));
        let bytes = encode(image, ImageFormat::Png);
        assert_eq!(
            decode(&bytes, &plain(2)),
            [0, 1, 0, 1, 10, 10, 11, 11, 255, 255, 255, 255]
        );
        let clip = decode_image(&bytes, &ImageOptions::clip(2, 1)).unwrap();
        // (1 - 0.40821073) / 0.27577711
        assert!((clip.pixels[11] - 2.145_897).abs() < 1e-5, "{}", clip.pixels[11]);
        assert!((clip.pixels[0] + 1.792_263).abs() < 1e-5, "{}", clip.pixels[0]);
    }

    #[test]
    fn every_kind_of_pixel_becomes_rgb() {
        let check = |bytes: Vec<u8>, expected: [u8; 3]| {
            let decoded = decode(&bytes, &plain(2));
            assert_eq!([decoded[0], decoded[4], decoded[8]], expected);
        };
        check(
            encode(GrayImage::from_pixel(2, 2, Luma([7])), ImageFormat::Png),
            [7, 7, 7],
        );
        check(
            encode(RgbaImage::from_pixel(2, 2, Rgba([1, 2, 3, 0])), ImageFormat::Png),
            [1, 2, 3],
        );
        let deep: ImageBuffer<Luma<u16>, _> = ImageBuffer::from_pixel(2, 2, Luma([257 * 9]));
        check(encode(deep, ImageFormat::Png), [9, 9, 9]);
        let deep: ImageBuffer<Rgb<u16>, _> = ImageBuffer::from_pixel(2, 2, Rgb([257, 514, 65535]));
        check(encode(deep, ImageFormat::Tiff), [1, 2, 255]);
        for format in [ImageFormat::Bmp, ImageFormat::WebP, ImageFormat::Tiff] {
            check(
                encode(RgbImage::from_pixel(2, 2, Rgb([4, 5, 6])), format),
                [4, 5, 6],
            );
        }
        check(
            encode(
                RgbaImage::from_pixel(2, 2, Rgba([4, 5, 6, 255])),
                ImageFormat::Gif,
            ),
            [4, 5, 6],
        );
        check(
            encode(GrayImage::from_pixel(8, 8, Luma([128])), ImageFormat::Jpeg),
            [128, 128, 128],
        );
    }

    #[test]
    fn the_orientation_of_exif_is_applied() {
        use image::ImageEncoder;
        // One entry: tag 0x0112, a short, rotate by 90 degrees clockwise.
        let exif = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0";
        let mut bytes = Vec::new();
        let mut encoder = image::codecs::png::PngEncoder::new(&mut bytes);
        encoder.set_exif_metadata(exif.to_vec()).unwrap();
        encoder
            .write_image(&[1, 2, 3, 4], 2, 2, image::ExtendedColorType::L8)
            .unwrap();
        assert_eq!(decode(&bytes, &plain(2))[..4], [3, 1, 4, 2]);
    }

    #[test]
    fn the_middle_of_the_resized_image_is_kept() {
        // Nothing to resize: the crop alone.
        let wide = GrayImage::from_fn(7, 2, |x, _| Luma([x as u8]));
        assert_eq!(
            decode(&encode(wide, ImageFormat::Png), &plain(2))[..4],
            [2, 3, 2, 3]
        );
        // Twice as large: flat areas stay flat.
        let tall = GrayImage::from_fn(4, 12, |_, y| Luma([if (4..8).contains(&y) { 90 } else { 91 }]));
        let decoded = decode(&encode(tall, ImageFormat::Png), &plain(2));
        assert!(
            decoded.iter().all(|&value| value == 90 || value == 91),
            "{decoded:?}"
        );
    }

    /// Recorded from Pillow 13: `convert("L").resize(…, Image.BICUBIC)`, then the crop in the middle.
    #[test]
    fn resizing_agrees_with_pillow() {
        let check = |width, height, image_size, pillow: &[u8]| {
            let value = |x: u32, y: u32| (37 * x * x + 91 * y * y * x + 13 * y) as u8;
            let image = GrayImage::from_fn(width, height, |x, y| Luma([value(x, y)]));
            let decoded = decode(&encode(image, ImageFormat::Png), &plain(image_size));
            let close = decoded.iter().zip(pillow).all(|(got, pillow)| got == pillow);
            assert!(close, "{decoded:?}, Pillow has {pillow:?}");
        };
        check(9, 5, 3, &[109, 127, 95, 119, 113, 169, 55, 84, 120]);
        let enlarged = [
            1, 6, 27, 84, 142, 5, 18, 44, 90, 135, 15, 51, 89, 107, 116, 24, 83, 134, 124, 96, 28, 95, 151,
            130, 89,
        ];
        check(3, 2, 5, &enlarged);
    }

    #[test]
    fn unusable_images_are_refused() {
        let refuse = |bytes: &[u8], expected: &str| {
            let message = decode_image(bytes, &plain(2)).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        };
        refuse(b"", "cannot decode it");
        refuse(b"<html></html>", "png, jpeg, webp, gif, bmp and tiff are read");
        let png = encode(GrayImage::new(9, 9), ImageFormat::Png);
        refuse(&png[..png.len() / 2], "cannot decode it");
        // A header that claims 60000 x 60000 pixels: bytes 16 to 24, and the checksum after them.
        let mut bomb = png;
        bomb[16..24].copy_from_slice(&[0, 0, 0xea, 0x60, 0, 0, 0xea, 0x60]);
        let checksum = crc32(&bomb[12..29]);
        bomb[29..33].copy_from_slice(&checksum.to_be_bytes());
        refuse(&bomb, "60000 x 60000 pixels, more than 178956970");
        let narrow = encode(GrayImage::new(1, 50), ImageFormat::Png);
        let message = decode_image(&narrow, &plain(2000)).unwrap_err().to_string();
        assert!(
            message.contains("1 x 50 pixels: with its short side at 2000"),
            "{message}"
        );
    }

    fn crc32(bytes: &[u8]) -> u32 {
        !bytes.iter().fold(!0, |crc, &byte| {
            (0..8).fold(crc ^ u32::from(byte), |crc, _| {
                (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg())
            })
        })
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = load_image(Path::new("/nowhere/a.png"), &plain(2)).unwrap_err();
        assert!(error.to_string().contains("/nowhere/a.png"), "{error}");
    }
}
