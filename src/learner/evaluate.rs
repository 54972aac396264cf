//! Held-out loss, perplexity, and exact match of generated answers.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use brazier_models::{Head, Segmented, Vlm};
use burn::{
    module::Module,
    tensor::{DType, Device},
};

use super::{
    LearnerError,
    classification::{self, Prediction},
    options::EvalConfig,
    step::upload,
};
use crate::{
    data::{BatchPlan, DataError, Dataset, Loader, Order, Prompt, SampleId},
    generate::{GenerateOptions, PromptRef, Sampling, generate},
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
        })
    }

    /// Measures a model. The result does not depend on batch size or threads beyond f32 rounding of the loss's sum.
    ///
    /// # Errors
    /// If rows cannot be read or do not fit the model.
    pub fn evaluate(
        &self,
        model: &Vlm,
        device: &Device,
        dtype: DType,
        depth: Depth,
    ) -> Result<Evaluation, LearnerError> {
        let started = Instant::now();
        let model = model.valid();
        let (loss, predictions) = self.loss(&model, device, dtype)?;
        let mut metrics = vec![("eval_loss".to_owned(), loss)];
        match &model.config().head {
            Head::Lm => metrics.push(("eval_perplexity".to_owned(), loss.exp())),
            Head::Classification { labels } => {
                metrics.extend(classification::metrics(&predictions, labels.len()));
            }
        }
        let mut answers = Vec::new();
        if self.config.exact_match {
            answers = self.answers(&model, device, dtype, depth)?;
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

    /// Loss of one label, and what a classification head says of each row.
    fn loss(
        &self,
        model: &Vlm,
        device: &Device,
        dtype: DType,
    ) -> Result<(f64, Vec<Prediction>), LearnerError> {
        let plan = BatchPlan {
            micro_batch_size: self.config.batch_size,
            accumulation: 1,
            rank: 0,
            world_size: 1,
            total_rows: Some(self.dataset.stream().rows_in(1.0)),
        };
        let mut loader = Loader::start(self.dataset.clone(), plan, 0, self.workers, 2)?;
        let (mut sum, mut weight) = (0.0, 0.0);
        let mut predictions = Vec::new();
        while let Some(batches) = loader.next_step()? {
            for batch in batches.iter().filter(|batch| batch.num_labelled > 0) {
                let inputs = upload(batch, model, device, dtype)?;
                let hidden = model.hidden(&inputs);
                sum += f64::from(model.loss_sum(hidden.clone(), &inputs).into_scalar::<f32>());
                weight += batch.loss_weight();
                if let Some(classes) = &batch.classes {
                    let logits = model.class_logits(hidden, &inputs).into_data();
                    let logits: Vec<f32> = logits.iter().collect();
                    let rows = batch.samples.iter().zip(&classes.ids);
                    let rows = rows.zip(logits.chunks(logits.len() / batch.rows));
                    predictions.extend(rows.map(|((sample, class), logits)| {
                        Prediction::new(sample.clone(), *class as usize, logits)
                    }));
                }
            }
        }
        Ok((sum / weight, predictions))
    }

    fn answers(
        &self,
        model: &Vlm,
        device: &Device,
        dtype: DType,
        depth: Depth,
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
            let mut prompts = Vec::new();
            for &row in rows {
                prompts.extend(self.dataset.prompts(row)?.into_iter().map(|prompt| (row, prompt)));
            }
            answers.extend(self.answer_all(model, device, dtype, &prompts)?);
        }
        Ok(answers)
    }

    /// Prompts of one length run together, so that no padding and no mask can change an answer.
    fn answer_all(
        &self,
        model: &Vlm,
        device: &Device,
        dtype: DType,
        prompts: &[(usize, Prompt)],
    ) -> Result<Vec<Answer>, LearnerError> {
        let mut by_length: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (at, (_, prompt)) in prompts.iter().enumerate() {
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
                    input_ids: &prompts[at].1.input_ids,
                    images: &prompts[at].1.images,
                })
                .collect();
            let tokens =
                generate(model, device, dtype, &group, &self.generation, |_| ()).map_err(|source| {
                    let samples = prompts[places[0]].1.sample.to_string();
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
        let answers = prompts.iter().zip(texts).map(|((row, prompt), answer)| Answer {
            sample: prompt.sample.clone(),
            image: self.dataset.first_image(*row).map(Path::to_owned),
            question: prompt.question.clone(),
            reference: prompt.reference.clone(),
            answer,
            tag: prompt.tag.clone(),
        });
        Ok(answers.collect())
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
