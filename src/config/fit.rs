//! What can be checked only once the tokenizer, an imported model or the device is known.

use brazier_models::{Head, LoraConfig, LoraParts, ModelConfigError, Shard, VlmConfig};

use super::{
    error::ConfigError,
    run::{HeadChoice, LoraChoice, ModelChoice, NewModel, RunConfig, TrainChoice},
    written::Errors,
};
use crate::{
    data::{ClassOptions, DataOptions, Grouping, IMAGE_TOKEN},
    device_choice::DeviceChoice,
    learner::options::{EvalConfig, Precision, TrainMode},
};

impl RunConfig {
    /// The configuration of a new model, once the tokenizer is read; `None` if the model is imported.
    ///
    /// `num_tokens` is one more than the tokenizer's largest id, `image_token_id` the id of its image token if it has one.
    ///
    /// # Errors
    /// If the vocabulary is too small, or the model sees and the tokenizer has no image token.
    pub fn model_config(
        &self,
        num_tokens: usize,
        image_token_id: Option<u32>,
    ) -> Result<Option<VlmConfig>, Vec<ConfigError>> {
        let ModelChoice::New(new) = &self.model else {
            return Ok(None);
        };
        let NewModel { config, vocab_size } = new.as_ref();
        let mut errors = Errors::new(&self.written);
        let mut config = config.clone();
        config.head = self.head_config(&Head::Lm)?;
        config.text.vocab_size = vocab_size.unwrap_or(num_tokens);
        if config.text.vocab_size < num_tokens {
            let reason = format!("smaller than the tokenizer, which has {num_tokens} tokens");
            errors.refuse(
                "model.language.vocab_size",
                &reason,
                Some("raise it, or leave it out"),
            );
        }
        if let Some(vision) = &mut config.vision {
            match image_token_id {
                Some(id) => vision.image_token_id = id,
                None => {
                    let reason = format!("has no token {}, and the model sees images", self.image_token());
                    let hint = "add it to the tokenizer as a special token, or name one that is there under \
                                model.image_token";
                    errors.refuse_value(
                        "model.tokenizer",
                        &self.data.tokenizer.to_string_lossy(),
                        &reason,
                        Some(hint),
                    );
                }
            }
        }
        if !errors.list.is_empty() {
            return Err(errors.list);
        }
        self.check_model(&config)?;
        Ok(Some(config))
    }

    /// The configuration of an imported model with as many rows as the tokenizer needs.
    ///
    /// `num_tokens` is one more than the tokenizer's largest id, `image_token_id` the id of its image token if it has
    /// one.
    ///
    /// # Errors
    /// If the tokenizer is larger than the vocabulary and that may not grow, or its image token is not the model's.
    pub fn fit_vocabulary(
        &self,
        mut model: VlmConfig,
        num_tokens: usize,
        image_token_id: Option<u32>,
    ) -> Result<VlmConfig, Vec<ConfigError>> {
        let mut errors = Errors::new(&self.written);
        let tokenizer = self.data.tokenizer.to_string_lossy();
        let rows = model.text.vocab_size;
        match &self.resize_vocabulary {
            Some(resize) => model.text.vocab_size = resize.rows(rows, num_tokens),
            None if num_tokens > rows => {
                let reason = format!("has {num_tokens} tokens, and the model's vocabulary {rows}");
                let hint =
                    "write model.resize_vocabulary: {} for fresh rows, or take the model's own tokenizer";
                errors.refuse_value("model.tokenizer", &tokenizer, &reason, Some(hint));
            }
            None => {}
        }
        if model.vision.is_none() {
            errors.no_effect("model.image_token", "the model has no vision tower");
        }
        if let (Some(vision), Some(id)) = (&mut model.vision, image_token_id)
            && vision.image_token_id != id
        {
            // A token beyond the old rows was added for this model; one inside them stands for something else there.
            if self.resize_vocabulary.is_some() && id as usize >= rows {
                vision.image_token_id = id;
            } else {
                let expected = vision.image_token_id;
                let token = self.image_token();
                let reason =
                    format!("has {token} as token {id}, and the model's image_token_id is {expected}");
                let hint = "take the model's own tokenizer, name its token under model.image_token, or correct \
                            image_token_id in its config.json";
                errors.refuse_value("model.tokenizer", &tokenizer, &reason, Some(hint));
            }
        }
        if errors.list.is_empty() {
            Ok(model)
        } else {
            Err(errors.list)
        }
    }

    /// The token for images, unless an imported model has its own.
    fn image_token(&self) -> &str {
        self.image_token.as_deref().unwrap_or(IMAGE_TOKEN)
    }

    /// Whether this run can train that model: what it is imported with is known only when its folder has been
    /// read.
    ///
    /// # Errors
    /// If the model is none, if parts are to be trained that it lacks, or if it is too short for the data.
    pub fn check_model(&self, model: &VlmConfig) -> Result<(), Vec<ConfigError>> {
        let mut errors = Errors::new(&self.written);
        check_model(model, &self.train, &self.data, &mut errors);
        check_shards(model, self.parallel.learner.tensor, &mut errors);
        self.check_vision_cache(model, &mut errors);
        check_metrics(&model.head, &self.eval, &mut errors);
        if errors.list.is_empty() {
            Ok(())
        } else {
            Err(errors.list)
        }
    }

    /// Memory for features that nobody makes.
    fn check_vision_cache(&self, model: &VlmConfig, errors: &mut Errors) {
        // Of imported adapters it is not known yet where they are.
        let may_rest = self.train.mode != TrainMode::Full || self.lora.is_some();
        if self.train.vision_cache.is_some_and(|bytes| bytes > 0) && !(model.vision.is_some() && may_rest) {
            let reason = match &model.vision {
                Some(_) => "has no effect: the vision tower learns",
                None => "has no effect: the model has no vision tower",
            };
            errors.refuse("train.vision_cache_gib", reason, Some("take it out"));
        }
    }

    /// What the run's model is for, if an import or a new model is for `own`.
    ///
    /// # Errors
    /// If `model.head` contradicts that, or says no classes.
    pub fn head_config(&self, own: &Head) -> Result<Head, Vec<ConfigError>> {
        let mut errors = Errors::new(&self.written);
        match (&self.head, own) {
            (HeadChoice::Own, _) | (HeadChoice::Lm, Head::Lm) => return Ok(own.clone()),
            (HeadChoice::Lm, Head::Classification { .. }) => {
                let reason =
                    "the model in model.from has a classification head in the place of its output projection";
                errors.refuse(
                    "model.head.kind",
                    reason,
                    Some("take model.head out, or import a language model"),
                );
            }
            (HeadChoice::Classification { labels: None, .. }, Head::Lm) => {
                let hint = "write model.head.labels or model.head.num_labels";
                errors.refuse("model.head", "says no classes for the fresh head", Some(hint));
            }
            (
                HeadChoice::Classification {
                    labels: Some(labels), ..
                },
                Head::Lm,
            ) => {
                return Ok(Head::Classification {
                    labels: labels.clone(),
                });
            }
            (HeadChoice::Classification { labels, .. }, Head::Classification { labels: known }) => {
                if labels.as_ref().is_none_or(|labels| labels == known) {
                    return Ok(own.clone());
                }
                let key = match errors.given("model.head.labels") {
                    true => "model.head.labels",
                    false => "model.head.num_labels",
                };
                let reason = format!(
                    "the head of the model in model.from has the classes {}",
                    known.join(", ")
                );
                errors.refuse(
                    key,
                    &reason,
                    Some("take it out, or import a language model for a fresh head"),
                );
            }
        }
        Err(errors.list)
    }

    /// The classes of the rows, for a model with a head for them.
    ///
    /// # Errors
    /// If there is not one weight for each class.
    pub fn class_options(&self, model: &VlmConfig) -> Result<Option<ClassOptions>, Vec<ConfigError>> {
        let Head::Classification { labels } = &model.head else {
            return Ok(None);
        };
        let weights = match &self.head {
            HeadChoice::Classification { class_weights, .. } => class_weights.clone(),
            HeadChoice::Own | HeadChoice::Lm => None,
        };
        if let Some(weights) = weights.as_ref().filter(|weights| weights.len() != labels.len()) {
            let mut errors = Errors::new(&self.written);
            let reason = format!(
                "{} weights for {} classes: {}",
                weights.len(),
                labels.len(),
                labels.join(", ")
            );
            errors.refuse(
                "model.head.class_weights",
                &reason,
                Some("write one for each class, in this order"),
            );
            return Err(errors.list);
        }
        Ok(Some(ClassOptions {
            labels: labels.clone(),
            weights,
        }))
    }

    /// The adapters of this run on that model; `None` without `model.lora`. `imported` are those of `model.lora.from`.
    ///
    /// # Errors
    /// If they fit nothing in the model, or are on parts that the mode leaves as they are.
    pub fn lora_config(
        &self,
        model: &VlmConfig,
        imported: Option<&LoraConfig>,
    ) -> Result<Option<LoraConfig>, Vec<ConfigError>> {
        let trains_vision = self.train.mode == TrainMode::Full;
        let lora = match (&self.lora, imported) {
            (None, _) => return Ok(None),
            (Some(LoraChoice::New { config, parts }), _) => {
                let own = match trains_vision && model.vision.is_some() {
                    true => LoraParts::Both,
                    false => LoraParts::Language,
                };
                LoraConfig {
                    parts: parts.unwrap_or(own),
                    ..config.clone()
                }
            }
            (Some(LoraChoice::Import(_)), Some(imported)) => imported.clone(),
            (Some(LoraChoice::Import(_)), None) => return Ok(None),
        };
        let mut errors = Errors::new(&self.written);
        if lora.parts.has_vision() && !trains_vision {
            errors.refuse_value(
                "model.lora.parts",
                "vision",
                "train.mode leaves the vision tower as it is",
                Some("write language, or train.mode: full"),
            );
        } else if let Err(error) = lora.validate(model) {
            errors.refuse_model(&error);
        }
        match errors.list.is_empty() {
            true => Ok(Some(lora)),
            false => Err(errors.list),
        }
    }

    /// Whether this run can compute on that device: what `auto` stands for is known only when devices are
    /// looked for.
    ///
    /// # Errors
    /// If the device does not know the number format.
    pub fn check_device(&self, device: DeviceChoice) -> Result<(), Vec<ConfigError>> {
        let mut errors = Errors::new(&self.written);
        check_device(device, self.train.precision, &mut errors);
        if errors.list.is_empty() {
            Ok(())
        } else {
            Err(errors.list)
        }
    }
}

pub(super) fn check_device(device: DeviceChoice, precision: Precision, errors: &mut Errors) {
    let lacks_bf16 = match device {
        DeviceChoice::Ndarray | DeviceChoice::Wgpu => true,
        DeviceChoice::Auto | DeviceChoice::Cuda { .. } | DeviceChoice::Flex => false,
    };
    if precision == Precision::Bf16 && lacks_bf16 {
        let reason = format!("{device} has no bfloat16");
        errors.refuse(
            "train.precision",
            &reason,
            Some("write f32, or compute on cuda or flex"),
        );
    }
}

/// Whether the decoder can be held by `tensor` ranks together.
pub(super) fn check_shards(model: &VlmConfig, tensor: usize, errors: &mut Errors) {
    if let Err(error) = Shard::check(tensor, &model.text) {
        let hint = "lower it to a number that divides all of them";
        errors.refuse("parallel.tensor", &error.to_string(), Some(hint));
    }
}

pub(super) fn check_model(model: &VlmConfig, train: &TrainChoice, data: &DataOptions, errors: &mut Errors) {
    let parts = [
        model.text.validate().and_then(|()| model.text.check_family()),
        model
            .vision
            .as_ref()
            .map_or(Ok(()), |vision| vision.vision.validate()),
    ];
    let parts_are_fine = parts.iter().all(Result::is_ok);
    for error in parts.into_iter().filter_map(Result::err) {
        errors.refuse_model(&error);
    }
    // How the parts fit is computed from sizes that must be fine in themselves.
    if !parts_are_fine {
        return;
    }
    if let Err(error) = model.validate() {
        errors.refuse_model(&error);
        return;
    }
    let sequence_length = data.sequence_length;
    let longest = model.text.max_positions();
    if sequence_length <= longest && data.padded_length() > longest {
        let reason = format!(
            "pads rows of data.sequence_length = {sequence_length} to {}, more than the model's \
             max_position_embeddings = {longest}",
            data.padded_length()
        );
        errors.refuse("data.pad_to_multiple_of", &reason, Some("lower one of them"));
    }
    if matches!(data.grouping, Grouping::Packed { .. }) && model.head != Head::Lm {
        errors.refuse(
            "data.packing",
            "rows to classify are never packed: each of them is one answer of the model",
            Some("take it out; data.group_by_length avoids most padding"),
        );
    }
    if sequence_length > longest {
        let reason = format!("longer than the model's max_position_embeddings = {longest}");
        errors.refuse(
            "data.sequence_length",
            &reason,
            Some("lower it, or take a model for longer sequences"),
        );
    }
    match &model.vision {
        Some(vision) => {
            let num_image_tokens = vision.num_image_tokens();
            if num_image_tokens >= sequence_length {
                let reason =
                    format!("one image takes {num_image_tokens} tokens, which leaves no room for text");
                let hint = "raise it, or use larger patches, smaller images or projector pixel_shuffle";
                errors.refuse("data.sequence_length", &reason, Some(hint));
            }
        }
        None => check_without_vision(train, errors),
    }
}

/// Metrics are those of the head.
fn check_metrics(head: &Head, eval: &EvalConfig, errors: &mut Errors) {
    let of_tokens = ["eval_perplexity", "eval_exact_match"];
    let of_two_classes = ["eval_f1", "eval_auroc"];
    let metric = eval.best.name.as_str();
    let not_computed = match head {
        Head::Lm => !of_tokens.contains(&metric) && metric != "eval_loss",
        Head::Classification { labels } => {
            if eval.exact_match {
                let reason = "generates answers, and the model has a classification head";
                errors.refuse("eval.exact_match", reason, Some("take it out"));
            }
            of_tokens.contains(&metric) || (of_two_classes.contains(&metric) && labels.len() != 2)
        }
    };
    if not_computed {
        let hint = match head {
            Head::Lm => "write eval_loss, eval_perplexity or eval_exact_match",
            Head::Classification { .. } => {
                "write eval_loss, eval_accuracy or eval_macro_f1; for two classes also eval_f1 or eval_auroc"
            }
        };
        errors.refuse("eval.best.metric", "is not computed for this head", Some(hint));
    }
}

fn check_without_vision(train: &TrainChoice, errors: &mut Errors) {
    if matches!(train.mode, TrainMode::Alignment | TrainMode::EndToEnd) {
        let hint = "write full or lm_only, or add model.vision";
        errors.refuse(
            "train.mode",
            "trains the projector, and the model has no vision part",
            Some(hint),
        );
    }
    for key in ["projector", "vision"] {
        errors.no_effect(
            &format!("train.optimizer.groups.{key}"),
            "the model has no vision part",
        );
    }
}

impl Errors<'_> {
    /// A refusal of `models`, with the key as it is in our file.
    fn refuse_model(&mut self, error: &ModelConfigError) {
        let ModelConfigError { key, value, reason } = error;
        let ours = match key.split_once('.') {
            Some(("text_config", name)) => format!("model.language.{name}"),
            Some(("vision_config", name)) => format!("model.vision.{name}"),
            _ => format!("model.{key}"),
        };
        self.refuse_value(&ours, value, reason, None);
    }
}
