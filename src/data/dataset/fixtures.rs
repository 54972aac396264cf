//! A small data set for tests.

use std::{io::Cursor, path::PathBuf, sync::Arc};

use image::{ImageFormat, Rgb, RgbImage};
use tempfile::TempDir;

use super::{
    super::{
        Cache, DataOptions, DataSource, Grouping, ImageOptions, Masks, PaddingSide, Split, TemplateOptions,
        Tokenizer, TooLong, error::DataError, options::BadRows, tokenizer,
    },
    Dataset,
};
use crate::fs;

/// Image tokens of one image.
pub(crate) const COPIES: usize = 4;

/// A folder with a JSONL file and images `0.png`, `1.png`, … of one colour each.
pub(crate) struct Folder {
    pub(crate) dir: TempDir,
    pub(crate) tokenizer: Arc<Tokenizer>,
    pub(crate) options: DataOptions,
}

impl Folder {
    pub(crate) fn new(lines: &str, num_images: u8) -> Self {
        let (dir, tokenizer) = tokenizer::fixtures::tokenizer();
        let rows: PathBuf = dir.path().join("rows.jsonl");
        fs::write_durable(&rows, lines.as_bytes()).unwrap();
        for number in 0..num_images {
            let mut png = Cursor::new(Vec::new());
            let image = RgbImage::from_pixel(3, 2, Rgb([number; 3]));
            image.write_to(&mut png, ImageFormat::Png).unwrap();
            fs::write_durable(&dir.path().join(format!("{number}.png")), png.get_ref()).unwrap();
        }
        let options = DataOptions {
            train: vec![DataSource::new(rows.clone())],
            eval: vec![DataSource::new(rows)],
            cache: Cache::default(),
            keep_encoded: None,
            tokenizer: dir.path().into(),
            classes: None,
            template: TemplateOptions::default(),
            masks: Masks::default(),
            bad_rows: BadRows::Error,
            sequence_length: 1000,
            too_long: TooLong::Error,
            random_truncation: false,
            grouping: Grouping::Alone,
            pad_to_multiple_of: None,
            padding_side: PaddingSide::Right,
            shuffle: true,
            seed: 1,
            workers: 0,
            prefetch: 1,
        };
        Self {
            dir,
            tokenizer,
            options,
        }
    }

    /// The file of rows.
    pub(crate) fn rows(&self) -> &std::path::Path {
        &self.options.train[0].path
    }

    pub(crate) fn open(&self) -> Result<Dataset, DataError> {
        let mut images = ImageOptions::clip(2, COPIES);
        images.processor.normalize = None;
        Dataset::open(Split::Train, &self.options, Some(images), self.tokenizer.clone())
    }
}
