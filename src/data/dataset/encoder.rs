//! A row's tokens, and which of them are trained.

use std::{ops::Range, path::Path, sync::Arc};

use arrow::buffer::ScalarBuffer;

use super::{
    super::{
        classified::{ClassOptions, ClassifiedRow, Content},
        error::{DataError, EncodeError, RowProblem},
        image::load_image,
        options::{DataOptions, DataSource, Grouping, ImageOptions, PaddingSide, TooLong},
        rows::{self, Document, IMAGE_TOKEN, ImageRef, Pair},
        template::{ChatTemplate, Encoded, Ends, Masks, Rendered, TemplateOptions, TrainEos},
        tokenizer::Tokenizer,
    },
    Row, RowImage, Source, decode_in_row,
};
use crate::fs;

/// All that turns a row into tokens.
pub(super) struct Encoder {
    pub(super) tokenizer: Arc<Tokenizer>,
    pub(super) classes: Option<ClassOptions>,
    pub(super) template: ChatTemplate,
    pub(super) images: Option<ImageOptions>,
    pub(super) image_id: Option<u32>,
    pub(super) sequence_length: usize,
    pub(super) too_long: TooLong,
    pub(super) pad_to_multiple_of: usize,
    pub(super) padding_side: PaddingSide,
    /// Most images of a row that several samples share.
    pub(super) max_images: Option<usize>,
    masks: Masks,
    /// Whether images are decoded when a row is read first, rather than only looked for.
    pub(super) decodes_images: bool,
    /// What the user gives the template.
    template_options: TemplateOptions,
}

/// An encoded row, whatever length it has. A function of the row and of what [`Encoder::identity`] says.
pub(super) struct Draft {
    /// Shared with others where they lie in a file.
    pub(super) tokens: ScalarBuffer<u32>,
    /// Ranges of `tokens`.
    pub(super) trained: Vec<Range<usize>>,
    /// See [`Encoded::ends`].
    pub(super) ends: Vec<usize>,
    pub(super) images: Vec<RowImage>,
    pub(super) class: Option<usize>,
}

impl Draft {
    fn new(encoded: Encoded, images: Vec<RowImage>, class: Option<usize>) -> Self {
        let Encoded {
            mut tokens,
            trained,
            ends,
        } = encoded;
        // The buffer keeps what the vector has reserved.
        tokens.shrink_to_fit();
        Self {
            tokens: tokens.into(),
            trained,
            ends,
            images,
            class,
        }
    }
}

/// What one row becomes.
pub(super) enum Prepared {
    Kept { row: Row, truncated: bool },
    TooLong,
    Unlabelled { truncated: bool },
}

impl Encoder {
    pub(super) fn new(
        options: &DataOptions,
        images: Option<ImageOptions>,
        tokenizer: Arc<Tokenizer>,
    ) -> Result<Self, DataError> {
        let template = match options.classes {
            Some(_) => ChatTemplate::chat_ml(),
            None => ChatTemplate::choose(&options.template, &tokenizer)?,
        };
        let image_id = images.as_ref().map(|_| tokenizer.image_token_id()).transpose()?;
        Ok(Self {
            tokenizer,
            classes: options.classes.clone(),
            template,
            images,
            image_id,
            sequence_length: options.sequence_length,
            too_long: options.too_long,
            pad_to_multiple_of: options.pad_to_multiple_of.unwrap_or(1),
            padding_side: options.padding_side,
            max_images: match options.grouping {
                Grouping::Packed { max_images } => max_images,
                Grouping::Alone | Grouping::ByLength { .. } => None,
            },
            masks: options.masks.clone(),
            decodes_images: options.bad_rows.decodes_images(),
            template_options: options.template.clone(),
        })
    }

    /// All that a row's [`Draft`] depends on, the row itself aside: rows of equal identities become equal drafts.
    pub(super) fn identity(&self, source: &DataSource, image_dir: &Path) -> String {
        let classes = self.classes.as_ref().map(|classes| &classes.labels);
        let template = self.template.jinja(&self.tokenizer);
        let TemplateOptions { variables, date, .. } = &self.template_options;
        let images = (self.images, self.decodes_images, image_dir);
        // ChatML and a file with its text make other tokens.
        let form = self.template.is_chat_ml();
        let cells = (&source.columns, source.numbers);
        format!(
            "{}\n{form}\n{template}\n{variables:?} {date:?}\n{:?} {:?}\n{classes:?}\n{images:?}\n{cells:?}\n{:?}",
            self.tokenizer.digest(),
            self.masks,
            self.ends(),
            source.rows,
        )
    }

    pub(super) fn num_image_tokens(&self) -> usize {
        self.images.map_or(0, |options| options.num_image_tokens)
    }

    /// Length once images are expanded.
    pub(super) fn length(&self, tokens: &[u32]) -> usize {
        let num_images = tokens
            .iter()
            .filter(|&&token| Some(token) == self.image_id)
            .count();
        tokens.len() - num_images + num_images * self.num_image_tokens()
    }

    /// Checks that conversations can be rendered and teach the model to stop.
    pub(super) fn check_template(&self) -> Result<(), DataError> {
        self.template.check(&self.tokenizer, &self.masks)
    }

    /// Whether it matters where turns end.
    fn ends(&self) -> Ends {
        match self.too_long {
            TooLong::TruncateTurns => Ends::Wanted,
            TooLong::Drop | TooLong::Truncate | TooLong::Error => Ends::Unwanted,
        }
    }

    /// Tokens of a row, its images looked for.
    pub(super) fn encode(&self, row: rows::Row, source: &Source) -> Result<Draft, RowProblem> {
        let encoded = match &row {
            rows::Row::Classified(row) => return self.encode_classified(row),
            rows::Row::Chat(conversation) => {
                let (tokenizer, masks) = (&self.tokenizer, &self.masks);
                self.template
                    .encode(tokenizer, conversation, masks, self.image_id, self.ends())?
            }
            rows::Row::Text(document) => self.encode_document(document)?,
            rows::Row::Pair(pair) => self.encode_pair(pair)?,
            rows::Row::Tokens(tokens) => self.encode_tokens(tokens)?,
        };
        let images = row.into_images();
        if self.images.is_none() && !images.is_empty() {
            return Err(RowProblem::NoVision);
        }
        let tokens = &encoded.tokens;
        let num_placed = tokens
            .iter()
            .filter(|&&token| Some(token) == self.image_id)
            .count();
        if num_placed != images.len() {
            return Err(RowProblem::ImageTokens {
                images: images.len(),
                tokens: num_placed,
            });
        }
        let images = images
            .into_iter()
            .enumerate()
            .map(|(number, image)| self.place_image(image, number, source))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Draft::new(encoded, images, None))
    }

    /// Finds an image, and decodes it if that is wanted.
    fn place_image(&self, image: ImageRef, number: usize, source: &Source) -> Result<RowImage, RowProblem> {
        let options = self.images.as_ref().filter(|_| self.decodes_images);
        match image {
            ImageRef::Path(path) => {
                let path = source.image_dir.join(path);
                fs::size_bytes(&path).map_err(|source| RowProblem::MissingImage {
                    number: number + 1,
                    source,
                })?;
                if let Some(options) = options {
                    load_image(&path, options).map_err(RowProblem::Image)?;
                }
                Ok(RowImage::File(path))
            }
            ImageRef::Bytes(bytes) => {
                if let Some(options) = options {
                    decode_in_row(&bytes, number, options).map_err(RowProblem::Image)?;
                }
                Ok(RowImage::InRow)
            }
        }
    }

    /// A text that stands for itself: all of it is trained, the end of the sequence included.
    fn encode_document(&self, document: &Document) -> Result<Encoded, RowProblem> {
        let text = self.clean(&document.text)?;
        let whole = 0..text.len();
        self.enclose(Rendered {
            text,
            trained: Vec::from([whole]),
            ends: Vec::new(),
        })
    }

    /// A prompt and its completion, encoded as one text.
    fn encode_pair(&self, pair: &Pair) -> Result<Encoded, RowProblem> {
        let mut text = self.clean(&pair.prompt)?;
        let start = text.len();
        text.push_str(&self.clean(&pair.completion)?);
        let completion = start..text.len();
        self.enclose(Rendered {
            text,
            trained: Vec::from([completion]),
            ends: Vec::new(),
        })
    }

    /// Text of a row whose special tokens, images aside, are plain text.
    fn clean(&self, text: &str) -> Result<String, EncodeError> {
        if Tokenizer::has_private(text) {
            return Err(EncodeError::Private);
        }
        let pieces = text
            .split(IMAGE_TOKEN)
            .map(|text| self.tokenizer.neutralise(text));
        Ok(pieces.collect::<Vec<_>>().join(IMAGE_TOKEN))
    }

    /// Tokens of a text with what the tokenizer puts around it, and the end of the sequence.
    fn enclose(&self, rendered: Rendered) -> Result<Encoded, RowProblem> {
        let (before, after) = self.tokenizer.affixes();
        let Some(eos) = self.tokenizer.eos_id() else {
            return Err(RowProblem::NoEos);
        };
        let inner = rendered.encode(&self.tokenizer, self.image_id)?;
        let mut encoded = Encoded {
            tokens: before.to_vec(),
            trained: inner
                .trained
                .iter()
                .map(|range| range.start + before.len()..range.end + before.len())
                .collect(),
            ends: Vec::new(),
        };
        encoded.tokens.extend(inner.tokens);
        encoded.tokens.extend(after.iter().filter(|&&token| token != eos));
        encoded.push(eos, self.masks.eos != Some(TrainEos::None));
        encoded.ends.push(encoded.tokens.len());
        match (&encoded.tokens[..], self.tokenizer.bos_id()) {
            ([first, second, ..], Some(bos)) if *first == bos && *second == bos => {
                Err(RowProblem::DoubleBos {
                    token: self.tokenizer.id_to_token(bos).unwrap_or_default(),
                })
            }
            _ => Ok(encoded),
        }
    }

    /// Tokens as they are; padding around them is cut off, and none of it is trained.
    fn encode_tokens(&self, tokens: &[u32]) -> Result<Encoded, RowProblem> {
        let pad = self.tokenizer.pad_id();
        let mut encoded = Encoded::default();
        for &token in self.without_padding(tokens)? {
            encoded.push(token, token != pad && Some(token) != self.image_id);
        }
        Ok(encoded)
    }

    /// Tokens from the first to the last that is no padding: whether a row was padded on the left or on the right makes no
    /// difference.
    fn without_padding<'a>(&self, tokens: &'a [u32]) -> Result<&'a [u32], RowProblem> {
        let is_token = |&token: &u32| token != self.tokenizer.pad_id();
        let start = tokens.iter().position(is_token);
        let end = tokens.iter().rposition(is_token);
        match (start, end) {
            (Some(start), Some(end)) => Ok(&tokens[start..=end]),
            _ => Err(RowProblem::NoToken),
        }
    }

    /// A row to classify. It has no labels; its class is one.
    fn encode_classified(&self, row: &ClassifiedRow) -> Result<Draft, RowProblem> {
        if self.classes.is_none() {
            return Err(RowProblem::NoLabel);
        }
        let tokens = match &row.content {
            Content::Text(text) => self.tokenizer.encode_document(text)?,
            Content::Tokens(tokens) => self.without_padding(tokens)?.to_vec(),
        };
        if tokens.is_empty() {
            return Err(RowProblem::NoToken);
        }
        let encoded = Encoded {
            tokens,
            ..Encoded::default()
        };
        Ok(Draft::new(encoded, Vec::new(), Some(row.class)))
    }
}
