//! What several commands need of a run: its data, its model's shape, its weights.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use brazier_models::{HostTensor, Vlm, VlmConfig, params};
use burn::tensor::{DType, Device};
use indicatif::{ProgressBar, ProgressStyle};

use super::{Failure, say, show};
use crate::{
    config::{ModelChoice, RunConfig, SynthChoice},
    data::{Dataset, ImageOptions, Split, Tokenizer, synth},
    hub::{self, ResizeOptions},
};

/// Tokenizer, rows, and the model they are for.
pub(super) struct Session {
    pub(super) tokenizer: Arc<Tokenizer>,
    pub(super) model: VlmConfig,
    pub(super) train: Arc<Dataset>,
    pub(super) eval: Option<Arc<Dataset>>,
}

impl Session {
    /// Draws what is to be drawn, reads the tokenizer, decides on the model's shape, opens the data.
    pub(super) fn open(run: &RunConfig) -> Result<Self, Failure> {
        if let Some(choice) = &run.synth {
            draw(choice)?;
        }
        let tokenizer = Arc::new(Tokenizer::load(&run.data.tokenizer)?);
        let model = model_config(run, &tokenizer)?;
        let images = model
            .vision
            .as_ref()
            .map(|vision| ImageOptions::clip(vision.vision.image_size, vision.num_image_tokens()));
        let open = |split| Dataset::open(split, &run.data, images, tokenizer.clone()).map(Arc::new);
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
            train,
            eval,
        })
    }

    /// What the order of the data depends on. A resumed run must agree.
    pub(super) fn data_order(&self, run: &RunConfig, samples_per_step: usize) -> BTreeMap<String, String> {
        let report = self.train.report();
        [
            ("data.shuffle", run.data.shuffle.to_string()),
            ("data.train rows", report.kept.to_string()),
            ("data.train tokens", report.tokens.to_string()),
            ("samples per step", samples_per_step.to_string()),
            ("seed", run.data.seed.to_string()),
        ]
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value))
        .collect()
    }
}

/// Shape of the run's model.
pub(super) fn model_config(run: &RunConfig, tokenizer: &Tokenizer) -> Result<VlmConfig, Failure> {
    match run.model_config(tokenizer.vocab_size(), tokenizer.image_token_id().ok())? {
        Some(config) => Ok(config),
        None => {
            let ModelChoice::Import(dir) = &run.model else {
                return Err(anyhow::anyhow!("a model is either new or imported").into());
            };
            let config = hub::read_config(dir)?;
            let config =
                run.fit_vocabulary(config, tokenizer.vocab_size(), tokenizer.image_token_id().ok())?;
            run.check_model(&config)?;
            Ok(config)
        }
    }
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

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// A model with the weights of a Hugging Face folder.
pub(super) fn import(dir: &Path, config: &VlmConfig, device: &Device, dtype: DType) -> Result<Vlm, Failure> {
    import_resized(dir, config, None, 0, device, dtype)
}

/// A model with the weights of a Hugging Face folder and, where the folder's vocabulary is smaller, fresh rows.
pub(super) fn import_resized(
    dir: &Path,
    config: &VlmConfig,
    resize: Option<ResizeOptions>,
    seed: u64,
    device: &Device,
    dtype: DType,
) -> Result<Vlm, Failure> {
    let model = Vlm::init(config, 0, device, dtype)?;
    let stored_rows = hub::read_config(dir)?.text.vocab_size;
    let expected: Vec<(String, Vec<usize>)> = params::list_params(&model)
        .into_iter()
        .map(|info| {
            let mut shape = info.shape;
            if resize.is_some() && hub::is_vocabulary(&info.path) {
                shape[0] = stored_rows;
            }
            (info.path, shape)
        })
        .collect();
    let mut tensors = hub::read_weights(dir, config, &expected, None)?;
    if let Some(resize) = resize {
        let (rows, std) = (config.text.vocab_size, config.text.initializer_range);
        tensors = tensors
            .into_iter()
            .map(|tensor| resize.resize(tensor, rows, std, seed))
            .collect();
    }
    with_weights(model, tensors)
}

/// The model with its parameters replaced.
pub(super) fn with_weights(model: Vlm, tensors: Vec<HostTensor>) -> Result<Vlm, Failure> {
    params::load_params(model, tensors).map_err(|(_, error)| Failure::Input(error.to_string()))
}
