//! What several commands need of a run: its data, its model's shape, its weights.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use brazier_models::{Head, HostTensor, LoraConfig, Vlm, VlmConfig, lora::is_adapter, params};
use burn::tensor::{DType, Device};
use indicatif::{ProgressBar, ProgressStyle};

use super::{Failure, say, show};
use crate::{
    config::{LoraChoice, ModelChoice, RunConfig, SynthChoice},
    data::{DataOptions, Dataset, ImageOptions, Split, Tokenizer, synth},
    hub::{self, Adapter},
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
    /// Draws what is to be drawn, reads the tokenizer, decides on the model's shape, opens the data.
    pub(super) fn open(run: &RunConfig) -> Result<Self, Failure> {
        if let Some(choice) = &run.synth {
            draw(choice)?;
        }
        let tokenizer = Arc::new(Tokenizer::load(&run.data.tokenizer)?);
        let model = model_config(run, &tokenizer)?;
        let adapters = adapters(run, &model)?;
        let images = model
            .vision
            .as_ref()
            .map(|vision| ImageOptions::clip(vision.vision.image_size, vision.num_image_tokens()));
        let data = DataOptions {
            classes: run.class_options(&model)?,
            ..run.data.clone()
        };
        let open = |split| Dataset::open(split, &data, images, tokenizer.clone()).map(Arc::new);
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
            let mut config = hub::read_config(dir)?;
            config.head = run.head_config(&config.head)?;
            run.check_model(&config)?;
            Ok(config)
        }
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

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// A model with the weights of a Hugging Face folder, and adapters on it where there are some; fresh ones are drawn from
/// `seed`.
pub(super) fn import(
    dir: &Path,
    config: &VlmConfig,
    adapters: Option<&Adapters>,
    seed: u64,
    device: &Device,
    dtype: DType,
) -> Result<Vlm, Failure> {
    let lora = adapters.map(|adapters| &adapters.config);
    let model = Vlm::init_with_lora(config, lora, seed, device, dtype)?;
    // A fresh classification head takes the place of the output projection, which the folder has.
    let stored = hub::read_config(dir)?;
    let is_fresh = |path: &str| is_adapter(path) || (path == SCORE && stored.head == Head::Lm);
    let mut expected: Vec<(String, Vec<usize>)> = params::list_params(&model)
        .into_iter()
        .filter(|info| !is_fresh(&info.path))
        .map(|info| (info.path, info.shape))
        .collect();
    let drops_projection = stored.head != config.head && !config.text.tie_word_embeddings;
    if drops_projection {
        expected.push((
            LM_HEAD.to_owned(),
            vec![config.text.vocab_size, config.text.hidden_size],
        ));
    }
    let mut tensors = hub::read_weights(dir, &stored, &expected, None)?;
    tensors.retain(|tensor| !(drops_projection && tensor.name == LM_HEAD));
    let model = params::load_some_params(model, tensors, |path| !is_fresh(path))
        .map_err(|(_, error)| Failure::Input(error.to_string()))?;
    match adapters {
        Some(adapters) => adapters.load_into(model),
        None => Ok(model),
    }
}
