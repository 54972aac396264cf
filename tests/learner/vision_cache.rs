//! Features of a resting tower that are kept: whether they are found or computed changes no bit.

use std::{sync::Arc, time::Duration};

use brazier::{
    data::{Batch, Example, ImageSource, collate},
    learner::{
        CacheUse, CachedImages, Learner, LearnerError, StepReport, VisionCache, compute_dtype,
        options::{ParallelConfig, Precision, Recompute, StepConfig, TrainMode, Zero},
    },
    parallel::{Group, Threads},
};
use brazier_models::{HostTensor, LoraConfig, LoraParts, LoraTargets, Vlm};
use burn::tensor::Device;

use crate::{
    all_weights, assert_same, devices_by_precision, learner, rows, snapshot,
    support::{devices, f32s, plain_step, tiny_vlm},
};

/// Different images of the rows of both steps.
const NUM_IMAGES: usize = 10;
const MODES: [TrainMode; 3] = [TrainMode::Alignment, TrainMode::EndToEnd, TrainMode::LmOnly];

fn config(mode: TrainMode, precision: Precision) -> StepConfig {
    let mut config = StepConfig {
        precision,
        max_grad_norm: Some(0.5),
        ..plain_step(mode)
    };
    config.optimizer.weight_decay = 0.1;
    config
}

/// The rows of a step; two steps are an epoch of ten images. The row before the last shows the picture of the second.
fn numbered_rows(step: usize) -> Vec<Example> {
    let mut rows = rows(step % 2);
    let shared = rows[1].images[0].clone();
    rows[7].images[0] = shared;
    let mut fresh = 5 * (step as u32 % 2);
    for row in &mut rows {
        for source in &mut row.image_sources {
            *source = ImageSource::Decoded(Some(fresh));
            fresh += 1;
        }
    }
    rows[7].image_sources = rows[1].image_sources.clone();
    rows
}

fn batches(step: usize) -> Vec<Batch> {
    numbered_rows(step)
        .chunks(4)
        .map(|rows| collate(rows, 0))
        .collect()
}

/// As a loader delivers them that does not decode what is held.
fn batches_without(step: usize, images: &CachedImages) -> Vec<Batch> {
    let held = images.held();
    let mut rows = numbered_rows(step);
    for row in &mut rows {
        let mut decoded = row.images.drain(..).collect::<Vec<_>>().into_iter();
        for source in &mut row.image_sources {
            let ImageSource::Decoded(Some(number)) = *source else {
                continue;
            };
            let image = decoded.next().unwrap();
            match held(number) {
                true => *source = ImageSource::Held(number),
                false => row.images.push(image),
            }
        }
    }
    rows.chunks(4).map(|rows| collate(rows, 0)).collect()
}

fn images(capacity: usize) -> CachedImages {
    CachedImages::new(Arc::new(VisionCache::new(capacity)), 0)
}

fn keeping(config: &StepConfig, images: &CachedImages, device: &Device) -> Learner {
    let mut learner = learner(config, 1, device);
    assert!(learner.keep_vision_features(images.clone()).is_some());
    learner
}

fn use_of(report: &StepReport) -> [u64; 2] {
    let CacheUse { hits, misses } = report.vision_cache.unwrap();
    [hits, misses]
}

fn assert_close(what: &str, left: &[HostTensor], right: &[HostTensor]) {
    for (left, right) in left.iter().zip(right) {
        let pairs = f32s(&left.bytes).into_iter().zip(f32s(&right.bytes));
        let error = pairs
            .map(|(left, right)| (left - right).abs())
            .fold(0.0, f32::max);
        assert!(error < 1e-6, "{what}: {} differs by {error:e}", left.name);
    }
}

#[test]
fn kept_features_train_as_computed_ones_do() {
    for device in &devices() {
        for (mode, recompute) in MODES
            .into_iter()
            .flat_map(|mode| [(mode, Recompute::None), (mode, Recompute::Blocks)])
        {
            let what = format!("{mode:?}, {recompute:?}");
            let config = StepConfig {
                recompute,
                ..config(mode, Precision::F32)
            };
            let images = images(NUM_IMAGES);
            let (mut with, mut without) = (keeping(&config, &images, device), learner(&config, 1, device));
            for step in 0..6 {
                let report = with.step(&batches_without(step, &images)).unwrap();
                let expected = without.step(&batches(step)).unwrap();
                assert!(
                    (report.loss - expected.loss).abs() <= 1e-6 * expected.loss,
                    "{what}: {} and {}",
                    report.loss,
                    expected.loss
                );
                // Five pictures of a step, the first of them twice; from the third step on all are known.
                let [hits, misses] = if step < 2 { [1, 4] } else { [5, 0] };
                assert_eq!(use_of(&report), [hits, misses], "{what}, step {step}");
                assert_eq!(expected.vision_cache, None);
                match misses {
                    0 => assert!(report.flops < expected.flops, "{what}"),
                    _ => assert!(report.flops <= expected.flops, "{what}"),
                }
            }
            assert_close(&what, &all_weights(&with), &all_weights(&without));
        }
    }
}

/// Warm, cold in the middle of the second epoch, with room for some images only, with none: all the same bits.
#[test]
fn what_is_held_changes_no_bit() {
    for (precision, device) in &devices_by_precision() {
        for mode in MODES {
            let config = config(mode, *precision);
            let warm_images = images(NUM_IMAGES);
            let mut warm = keeping(&config, &warm_images, device);
            let mut middle = None;
            for step in 0..6 {
                if step == 3 {
                    middle = Some(snapshot(&warm));
                }
                warm.step(&batches_without(step, &warm_images)).unwrap();
            }
            let expected = snapshot(&warm).tensors;
            for capacity in [NUM_IMAGES, 3, 0] {
                let what = format!("{mode:?} in {precision:?}, room for {capacity}");
                let images = images(capacity);
                let mut resumed = learner(&config, 2, device);
                resumed.restore(middle.as_ref().unwrap()).unwrap();
                // Weights that rest are in a checkpoint too.
                resumed.keep_vision_features(images.clone()).unwrap();
                for step in 3..6 {
                    resumed.step(&batches_without(step, &images)).unwrap();
                }
                assert_same(&what, &snapshot(&resumed).tensors, &expected);
            }
        }
    }
}

/// An image has the same features whoever goes through the tower beside it, so the first loss of a single row is the same
/// bits. The tower is so wide that kernels for few rows and for many add up in another order.
#[test]
fn features_do_not_depend_on_the_batch() {
    let config = config(TrainMode::LmOnly, Precision::F32);
    let mut wide = tiny_vlm();
    if let Some(vision) = &mut wide.vision {
        (vision.vision.hidden_size, vision.vision.intermediate_size) = (256, 512);
        vision.vision.initializer_range = 0.05;
    }
    for device in &devices() {
        let keeping = |images: &CachedImages| {
            let model = Vlm::init(&wide, 1, device, compute_dtype(config.precision)).unwrap();
            let mut learner = Learner::new(model, config.clone(), device.clone()).unwrap();
            learner.keep_vision_features(images.clone()).unwrap();
            learner
        };
        let one = |images: &CachedImages| {
            let row = &numbered_rows(0)[1..2];
            keeping(images).step(&[collate(row, 0)]).unwrap()
        };
        let (alone, together) = (images(NUM_IMAGES), images(NUM_IMAGES));
        keeping(&together).step(&batches(0)).unwrap();
        let (alone, together) = (one(&alone), one(&together));
        assert_eq!([use_of(&alone), use_of(&together)], [[0, 1], [1, 0]]);
        assert_eq!((alone.loss, alone.grad_norm), (together.loss, together.grad_norm));
    }
}

/// Ranks enter the same segments, whoever misses an image: one rank has them all, the other none.
#[test]
fn ranks_agree_on_who_needs_the_tower() {
    let device = &devices()[0];
    let timeout = Duration::from_secs(60);
    let config = config(TrainMode::EndToEnd, Precision::F32);
    let train = |group: Arc<Group>, (zero, tensor): (Zero, usize), images: CachedImages| {
        let model = Vlm::init(&tiny_vlm(), 1, device, compute_dtype(config.precision)).unwrap();
        let parallel = ParallelConfig {
            zero,
            offload: false,
            bucket_elements: 300,
            tensor,
        };
        let world = group.world();
        let mut learner = Learner::in_group(model, config.clone(), device.clone(), group, parallel).unwrap();
        learner.keep_vision_features(images).unwrap();
        let reports: Vec<StepReport> = (0..4)
            .map(|step| {
                // Ranks that hold a model together have the same batches.
                let copies = world.size / tensor;
                let own = batches(step)
                    .into_iter()
                    .skip(world.rank / tensor)
                    .step_by(copies);
                learner.step(&own.collect::<Vec<_>>()).unwrap()
            })
            .collect();
        (reports, all_weights(&learner))
    };
    for layout in [(Zero::None, 1), (Zero::Parameters, 1), (Zero::None, 2)] {
        let on_ranks = |warm: [bool; 2]| {
            let train = &train;
            std::thread::scope(|scope| {
                let ranks: Vec<_> = Threads::group(2, timeout)
                    .into_iter()
                    .zip(warm)
                    .map(|(engine, warm)| {
                        scope.spawn(move || {
                            let images = images(NUM_IMAGES);
                            if warm {
                                train(Arc::new(Group::alone()), (Zero::None, 1), images.clone());
                            }
                            let group = Group::start(move || Ok(engine), timeout).unwrap();
                            train(Arc::new(group), layout, images)
                        })
                    })
                    .collect();
                let results = ranks.into_iter().map(|rank| rank.join().unwrap());
                results.collect::<Vec<_>>()
            })
        };
        let cold = on_ranks([false, false]);
        // Ranks that hold a model together look for themselves: each has four images, one of them twice.
        let is_together = layout.1 == 2;
        assert_eq!(
            use_of(&cold[0].0[0])[1],
            if is_together { 4 } else { 5 },
            "{layout:?}"
        );
        for warm in [[true, false], [false, true], [true, true]] {
            let ranks = on_ranks(warm);
            let misses = use_of(&ranks[0].0[0])[1];
            assert_eq!(
                misses == 0,
                warm == [true, true] || (is_together && warm[0]),
                "{layout:?}, {warm:?}: {misses} missing"
            );
            for (rank, (reports, weights)) in ranks.iter().enumerate() {
                let what = format!("{layout:?}, {warm:?}, rank {rank}");
                let losses = |reports: &[StepReport]| reports.iter().map(|r| r.loss).collect::<Vec<_>>();
                assert_eq!(losses(reports), losses(&cold[0].0), "{what}");
                assert_same(&what, weights, &cold[0].1);
            }
        }
    }
}

/// A tower that learns, in part or as a whole, has nothing to keep.
#[test]
fn a_tower_that_learns_keeps_nothing() {
    let device = &devices()[0];
    let lora = |parts| LoraConfig {
        r: 2,
        lora_alpha: 4.0,
        lora_dropout: 0.0,
        use_rslora: false,
        target_modules: LoraTargets::AllLinear,
        parts,
    };
    for (mode, lora, rests) in [
        (TrainMode::Full, None, false),
        (TrainMode::Full, Some(lora(LoraParts::Both)), false),
        (TrainMode::Full, Some(lora(LoraParts::Language)), true),
        (TrainMode::LmOnly, Some(lora(LoraParts::Language)), true),
    ] {
        let config = config(mode, Precision::F32);
        let model = Vlm::init_with_lora(
            &tiny_vlm(),
            lora.as_ref(),
            1,
            device,
            compute_dtype(config.precision),
        )
        .unwrap();
        let mut learner = Learner::new(model, config, device.clone()).unwrap();
        let vision = learner.keep_vision_features(images(NUM_IMAGES));
        assert_eq!(vision.is_some(), rests, "{mode:?}, {lora:?}");
        let report = learner.step(&batches(0)).unwrap();
        assert_eq!(report.vision_cache.is_some(), rests, "{mode:?}, {lora:?}");
    }
}

/// Without its pixels and without features an image is refused, by name of its sample and before anything moves.
#[test]
fn an_image_that_is_nowhere_is_refused() {
    let device = &devices()[0];
    let config = config(TrainMode::EndToEnd, Precision::F32);
    let filled = images(NUM_IMAGES);
    let mut learner = keeping(&config, &filled, device);
    learner.step(&batches(0)).unwrap();
    let held = batches_without(0, &filled);
    let mut strangers = [
        keeping(&config, &images(NUM_IMAGES), device),
        crate::learner(&config, 1, device),
    ];
    // Weights that come from elsewhere may be those of another tower.
    let state = snapshot(&learner);
    learner.restore(&state).unwrap();
    for learner in strangers.iter_mut().chain([&mut learner]) {
        let steps = learner.finished_steps();
        let error = learner.step(&held).unwrap_err();
        assert!(matches!(error, LearnerError::Input { .. }), "{error}");
        assert!(
            error.to_string().starts_with("samples rows.jsonl:")
                && error.to_string().contains("pixels has 0 values"),
            "{error}"
        );
        assert_eq!(learner.finished_steps(), steps);
    }
}
