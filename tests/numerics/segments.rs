//! How samples lie in rows, one in each or several, padded or not, changes no loss and no gradient.

use std::collections::BTreeMap;

use brazier_models::{
    IGNORE_INDEX, LoraConfig, LoraParts, LoraTargets, Segmented, SlidingWindow, Vlm, VlmConfig, VlmInputs,
};
use burn::tensor::{DType, Device};

use crate::{
    check,
    differences::shaken,
    fixture::Rows,
    is_zero_in_theory, loss_and_gradients,
    support::{IMAGE, Noise, devices, tiny_vlm},
    values,
};

const LOSS: f64 = 1e-6;
const GRADIENT: f64 = 1e-5;

/// Tokens and number of images of each sample; one is a single token, which predicts nothing.
fn samples(images: bool) -> Vec<(Vec<i32>, usize)> {
    let shapes = [(0, 5), (1, 3), (0, 1), (2, 4), (0, 11), (1, 6), (0, 2)];
    let mut noise = Noise(7);
    let mut token = || 4 + (noise.draw().abs() * 19.0) as i32;
    let of = |(num_images, length): (usize, usize)| {
        let num_images = if images { num_images } else { 0 };
        let mut ids = vec![1];
        ids.extend(vec![IMAGE as i32; 4 * num_images]);
        ids.extend((1..length).map(|_| token()));
        (ids, num_images)
    };
    shapes.map(of).to_vec()
}

/// The samples in rows, as many in each as `per_row` says; the first of them is sample `first`.
fn rows(samples: &[(Vec<i32>, usize)], per_row: &[usize]) -> Rows {
    let mut rest = samples;
    let packed: Vec<&[(Vec<i32>, usize)]> = per_row.iter().map(|&n| rest.split_off(..n).unwrap()).collect();
    assert!(rest.is_empty());
    let tokens = |row: &&[(Vec<i32>, usize)]| row.iter().map(|(ids, _)| ids.len()).sum::<usize>();
    let length = packed.iter().map(tokens).max().unwrap();
    let (mut input_ids, mut labels) = (Vec::new(), Vec::new());
    for row in &packed {
        let end = input_ids.len() + length;
        for (ids, _) in *row {
            input_ids.extend(ids);
            // The first label would count if it were another segment's last token that predicts it.
            labels.extend(
                ids.iter()
                    .map(|&id| if id == IMAGE as i32 { IGNORE_INDEX } else { id }),
            );
        }
        input_ids.resize(end, 0);
        labels.resize(end, IGNORE_INDEX);
    }
    let num_images = samples.iter().map(|(_, images)| images).sum();
    let lengths = |row: &&[(Vec<i32>, usize)]| row.iter().map(|(ids, _)| ids.len()).collect();
    Rows {
        rows: packed.len(),
        length,
        input_ids,
        labels,
        segments: packed.iter().map(lengths).collect(),
        pixels: Noise(9).take(num_images * 3 * 64),
        num_images,
    }
}

/// All ways: as given, and as is best for a loss; one sample in each row, several, all in one.
fn ways(samples: &[(Vec<i32>, usize)]) -> Vec<(String, Rows, bool)> {
    let per_row = [vec![1; 7], vec![2, 1, 3, 1], vec![4, 3], vec![7]];
    let both = |per_row: Vec<usize>| {
        [false, true].map(|for_loss| {
            (
                format!("{per_row:?} {for_loss}"),
                rows(samples, &per_row),
                for_loss,
            )
        })
    };
    per_row.into_iter().flat_map(both).collect()
}

fn upload(rows: &Rows, for_loss: bool, config: &VlmConfig, device: &Device) -> VlmInputs {
    let new = match for_loss {
        true => VlmInputs::for_loss,
        false => VlmInputs::new,
    };
    new(&rows.batch(), config, device, DType::F32).unwrap()
}

fn assert_same(
    what: &str,
    got: &(f32, BTreeMap<String, Vec<f32>>),
    expected: &(f32, BTreeMap<String, Vec<f32>>),
) {
    check(&format!("{what}: loss"), &[got.0], &[expected.0], LOSS);
    assert!(got.1.keys().eq(expected.1.keys()), "{what}: other parameters");
    for (path, expected) in expected.1.iter().filter(|(path, _)| !is_zero_in_theory(path)) {
        check(
            &format!("{what}: gradient of {path}"),
            &got.1[path],
            expected,
            GRADIENT,
        );
    }
}

fn check_all_ways(config: &VlmConfig, images: bool) {
    let samples = samples(images);
    for device in &devices() {
        let model = shaken(Vlm::init(config, 5, device, DType::F32).unwrap());
        let mut expected = None;
        for (what, rows, for_loss) in ways(&samples) {
            let inputs = upload(&rows, for_loss, config, device);
            let results = loss_and_gradients(&model, &inputs);
            assert_same(&what, &results, expected.get_or_insert_with(|| results.clone()));
        }
    }
}

#[test]
fn packed_text_has_the_loss_and_gradients_of_single_rows() {
    let config = VlmConfig {
        vision: None,
        ..tiny_vlm()
    };
    check_all_ways(&config, false);
}

#[test]
fn packed_text_keeps_to_its_sliding_window() {
    let mut config = VlmConfig {
        vision: None,
        ..tiny_vlm()
    };
    config.text.sliding_window = Some(SlidingWindow {
        window: 3,
        layers: vec![true, false],
    });
    check_all_ways(&config, false);
}

#[test]
fn packed_images_have_the_loss_and_gradients_of_single_rows() {
    check_all_ways(&tiny_vlm(), true);
}

fn lora() -> LoraConfig {
    LoraConfig {
        r: 2,
        lora_alpha: 4.0,
        lora_dropout: 0.4,
        use_rslora: false,
        target_modules: LoraTargets::AllLinear,
        parts: LoraParts::Both,
    }
}

/// A loss is a sum over labels, although tokens that nobody labels are left out behind the last attention: each keeps its
/// own hidden state, and what is dropped of it.
#[test]
fn losses_and_gradients_of_some_labels_add_up_to_those_of_all() {
    let (config, lora) = (tiny_vlm(), lora());
    let all = rows(&samples(true), &[2, 1, 3, 1]);
    let ways = [false, true].map(|for_loss| [(for_loss, false), (for_loss, true)]);
    for device in &devices() {
        for (for_loss, drops) in ways.into_iter().flatten() {
            // Without adapters all is trained, the token table too.
            let lora = drops.then_some(&lora);
            let model = shaken(Vlm::init_with_lora(&config, lora, 5, device, DType::F32).unwrap());
            let of = |keeps: &dyn Fn(usize) -> bool| {
                let labels = all.labels.iter().enumerate();
                let labels = labels.map(|(at, &label)| if keeps(at) { label } else { IGNORE_INDEX });
                let rows = Rows {
                    labels: labels.collect(),
                    ..all.clone()
                };
                let inputs = upload(&rows, for_loss, &config, device);
                loss_and_gradients(
                    &model,
                    &match drops {
                        true => inputs.with_dropout(&rows.batch(), &config, 11, 100),
                        false => inputs,
                    },
                )
            };
            let (mut loss, mut gradients) = of(&|at| at % 3 == 0);
            for part in [of(&|at| at % 3 == 1), of(&|at| at % 3 == 2)] {
                loss += part.0;
                for (path, gradient) in part.1 {
                    let sums = gradients.get_mut(&path).unwrap().iter_mut();
                    sums.zip(gradient).for_each(|(sum, value)| *sum += value);
                }
            }
            let what = format!("for a loss {for_loss}, dropout {drops}");
            assert_same(&what, &(loss, gradients), &of(&|_| true));
        }
    }
}

/// The mask follows the sample, wherever it lies, and whether a step is one batch or two.
#[test]
fn packed_samples_drop_what_they_drop_alone() {
    let (config, lora) = (tiny_vlm(), lora());
    let samples = samples(true);
    for device in &devices() {
        let model = Vlm::init_with_lora(&config, Some(&lora), 5, device, DType::F32).unwrap();
        let model = shaken(model);
        let mut expected = None;
        for (what, rows, for_loss) in ways(&samples) {
            let inputs = upload(&rows, for_loss, &config, device);
            let plain: f32 = model.loss_sum(model.hidden(&inputs), &inputs).into_scalar();
            let inputs = inputs.with_dropout(&rows.batch(), &config, 11, 100);
            let results = loss_and_gradients(&model, &inputs);
            assert!(
                (results.0 - plain).abs() > 1e-3 * plain,
                "{what}: nothing was dropped"
            );
            assert_same(&what, &results, expected.get_or_insert_with(|| results.clone()));
        }
        // Each batch draws its own pixels, so only samples without images can be cut off.
        let (head, tail) = samples.split_at(6);
        let losses = [(head, vec![2, 4], 100), (tail, vec![1], 106)].map(|(samples, per_row, first)| {
            let rows = rows(samples, &per_row);
            let inputs = upload(&rows, true, &config, device);
            let inputs = inputs.with_dropout(&rows.batch(), &config, 11, first);
            model
                .loss_sum(model.hidden(&inputs), &inputs)
                .into_scalar::<f32>()
        });
        let whole = expected.map_or(0.0, |(loss, _)| loss);
        check("two batches", &[losses[0] + losses[1]], &[whole], LOSS);
    }
}

#[test]
fn positions_begin_anew_in_each_segment() {
    let config = tiny_vlm();
    let rows = rows(&samples(true), &[2, 1, 3, 1]);
    for device in &devices() {
        for for_loss in [false, true] {
            let inputs = upload(&rows, for_loss, &config, device);
            let flat = inputs.input_ids_bt.dims()[0] == 1;
            let positions = rows.segments.iter().flat_map(|lengths| {
                let own = lengths.iter().flat_map(|&length| 0..length);
                let padding = rows.length - lengths.iter().sum::<usize>();
                own.chain(vec![0; if flat { 0 } else { padding }])
            });
            let expected = config.text.rope_table(positions, device);
            assert_eq!(values(inputs.rope.cos), values(expected.cos));
            assert_eq!(values(inputs.rope.sin), values(expected.sin));
        }
    }
}
