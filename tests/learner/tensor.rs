//! Several ranks hold one model together, and make the step that one makes.

use std::sync::Arc;

use brazier::{
    data::{Batch, Class, Example, Padding, PaddingSide, collate, collate_rows},
    learner::{
        Learner, LearnerError, compute_dtype,
        options::{ParallelConfig, Precision, Recompute, StepConfig, TrainMode, Zero},
    },
    parallel::Group,
};
use brazier_models::{
    AttentionBias, Head, LanguageModelType, LoraConfig, LoraParts, LoraTargets, MlpKind, Vlm, VlmConfig,
};
use burn::tensor::Device;

use crate::{
    all_weights, assert_same, batches, example,
    ranks::{STEPS, Trained, ZEROS, assert_close, config, on_ranks, parallel},
    rows, snapshot,
    support::{IMAGE, devices, tiny_vlm},
};

/// Ranks that hold a model together, and models.
#[derive(Debug, Clone, Copy)]
struct Layout {
    tensor: usize,
    data: usize,
    zero: Zero,
}

const ALONE: Layout = Layout {
    tensor: 1,
    data: 1,
    zero: Zero::None,
};

const PAIR: Layout = Layout { tensor: 2, ..ALONE };

/// What is trained, and how.
struct Job<'a> {
    model: VlmConfig,
    lora: Option<LoraConfig>,
    config: StepConfig,
    batches: &'a (dyn Fn(usize) -> Vec<Batch> + Sync),
    device: &'a Device,
}

/// A table that does not divide, apart from the output projection; biases everywhere; an image token that the first of two
/// ranks does not have.
fn llama() -> VlmConfig {
    let mut config = tiny_vlm();
    if let Some(vision) = &mut config.vision {
        vision.image_token_id = 20;
    }
    config.text.model_type = LanguageModelType::Llama;
    config.text.vocab_size = 25;
    config.text.tie_word_embeddings = false;
    config.text.qk_norm = false;
    config.text.attention_bias = AttentionBias::All;
    config.text.mlp_bias = true;
    config
}

fn apertus() -> VlmConfig {
    let mut config = tiny_vlm();
    config.text.model_type = LanguageModelType::Apertus;
    config.text.mlp = MlpKind::Xielu;
    config.text.tie_word_embeddings = false;
    config
}

fn lora(parts: LoraParts) -> LoraConfig {
    LoraConfig {
        r: 3,
        lora_alpha: 6.0,
        lora_dropout: 0.3,
        use_rslora: true,
        target_modules: LoraTargets::AllLinear,
        parts,
    }
}

impl<'a> Job<'a> {
    fn new(model: VlmConfig, mode: TrainMode, recompute: Recompute, device: &'a Device) -> Self {
        let mut config = config(mode, Precision::F32, recompute);
        // Terms are rounded before they are added up, and AdamW makes whole steps of differences that are as small as its eps.
        config.optimizer.eps = 1e-4;
        Self {
            model,
            lora: None,
            config,
            batches: &|step| batches(step, 2),
            device,
        }
    }

    fn learner(&self, seed: u64, layout: Layout, group: &Arc<Group>) -> Result<Learner, LearnerError> {
        let dtype = compute_dtype(self.config.precision);
        let model = Vlm::init_with_lora(&self.model, self.lora.as_ref(), seed, self.device, dtype).unwrap();
        let parallel = ParallelConfig {
            tensor: layout.tensor,
            ..parallel(layout.zero)
        };
        Learner::in_group(
            model,
            self.config.clone(),
            self.device.clone(),
            group.clone(),
            parallel,
        )
    }

    /// The micro-batches of a step, with the model's image token where rows have theirs, and the other way round.
    fn batches(&self, step: usize) -> Vec<Batch> {
        let mut batches = (self.batches)(step);
        let image = (self.model.vision.as_ref()).map_or(IMAGE, |vision| vision.image_token_id) as i32;
        let swap = |id: &mut i32| match *id {
            id_of_rows if id_of_rows == IMAGE as i32 => *id = image,
            id_of_model if id_of_model == image => *id = IMAGE as i32,
            _ => {}
        };
        for batch in &mut batches {
            batch.input_ids.iter_mut().chain(&mut batch.labels).for_each(swap);
        }
        batches
    }

    /// The micro-batches of a rank: neighbours have the same ones.
    fn share(&self, step: usize, layout: Layout, group: &Group) -> Vec<Batch> {
        let copy = group.world().rank / layout.tensor;
        let all = self.batches(step).into_iter();
        all.skip(copy).step_by(layout.data).collect()
    }

    fn train_rank(&self, layout: Layout, group: Arc<Group>) -> Trained {
        let mut learner = self.learner(1, layout, &group).unwrap();
        let reports: Vec<_> = (0..STEPS)
            .map(|step| learner.step(&self.share(step, layout, &group)).unwrap())
            .collect();
        let all = self.batches(0);
        let samples: usize = all.iter().map(|batch| batch.samples.len()).sum();
        assert!(reports.iter().all(|report| report.samples == samples as u64));
        Trained {
            losses: reports.iter().map(|report| report.loss).collect(),
            norms: reports.iter().map(|report| report.grad_norm).collect(),
            weights: all_weights(&learner),
        }
    }

    fn train(&self, layout: Layout) -> Vec<Trained> {
        match layout.tensor * layout.data {
            1 => vec![self.train_rank(layout, Arc::new(Group::alone()))],
            size => on_ranks(size, |group| self.train_rank(layout, group)),
        }
    }

    /// Every rank has the whole, of which all have the same bits, and it is what one rank learns.
    fn check(&self, what: &str, layouts: impl IntoIterator<Item = Layout>) {
        let alone = self.train(ALONE).remove(0);
        for layout in layouts {
            let what = format!("{what}, {layout:?}");
            let ranks = self.train(layout);
            assert_close(&what, &ranks[0], &alone, 1e-6);
            for rank in &ranks[1..] {
                assert_same(&what, &rank.weights, &ranks[0].weights);
                assert_eq!(rank.losses, ranks[0].losses, "{what}");
            }
        }
    }
}

#[test]
fn two_ranks_learn_together_what_one_learns() {
    let device = &devices()[0];
    for (name, model) in [("qwen3", tiny_vlm()), ("llama", llama()), ("apertus", apertus())] {
        for (mode, recompute) in [
            (TrainMode::Full, Recompute::None),
            (TrainMode::EndToEnd, Recompute::Blocks),
            (TrainMode::LmOnly, Recompute::None),
            (TrainMode::Alignment, Recompute::Blocks),
        ] {
            let job = Job::new(model.clone(), mode, recompute, device);
            job.check(&format!("{name}, {mode:?}"), [PAIR]);
        }
    }
}

/// With three copies one of them has two of the four micro-batches, and the others wait for it.
#[test]
fn copies_on_two_ranks_each_learn_what_one_learns() {
    let device = &devices()[0];
    let job = Job::new(llama(), TrainMode::Full, Recompute::Blocks, device);
    let layouts = [2, 3].into_iter().flat_map(|data| {
        ZEROS.map(|zero| Layout {
            tensor: 2,
            data,
            zero,
        })
    });
    job.check("copies", layouts);
}

/// What dropout zeroes is drawn by the place of a number in the whole.
#[test]
fn adapters_with_dropout_do_not_see_who_has_them() {
    let device = &devices()[0];
    for parts in [LoraParts::Language, LoraParts::Both] {
        let job = Job {
            lora: Some(lora(parts)),
            ..Job::new(llama(), TrainMode::Full, Recompute::None, device)
        };
        let copies = Layout {
            data: 2,
            zero: Zero::Parameters,
            ..PAIR
        };
        job.check(&format!("{parts:?}"), [PAIR, copies]);
    }
}

#[test]
fn packed_rows_are_the_same_to_several_ranks() {
    let device = &devices()[0];
    let packed = |step: usize| -> Vec<Batch> {
        let padding = Padding {
            id: 0,
            multiple_of: 1,
            side: PaddingSide::Right,
        };
        let rows = rows(step);
        let rows: Vec<&[Example]> = rows.chunks(3).collect();
        rows.chunks(1).map(|rows| collate_rows(rows, padding)).collect()
    };
    let job = Job {
        batches: &packed,
        ..Job::new(tiny_vlm(), TrainMode::Full, Recompute::None, device)
    };
    job.check("packed", [PAIR]);
}

#[test]
fn a_classifier_is_shared_out_but_for_its_head() {
    let device = &devices()[0];
    let classified = |step: usize| -> Vec<Batch> {
        let rows: Vec<Example> = (0..8)
            .map(|at| {
                let row = example(8 * step + at + 1, 0, 2 + at % 5, 3);
                Example {
                    class: Some(Class {
                        id: at as i32 % 3,
                        weight: 0.5 + at as f32,
                    }),
                    labels: vec![-100; row.input_ids.len()],
                    ..row
                }
            })
            .collect();
        rows.chunks(2).map(|rows| collate(rows, 0)).collect()
    };
    let model = VlmConfig {
        head: Head::Classification {
            labels: vec!["a".into(), "b".into(), "c".into()],
        },
        vision: None,
        ..llama()
    };
    let job = Job {
        batches: &classified,
        ..Job::new(model, TrainMode::Full, Recompute::None, device)
    };
    job.check("classes", [PAIR, Layout { data: 2, ..PAIR }]);
}

/// A checkpoint knows nothing of who held what.
#[test]
fn any_layout_goes_on_from_any() {
    let device = &devices()[0];
    let job = Job::new(llama(), TrainMode::Full, Recompute::Blocks, device);
    let whole = job.train(ALONE).remove(0);
    let layout = |tensor, data, zero| Layout { tensor, data, zero };
    let layouts = [
        ALONE,
        PAIR,
        layout(2, 2, Zero::Optimizer),
        layout(1, 3, Zero::Gradients),
        layout(2, 2, Zero::Parameters),
    ];
    let saved = layouts.map(|layout| {
        let of_rank = |group: Arc<Group>| {
            let mut learner = job.learner(1, layout, &group).unwrap();
            for step in 0..2 {
                learner.step(&job.share(step, layout, &group)).unwrap();
            }
            snapshot(&learner)
        };
        on_ranks(layout.tensor * layout.data, of_rank).remove(0)
    });
    for (before, after) in [(0, 1), (1, 0), (1, 4), (2, 3), (3, 2), (4, 1)] {
        let layout = layouts[after];
        let losses = on_ranks(layout.tensor * layout.data, |group| {
            let mut learner = job.learner(9, layout, &group).unwrap();
            learner.restore(&saved[before]).unwrap();
            // What is put back is what was saved, bit for bit.
            assert_same("restored", &snapshot(&learner).tensors, &saved[before].tensors);
            [2, 3].map(|step| learner.step(&job.share(step, layout, &group)).unwrap().loss)
        });
        for (loss, expected) in losses[0].iter().zip(&whole.losses[2..]) {
            assert!(
                (loss - expected).abs() <= 1e-6 * expected,
                "from {:?} to {layout:?}: {loss} and {expected}",
                layouts[before]
            );
        }
    }
}

/// In bf16 what ranks have copies of is the same bits on all of them, and masters lie with their parameters.
#[test]
fn bf16_ranks_stay_together() {
    for (precision, device) in crate::devices_by_precision() {
        if precision != Precision::Bf16 {
            continue;
        }
        let job = Job {
            config: config(TrainMode::Full, precision, Recompute::None),
            ..Job::new(llama(), TrainMode::Full, Recompute::None, &device)
        };
        let alone = job.train(ALONE).remove(0);
        for layout in [
            PAIR,
            Layout {
                data: 2,
                zero: Zero::Optimizer,
                ..PAIR
            },
        ] {
            let ranks = job.train(layout);
            for rank in &ranks[1..] {
                assert_same("bf16", &rank.weights, &ranks[0].weights);
            }
            for (ranks, alone) in ranks[0].losses.iter().zip(&alone.losses) {
                // Terms of hidden states are rounded before they are added up.
                assert!(
                    (ranks - alone).abs() < 1e-2 * alone,
                    "{layout:?}: {ranks} and {alone}"
                );
            }
        }
    }
}

#[test]
fn what_does_not_divide_is_refused() {
    let device = &devices()[0];
    let mut model = llama();
    model.text.num_key_value_heads = 1;
    let job = Job::new(model, TrainMode::Full, Recompute::None, device);
    let error = |job: &Job, size: usize, layout| {
        on_ranks(size, |group| {
            job.learner(1, layout, &group).map(drop).unwrap_err().to_string()
        })
    };
    let words = error(&job, 2, PAIR).remove(0);
    assert!(
        words.contains("num_key_value_heads") && words.contains("2 parts"),
        "{words}"
    );
    let job = Job::new(llama(), TrainMode::Full, Recompute::None, device);
    let words = error(&job, 3, PAIR).remove(2);
    assert_eq!(words, "rank 2: 3 ranks do not divide into groups of 2");
}

/// A rank of one model learns of the failure of another model's, and that rank is called by its number in the run.
#[test]
fn a_rank_of_another_copy_is_told() {
    let device = &devices()[0];
    let job = Job::new(llama(), TrainMode::Full, Recompute::None, device);
    let layout = Layout { data: 2, ..PAIR };
    let errors = on_ranks(4, |group| {
        let mut learner = job.learner(1, layout, &group).unwrap();
        let mut own = job.share(0, layout, &group);
        if group.world().rank == 3 {
            own[0].input_ids[0] = 999;
        }
        learner.step(&own).unwrap_err().to_string()
    });
    for error in &errors[..3] {
        assert!(error.starts_with("rank 3 failed: samples rows.jsonl:"), "{error}");
    }
}

/// Whoever fails in the middle of a step ends the waiting of all, whatever group they wait in.
#[test]
fn nobody_waits_in_another_group() {
    let errors = on_ranks(4, |group| {
        let rank = group.world().rank;
        let pair = group.split(rank / 2).unwrap();
        assert_eq!((pair.world().rank, pair.world().size), (rank % 2, 2));
        let sum = pair.all_reduce(vec![rank as f32]).wait().unwrap();
        assert_eq!(sum, [if rank < 2 { 1.0 } else { 5.0 }]);
        // All have their sums before one fails.
        group.exchange(Vec::new()).unwrap();
        match rank {
            // Its neighbour waits for it here, the others in a group of their own.
            3 => {
                group.abort("it broke");
                None
            }
            2 => Some(pair.all_reduce(vec![0.0]).wait().unwrap_err()),
            0 => Some(pair.all_gather(vec![0]).wait().unwrap_err()),
            _ => Some(group.exchange(Vec::new()).unwrap_err()),
        }
    });
    for error in errors.into_iter().flatten() {
        assert_eq!(error.to_string(), "rank 3 failed: it broke");
    }
}
