//! From files to batches in host memory: chat rows or classified ones, their template and labels, images, a global order, and a loader.
//!
//! *Architecture invariants.* This room knows no tensor and no device. What is delivered is a pure function of files,
//! options and step: no state to save, none to restore. Nothing is dropped in silence: a wrong row is an error with
//! file and line, what the user chose to leave out is counted in [`DatasetReport`].

mod batch;
mod classified;
mod convert;
mod dataset;
mod error;
mod image;
mod inspect;
mod loader;
mod mixture;
mod options;
mod order;
mod packing;
mod rows;
mod source;
mod stream;
mod template;
mod tokenizer;
mod value;

pub use self::image::{ImageError, decode_image, load_image};
pub use batch::{
    Batch, BatchLimits, Class, ClassBatch, Example, IGNORE_LABEL, ImageBatch, ImageNumber, ImageSource,
    Padding, PixelImage, SampleId, collate, collate_rows,
};
pub use classified::ClassOptions;
pub use convert::{
    Compression, ConvertError, ConvertOptions, Converted, ImagePlace, Stage, TargetFormat, convert,
};
pub use dataset::{Dataset, DatasetReport, Lengths, Prompt, ShownToken, count_rows, data_files};
pub use error::{DataError, EncodeError, RowError, RowProblem};
pub use inspect::{Inspection, inspect};
pub use loader::{Held, Loader};
pub use mixture::Mixture;
pub use options::{
    BadRows, BatchPlan, DataOptions, DataSource, Grouping, ImageOptions, PaddingSide, Split, TooLong,
};
pub use order::Order;
pub use rows::{Conversation, Fields, IMAGE_TOKEN, Message, Part, Role, RowKind, RowOptions};
pub use source::{
    Cache, Format, PrepareOptions, Prepared, Selection, SplitChoice, WORTH_KEEPING_BYTES, prepare,
};
pub use stream::{Packing, Stream};
pub use template::{
    CHAT_TEMPLATE_JINJA, ChatTemplate, Date, Encoded, Masks, NamedTemplate, TURN_END, TURN_START,
    TemplateChoice, TemplateOptions, TrainEos, encode_prompt,
};
pub use tokenizer::{SpecialTokens, Tokenizer, token_text};
pub use value::Value;

pub mod synth;
