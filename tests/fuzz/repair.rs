//! Checksums and lengths made right again, so that a damaged file gets past them.

/// Checksums of the headers of a tar: the sum of a header's bytes, its own field taken as spaces.
pub(crate) fn tar(bytes: &mut [u8]) {
    for header in bytes.chunks_exact_mut(512) {
        // Members hold blocks as well; those of this test have no such field.
        if header[148..156]
            .iter()
            .all(|byte| byte.is_ascii_digit() || [0, b' '].contains(byte))
            && header[0] != 0
        {
            header[148..156].fill(b' ');
            let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
            header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
    }
}

/// CRCs of the chunks of a PNG.
pub(crate) fn png(bytes: &mut [u8]) {
    let mut at = 8;
    while let Some(length) = bytes.get(at..at + 4) {
        let length = u32::from_be_bytes([length[0], length[1], length[2], length[3]]) as usize;
        let Some(chunk) = bytes.get(at + 4..at + 8 + length) else {
            return;
        };
        let mut crc = flate2::Crc::new();
        crc.update(chunk);
        let Some(place) = bytes.get_mut(at + 8 + length..at + 12 + length) else {
            return;
        };
        place.copy_from_slice(&crc.sum().to_be_bytes());
        at += 12 + length;
    }
}

/// Length of the header of a safetensors file, which ends with the last `}` that text has before other bytes.
pub(crate) fn safetensors(bytes: &mut [u8]) {
    let is_text = |&byte: &u8| (b' '..0x7f).contains(&byte);
    let Some(text) = bytes.get(8..) else { return };
    let text = &text[..text.iter().position(|byte| !is_text(byte)).unwrap_or(text.len())];
    if let Some(last) = text.iter().rposition(|&byte| byte == b'}') {
        bytes[..8].copy_from_slice(&(last as u64 + 1).to_le_bytes());
    }
}

/// The checksum at the end of an index of lines, and its number of rows.
pub(crate) fn line_index(bytes: &mut [u8]) {
    if bytes.len() >= 28 {
        let end = bytes.len() - 4;
        let sum = crc32c::crc32c(&bytes[..end]);
        bytes[end..].copy_from_slice(&sum.to_le_bytes());
    }
}
