//! Held-out loss, perplexity, and exact match of generated answers.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use brazier_models::{Head, Segmented, Vlm, VlmInputs};
use burn::{
    module::Module,
    tensor::{DType, Device},
};

use super::{
    LearnerError,
    classification::{self, Prediction},
    inputs::{look_up, upload, upload_features},
    losses::{self, BatchLoss},
    options::EvalConfig,
    vision_cache::RestingVision,
};
use crate::{
    data::{Batch, BatchPlan, DataError, Dataset, Loader, Order, Prompt, SampleId},
    generate::{GenerateOptions, PromptRef, Sampling, generate},
    parallel::{Group, World},
};

/// Rows whose prompts are in memory together while answers are generated.
const ROWS_AT_ONCE: usize = 512;

/// One generated answer beside its reference.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// The row.
    pub sample: SampleId,
    /// First image of the row.
    pub image: Option<PathBuf>,
    /// The user's last turn.
    pub question: String,
    /// What the row says.
    pub reference: String,
    /// What the model says.
    pub answer: String,
    /// The row's tag for this turn.
    pub tag: Option<String>,
}

impl Answer {
    /// Equal up to white space around.
    pub fn is_exact(&self) -> bool {
        self.reference.trim() == self.answer.trim()
    }
}

/// Figures of one evaluation.
#[derive(Debug, Clone, PartialEq)]
pub struct Evaluation {
    /// `eval_loss`, `eval_perplexity`, `eval_exact_match`, `eval_exact_match/<tag>`; of a classification head `eval_loss`,
    /// `eval_accuracy`, `eval_macro_f1` and, for two classes, `eval_precision`, `eval_recall`, `eval_f1`, `eval_auroc`.
    pub metrics: Vec<(String, f64)>,
    /// Generated answers, in the order of the rows.
    pub answers: Vec<Answer>,
    /// What a classification head says of the rows, in their order.
    pub predictions: Vec<Prediction>,
    /// Samples in the loss.
    pub samples: u64,
    /// Wall time.
    pub seconds: f64,
}

/// How many answers are generated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// At most `max_generate_samples` rows, always the same.
    During,
    /// All rows.
    Final,
}

/// A held-out data set and what is measured on it.
pub struct Evaluator {
    dataset: Arc<Dataset>,
    config: EvalConfig,
    generation: GenerateOptions,
    workers: usize,
    vision: Option<RestingVision>,
}

impl Evaluator {
    /// # Errors
    /// If the tokenizer lacks the token that ends a turn.
    pub fn new(dataset: Arc<Dataset>, config: EvalConfig, workers: usize) -> Result<Self, DataError> {
        let stop_ids = match config.exact_match {
            true => dataset.template().stop_ids(dataset.tokenizer())?,
            false => Vec::new(),
        };
        let max_new_tokens = config.max_new_tokens;
        let generation = GenerateOptions {
            max_new_tokens,
            stop_ids,
            sampling: Sampling::Greedy,
        };
        Ok(Self {
            dataset,
            config,
            generation,
            workers,
            vision: None,
        })
    }

    /// Takes the features of images in the loss from a cache, as [`super::Learner::keep_vision_features`] does.
    #[must_use]
    pub fn with_vision(self, vision: Option<RestingVision>) -> Self {
        Self { vision, ..self }
    }

    /// Measures a model. The ranks of a group share the work, and each gets the whole result. It does not depend on batch size,
    /// threads or ranks beyond f32 rounding of the loss's sum; on ranks alone, not at all.
    ///
    /// # Errors
    /// If rows cannot be read or do not fit the model, on any rank.
    pub fn evaluate(
        &self,
        model: &Vlm,
        device: &Device,
        dtype: DType,
        depth: Depth,
        group: &Group,
    ) -> Result<Evaluation, LearnerError> {
        let started = Instant::now();
        let model = model.valid();
        let own = group.agree(self.own_losses(&model, device, dtype, group.world()))?;
        let batches = losses::exchange(&own, group)?;
        let weight: f64 = batches.iter().map(|batch| batch.weight).sum();
        let loss = batches.iter().map(|batch| batch.sum).sum::<f64>() / weight;
        let predictions = self.predictions(&batches);
        let mut metrics = vec![("eval_loss".to_owned(), loss)];
        match &model.config().head {
            Head::Lm => metrics.push(("eval_perplexity".to_owned(), loss.exp())),
            Head::Classification { labels } => {
                metrics.extend(classification::metrics(&predictions, labels.len()));
            }
        }
        let mut answers = Vec::new();
        if self.config.exact_match {
            answers = self.answers(&model, device, dtype, depth, group)?;
            metrics.extend(exact_match(&answers));
        }
        Ok(Evaluation {
            metrics,
            answers,
            predictions,
            samples: self.dataset.len() as u64,
            seconds: started.elapsed().as_secs_f64(),
        })
    }

    /// Losses of this rank's batches.
    fn own_losses(
        &self,
        model: &Vlm,
        device: &Device,
        dtype: DType,
        world: World,
    ) -> Result<Vec<BatchLoss>, LearnerError> {
        let plan = BatchPlan {
            micro_batch_size: self.config.batch_size,
            accumulation: 1,
            rank: world.rank,
            world_size: world.size,
            total_rows: Some(self.dataset.stream().rows_in(1.0)),
        };
        let (dataset, workers) = (self.dataset.clone(), self.workers);
        let mut loader = match &self.vision {
            Some(vision) => Loader::start_with_held(dataset, plan, 0, workers, 2, vision.held())?,
            None => Loader::start(dataset, plan, 0, workers, 2)?,
        };
        let mut losses = Vec::new();
        let mut step = 0;
        while let Some(batches) = loader.next_step()? {
            for batch in batches.iter().filter(|batch| batch.num_labelled > 0) {
                let inputs = self.inputs(batch, model, device, dtype)?;
                let hidden = model.hidden(&inputs);
                let sum = model.loss_sum(hidden.clone(), &inputs).into_scalar::<f32>();
                let rows = batch.classes.as_ref().map(|classes| {
                    let logits = model.class_logits(hidden).into_data();
                    let logits: Vec<f32> = logits.iter().collect();
                    let logits = logits.chunks(logits.len() / batch.rows).map(<[f32]>::to_vec);
                    classes
                        .ids
                        .iter()
                        .map(|&class| class as usize)
                        .zip(logits)
                        .collect()
                });
                losses.push(BatchLoss {
                    number: step * world.size + world.rank,
                    sum: f64::from(sum),
                    weight: batch.loss_weight(),
                    rows: rows.unwrap_or_default(),
                });
            }
            step += 1;
        }
        Ok(losses)
    }

    /// A batch on the device, with the features of its images where these are kept.
    fn inputs(
        &self,
        batch: &Batch,
        model: &Vlm,
        device: &Device,
        dtype: DType,
    ) -> Result<VlmInputs, LearnerError> {
        let Some(vision) = &self.vision else {
            return upload(batch, model, device, dtype);
        };
        let wanted = look_up(vision, &[batch], model)?;
        let computed = vision.compute(&mut &*model, &wanted, model.config(), device, dtype)?;
        let features = vision.features(&wanted, 0, &computed);
        upload_features(batch, features, model, device, dtype)
    }

    /// What a classification head says of each row.
    fn predictions(&self, batches: &[BatchLoss]) -> Vec<Prediction> {
        let rows = batches.iter().flat_map(|batch| {
            let first = batch.number * self.config.batch_size;
            (first..).zip(&batch.rows)
        });
        rows.map(|(row, (class, logits))| Prediction::new(self.dataset.sample(row), *class, logits))
            .collect()
    }

    fn answers(
        &self,
        model: &Vlm,
        device: &Device,
        dtype: DType,
        depth: Depth,
        group: &Group,
    ) -> Result<Vec<Answer>, LearnerError> {
        let len = self.dataset.len();
        let count = match (depth, self.config.max_generate_samples) {
            (Depth::During, Some(limit)) => limit.min(len),
            _ => len,
        };
        // A fixed random choice: evenly spaced rows would miss what recurs in a file, such as every second kind.
        let choice = Order {
            seed: 0,
            len,
            shuffle: count < len,
            mixture: None,
        };
        let mut rows: Vec<usize> = (0..count as u64)
            .map(|at| choice.position_to_sample(at).1)
            .collect();
        rows.sort_unstable();
        let mut answers = Vec::new();
        for rows in rows.chunks(ROWS_AT_ONCE) {
            let asked = group.agree(self.prompts(rows))?;
            let World { rank, size } = group.world();
            let own: Vec<&Prompt> = asked
                .iter()
                .skip(rank)
                .step_by(size)
                .map(|(_, prompt)| prompt)
                .collect();
            let own = group.agree(self.answer_all(model, device, dtype, &own))?;
            let texts = group.exchange_texts(&own)?;
            let texts =
                (0..asked.len()).map(|at| texts[at % size].get(at / size).cloned().unwrap_or_default());
            let given = asked.iter().zip(texts).map(|((row, prompt), answer)| Answer {
                sample: prompt.sample.clone(),
                image: self.dataset.first_image(*row).map(Path::to_owned),
                question: prompt.question.clone(),
                reference: prompt.reference.clone(),
                answer,
                tag: prompt.tag.clone(),
            });
            answers.extend(given);
        }
        Ok(answers)
    }

    /// What is asked about rows.
    fn prompts(&self, rows: &[usize]) -> Result<Vec<(usize, Prompt)>, LearnerError> {
        let mut prompts = Vec::new();
        for &row in rows {
            prompts.extend(self.dataset.prompts(row)?.into_iter().map(|prompt| (row, prompt)));
        }
        Ok(prompts)
    }

    /// Prompts of one length run together, so that no padding and no mask can change an answer.
    fn answer_all(
        &self,
        model: &Vlm,
        device: &Device,
        dtype: DType,
        prompts: &[&Prompt],
    ) -> Result<Vec<String>, LearnerError> {
        let mut by_length: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (at, prompt) in prompts.iter().enumerate() {
            by_length.entry(prompt.input_ids.len()).or_default().push(at);
        }
        let mut texts = vec![String::new(); prompts.len()];
        for places in by_length
            .values()
            .flat_map(|places| places.chunks(self.config.batch_size))
        {
            let group: Vec<PromptRef> = places
                .iter()
                .map(|&at| PromptRef {
                    input_ids: &prompts[at].input_ids,
                    images: &prompts[at].images,
                })
                .collect();
            let tokens =
                generate(model, device, dtype, &group, &self.generation, |_| ()).map_err(|source| {
                    let samples = prompts[places[0]].sample.to_string();
                    LearnerError::Input { samples, source }
                })?;
            for (&at, tokens) in places.iter().zip(tokens) {
                texts[at] = self
                    .dataset
                    .tokenizer()
                    .decode(&tokens)
                    .map_err(DataError::from)?;
            }
        }
        Ok(texts)
    }
}

/// Share of exact answers, over all and for each tag.
fn exact_match(answers: &[Answer]) -> Vec<(String, f64)> {
    let mut groups: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    for answer in answers {
        let tagged = answer.tag.as_ref().map(|tag| format!("eval_exact_match/{tag}"));
        for name in ["eval_exact_match".to_owned()].into_iter().chain(tagged) {
            let (exact, all) = groups.entry(name).or_default();
            *exact += u64::from(answer.is_exact());
            *all += 1;
        }
    }
    groups
        .into_iter()
        .map(|(name, (exact, all))| (name, exact as f64 / all as f64))
        .collect()
}
