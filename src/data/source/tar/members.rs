//! What a member of a sample holds, by the end of its name.

use std::io::Read;

use flate2::read::GzDecoder;

use super::super::{
    super::{error::RowProblem, value::Value},
    text::utf8,
};

/// A member compressed by itself may grow to this.
const MAX_MEMBER_BYTES: u64 = 256 << 20;

/// Whether a part is an image, `jpg` or `left.png`.
pub(in crate::data) fn is_image(part: &str) -> bool {
    const IMAGES: &[&str] = &[
        "jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff", "ppm", "pgm",
    ];
    IMAGES.contains(&ending(part).as_str())
}

/// Whether a member of this part is read as the bytes it has.
pub(in crate::data) fn holds_bytes(part: &str) -> bool {
    !is_image(part) && matches!(decode(part, &[]), Ok(Value::Bytes(_)))
}

fn ending(part: &str) -> String {
    part.rsplit('.').next().unwrap_or_default().to_lowercase()
}

/// Text, JSON, a whole number, or bytes.
pub(in crate::data::source) fn decode(part: &str, bytes: &[u8]) -> Result<Value, RowProblem> {
    match ending(part).as_str() {
        "gz" => {
            let mut content = Vec::new();
            let read = GzDecoder::new(bytes)
                .take(MAX_MEMBER_BYTES + 1)
                .read_to_end(&mut content);
            read.map_err(|error| problem(format!("cannot decompress it: {error}")))?;
            if content.len() as u64 > MAX_MEMBER_BYTES {
                return Err(problem(format!(
                    "decompresses to more than {MAX_MEMBER_BYTES} bytes"
                )));
            }
            decode(&part[..part.len() - 3], &content)
        }
        "txt" | "text" | "transcript" => Ok(Value::Text(utf8(bytes)?)),
        "json" | "jsn" => Value::from_json(bytes),
        "cls" | "cls2" | "index" | "inx" | "id" => {
            let text = utf8(bytes)?;
            let number = text.trim().parse();
            Ok(Value::Int(number.map_err(|_| {
                problem(format!("{:?} is no whole number", text.trim()))
            })?))
        }
        refused @ ("pyd" | "pickle" | "pkl" | "pth" | "pt") => Err(problem(format!(
            "reading .{refused} would run what is in it\n  hint: write the member as .json or .npy"
        ))),
        _ => Ok(Value::Bytes(bytes.to_vec())),
    }
}

fn problem(reason: String) -> RowProblem {
    RowProblem::Source { reason }
}
