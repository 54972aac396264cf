//! The key-value cache changes no logits.

use brazier_models::{HostBatch, IGNORE_INDEX, PaddingSide, Vlm, VlmConfig, VlmInputs};
use burn::tensor::{DType, Device, Int, Tensor, TensorData};

use crate::{
    FORWARD, check,
    fixture::{Fixture, Rows},
    support::devices,
    values,
};

fn ids(values: Vec<i32>, device: &Device) -> Tensor<1, Int> {
    let count = values.len();
    Tensor::from_data(TensorData::new(values, [count]), (device, DType::I32))
}

/// Prefilling `prefix` tokens and decoding the others one by one gives the logits of the whole.
pub(crate) fn check_cache(model: &Vlm, rows: &Rows, prefixes: &[usize], device: &Device) {
    let (b, t) = (rows.rows, rows.length);
    let inputs = VlmInputs::new(&rows.batch(), model.config(), device, DType::F32).unwrap();
    let full = model.logits(&inputs);
    let v = full.dims()[2];
    let at = |position: usize| values(full.clone().narrow(1, position, 1).reshape([b, v]));
    let column = |position: usize| {
        (0..b)
            .map(|row| rows.input_ids[row * t + position])
            .collect::<Vec<_>>()
    };
    for &prefix in prefixes {
        let input_ids: Vec<i32> = rows
            .input_ids
            .chunks(t)
            .flat_map(|row| &row[..prefix])
            .copied()
            .collect();
        let labels = vec![IGNORE_INDEX; input_ids.len()];
        let prompt = HostBatch {
            length: prefix,
            input_ids: &input_ids,
            labels: &labels,
            padding_side: PaddingSide::Right,
            segments: &vec![vec![prefix]; b],
            ..rows.batch()
        };
        let prompt = VlmInputs::new(&prompt, model.config(), device, DType::F32).unwrap();
        let (logits, mut cache) = model.prefill(&prompt, &vec![prefix; b], t);
        assert_eq!(cache.len(), prefix);
        check(
            &format!("prefill of {prefix}"),
            &values(logits),
            &at(prefix - 1),
            FORWARD,
        );
        for position in prefix..t {
            let logits = model.decode(ids(column(position), device), &mut cache);
            check(
                &format!("{prefix} and decode at {position}"),
                &values(logits),
                &at(position),
                FORWARD,
            );
        }
        assert_eq!(cache.len(), t);
    }
}

#[test]
fn decoding_with_a_cache_gives_the_logits_of_the_whole() {
    for device in &devices() {
        for file in ["decoder.safetensors", "decoder_qwen3.safetensors"] {
            let fixture = Fixture::open(file);
            let config = VlmConfig {
                text: fixture.decoder_config(),
                vision: None,
                head: brazier_models::Head::Lm,
            };
            check_cache(
                &fixture.model(&config, "", device),
                &Rows::of(&fixture),
                &[1, 4, 11],
                device,
            );
        }
        // The fixture's first row and a second one of its length: two images each.
        let fixture = Fixture::open("vlm.safetensors");
        let mut rows = Rows::of(&fixture);
        let mut input_ids = rows.input_ids[..rows.length].to_vec();
        input_ids.extend(input_ids.clone().iter().map(|&id| if id == 7 { 17 } else { id }));
        let image_len = rows.pixels.len() / rows.num_images;
        rows.pixels.extend_from_within(..image_len);
        (rows.rows, rows.num_images, rows.input_ids) = (2, 4, input_ids);
        rows.labels = vec![IGNORE_INDEX; rows.input_ids.len()];
        rows.segments = vec![vec![rows.length]; 2];
        check_cache(
            &fixture.model(&fixture.vlm_config(), "", device),
            &rows,
            &[21, 24],
            device,
        );
    }
}
