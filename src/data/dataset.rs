//! Rows as tokens and labels, ready to be joined into batches.
//!
//! Opening reads and encodes every row once: what is wrong with any of them is known before the first step, and a step
//! later only decodes images. Encoded rows stay in memory, images as one token each; the files stay mapped for the text.

use std::{fmt, ops::Range, path::Path, path::PathBuf, sync::Arc};

use memmap2::Mmap;
use rayon::prelude::*;

use super::{
    batch::{Class, Example, IGNORE_LABEL, PixelImage, SampleId},
    chat::{ChatRow, Message, Role, parse_row},
    classified::{ClassOptions, ClassifiedRow, Content, parse_classified},
    error::{DataError, RowError, RowProblem},
    image::load_image,
    options::{DataOptions, ImageOptions, Split, TooLong},
    order::Order,
    template::{ChatTemplate, Encoded, encode_prompt, encode_segments, expand_images},
    tokenizer::Tokenizer,
};
use crate::fs;

/// What became of the rows of a dataset. Displays as one line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DatasetReport {
    /// Rows in the files.
    pub rows: usize,
    /// Rows that are used; an epoch is one pass over them.
    pub kept: usize,
    /// Rows left out because they are too long ([`TooLong::Drop`]).
    pub dropped: usize,
    /// Rows that were cut ([`TooLong::Truncate`]).
    pub truncated: usize,
    /// Rows left out because none of their tokens is trained: no assistant turn, or none before the cut.
    pub unlabelled: usize,
    /// Images of the rows that are used.
    pub images: usize,
    /// Tokens of the rows that are used, image tokens included.
    pub tokens: usize,
    /// Tokens that are trained; of rows to classify, the rows.
    pub labelled_tokens: usize,
    /// Tokens of the longest row that is used.
    pub longest: usize,
}

impl fmt::Display for DatasetReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} of {} rows used, {} dropped as too long, {} truncated, {} left out without an assistant turn; \
             {} images, {} tokens, {} of them labelled, longest row {}",
            self.kept,
            self.rows,
            self.dropped,
            self.truncated,
            self.unlabelled,
            self.images,
            self.tokens,
            self.labelled_tokens,
            self.longest
        )
    }
}

/// A question to be answered: the conversation up to the header of an assistant turn, with the reference's earlier
/// answers.
#[derive(Debug, Clone, PartialEq)]
pub struct Prompt {
    /// The row.
    pub sample: SampleId,
    /// Which of the row's assistant turns, from 0.
    pub turn: usize,
    /// Token ids, each image as its copies of the image token; the answer's first token comes next.
    pub input_ids: Vec<i32>,
    /// Images of the conversation so far, in the order of their placeholders.
    pub images: Vec<PixelImage>,
    /// Text of the last user turn, without placeholders.
    pub question: String,
    /// The answer in the row.
    pub reference: String,
    /// The row's tag for this turn: the group in which accuracy is counted.
    pub tag: Option<String>,
}

/// Rows of one split, in memory as tokens.
pub struct Dataset {
    files: Vec<MappedFile>,
    rows: Vec<Row>,
    order: Order,
    report: DatasetReport,
    encoder: Encoder,
}

struct MappedFile {
    path: Arc<Path>,
    bytes: Mmap,
}

/// Place of a row: bytes of its line, and the line's number from 1.
struct Line {
    file: usize,
    number: usize,
    bytes: Range<usize>,
}

struct Row {
    line: Line,
    tokens: Box<[u32]>,
    trained: Box<[Range<usize>]>,
    images: Box<[PathBuf]>,
    /// Tokens once images are expanded.
    length: usize,
    class: Option<Class>,
}

/// All that turns a row into tokens.
struct Encoder {
    tokenizer: Arc<Tokenizer>,
    classes: Option<ClassOptions>,
    template: ChatTemplate,
    images: Option<ImageOptions>,
    image_id: Option<u32>,
    sequence_length: usize,
    too_long: TooLong,
}

/// What one line becomes.
enum Prepared {
    Kept { row: Row, truncated: bool },
    TooLong,
    Unlabelled { truncated: bool },
}

impl Dataset {
    /// Reads, checks and encodes the rows of a split. `images` is `None` for a model without vision tower.
    ///
    /// The training split is shuffled as `options` say; the held-out one never is.
    ///
    /// # Errors
    /// If a file cannot be read; if the tokenizer lacks a token that the chat template or images need; if rows are
    /// wrong (the first is named, the others counted); if no row or no labelled token is left.
    pub fn open(
        split: Split,
        options: &DataOptions,
        images: Option<ImageOptions>,
        tokenizer: Arc<Tokenizer>,
    ) -> Result<Self, DataError> {
        let paths = match split {
            Split::Train => &options.train,
            Split::Eval => &options.eval,
        };
        if paths.is_empty() {
            return Err(DataError::NoFiles { split });
        }
        let encoder = Encoder::new(options, images, tokenizer)?;
        let files = paths
            .iter()
            .map(|path| MappedFile::open(path))
            .collect::<Result<Vec<_>, _>>()?;
        let (rows, report) = prepare_all(&files, &encoder)?;
        let names = || {
            paths
                .iter()
                .map(|path| path.display().to_string())
                .collect::<Vec<_>>()
                .join(", ")
        };
        if rows.is_empty() && report.unlabelled > 0 {
            return Err(DataError::NothingLabelled {
                files: names(),
                report: report.to_string(),
            });
        }
        if rows.is_empty() {
            return Err(DataError::NoRows {
                files: names(),
                report: report.to_string(),
            });
        }
        let shuffle = options.shuffle && split == Split::Train;
        let order = Order {
            seed: options.seed,
            len: rows.len(),
            shuffle,
        };
        Ok(Self {
            files,
            rows,
            order,
            report,
            encoder,
        })
    }

    /// Number of rows; at least 1.
    #[expect(clippy::len_without_is_empty, reason = "an empty dataset cannot be opened")]
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// What became of the rows of the files.
    pub fn report(&self) -> &DatasetReport {
        &self.report
    }

    /// In which order the rows come.
    pub fn order(&self) -> &Order {
        &self.order
    }

    /// The tokenizer that encoded the rows.
    pub fn tokenizer(&self) -> &Arc<Tokenizer> {
        &self.encoder.tokenizer
    }

    /// Tokens of a row, image tokens included; `index < len()`.
    pub fn num_tokens(&self, index: usize) -> usize {
        self.rows[index].length
    }

    /// Where a row comes from; `index < len()`.
    pub fn sample(&self, index: usize) -> SampleId {
        self.sample_at(&self.rows[index].line)
    }

    /// Files of a row's images, in the order of their placeholders; `index < len()`.
    pub fn image_paths(&self, index: usize) -> &[PathBuf] {
        &self.rows[index].images
    }

    /// A row with its images; `index < len()`.
    ///
    /// # Errors
    /// [`DataError::SampleImage`] if an image cannot be read or decoded.
    pub fn example(&self, index: usize) -> Result<Example, DataError> {
        let row = &self.rows[index];
        let sample = self.sample_at(&row.line);
        let images = self.load_images(&sample, &row.images)?;
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
        Ok(Example {
            sample,
            input_ids,
            labels,
            images,
            class: row.class,
        })
    }

    /// One prompt for each assistant turn of a row; `index < len()`.
    ///
    /// Turns whose prompt alone fills `sequence_length`, in a row that was cut, are left out.
    ///
    /// # Errors
    /// [`DataError::SampleImage`] if an image cannot be read or decoded; [`DataError::Rows`] if the file was changed
    /// since it was opened.
    pub fn prompts(&self, index: usize) -> Result<Vec<Prompt>, DataError> {
        let row = &self.rows[index];
        let sample = self.sample_at(&row.line);
        let bytes = &self.files[row.line.file].bytes[row.line.bytes.clone()];
        let ChatRow {
            messages,
            images,
            tags,
        } = parse_row(bytes).map_err(|problem| {
            let first = Box::new(RowError {
                sample: sample.clone(),
                problem,
            });
            DataError::Rows { first, more: 0 }
        })?;
        let images = self.load_images(&sample, &resolve(&sample.file, images))?;
        let answers = messages
            .iter()
            .enumerate()
            .filter(|(_, message)| message.role == Role::Assistant);
        let mut prompts = Vec::with_capacity(tags.len());
        for ((turn, (place, answer)), tag) in answers.enumerate().zip(tags) {
            let before = &messages[..place];
            let Encoder {
                tokenizer, template, ..
            } = &self.encoder;
            let input_ids = encode_prompt(tokenizer, *template, before, self.encoder.num_image_tokens())?;
            if input_ids.len() >= self.encoder.sequence_length {
                break;
            }
            let num_images = before.iter().map(Message::num_images).sum::<usize>();
            let question = before.iter().rev().find(|message| message.role == Role::User);
            prompts.push(Prompt {
                sample: sample.clone(),
                turn,
                input_ids,
                images: images.iter().take(num_images).cloned().collect(),
                question: question.map(Message::text).unwrap_or_default(),
                reference: answer.text(),
                tag,
            });
        }
        Ok(prompts)
    }

    fn sample_at(&self, line: &Line) -> SampleId {
        SampleId {
            file: self.files[line.file].path.clone(),
            line: line.number,
        }
    }

    fn load_images(&self, sample: &SampleId, paths: &[PathBuf]) -> Result<Vec<PixelImage>, DataError> {
        let Some(options) = &self.encoder.images else {
            return Ok(Vec::new());
        };
        paths
            .iter()
            .map(|path| {
                load_image(path, options).map_err(|source| DataError::SampleImage {
                    sample: sample.clone(),
                    source,
                })
            })
            .collect()
    }
}

impl MappedFile {
    fn open(path: &Path) -> Result<Self, DataError> {
        Ok(Self {
            path: path.into(),
            bytes: fs::mmap(path)?,
        })
    }

    /// Lines that are not blank.
    fn lines(&self, file: usize) -> impl Iterator<Item = Line> {
        let mut end = 0;
        self.bytes
            .split(|&byte| byte == b'\n')
            .enumerate()
            .filter_map(move |(place, line)| {
                let start = end;
                end = start + line.len() + 1;
                let blank = line.iter().all(u8::is_ascii_whitespace);
                (!blank).then(|| Line {
                    file,
                    number: place + 1,
                    bytes: start..start + line.len(),
                })
            })
    }
}

/// Paths of a row are relative to the folder of its file.
fn resolve(file: &Path, images: Vec<PathBuf>) -> Vec<PathBuf> {
    let folder = file.parent().unwrap_or(Path::new(""));
    images.into_iter().map(|path| folder.join(path)).collect()
}

fn prepare_all(files: &[MappedFile], encoder: &Encoder) -> Result<(Vec<Row>, DatasetReport), DataError> {
    let lines: Vec<Line> = files
        .iter()
        .enumerate()
        .flat_map(|(place, file)| file.lines(place))
        .collect();
    let prepared: Vec<Result<Prepared, RowError>> = lines
        .into_par_iter()
        .map(|line| {
            let MappedFile { path, bytes } = &files[line.file];
            let sample = SampleId {
                file: path.clone(),
                line: line.number,
            };
            let bytes = &bytes[line.bytes.clone()];
            encoder
                .prepare(bytes, path, line)
                .map_err(|problem| RowError { sample, problem })
        })
        .collect();
    let more = prepared
        .iter()
        .filter(|prepared| prepared.is_err())
        .count()
        .saturating_sub(1);
    let mut report = DatasetReport {
        rows: prepared.len(),
        ..DatasetReport::default()
    };
    let mut rows = Vec::with_capacity(prepared.len());
    for prepared in prepared {
        match prepared.map_err(|first| DataError::Rows {
            first: Box::new(first),
            more,
        })? {
            Prepared::TooLong => report.dropped += 1,
            Prepared::Unlabelled { truncated } => {
                report.unlabelled += 1;
                report.truncated += usize::from(truncated);
            }
            Prepared::Kept { row, truncated } => {
                report.kept += 1;
                report.truncated += usize::from(truncated);
                report.images += row.images.len();
                report.tokens += row.length;
                report.labelled_tokens += match row.class {
                    Some(_) => 1,
                    None => row.trained.iter().map(Range::len).sum::<usize>(),
                };
                report.longest = report.longest.max(row.length);
                rows.push(row);
            }
        }
    }
    Ok((rows, report))
}

impl Encoder {
    fn new(
        options: &DataOptions,
        images: Option<ImageOptions>,
        tokenizer: Arc<Tokenizer>,
    ) -> Result<Self, DataError> {
        let template = ChatTemplate::ChatMl;
        if options.classes.is_none() {
            template.stop_ids(&tokenizer)?;
        }
        let image_id = images.as_ref().map(|_| tokenizer.image_token_id()).transpose()?;
        let DataOptions {
            sequence_length,
            too_long,
            ..
        } = *options;
        Ok(Self {
            tokenizer,
            classes: options.classes.clone(),
            template,
            images,
            image_id,
            sequence_length,
            too_long,
        })
    }

    fn num_image_tokens(&self) -> usize {
        self.images.map_or(0, |options| options.num_image_tokens)
    }

    /// Length once images are expanded.
    fn length(&self, tokens: &[u32]) -> usize {
        let num_images = tokens
            .iter()
            .filter(|&&token| Some(token) == self.image_id)
            .count();
        tokens.len() - num_images + num_images * self.num_image_tokens()
    }

    /// A row to classify. It has no labels; its class is one.
    fn prepare_classified(
        &self,
        bytes: &[u8],
        line: Line,
        classes: &ClassOptions,
    ) -> Result<Prepared, RowProblem> {
        let ClassifiedRow { content, class } = parse_classified(bytes, classes)?;
        let mut tokens = match content {
            Content::Text(text) => self.tokenizer.encode_document(&text)?,
            Content::Tokens(tokens) => tokens,
        };
        let (length, limit) = (tokens.len(), self.sequence_length);
        if length == 0 {
            return Err(RowProblem::NoToken);
        }
        if length > limit {
            match self.too_long {
                TooLong::Drop => return Ok(Prepared::TooLong),
                TooLong::Error => return Err(RowProblem::TooLong { length, limit }),
                TooLong::Truncate => tokens.truncate(limit),
            }
        }
        let row = Row {
            line,
            length: tokens.len(),
            tokens: tokens.into(),
            trained: [].into(),
            images: [].into(),
            class: Some(Class {
                id: class as i32,
                weight: classes.weight(class),
            }),
        };
        Ok(Prepared::Kept {
            row,
            truncated: length > limit,
        })
    }

    fn prepare(&self, bytes: &[u8], file: &Path, line: Line) -> Result<Prepared, RowProblem> {
        if let Some(classes) = &self.classes {
            return self.prepare_classified(bytes, line, classes);
        }
        let ChatRow { messages, images, .. } = parse_row(bytes)?;
        if self.images.is_none() && !images.is_empty() {
            return Err(RowProblem::NoVision);
        }
        let images = resolve(file, images);
        for (place, path) in images.iter().enumerate() {
            fs::size_bytes(path).map_err(|source| RowProblem::MissingImage {
                number: place + 1,
                source,
            })?;
        }
        let mut encoded = encode_segments(&self.tokenizer, &self.template.segments(&messages))?;
        let full_length = self.length(&encoded.tokens);
        let truncated = full_length > self.sequence_length;
        if truncated {
            match self.too_long {
                TooLong::Drop => return Ok(Prepared::TooLong),
                TooLong::Error => {
                    return Err(RowProblem::TooLong {
                        length: full_length,
                        limit: self.sequence_length,
                    });
                }
                TooLong::Truncate => self.truncate(&mut encoded, full_length)?,
            }
        }
        if encoded.trained.is_empty() {
            return Ok(Prepared::Unlabelled { truncated });
        }
        let row = Row {
            line,
            length: full_length.min(self.sequence_length),
            tokens: encoded.tokens.into(),
            trained: encoded.trained.into(),
            images: images.into(),
            class: None,
        };
        Ok(Prepared::Kept { row, truncated })
    }

    /// Cuts at `sequence_length`. A turn that is cut loses its end token, and none is put in its place: the model
    /// would learn to stop in the middle. Turns before the cut keep theirs.
    fn truncate(&self, encoded: &mut Encoded, length: usize) -> Result<(), RowProblem> {
        let after_image = encoded
            .tokens
            .iter()
            .rposition(|&token| Some(token) == self.image_id);
        let after_image = after_image.map_or(0, |place| place + 1);
        let image_end = self.length(&encoded.tokens[..after_image]);
        let limit = self.sequence_length;
        if image_end > limit {
            return Err(RowProblem::CutsImage {
                length,
                limit,
                image_end,
            });
        }
        // After the last image, a token is a token.
        let num_kept = after_image + limit - image_end;
        encoded.tokens.truncate(num_kept);
        encoded.trained.retain_mut(|range| {
            range.end = range.end.min(num_kept);
            range.start < range.end
        });
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod fixtures {
    use std::{io::Cursor, path::PathBuf, sync::Arc};

    use image::{ImageFormat, Rgb, RgbImage};
    use tempfile::TempDir;

    use super::*;
    use crate::data::tokenizer;

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
                train: vec![rows.clone()],
                eval: vec![rows],
                tokenizer: dir.path().into(),
                classes: None,
                sequence_length: 1000,
                too_long: TooLong::Error,
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

        pub(crate) fn open(&self) -> Result<Dataset, DataError> {
            let mut images = ImageOptions::clip(2, COPIES);
            images.processor.normalize = None;
            Dataset::open(Split::Train, &self.options, Some(images), self.tokenizer.clone())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        fixtures::{COPIES, Folder},
        *,
    };
    use crate::data::tokenizer;

    const TWO_TURNS: &str = r#"{"messages": [{"role": "user", "content": "<image>ab"},
        {"role": "assistant", "content": "cd"}, {"role": "user", "content": [{"type": "image"},
        {"type": "text", "text": "e"}]}, {"role": "assistant", "content": "f"}],
        "images": ["1.png", "0.png"], "tags": ["colour", null]}"#;

    fn one_line(row: &str) -> String {
        row.split_whitespace().collect::<Vec<_>>().join(" ") + "\n"
    }

    fn open_error(folder: &Folder) -> String {
        folder
            .open()
            .err()
            .map(|error| error.to_string())
            .unwrap_or_default()
    }

    #[test]
    fn a_row_becomes_tokens_labels_and_images() {
        let folder = Folder::new(&format!("\n{}\r\n", one_line(TWO_TURNS)), 2);
        let dataset = folder.open().unwrap();
        let example = dataset.example(0).unwrap();
        assert_eq!(
            example.sample.to_string(),
            format!("{}:2", folder.options.train[0].display())
        );
        assert_eq!(example.input_ids.len(), dataset.num_tokens(0));
        assert_eq!(example.labels.len(), example.input_ids.len());
        let ids: Vec<u32> = example.input_ids.iter().map(|&id| id as u32).collect();
        let image = "<image>".repeat(COPIES);
        assert_eq!(
            folder.tokenizer.decode_with_special(&ids).unwrap(),
            format!(
                "<|im_start|>user\n{image}ab<|im_end|>\n<|im_start|>assistant\ncd<|im_end|>\n\
                 <|im_start|>user\n{image}e<|im_end|>\n<|im_start|>assistant\nf<|im_end|>\n"
            )
        );
        let trained: Vec<u32> = example
            .labels
            .iter()
            .filter(|&&label| label >= 0)
            .map(|&id| id as u32)
            .collect();
        assert_eq!(
            folder.tokenizer.decode_with_special(&trained).unwrap(),
            "cd<|im_end|>f<|im_end|>"
        );
        for (id, label) in example.input_ids.iter().zip(&example.labels) {
            assert!(*label == IGNORE_LABEL || label == id);
        }
        // `1.png` comes first.
        let first: Vec<f32> = example
            .images
            .iter()
            .map(|image| image.pixels[0] * 255.0)
            .collect();
        assert_eq!(first, [1.0, 0.0]);
        let report = dataset.report();
        assert_eq!(
            (report.rows, report.kept, report.images, report.labelled_tokens),
            (1, 1, 2, 4)
        );
        assert_eq!((report.tokens, report.longest), (ids.len(), ids.len()));
    }

    #[test]
    fn every_assistant_turn_has_a_prompt() {
        let folder = Folder::new(&one_line(TWO_TURNS), 2);
        let dataset = folder.open().unwrap();
        let [first, second] = &dataset.prompts(0).unwrap()[..] else {
            panic!("two prompts")
        };
        let whole = dataset.example(0).unwrap();
        for (prompt, num_images) in [(first, 1), (second, 2)] {
            let length = prompt.input_ids.len();
            assert_eq!(prompt.input_ids, whole.input_ids[..length]);
            assert_ne!(whole.labels[length], IGNORE_LABEL, "the answer comes next");
            assert_eq!(whole.labels[length - 1], IGNORE_LABEL);
            assert_eq!(prompt.images, whole.images[..num_images]);
        }
        assert_eq!(
            (first.turn, first.question.as_str(), first.reference.as_str()),
            (0, "ab", "cd")
        );
        assert_eq!(
            (second.turn, second.question.as_str(), second.reference.as_str()),
            (1, "e", "f")
        );
        assert_eq!(
            (first.tag.as_deref(), second.tag.as_deref()),
            (Some("colour"), None)
        );
    }

    #[test]
    fn long_rows_are_refused_dropped_or_cut() {
        let short = one_line(r#"{"messages": [{"role": "assistant", "content": "it"}]}"#);
        let mut folder = Folder::new(&(short + &one_line(TWO_TURNS)), 2);
        let length = folder.open().unwrap().num_tokens(1);
        folder.options.sequence_length = length - 3;
        let message = open_error(&folder);
        assert!(
            message.contains(&format!("rows.jsonl:2: {length} tokens, more than")),
            "{message}"
        );

        folder.options.too_long = TooLong::Drop;
        let report = *folder.open().unwrap().report();
        assert_eq!(
            (report.rows, report.kept, report.dropped, report.truncated),
            (2, 1, 1, 0)
        );

        // Three tokens are missing at the end: `f`, the end of its turn, the line break.
        folder.options.too_long = TooLong::Truncate;
        let dataset = folder.open().unwrap();
        let report = dataset.report();
        assert_eq!((report.kept, report.dropped, report.truncated), (2, 0, 1));
        let example = dataset.example(1).unwrap();
        assert_eq!(
            (example.input_ids.len(), example.labels.len()),
            (length - 3, length - 3)
        );
        let trained: Vec<u32> = example
            .labels
            .iter()
            .filter(|&&label| label >= 0)
            .map(|&id| id as u32)
            .collect();
        assert_eq!(
            folder.tokenizer.decode_with_special(&trained).unwrap(),
            "cd<|im_end|>"
        );
        assert_eq!(
            dataset.prompts(1).unwrap().len(),
            1,
            "the second prompt fills the sequence"
        );
    }

    #[test]
    fn a_cut_never_loses_an_image() {
        let mut folder = Folder::new(&one_line(TWO_TURNS), 2);
        let ids = folder.open().unwrap().example(0).unwrap().input_ids;
        let image_id = folder.tokenizer.image_token_id().unwrap() as i32;
        let image_end = ids.iter().rposition(|&id| id == image_id).unwrap() + 1;
        folder.options.too_long = TooLong::Truncate;
        for length in [1, image_end - COPIES, image_end - 1] {
            folder.options.sequence_length = length;
            let message = open_error(&folder);
            assert!(
                message.contains(&format!("would lose an image that ends at {image_end}")),
                "{message}"
            );
        }
        folder.options.sequence_length = image_end;
        let example = folder.open().unwrap().example(0).unwrap();
        assert_eq!(
            (example.input_ids.as_slice(), example.images.len()),
            (&ids[..image_end], 2)
        );
    }

    #[test]
    fn rows_without_answer_are_counted_and_all_of_them_refused() {
        let asked = one_line(r#"{"messages": [{"role": "user", "content": "a"}]}"#);
        let answered = one_line(r#"{"messages": [{"role": "assistant", "content": "a"}]}"#);
        let report = *Folder::new(&(asked.clone() + &answered), 0)
            .open()
            .unwrap()
            .report();
        assert_eq!((report.rows, report.kept, report.unlabelled), (2, 1, 1));
        let message = open_error(&Folder::new(&asked, 0));
        assert!(
            message.starts_with("no labelled token in ") && message.contains("rows.jsonl"),
            "{message}"
        );
        let message = open_error(&Folder::new("\n\n", 0));
        assert!(message.starts_with("no row to use in "), "{message}");
        let message = open_error(&Folder::new("", 0));
        assert!(message.starts_with("no row to use in "), "{message}");
    }

    #[test]
    fn wrong_rows_are_named_by_file_and_line() {
        let good = one_line(TWO_TURNS);
        let missing = one_line(&TWO_TURNS.replace("0.png", "9.png"));
        let message = open_error(&Folder::new(&format!("{good}\n{missing}{{\n[]\n{good}"), 2));
        assert!(
            message.contains("rows.jsonl:3: image 2: cannot stat ") && message.contains("9.png"),
            "{message}"
        );
        assert!(message.ends_with("and 2 more rows are wrong"), "{message}");

        let mut folder = Folder::new(&good, 2);
        folder.options.train.push(folder.dir.path().join("other.jsonl"));
        assert!(
            open_error(&folder).starts_with("cannot open "),
            "{}",
            open_error(&folder)
        );
        folder.options.train.clear();
        assert!(open_error(&folder).starts_with("no file for data.train"));
    }

    #[test]
    fn a_model_without_eyes_takes_no_image() {
        let folder = Folder::new(&one_line(TWO_TURNS), 2);
        let opened = Dataset::open(Split::Eval, &folder.options, None, folder.tokenizer.clone());
        let message = opened.err().unwrap().to_string();
        assert!(
            message.contains("rows.jsonl:1: the row has an image, but the model has no vision"),
            "{message}"
        );
    }

    #[test]
    fn a_tokenizer_that_lacks_a_needed_token_is_refused() {
        let folder = Folder::new(&one_line(TWO_TURNS), 2);
        for (missing, expected) in [
            ("<image>", "`<image>` (it stands for an image)"),
            (
                "<|im_start|>",
                "`<|im_start|>` (the chat template opens a turn with it)",
            ),
            (
                "<|im_end|>",
                "`<|im_end|>` (the chat template closes a turn with it)",
            ),
        ] {
            let dir = tempfile::tempdir().unwrap();
            tokenizer::fixtures::write_without(dir.path(), missing);
            let tokenizer = Arc::new(Tokenizer::load(dir.path()).unwrap());
            let images = Some(ImageOptions::clip(2, COPIES));
            let opened = Dataset::open(Split::Train, &folder.options, images, tokenizer);
            let message = opened.err().unwrap().to_string();
            assert!(message.contains(expected), "{message}");
        }
    }

    #[test]
    fn a_file_that_changes_under_a_run_is_an_error() {
        let folder = Folder::new(&one_line(TWO_TURNS), 2);
        let dataset = folder.open().unwrap();
        let other = "x".repeat(one_line(TWO_TURNS).len());
        fs::write_durable(&folder.options.train[0], other.as_bytes()).unwrap();
        let message = dataset.prompts(0).unwrap_err().to_string();
        assert!(
            message.contains("rows.jsonl:1: column 1: expected value"),
            "{message}"
        );
    }

    #[test]
    fn an_unreadable_image_is_named_when_it_is_needed() {
        let folder = Folder::new(&one_line(TWO_TURNS), 2);
        fs::write_durable(&folder.dir.path().join("0.png"), b"not an image").unwrap();
        let dataset = folder.open().unwrap();
        for message in [
            dataset.example(0).unwrap_err().to_string(),
            dataset.prompts(0).unwrap_err().to_string(),
        ] {
            assert!(
                message.contains("rows.jsonl:1: image ") && message.contains("0.png: cannot decode"),
                "{message}"
            );
        }
    }

    #[test]
    fn only_training_rows_are_shuffled() {
        let folder = Folder::new(&one_line(TWO_TURNS).repeat(3), 2);
        assert!(folder.open().unwrap().order().shuffle);
        let images = Some(ImageOptions::clip(2, COPIES));
        let held_out = Dataset::open(Split::Eval, &folder.options, images, folder.tokenizer.clone()).unwrap();
        assert_eq!((held_out.len(), held_out.order().shuffle), (3, false));
    }
}
