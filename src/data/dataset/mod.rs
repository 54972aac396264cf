//! Rows as tokens and labels, ready to be joined into batches.
//!
//! Opening reads and encodes every row once: what is wrong with any of them is known before the first step, and a step
//! later only decodes images. Encoded rows stay in memory, images as one token each; the sources stay open for the text,
//! and for images that are in the rows.

mod drafts;
mod encoder;
#[cfg(test)]
pub(crate) mod fixtures;
mod kept;
mod lengths;
mod numbers;
mod open;
mod prompts;
mod report;
mod scissors;
mod shown;
#[cfg(test)]
mod tests;

pub use prompts::Prompt;
pub use report::{DatasetReport, Lengths};
pub use shown::ShownToken;

use std::{
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use arrow::buffer::ScalarBuffer;

use super::{
    batch::{Class, Example, IGNORE_LABEL, ImageNumber, ImageSource, Padding, PixelImage, SampleId},
    error::{DataError, RowError, RowProblem},
    image::{ImageError, decode_image, load_image},
    mixture::Mixture,
    options::{DataOptions, DataSource, Grouping, ImageOptions, Split},
    order::Order,
    packing::Size,
    rows::{self, ImageRef},
    source::{self, Cache, Rows},
    stream::Stream,
    template::{ChatTemplate, expand_images},
    tokenizer::Tokenizer,
};
use encoder::Encoder;
use scissors::Scissors;

/// Rows of one split, in memory as tokens.
pub struct Dataset {
    sources: Vec<Source>,
    rows: Vec<Row>,
    /// Different images.
    num_images: usize,
    stream: Stream,
    report: DatasetReport,
    bad_rows: Vec<RowError>,
    has_conversations: bool,
    not_kept: Option<DataError>,
    encoder: Encoder,
    /// Cuts rows at random, if they are.
    scissors: Option<Scissors>,
}

/// An open source and how to read its rows.
struct Source {
    /// Which of the given ones it is of; a pattern stands for several.
    entry: usize,
    rows: Box<dyn Rows>,
    options: DataSource,
    /// Where paths of images start.
    image_dir: PathBuf,
}

/// Place of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    source: u32,
    index: u32,
}

struct Row {
    place: Place,
    tokens: ScalarBuffer<u32>,
    trained: Box<[Range<usize>]>,
    images: Box<[RowImage]>,
    /// One for each image, as soon as all rows are known.
    image_numbers: Box<[ImageNumber]>,
    /// Tokens once images are expanded.
    length: usize,
    class: Option<Class>,
}

impl Row {
    fn size(&self) -> Size {
        Size {
            tokens: self.length as u32,
            images: self.images.len() as u32,
        }
    }
}

/// Where an image of a row is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum RowImage {
    /// In a file.
    File(PathBuf),
    /// In the row, which is read again when the image is needed.
    InRow,
}

impl Dataset {
    /// Reads, checks and encodes the rows of a split. `images` is `None` for a model without vision tower.
    ///
    /// The training split is shuffled as `options` say; the held-out one never is.
    ///
    /// # Errors
    /// If a file cannot be read; if the tokenizer lacks a token that the chat template or images need; if rows are
    /// wrong (the first is named, the others counted), or more of them than may be skipped; if no row or no labelled
    /// token is left.
    pub fn open(
        split: Split,
        options: &DataOptions,
        images: Option<ImageOptions>,
        tokenizer: Arc<Tokenizer>,
    ) -> Result<Self, DataError> {
        let given = match split {
            Split::Train => &options.train,
            Split::Eval => &options.eval,
        };
        if given.is_empty() {
            return Err(DataError::NoFiles { split });
        }
        if options.classes.is_some() && matches!(options.grouping, Grouping::Packed { .. }) {
            return Err(DataError::PackedClasses);
        }
        let encoder = Encoder::new(options, images, tokenizer)?;
        let mut sources = Vec::new();
        for (entry, source) in given.iter().enumerate() {
            sources.extend(Source::open(source, entry, &options.cache)?);
        }
        let open::Prepared {
            mut rows,
            mut report,
            mut bad_rows,
            has_conversations,
            not_kept,
        } = open::prepare_all(&sources, &encoder, options)?;
        if rows.is_empty() && !bad_rows.is_empty() {
            let more = bad_rows.len() - 1;
            let first = Box::new(bad_rows.swap_remove(0));
            return Err(DataError::Rows { first, more });
        }
        if rows.is_empty() {
            let files = given.iter().map(|source| source.path.display().to_string());
            let files = files.collect::<Vec<_>>().join(", ");
            let report_text = report.to_string();
            return Err(match report.unlabelled {
                0 => DataError::NoRows {
                    files,
                    report: report_text,
                },
                _ => DataError::NothingLabelled {
                    files,
                    report: report_text,
                },
            });
        }
        let mixture = (split == Split::Train)
            .then(|| mixture(given, &sources, &rows))
            .flatten();
        let order = Order {
            seed: options.seed,
            len: mixture.as_ref().map_or(rows.len(), Mixture::len),
            shuffle: options.shuffle && split == Split::Train,
            mixture,
        };
        let scissors =
            (options.random_truncation && split == Split::Train).then_some(Scissors { seed: options.seed });
        if scissors.is_some() {
            let is_cut = |row: &&Row| encoder.shortest(row) < row.length;
            report.cut_at_random = rows.iter().filter(is_cut).count();
        }
        Ok(Self {
            num_images: numbers::number_images(&mut rows),
            scissors,
            sources,
            stream: stream(order, split, options, &rows),
            rows,
            report,
            bad_rows,
            has_conversations,
            not_kept,
            encoder,
        })
    }

    /// Number of rows; at least 1.
    #[expect(clippy::len_without_is_empty, reason = "an empty dataset cannot be opened")]
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Samples of an epoch: the rows, as often as the weights of their sources say; at least 1.
    pub fn epoch_len(&self) -> usize {
        self.stream.samples_per_epoch()
    }

    /// Which rows come when, and which of them together.
    pub fn stream(&self) -> &Stream {
        &self.stream
    }

    /// Number of different images: a file counts once, however many rows name it.
    pub fn num_images(&self) -> usize {
        self.num_images
    }

    /// What batches are padded with.
    pub fn padding(&self) -> Padding {
        Padding {
            id: self.encoder.tokenizer.pad_id(),
            multiple_of: self.encoder.pad_to_multiple_of,
            side: self.encoder.padding_side,
        }
    }

    /// What became of the rows of the files.
    pub fn report(&self) -> &DatasetReport {
        &self.report
    }

    /// Rows that were skipped because something is wrong with them, in the order of the files.
    pub fn bad_rows(&self) -> &[RowError] {
        &self.bad_rows
    }

    /// The tokenizer that encoded the rows.
    pub fn tokenizer(&self) -> &Arc<Tokenizer> {
        &self.encoder.tokenizer
    }

    /// The template that rendered the conversations.
    pub fn template(&self) -> &ChatTemplate {
        &self.encoder.template
    }

    /// Whether the first row of some file is a conversation, so that the template is used.
    pub fn has_conversations(&self) -> bool {
        self.has_conversations
    }

    /// Why encoded rows that should be in the cache are not there.
    pub fn not_kept(&self) -> Option<&DataError> {
        self.not_kept.as_ref()
    }

    /// Tokens of a row, image tokens included; `index < len()`.
    pub fn num_tokens(&self, index: usize) -> usize {
        self.rows[index].length
    }

    /// Where a row comes from; `index < len()`.
    pub fn sample(&self, index: usize) -> SampleId {
        self.sample_at(self.rows[index].place)
    }

    /// File of a row's first image, if it is in a file; `index < len()`.
    pub fn first_image(&self, index: usize) -> Option<&Path> {
        match self.rows[index].images.first()? {
            RowImage::File(path) => Some(path),
            RowImage::InRow => None,
        }
    }

    /// A row with its images; `index < len()`.
    ///
    /// # Errors
    /// [`DataError::SampleImage`] if an image cannot be read or decoded; [`DataError::Rows`] if an image is in the row and
    /// the file was changed since it was opened.
    pub fn example(&self, index: usize) -> Result<Example, DataError> {
        self.example_without(index, &|_| false)
    }

    /// Without the images that are held.
    fn example_without(
        &self,
        index: usize,
        held: &dyn Fn(ImageNumber) -> bool,
    ) -> Result<Example, DataError> {
        let row = &self.rows[index];
        let (input_ids, labels) = self.ids_and_labels(index);
        let image_sources = row.image_numbers.iter().map(|&number| match held(number) {
            true => ImageSource::Held(number),
            false => ImageSource::Decoded(Some(number)),
        });
        let image_sources: Vec<ImageSource> = match self.encoder.images {
            Some(_) => image_sources.collect(),
            None => Vec::new(),
        };
        Ok(Example {
            sample: self.sample_at(row.place),
            input_ids,
            labels,
            images: self.images(row, |at| matches!(image_sources[at], ImageSource::Decoded(_)))?,
            image_sources,
            class: row.class,
        })
    }

    /// A row as it comes in an epoch of training: cut at a random length, if rows are, and else as [`Dataset::example`] has it.
    ///
    /// The length is drawn uniformly from 1 up to, but without, that of the row. It is not less than what holds all images
    /// and one label, and a function of seed, epoch and row alone. Images that are `held` are not decoded.
    ///
    /// # Errors
    /// As [`Dataset::example`].
    pub fn example_in(
        &self,
        epoch: u64,
        index: usize,
        held: &dyn Fn(ImageNumber) -> bool,
    ) -> Result<Example, DataError> {
        let mut example = self.example_without(index, held)?;
        if let Some(scissors) = &self.scissors {
            let row = &self.rows[index];
            let length = scissors.length(epoch, index, self.encoder.shortest(row)..row.length);
            example.input_ids.truncate(length);
            example.labels.truncate(length);
        }
        Ok(example)
    }

    /// Token ids of a row, images expanded, and its labels; `index < len()`.
    pub fn ids_and_labels(&self, index: usize) -> (Vec<i32>, Vec<i32>) {
        let row = &self.rows[index];
        let num_image_tokens = self.encoder.num_image_tokens();
        let input_ids = expand_images(&row.tokens, self.encoder.image_id, num_image_tokens);
        let mut labels = Vec::with_capacity(row.length);
        let mut done = 0;
        for range in &row.trained {
            let skipped = self.encoder.length(&row.tokens[done..range.start]);
            labels.resize(labels.len() + skipped, IGNORE_LABEL);
            labels.extend(row.tokens[range.clone()].iter().map(|&token| token as i32));
            done = range.end;
        }
        labels.resize(row.length, IGNORE_LABEL);
        (input_ids, labels)
    }

    fn sample_at(&self, place: Place) -> SampleId {
        self.sources[place.source as usize].sample(place)
    }

    fn row_error(&self, place: Place) -> impl FnOnce(RowProblem) -> DataError {
        let sample = self.sample_at(place);
        |problem| DataError::Rows {
            first: Box::new(RowError { sample, problem }),
            more: 0,
        }
    }

    /// The images of a row whose places are wanted.
    fn images(&self, row: &Row, wanted: impl Fn(usize) -> bool) -> Result<Vec<PixelImage>, DataError> {
        let Some(options) = &self.encoder.images else {
            return Ok(Vec::new());
        };
        let images = || row.images.iter().enumerate().filter(|(at, _)| wanted(*at));
        let mut in_row = Vec::new();
        if images().any(|(_, image)| *image == RowImage::InRow) {
            let parsed = self.sources[row.place.source as usize].parse(row.place, &self.encoder);
            in_row = parsed.map_err(self.row_error(row.place))?.into_images();
        }
        let images = images().map(|(number, image)| {
            let decoded = match (image, in_row.get(number)) {
                (RowImage::File(path), _) => load_image(path, options),
                (RowImage::InRow, Some(ImageRef::Bytes(bytes))) => decode_in_row(bytes, number, options),
                (RowImage::InRow, _) => return Err(self.row_error(row.place)(RowProblem::Changed)),
            };
            decoded.map_err(|source| DataError::SampleImage {
                sample: self.sample_at(row.place),
                source,
            })
        });
        images.collect()
    }
}

/// Decodes an image that is in a row.
fn decode_in_row(bytes: &[u8], number: usize, options: &ImageOptions) -> Result<PixelImage, ImageError> {
    decode_image(bytes, options).map_err(|problem| ImageError {
        path: format!("{} of the row", number + 1).into(),
        problem,
    })
}

impl Source {
    fn open(options: &DataSource, entry: usize, cache: &Cache) -> Result<Vec<Self>, DataError> {
        if !(options.weight > 0.0 && options.weight.is_finite()) {
            return Err(DataError::Source {
                path: options.path.clone(),
                reason: format!("weight = {}: must be above 0", options.weight),
            });
        }
        let opened = source::open_all(&options.selection(), cache)?.into_iter();
        let sources = opened.map(|rows| {
            let image_dir = match &options.image_dir {
                Some(dir) => dir.clone(),
                None => rows.path().parent().unwrap_or(Path::new("")).to_owned(),
            };
            Self {
                entry,
                rows,
                options: options.clone(),
                image_dir,
            }
        });
        Ok(sources.collect())
    }

    fn sample(&self, place: Place) -> SampleId {
        SampleId {
            file: self.rows.path().clone(),
            line: self.rows.line(place.index as usize),
        }
    }

    /// Reads a row.
    fn parse(&self, place: Place, encoder: &Encoder) -> Result<rows::Row, RowProblem> {
        let value = self.rows.read(place.index as usize)?;
        rows::parse_row(&value, &self.options.rows, encoder.classes.as_ref())
    }
}

/// Held-out rows are not sorted: their order is that of what is said about them.
fn stream(order: Order, split: Split, options: &DataOptions, rows: &[Row]) -> Stream {
    let grouping = match (options.grouping, split) {
        (Grouping::ByLength { .. }, Split::Eval) => Grouping::Alone,
        (grouping, _) => grouping,
    };
    let sizes = match grouping {
        Grouping::Alone => Vec::new(),
        Grouping::ByLength { .. } | Grouping::Packed { .. } => rows.iter().map(Row::size).collect(),
    };
    Stream::new(order, grouping, options.sequence_length, sizes)
}

/// How often the rows of each source come, if not all of them once. Rows are in the order of the sources.
fn mixture(given: &[DataSource], sources: &[Source], rows: &[Row]) -> Option<Mixture> {
    if given.iter().all(|source| source.weight == 1.0) {
        return None;
    }
    let mut parts: Vec<(usize, f64)> = given.iter().map(|source| (0, source.weight)).collect();
    for row in rows {
        parts[sources[row.place.source as usize].entry].0 += 1;
    }
    Some(Mixture::new(&parts))
}

/// Samples of an epoch over these rows, if all of them are good.
///
/// # Errors
/// If a file cannot be read.
pub fn count_rows(sources: &[DataSource], cache: &Cache) -> Result<usize, DataError> {
    let parts = sources.iter().map(|options| {
        let opened = source::open_all(&options.selection(), cache)?;
        Ok((opened.iter().map(|rows| rows.len()).sum(), options.weight))
    });
    Ok(Mixture::new(&parts.collect::<Result<Vec<_>, DataError>>()?).len())
}

/// The files behind sources, those of a folder included, in order.
///
/// # Errors
/// If a folder cannot be listed.
pub fn data_files(sources: &[DataSource]) -> Result<Vec<PathBuf>, DataError> {
    let files = sources.iter().map(|source| source.selection().files());
    Ok(files.collect::<Result<Vec<_>, _>>()?.concat())
}
