//! Bytes to RGB levels, as Pillow's `ImageOps.exif_transpose(Image.open(…)).convert("RGB")` gives them.

use std::{
    io::Cursor,
    panic::{AssertUnwindSafe, catch_unwind},
};

use image::{
    DynamicImage, ImageBuffer, ImageDecoder, ImageFormat, ImageReader, Limits, Pixel, RgbImage,
    metadata::Orientation,
};

use super::error::ImageProblem;

/// Most pixels of an image, decoded, padded or resized. Pillow refuses from here on, too.
pub const MAX_PIXELS: u64 = 178_956_970;
/// Most memory that decoding one image may take.
const MAX_DECODED_BYTES: u64 = 1 << 30;

/// Decodes one image, the first frame of an animation: upright, without alpha, 8 bits per channel.
///
/// | what | becomes |
/// |---|---|
/// | 1, 2 and 4 bits, palettes | their levels in 0..=255 |
/// | greyscale | three equal channels |
/// | alpha, one transparent colour | dropped: the colour below it shows |
/// | 16 bits per channel | the upper byte |
/// | CMYK, YCCK | RGB by Pillow's formula; in JPEG the levels are inverted first, as all writers do |
/// | EXIF orientation, or that of XMP without one | applied |
///
/// # Errors
/// If it is damaged, cut short, of another format, made of floating-point samples, or has more than [`MAX_PIXELS`]: that is
/// found before memory is taken.
pub fn decode_rgb(bytes: &[u8]) -> Result<RgbImage, ImageProblem> {
    guarded(|| decode(bytes))
}

/// Decoders are code of others, fed with files of others: should one panic, that is this image's problem alone.
fn guarded<T>(decode: impl FnOnce() -> Result<T, ImageProblem>) -> Result<T, ImageProblem> {
    catch_unwind(AssertUnwindSafe(decode)).unwrap_or_else(|payload| {
        let text = payload.downcast_ref::<String>().cloned();
        let text = text.or_else(|| payload.downcast_ref::<&str>().map(|&text| text.to_owned()));
        Err(ImageProblem::Decoder(text.unwrap_or_default()))
    })
}

fn decode(bytes: &[u8]) -> Result<RgbImage, ImageProblem> {
    let mut limits = Limits::default();
    limits.max_alloc = Some(MAX_DECODED_BYTES);
    let mut reader = ImageReader::new(Cursor::new(bytes))
        .with_guessed_format()
        .map_err(image::ImageError::from)?;
    let format = reader.format();
    reader.limits(limits.clone());
    let mut decoder = reader.into_decoder()?;
    let (width, height) = decoder.dimensions();
    if u64::from(width) * u64::from(height) > MAX_PIXELS {
        return Err(ImageProblem::TooManyPixels { width, height });
    }
    limits.reserve(decoder.total_bytes())?;
    decoder.set_limits(limits)?;
    if let Some(format) = cut_short(format, bytes) {
        let length = bytes.len();
        return Err(ImageProblem::CutShort { format, length });
    }
    let orientation = orientation(&mut decoder)?;
    let levels = levels(DynamicImage::from_decoder(decoder)?)?;
    let mut image = DynamicImage::ImageRgb8(levels);
    image.apply_orientation(orientation);
    Ok(image.into_rgb8())
}

/// What Pillow's `getexif` finds: EXIF first, then XMP.
fn orientation(decoder: &mut impl ImageDecoder) -> Result<Orientation, image::ImageError> {
    let by_exif = decoder.orientation()?;
    let is_said = match decoder.exif_metadata()? {
        Some(exif) => Orientation::from_exif_chunk(&exif).is_some(),
        None => false,
    };
    if is_said || by_exif != Orientation::NoTransforms {
        return Ok(by_exif);
    }
    // Broken XMP is no reason to refuse an image.
    let xmp = decoder.xmp_metadata().ok().flatten();
    Ok(xmp
        .and_then(|xmp| xmp_orientation(&xmp))
        .unwrap_or(Orientation::NoTransforms))
}

/// Pillow's expression is `tiff:Orientation(="|>)([0-9])`.
fn xmp_orientation(xmp: &[u8]) -> Option<Orientation> {
    const KEY: &[u8] = b"tiff:Orientation";
    let mut rests = (0..xmp.len()).filter_map(|at| xmp[at..].strip_prefix(KEY));
    rests.find_map(|rest| {
        let value = rest.strip_prefix(b"=\"").or_else(|| rest.strip_prefix(b">"))?;
        let digit = value.first().filter(|digit| digit.is_ascii_digit())?;
        Orientation::from_exif(digit - b'0')
    })
}

/// Drops alpha and lower bytes, triples grey.
fn levels(image: DynamicImage) -> Result<RgbImage, ImageProblem> {
    let upper = |level: u16| (level >> 8) as u8;
    Ok(match image {
        DynamicImage::ImageRgb8(image) => image,
        DynamicImage::ImageLuma8(image) => map(&image, |[grey]| [*grey; 3]),
        DynamicImage::ImageLumaA8(image) => map(&image, |[grey, _]| [*grey; 3]),
        DynamicImage::ImageRgba8(image) => map(&image, |[red, green, blue, _]| [*red, *green, *blue]),
        DynamicImage::ImageLuma16(image) => map(&image, |[grey]| [upper(*grey); 3]),
        DynamicImage::ImageLumaA16(image) => map(&image, |[grey, _]| [upper(*grey); 3]),
        DynamicImage::ImageRgb16(image) => map(&image, |rgb: &[u16; 3]| rgb.map(upper)),
        DynamicImage::ImageRgba16(image) => {
            map(&image, |[red, green, blue, _]| [*red, *green, *blue].map(upper))
        }
        _ => {
            return Err(ImageProblem::Samples {
                samples: "floating-point numbers, whose range nothing says",
            });
        }
    })
}

fn map<P: Pixel, const N: usize>(
    image: &ImageBuffer<P, Vec<P::Subpixel>>,
    to_rgb: impl Fn(&[P::Subpixel; N]) -> [u8; 3],
) -> RgbImage {
    let samples = image.as_raw().as_chunks::<N>().0;
    let levels = samples.iter().flat_map(to_rgb).collect();
    RgbImage::from_raw(image.width(), image.height(), levels).unwrap_or_default()
}

/// Name of the format of a file that ends too early, as far as its decoder would not notice: that of JPEG fills what is
/// missing with grey, that of WebP does without the orientation.
fn cut_short(format: Option<ImageFormat>, bytes: &[u8]) -> Option<&'static str> {
    match format {
        Some(ImageFormat::Jpeg) if !jpeg_ends(bytes) => Some("JPEG"),
        Some(ImageFormat::WebP) if !riff_is_whole(bytes) => Some("WebP"),
        _ => None,
    }
}

/// Whether there are as many bytes as the header says.
fn riff_is_whole(bytes: &[u8]) -> bool {
    let (header, rest) = bytes.split_at(bytes.len().min(8));
    let length = header.last_chunk::<4>().map(|&length| u32::from_le_bytes(length));
    length.is_some_and(|length| length as usize <= rest.len())
}

/// Whether a JPEG has its end marker.
fn jpeg_ends(bytes: &[u8]) -> bool {
    const END: u8 = 0xd9;
    let mut rest = bytes.get(2..).unwrap_or_default();
    loop {
        // Between segments, and in the data after a scan's header: to the next marker. 0xff00 is a byte of data, and
        // 0xd0..=0xd7 are marks within the data.
        let Some(at) = rest
            .windows(2)
            .position(|pair| pair[0] == 0xff && is_marker(pair[1]))
        else {
            return false;
        };
        let marker = rest[at + 1];
        rest = &rest[at + 2..];
        if marker == END {
            return true;
        }
        let Some(length) = rest.first_chunk::<2>() else {
            return false;
        };
        // Of a scan only the header has a length; the data follows it.
        let length = usize::from(u16::from_be_bytes(*length));
        rest = rest.get(length..).unwrap_or_default();
    }
}

/// Not filler, not an escaped byte of data, and with a length or the end.
fn is_marker(byte: u8) -> bool {
    !matches!(byte, 0x00 | 0x01 | 0xd0..=0xd8 | 0xff)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decoder_that_panics_is_an_error() {
        for decode in [|| panic!("no such table"), || panic!("{} is not 3", 4)] {
            let error = guarded::<()>(decode).unwrap_err().to_string();
            assert!(error.contains("the decoder failed: "), "{error}");
            assert!(
                error.contains("no such table") || error.contains("4 is not 3"),
                "{error}"
            );
        }
    }

    #[test]
    fn xmp_says_the_orientation_in_two_ways() {
        let check = |xmp: &[u8], expected: Option<Orientation>| assert_eq!(xmp_orientation(xmp), expected);
        check(b"<a tiff:Orientation=\"6\"/>", Some(Orientation::Rotate90));
        check(
            b"<tiff:Orientation>3</tiff:Orientation>",
            Some(Orientation::Rotate180),
        );
        check(b"<tiff:Orientation>9</tiff:Orientation>", None);
        check(b"tiff:Orientation", None);
        check(b"", None);
    }

    #[test]
    fn the_end_of_a_jpeg_is_the_one_of_its_own() {
        let scan = [0xff, 0xda, 0, 3, 7];
        let jpeg = |segment: &[u8], data: &[u8]| [&[0xff, 0xd8], segment, &scan, data].concat();
        assert!(jpeg_ends(&jpeg(&[], &[1, 0xff, 0, 0xff, 0xd0, 0xff, 0xff, 0xd9])));
        assert!(jpeg_ends(&jpeg(&[], &[1, 0xff, 0xd9, 5, 5])));
        // A thumbnail's end within the application's segment.
        let thumbnail = [0xff, 0xe1, 0, 6, 0xff, 0xd9, 0xff, 0xd9];
        assert!(!jpeg_ends(&jpeg(&thumbnail, &[1, 2, 3])));
        assert!(!jpeg_ends(&jpeg(&[], &[1, 0xff])));
        assert!(!jpeg_ends(&[0xff, 0xd8, 0xff, 0xe1, 0xff]));
        assert!(!jpeg_ends(&[]));
    }
}
