//! Images inside text: `data:` URIs.

use std::{io, path::Path};

use crate::fs::{self, FsError};

/// A larger image has no place inside a report.
const MAX_IMAGE_BYTES: u64 = 8 << 20;
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// The file as a `data:` URI, its kind known by its first bytes.
pub(super) fn data_uri(path: &Path) -> Result<String, FsError> {
    let bytes = fs::read_at_most(path, MAX_IMAGE_BYTES)?;
    let kind = media_type(&bytes).ok_or_else(|| {
        let source = io::Error::other("not a PNG, JPEG, GIF, WebP or BMP image");
        FsError {
            operation: "show",
            path: path.into(),
            source,
        }
    })?;
    Ok(format!("data:{kind};base64,{}", base64(&bytes)))
}

/// Kinds that browsers show.
fn media_type(bytes: &[u8]) -> Option<&'static str> {
    match bytes {
        [0x89, b'P', b'N', b'G', ..] => Some("image/png"),
        [0xff, 0xd8, 0xff, ..] => Some("image/jpeg"),
        [b'G', b'I', b'F', b'8', ..] => Some("image/gif"),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Some("image/webp"),
        [b'B', b'M', ..] => Some("image/bmp"),
        _ => None,
    }
}

/// RFC 4648, section 4.
fn base64(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let byte = |index: usize| u32::from(chunk.get(index).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for position in 0..4 {
            let letter = ALPHABET[(bits >> (18 - 6 * position)) as usize & 63];
            text.push(if position > chunk.len() {
                '='
            } else {
                letter.into()
            });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_gives_the_vectors_of_its_rfc() {
        let texts = ["", "f", "fo", "foo", "foob", "fooba", "foobar"];
        let expected = ["", "Zg==", "Zm8=", "Zm9v", "Zm9vYg==", "Zm9vYmE=", "Zm9vYmFy"];
        assert_eq!(texts.map(|text| base64(text.as_bytes())), expected);
        assert_eq!(base64(&[0xfb, 0xff, 0xfe]), "+//+");
    }

    #[test]
    fn what_is_no_image_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.png");
        fs::write_atomic(&path, b"text").unwrap();
        let error = data_uri(&path).unwrap_err().to_string();
        assert!(error.contains("a.png") && error.contains("not a PNG"), "{error}");
        fs::write_atomic(&path, b"\x89PNG\r\n").unwrap();
        assert_eq!(data_uri(&path).unwrap(), "data:image/png;base64,iVBORw0K");
    }
}
