//! Encoded rows of a large file, kept in the cache: opening it again renders and tokenises nothing, and all processes of a
//! machine share the tokens.

use std::{ops::Range, path::PathBuf};

use arrow::buffer::{Buffer, ScalarBuffer};
use bytes::Bytes;
use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::{
    super::{
        error::DataError,
        options::DataOptions,
        source::{fingerprint, keep_pieces},
        value::Value,
    },
    RowImage, Source,
    drafts::Encoding,
    encoder::{Draft, Encoder},
};
use crate::fs::{self, Stamp};

const MAGIC: &[u8; 8] = b"BRZROWS1";
const HEADER_BYTES: usize = 40;
/// In the place of a row that is encoded each time, so that its error is told again or is gone.
const NOT_KEPT: u32 = u32::MAX;
/// In the place of the length of a path.
const IN_ROW: u32 = u32::MAX;
/// Few, since a row may cost the decoding of all rows around it.
const NUM_SAMPLES: usize = 16;

/// Where the encoded rows of a source lie, or would lie.
///
/// The name is made of what the file is and of all that encoding depends on, so that nothing else is ever found there.
/// As it lies on the disk, little-endian: magic; numbers of rows, tokens, words and bytes of paths as u64; the tokens of
/// all rows as u32; words as u32, see [`Words`]; paths of images; CRC-32C of all that as u32.
pub(super) struct Kept {
    place: PathBuf,
    num_rows: usize,
}

impl Kept {
    /// `None` where rows are not kept: there is no folder for them, or the file is small.
    ///
    /// # Errors
    /// If the file cannot be read or the folder cannot be made.
    pub(super) fn find(
        source: &Source,
        encoder: &Encoder,
        options: &DataOptions,
        build: &str,
    ) -> Result<Option<Self>, DataError> {
        let path = source.rows.path();
        let is_worth_it = |least| Ok::<_, DataError>(fs::size_bytes(path)? >= least);
        if options.cache.dir().is_none() {
            return Ok(None);
        }
        if !options.keep_encoded.map_or(Ok(false), is_worth_it)? {
            return Ok(None);
        }
        let mut hash = Sha256::new();
        let identity = encoder.identity(&source.options, &source.image_dir);
        hash.update(format!("{build}\n{identity}\n{}", source.rows.what()));
        hash_rows(source, &mut hash);
        let what = format!("{:x}", hash.finalize());
        let place = options
            .cache
            .place(path, &fs::mmap(path)?, &format!("{}.rows", &what[..32]))?;
        let num_rows = source.rows.len();
        Ok(place.map(|place| Self { place, num_rows }))
    }

    /// The rows, if they are there: one that is damaged is as if it were not. A row whose images have changed since is missing.
    pub(super) fn load(&self) -> Option<Vec<Option<Draft>>> {
        let bytes = fs::exists(&self.place).then(|| fs::mmap(&self.place).ok())??;
        let bytes = Bytes::from_owner(bytes);
        let (body, sum) = bytes.split_at_checked(bytes.len().checked_sub(4)?)?;
        let counts = body.get(MAGIC.len()..HEADER_BYTES)?.as_chunks::<8>().0;
        let counts = counts
            .iter()
            .map(|count| usize::try_from(u64::from_le_bytes(*count)).ok());
        let counts = counts.collect::<Option<Vec<usize>>>()?;
        let [num_rows, num_tokens, num_words, names_len] = counts[..] else {
            return None;
        };
        let words_start = num_tokens.checked_mul(4)?.checked_add(HEADER_BYTES)?;
        let names_start = num_words.checked_mul(4)?.checked_add(words_start)?;
        let is_whole = body.starts_with(MAGIC)
            && num_rows == self.num_rows
            && names_start.checked_add(names_len)? == body.len()
            && crc32c::crc32c(body).to_le_bytes() == sum;
        if !is_whole || cfg!(target_endian = "big") {
            return None;
        }
        let buffer = Buffer::from(bytes.slice(HEADER_BYTES..words_start));
        let mut words = Words {
            words: body[words_start..names_start].as_chunks::<4>().0.iter(),
            tokens: ScalarBuffer::new(buffer, 0, num_tokens),
            names: std::str::from_utf8(&body[names_start..]).ok()?,
        };
        let rows = (0..num_rows).map(|_| words.row()).collect::<Option<Vec<_>>>()?;
        Some(rows.into_par_iter().map(unless_images_changed).collect())
    }

    /// Writes the rows; those that something is wrong with are not kept.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub(super) fn save(&self, rows: &[Encoding]) -> Result<(), DataError> {
        let (mut words, mut names, mut num_tokens) = (Vec::new(), String::new(), 0_u64);
        let mut kept = Vec::with_capacity(rows.len());
        for row in rows {
            let draft = row
                .as_ref()
                .ok()
                .filter(|draft| put(draft, &mut words, &mut names));
            match draft {
                Some(draft) => num_tokens += draft.tokens.len() as u64,
                None => words.push(NOT_KEPT),
            }
            kept.extend(draft);
        }
        let counts = [
            rows.len() as u64,
            num_tokens,
            words.len() as u64,
            names.len() as u64,
        ];
        let counts: Vec<u8> = counts.into_iter().flat_map(u64::to_le_bytes).collect();
        let tokens = kept.iter().map(|draft| little_endian(&draft.tokens));
        let pieces = [MAGIC.to_vec(), counts].into_iter().chain(tokens);
        let pieces = pieces.chain([little_endian(&words), names.into_bytes()]);
        Ok(keep_pieces(&self.place, pieces)?)
    }
}

fn little_endian(numbers: &[u32]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}

/// What is not tokens of the rows that are left to read.
///
/// A row is [`NOT_KEPT`], or the numbers of its tokens, trained ranges, ends and images; its class plus one, or 0; first and
/// last place of each range; ends; for each image [`IN_ROW`], or the length of its path and what [`Stamp`] says of the file.
struct Words<'a> {
    words: std::slice::Iter<'a, [u8; 4]>,
    tokens: ScalarBuffer<u32>,
    names: &'a str,
}

/// A row, and the states of the files of its images when it was encoded.
type Stamped = (Draft, Vec<Option<Stamp>>);

impl Words<'_> {
    fn next(&mut self) -> Option<u32> {
        self.words.next().map(|word| u32::from_le_bytes(*word))
    }

    fn next_place(&mut self) -> Option<usize> {
        self.next().map(|word| word as usize)
    }

    /// `Some(None)` is a row that is not kept.
    fn row(&mut self) -> Option<Option<Stamped>> {
        let first = self.next()?;
        if first == NOT_KEPT {
            return Some(None);
        }
        let num_tokens = first as usize;
        let [num_ranges, num_ends, num_images, class] = [
            self.next_place()?,
            self.next_place()?,
            self.next_place()?,
            self.next_place()?,
        ];
        let trained = (0..num_ranges)
            .map(|_| Some(self.next_place()?..self.next_place()?))
            .collect::<Option<Vec<Range<usize>>>>()?;
        let ends = (0..num_ends)
            .map(|_| self.next_place())
            .collect::<Option<Vec<usize>>>()?;
        let images = (0..num_images)
            .map(|_| self.image())
            .collect::<Option<Vec<_>>>()?;
        let (images, stamps) = images.into_iter().unzip();
        let left = self.tokens.len().checked_sub(num_tokens)?;
        let fits = |range: &Range<usize>| range.start < range.end && range.end <= num_tokens;
        if !(trained.iter().all(fits) && ends.iter().all(|end| *end <= num_tokens)) {
            return None;
        }
        let draft = Draft {
            tokens: self.tokens.slice(0, num_tokens),
            trained,
            ends,
            images,
            class: class.checked_sub(1),
        };
        self.tokens = self.tokens.slice(num_tokens, left);
        Some(Some((draft, stamps)))
    }

    fn image(&mut self) -> Option<(RowImage, Option<Stamp>)> {
        let len = self.next()?;
        if len == IN_ROW {
            return Some((RowImage::InRow, None));
        }
        let (path, rest) = self.names.split_at_checked(len as usize)?;
        self.names = rest;
        let mut number = || Some(u64::from(self.next()?) | u64::from(self.next()?) << 32);
        let stamp = Stamp {
            size_bytes: number()?,
            modified_nanos: number()?.cast_signed().into(),
        };
        Some((RowImage::File(path.into()), Some(stamp)))
    }
}

/// Writes what [`Words::row`] reads; `false`, and nothing is written, if that cannot be.
fn put(draft: &Draft, words: &mut Vec<u32>, names: &mut String) -> bool {
    let (words_before, names_before) = (words.len(), names.len());
    let is_put = try_put(draft, words, names).is_some();
    if !is_put {
        words.truncate(words_before);
        names.truncate(names_before);
    }
    is_put
}

fn try_put(draft: &Draft, words: &mut Vec<u32>, names: &mut String) -> Option<()> {
    let word = |number: usize| u32::try_from(number).ok().filter(|word| *word != NOT_KEPT);
    words.extend([
        word(draft.tokens.len())?,
        word(draft.trained.len())?,
        word(draft.ends.len())?,
        word(draft.images.len())?,
        word(draft.class.map_or(0, |class| class + 1))?,
    ]);
    let ranges = draft.trained.iter().flat_map(|range| [range.start, range.end]);
    for place in ranges.chain(draft.ends.iter().copied()) {
        words.push(word(place)?);
    }
    for image in &draft.images {
        match image {
            RowImage::InRow => words.push(IN_ROW),
            RowImage::File(path) => {
                let (path, stamp) = (path.to_str()?, fs::stamp(path).ok()?);
                names.push_str(path);
                words.push(word(path.len())?);
                let nanos = i64::try_from(stamp.modified_nanos).ok()?.cast_unsigned();
                words.extend(
                    [stamp.size_bytes, nanos]
                        .iter()
                        .flat_map(|&number| [number as u32, (number >> 32) as u32]),
                );
            }
        }
    }
    Some(())
}

/// A row whose images are gone, or others than when they were looked at, is encoded again.
fn unless_images_changed(row: Option<Stamped>) -> Option<Draft> {
    let (draft, stamps) = row?;
    let is_same = |(image, stamp): (&RowImage, &Option<Stamp>)| match image {
        RowImage::InRow => true,
        RowImage::File(path) => fs::stamp(path).ok() == *stamp,
    };
    draft.images.iter().zip(&stamps).all(is_same).then_some(draft)
}

/// Tells this build from others, which may encode otherwise; `None` where that cannot be told.
pub(super) fn build() -> Option<String> {
    let program = std::env::current_exe().ok()?;
    fingerprint(&program, &fs::mmap(&program).ok()?).ok()
}

/// What the file's stamp does not tell: which samples of it are rows, and how what lies beside it changes them.
fn hash_rows(source: &Source, hash: &mut Sha256) {
    let num_rows = source.rows.len();
    for index in 0..num_rows {
        hash.update((source.rows.line(index) as u64).to_le_bytes());
    }
    let step = num_rows.div_ceil(NUM_SAMPLES).max(1);
    for index in (0..num_rows).step_by(step) {
        match source.rows.read(index) {
            Ok(row) => hash_value(&row, hash),
            Err(problem) => hash.update(problem.to_string()),
        }
    }
}

fn hash_value(value: &Value, hash: &mut Sha256) {
    hash_text(value.kind(), hash);
    match value {
        Value::Null => {}
        Value::Bool(value) => hash_text(&value.to_string(), hash),
        Value::Int(number) => hash_text(&number.to_string(), hash),
        Value::Float(number) => hash_text(&number.to_bits().to_string(), hash),
        Value::Text(text) => hash_text(text, hash),
        Value::Bytes(bytes) => hash.update(Sha256::digest(bytes)),
        Value::List(values) => {
            hash_text(&values.len().to_string(), hash);
            values.iter().for_each(|value| hash_value(value, hash));
        }
        Value::Object(entries) => {
            hash_text(&entries.len().to_string(), hash);
            for (name, value) in entries {
                hash_text(name, hash);
                hash_value(value, hash);
            }
        }
    }
}

fn hash_text(text: &str, hash: &mut Sha256) {
    hash.update((text.len() as u64).to_le_bytes());
    hash.update(text);
}
