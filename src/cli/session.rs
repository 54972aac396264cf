//! What several commands need of a run: its data, its model's shape, its weights.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use brazier_models::{
    Head, HostDtype, HostTensor, LoraConfig, Shard, VisionLanguageConfig, VisionModelType, Vlm, VlmConfig,
    lora::is_adapter,
    params::{self, ParamInfo},
};
use burn::tensor::{DType, Device};
use indicatif::{ProgressBar, ProgressStyle};

use super::{Failure, say, show};
use crate::{
    config::{JoinedModel, LoraChoice, ModelChoice, RunConfig, SynthChoice},
    data::{BadRows, DataOptions, Dataset, Grouping, ImageOptions, RowError, Split, Tokenizer, synth},
    fs,
    hub::{self, Adapter, HubError, JoinOptions, ResizeOptions, Table, Weights},
    image_processor::ImageProcessor,
    learner::Part,
};

/// The output projection of a language model.
const LM_HEAD: &str = "language_model.lm_head.weight";
/// What a classification head has instead.
const SCORE: &str = "language_model.score.weight";

/// Tokenizer, rows, and the model they are for.
pub(super) struct Session {
    pub(super) tokenizer: Arc<Tokenizer>,
    pub(super) model: VlmConfig,
    pub(super) adapters: Option<Adapters>,
    pub(super) train: Arc<Dataset>,
    pub(super) eval: Option<Arc<Dataset>>,
}

impl Session {
    /// Reads the tokenizer, decides on the model's shape, opens the data.
    pub(super) fn open(run: &RunConfig) -> Result<Self, Failure> {
        let tokenizer = Arc::new(tokenizer(run)?);
        let model = model_config(run, &tokenizer)?;
        let adapters = adapters(run, &model)?;
        let open = |split| open_data(run, &model, &tokenizer, split, run.data.bad_rows).map(Arc::new);
        let train = open(Split::Train)?;
        say(format_args!("training data    {}", train.report()));
        let eval = match run.data.eval.is_empty() {
            true => None,
            false => Some(open(Split::Eval)?),
        };
        if let Some(eval) = &eval {
            say(format_args!("held-out data    {}", eval.report()));
        }
        Ok(Self {
            tokenizer,
            model,
            adapters,
            train,
            eval,
        })
    }

    /// Rows that were skipped because something is wrong with them.
    pub(super) fn bad_rows(&self) -> impl Iterator<Item = &RowError> {
        let eval = self.eval.iter().flat_map(|dataset| dataset.bad_rows());
        self.train.bad_rows().iter().chain(eval)
    }

    /// What the order of the data depends on. A resumed run must agree.
    pub(super) fn data_order(&self, run: &RunConfig, rows_per_step: usize) -> BTreeMap<String, String> {
        let report = self.train.report();
        let mut order: BTreeMap<String, String> = [
            ("data.shuffle", run.data.shuffle.to_string()),
            ("data.train rows", report.kept.to_string()),
            ("data.train tokens", report.tokens.to_string()),
            ("samples per step", rows_per_step.to_string()),
            ("seed", run.data.seed.to_string()),
        ]
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value))
        .collect();
        order.extend(grouping(&run.data));
        if run.data.random_truncation {
            order.insert("data.random_truncation".to_owned(), true.to_string());
        }
        let image_token = run.image_token.clone();
        order.extend(image_token.map(|token| ("model.image_token".to_owned(), token)));
        order
    }
}

/// What the order depends on besides, where samples do not stand alone.
fn grouping(data: &DataOptions) -> Vec<(String, String)> {
    let packing = |max_images: Option<usize>| {
        let images = max_images.map_or_else(|| "any".to_owned(), |images| images.to_string());
        format!("best_fit in {} tokens, images: {images}", data.sequence_length)
    };
    match data.grouping {
        Grouping::Alone => Vec::new(),
        Grouping::ByLength { micro_batch_size } => {
            vec![(
                "data.group_by_length".to_owned(),
                format!("by {micro_batch_size}"),
            )]
        }
        Grouping::Packed { max_images } => vec![("data.packing".to_owned(), packing(max_images))],
    }
}

/// Opens the rows of a split for a model.
pub(super) fn open_data(
    run: &RunConfig,
    model: &VlmConfig,
    tokenizer: &Arc<Tokenizer>,
    split: Split,
    bad_rows: BadRows,
) -> Result<Dataset, Failure> {
    let vision = model.vision.as_ref();
    let images = vision.map(|vision| image_options(images_of(&run.model)?.as_deref(), vision));
    let options = DataOptions {
        classes: run.class_options(model)?,
        bad_rows,
        ..run.data.clone()
    };
    let dataset = Dataset::open(split, &options, images.transpose()?, tokenizer.clone())?;
    if let Some(reason) = dataset.not_kept() {
        say(format_args!(
            "note: the encoded rows of data.{split} are not kept, and the next start encodes them again: {reason}"
        ));
    }
    Ok(dataset)
}

/// Writes the rows that were skipped, each with its file, its line and what is wrong; no file if there are none.
pub(super) fn write_bad_rows(session: &Session, path: &Path) -> Result<(), Failure> {
    let lines = session.bad_rows().map(|RowError { sample, problem }| {
        let line = serde_json::json!({
            "file": sample.file.display().to_string(),
            "line": sample.line,
            "problem": problem.to_string(),
        });
        format!("{line}\n")
    });
    let text: String = lines.collect();
    match text.is_empty() {
        true => fs::remove_file(path)?,
        false => fs::write_atomic(path, text.as_bytes())?,
    }
    Ok(())
}

/// The run's tokenizer, with the token for images that the run names, or else the one of an imported model.
pub(super) fn tokenizer(run: &RunConfig) -> Result<Tokenizer, Failure> {
    let tokenizer = Tokenizer::load(&locate(&run.data.tokenizer)?)?;
    match (&run.image_token, &run.model) {
        (Some(token), _) => Ok(tokenizer.with_image_token(token)),
        (None, ModelChoice::Import(dir)) => Ok(of_model(tokenizer, &hub::read_config(&locate(dir)?)?)),
        (None, ModelChoice::Join(_) | ModelChoice::New(_)) => Ok(tokenizer),
    }
}

/// A tokenizer with the image token of a model.
pub(super) fn of_model(tokenizer: Tokenizer, model: &VlmConfig) -> Tokenizer {
    match &model.vision {
        Some(vision) => tokenizer.with_image_token_of(vision.image_token_id),
        None => tokenizer,
    }
}

/// Shape of the run's model.
pub(super) fn model_config(run: &RunConfig, tokenizer: &Tokenizer) -> Result<VlmConfig, Failure> {
    match run.model_config(tokenizer.vocab_size(), tokenizer.image_token_id().ok())? {
        Some(config) => Ok(config),
        None => {
            let config = match &run.model {
                ModelChoice::Import(dir) => hub::read_config(&locate(dir)?)?,
                ModelChoice::Join(parts) => joined_config(parts, tokenizer)?,
                ModelChoice::New(_) => return Err(anyhow::anyhow!("a new model has its own shape").into()),
            };
            let mut config =
                run.fit_vocabulary(config, tokenizer.vocab_size(), tokenizer.image_token_id().ok())?;
            config.head = run.head_config(&config.head)?;
            run.check_model(&config)?;
            Ok(config)
        }
    }
}

/// Shape of a model of two imported parts.
fn joined_config(parts: &JoinedModel, tokenizer: &Tokenizer) -> Result<VlmConfig, Failure> {
    let language = locate(&parts.language)?;
    let rows = hub::read_decoder_config(&language)?.vocab_size;
    let options = JoinOptions {
        projector: parts.projector,
        vision_feature_layer: parts.vision_feature_layer,
        vision_feature_select: parts.vision_feature_select,
        vision_post_layernorm: parts.vision_post_layernorm,
        image_token_id: tokenizer.image_token_id()?,
        vocab_size: Some(rows.max(tokenizer.vocab_size())),
    };
    let mut config = hub::join_configs(&language, &locate(&parts.vision)?, &options)?;
    // What the tables have; whether they may grow, the run says.
    config.text.vocab_size = rows;
    Ok(config)
}

/// The files that the weights of a run's model come from; none for a new one.
fn imported(
    choice: &ModelChoice,
    config: &VlmConfig,
    expected: &[(String, Vec<usize>)],
) -> Result<Vec<Weights>, Failure> {
    let open = |dir: &Path, part| -> Result<Weights, Failure> {
        Ok(Weights::open(&locate(dir)?, part, config, expected)?)
    };
    match choice {
        ModelChoice::Import(dir) => Ok(vec![open(dir, hub::Part::Whole)?]),
        ModelChoice::Join(parts) => Ok(vec![
            open(&parts.language, hub::Part::Language)?,
            open(&parts.vision, hub::Part::Vision)?,
        ]),
        ModelChoice::New(_) => Ok(Vec::new()),
    }
}

/// The folder that an export of the run's model carries the rest of, and the one that knows the language model's tokens.
pub(super) fn sources(choice: &ModelChoice) -> Result<(Option<PathBuf>, Option<PathBuf>), Failure> {
    match choice {
        ModelChoice::Import(dir) => {
            let dir = locate(dir)?;
            Ok((Some(dir.clone()), Some(dir)))
        }
        ModelChoice::Join(parts) => Ok((None, Some(locate(&parts.language)?))),
        ModelChoice::New(_) => Ok((None, None)),
    }
}

/// The folder that knows how the images of a run's model are prepared; none for a new model.
fn images_of(choice: &ModelChoice) -> Result<Option<PathBuf>, Failure> {
    match choice {
        ModelChoice::Import(dir) => Ok(Some(locate(dir)?)),
        ModelChoice::Join(parts) => Ok(Some(locate(&parts.vision)?)),
        ModelChoice::New(_) => Ok(None),
    }
}

/// How images are prepared for a vision tower: as its folder says, and as its family's are where that says nothing.
pub(super) fn image_options(
    dir: Option<&Path>,
    vision: &VisionLanguageConfig,
) -> Result<ImageOptions, Failure> {
    let image_size = vision.vision.image_size;
    let clip = ImageOptions::clip(image_size, vision.num_image_tokens());
    let usual = match vision.vision.model_type {
        VisionModelType::Clip => clip,
        VisionModelType::Siglip => ImageOptions {
            processor: ImageProcessor::siglip(u32::try_from(image_size).unwrap_or(u32::MAX)),
            ..clip
        },
    };
    let read = match dir {
        Some(dir) => hub::read_image_processor(dir, image_size)?,
        None => None,
    };
    Ok(match read {
        Some(processor) => ImageOptions { processor, ..usual },
        None => usual,
    })
}

/// The processor of a run's model; of a model without vision one that nobody asks for.
pub(super) fn image_processor(choice: &ModelChoice, model: &VlmConfig) -> Result<ImageProcessor, Failure> {
    match &model.vision {
        Some(vision) => Ok(image_options(images_of(choice)?.as_deref(), vision)?.processor),
        None => Ok(ImageProcessor::clip(0)),
    }
}

/// Adapters to train or to use: which, and their weights if there are some.
pub(super) struct Adapters {
    pub(super) config: LoraConfig,
    tensors: Vec<HostTensor>,
}

impl Adapters {
    /// Those of a folder.
    pub(super) fn read(dir: &Path, model: &VlmConfig) -> Result<Self, Failure> {
        let Adapter { config, tensors, .. } = hub::read_adapter(dir, model)?;
        Ok(Self { config, tensors })
    }

    /// Puts what was read into a model, in the place of what was drawn.
    fn load_into(&self, model: Vlm) -> Result<Vlm, Failure> {
        if self.tensors.is_empty() {
            return Ok(model);
        }
        // Of a module that comes whole, nothing may be missing.
        let parts: Vec<Part> = self
            .tensors
            .iter()
            .filter(|tensor| !is_adapter(&tensor.name))
            .map(|tensor| Part::of(&tensor.name))
            .collect();
        let comes = |path: &str| is_adapter(path) || parts.contains(&Part::of(path));
        params::load_some_params(model, self.tensors.clone(), comes)
            .map_err(|(_, error)| Failure::Input(error.to_string()))
    }
}

/// The adapters of a run.
pub(super) fn adapters(run: &RunConfig, model: &VlmConfig) -> Result<Option<Adapters>, Failure> {
    let imported = match &run.lora {
        Some(LoraChoice::Import(dir)) => Some(Adapters::read(dir, model)?),
        Some(LoraChoice::New { .. }) | None => None,
    };
    let config = run.lora_config(model, imported.as_ref().map(|adapters| &adapters.config))?;
    let tensors = imported.map(|adapters| adapters.tensors).unwrap_or_default();
    Ok(config.map(|config| Adapters { config, tensors }))
}

/// Draws the shapes data set unless it is there.
pub(super) fn draw(choice: &SynthChoice) -> Result<(), Failure> {
    if synth::is_current(&choice.dir, &choice.options) {
        return Ok(());
    }
    say(format_args!("drawing coloured shapes into {}", show(&choice.dir)));
    let bar = ProgressBar::new(0).with_style(style("{bar:40} {pos}/{len} pictures"));
    let summary = synth::synthesize(&choice.dir, &choice.options, &|done, all| {
        bar.set_length(all as u64);
        bar.set_position(done as u64);
    })?;
    bar.finish_and_clear();
    say(format_args!(
        "drew {} pictures with {} questions for training, {} with {} held out; answering without looking gets {:.0} %",
        choice.options.train_images,
        summary.train_questions,
        choice.options.eval_images,
        summary.eval_questions,
        100.0 * summary.blind_accuracy,
    ));
    Ok(())
}

pub(super) fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// The folder of a model or tokenizer that the user named by a path or by its name on the hub.
pub(super) fn locate(path: &Path) -> Result<PathBuf, Failure> {
    Ok(hub::locate(path, &|name| std::env::var(name).ok())?)
}

/// Where a model goes, and which part of it.
pub(super) struct Place<'a> {
    pub(super) device: &'a Device,
    pub(super) dtype: DType,
    /// All of it where there are adapters.
    pub(super) shard: Shard,
}

/// A model with the weights of a Hugging Face folder, and adapters on it where there are some; one tensor after the other:
/// beside the parameters no more than one is in host memory.
pub(super) fn import(
    dir: &Path,
    config: &VlmConfig,
    adapters: Option<&Adapters>,
    device: &Device,
    dtype: DType,
) -> Result<Vlm, Failure> {
    let choice = ModelChoice::Import(dir.into());
    import_choice(
        &choice,
        config,
        adapters,
        None,
        0,
        &Place {
            device,
            dtype,
            shard: Shard::WHOLE,
        },
    )
}

/// As [`import`], of whatever a run's model comes from; what the files lack is drawn from the seed.
pub(super) fn import_choice(
    choice: &ModelChoice,
    config: &VlmConfig,
    adapters: Option<&Adapters>,
    resize: Option<ResizeOptions>,
    seed: u64,
    place: &Place,
) -> Result<Vlm, Failure> {
    let Place { device, dtype, shard } = *place;
    let lora = adapters.map(|adapters| &adapters.config);
    let model = Vlm::init_deferred(config, lora, seed, device, dtype)?;
    let Stored {
        weights,
        params: stored,
    } = stored_weights(choice, config, expected(&model), resize)?;
    let (std, dtype) = (config.text.initializer_range, host_dtype(dtype));
    // Files of adapters are for whole layers.
    let shard = if adapters.is_some() { Shard::WHOLE } else { shard };
    let filled = model.fill(shard, dtype, |info, bytes| {
        let Some(weights) = weights.iter().find(|weights| weights.contains(&info.path)) else {
            return Ok::<bool, HubError>(false);
        };
        let Some(resize) = resize.filter(|_| hub::is_vocabulary(&info.path)) else {
            return weights.read_into(&info.path, dtype, bytes).map(|()| true);
        };
        let mut table = Table {
            name: &info.path,
            width: info.shape[1],
            dtype,
            bytes,
        };
        let old_rows = stored
            .iter()
            .find(|(path, _)| *path == info.path)
            .map_or(0, |(_, shape)| shape[0]);
        weights.read_into(&info.path, dtype, table.rows_mut(0..old_rows))?;
        resize.fill(&mut table, old_rows, std, seed);
        Ok(true)
    });
    match adapters {
        Some(adapters) => adapters.load_into(filled?),
        None => Ok(filled?),
    }
}

/// A model with weights drawn from a seed.
pub(super) fn draw_model(session: &Session, seed: u64, place: &Place) -> Result<Vlm, Failure> {
    let Place { device, dtype, shard } = *place;
    if shard.is_whole() {
        return Ok(Vlm::init(&session.model, seed, device, dtype)?);
    }
    let model = Vlm::init_deferred(&session.model, None, seed, device, dtype)?;
    let nothing = |_: &ParamInfo, _: &mut [u8]| Ok::<_, std::convert::Infallible>(false);
    match model.fill(shard, host_dtype(dtype), nothing) {
        Ok(model) => Ok(model),
        Err(never) => match never {},
    }
}

/// The files that the weights of a run's model come from.
pub(super) struct Stored {
    /// None for a new model.
    pub(super) weights: Vec<Weights>,
    /// What they hold: names and shapes.
    params: Vec<(String, Vec<usize>)>,
}

/// Opens the files that the weights of a run's model come from. What they must hold differs from the model's own: other rows of the
/// vocabulary than the model where it is resized, the output projection where the model has a fresh classification head,
/// no adapters.
pub(super) fn stored_weights(
    choice: &ModelChoice,
    config: &VlmConfig,
    mut params: Vec<(String, Vec<usize>)>,
    resize: Option<ResizeOptions>,
) -> Result<Stored, Failure> {
    let head = stored_head(choice)?;
    params.retain(|(path, _)| !(is_adapter(path) || (path == SCORE && head == Head::Lm)));
    if head != config.head && !config.text.tie_word_embeddings {
        let shape = vec![config.text.vocab_size, config.text.hidden_size];
        params.push((LM_HEAD.to_owned(), shape));
    }
    if resize.is_some() {
        let rows = stored_rows(choice, config)?;
        for (_, shape) in params.iter_mut().filter(|(path, _)| hub::is_vocabulary(path)) {
            shape[0] = rows;
        }
    }
    let stored_config = VlmConfig {
        head,
        ..config.clone()
    };
    let weights = imported(choice, &stored_config, &params)?;
    Ok(Stored { weights, params })
}

/// What the model in the files is for.
fn stored_head(choice: &ModelChoice) -> Result<Head, Failure> {
    match choice {
        ModelChoice::Import(dir) => Ok(hub::read_config(&locate(dir)?)?.head),
        ModelChoice::Join(_) | ModelChoice::New(_) => Ok(Head::Lm),
    }
}

/// Rows of the vocabulary's tables in the files that a run's model comes from.
fn stored_rows(choice: &ModelChoice, config: &VlmConfig) -> Result<usize, Failure> {
    match choice {
        ModelChoice::Import(dir) => Ok(hub::read_config(&locate(dir)?)?.text.vocab_size),
        ModelChoice::Join(parts) => Ok(hub::read_decoder_config(&locate(&parts.language)?)?.vocab_size),
        ModelChoice::New(_) => Ok(config.text.vocab_size),
    }
}

fn host_dtype(dtype: DType) -> HostDtype {
    match dtype {
        DType::BF16 => HostDtype::Bf16,
        _ => HostDtype::F32,
    }
}

/// Every parameter with its shape.
pub(super) fn expected(model: &Vlm) -> Vec<(String, Vec<usize>)> {
    let params = params::list_params(model).into_iter();
    params.map(|info| (info.path, info.shape)).collect()
}

/// Reads the weights into a model; what they lack stays as it is drawn.
pub(super) fn fill(model: Vlm, weights: &[Weights], dtype: DType) -> Result<Vlm, Failure> {
    let host_dtype = host_dtype(dtype);
    let filled = params::fill_params(model, host_dtype, |info, bytes| {
        match weights.iter().find(|weights| weights.contains(&info.path)) {
            Some(weights) => weights.read_into(&info.path, host_dtype, bytes).map(|()| true),
            None => Ok::<bool, HubError>(false),
        }
    });
    Ok(filled?)
}
