//! Whole models against transformers.

use brazier_models::{IGNORE_INDEX, Segment, Segmented, Vlm, VlmConfig, VlmInputs};
use burn::tensor::{DType, Device, Tensor};

use crate::{
    FORWARD, check, check_gradients,
    fixture::{Fixture, Rows},
    loss_and_gradients,
    support::devices,
    values,
};

/// Hidden states from the embeddings on, after each block.
fn hidden_states(model: &Vlm, inputs: &VlmInputs) -> Vec<Tensor<3>> {
    let mut x = None;
    let mut states = Vec::new();
    for segment in model.segments(inputs) {
        x = Some(model.forward_segment(segment, x, inputs));
        if matches!(segment, Segment::Embed | Segment::Block(_)) {
            states.extend(x.clone());
        }
    }
    states
}

/// The rows of a matrix that the head reads.
fn read_rows(all: &[f32], width: usize, inputs: &VlmInputs) -> Vec<f32> {
    let rows: Vec<i32> = inputs
        .label_rows_n
        .to_data()
        .convert::<i32>()
        .try_into_vec()
        .unwrap();
    let row = |&row: &i32| all[row as usize * width..][..width].to_vec();
    rows.iter().flat_map(row).collect()
}

/// Hidden states, logits, loss and gradients of a language model or VLM. `mask` is 0 at padding.
pub(crate) fn check_model(fixture: &Fixture, config: &VlmConfig, mask: Option<Vec<i32>>, device: &Device) {
    let model = fixture.model(config, "", device);
    let rows = Rows::of(fixture);
    let inputs = VlmInputs::new(&rows.batch(), config, device, DType::F32).unwrap();
    let mask = mask.unwrap_or_else(|| vec![1; rows.rows * rows.length]);
    let masked = |tensor: Tensor<3>| -> Vec<f32> {
        let width = tensor.dims()[2];
        let cells = values(tensor).into_iter().enumerate();
        cells
            .map(|(at, x)| if mask[at / width] == 1 { x } else { 0.0 })
            .collect()
    };
    for (index, state) in hidden_states(&model, &inputs).into_iter().enumerate() {
        let name = format!("hidden.{index}");
        let expected = fixture.f32s(&name);
        match index == config.text.num_hidden_layers {
            // Those that the head reads.
            true => {
                let expected = read_rows(&expected, config.text.hidden_size, &inputs);
                check(&name, &values(state), &expected, FORWARD);
            }
            false => check(&name, &masked(state), &expected, FORWARD),
        }
    }
    check(
        "logits",
        &masked(model.logits(&inputs)),
        &fixture.f32s("logits"),
        FORWARD,
    );

    let num_labelled = fixture.number("num_labelled");
    assert_eq!(inputs.num_labelled as f64, num_labelled);
    // With the padding, and where that is better without.
    let for_loss = VlmInputs::for_loss(&rows.batch(), config, device, DType::F32).unwrap();
    for inputs in [inputs, for_loss] {
        let (loss, gradients) = loss_and_gradients(&model, &inputs);
        check("loss", &[loss], &fixture.f32s("loss_sum"), FORWARD);
        check_gradients(fixture, "grad.", &gradients, 1.0 / num_labelled as f32);
    }
}

#[test]
fn llama_agrees_with_transformers() {
    let fixture = Fixture::open("decoder.safetensors");
    let config = VlmConfig {
        text: fixture.decoder_config(),
        vision: None,
        head: brazier_models::Head::Lm,
    };
    devices()
        .iter()
        .for_each(|device| check_model(&fixture, &config, None, device));
}

#[test]
fn qwen3_agrees_with_transformers() {
    let fixture = Fixture::open("decoder_qwen3.safetensors");
    let config = VlmConfig {
        text: fixture.decoder_config(),
        vision: None,
        head: brazier_models::Head::Lm,
    };
    devices()
        .iter()
        .for_each(|device| check_model(&fixture, &config, None, device));
}

/// Rows with two images, none and one, padded on the right; we have no mask and need none.
#[test]
fn llava_agrees_with_transformers() {
    let fixture = Fixture::open("vlm.safetensors");
    let config = fixture.vlm_config();
    for device in &devices() {
        check_model(&fixture, &config, Some(fixture.i32s("attention_mask")), device);
        let model = fixture.model(&config, "", device);
        let inputs = VlmInputs::new(&Rows::of(&fixture).batch(), &config, device, DType::F32).unwrap();
        let features = values(model.image_features(&inputs).unwrap());
        check(
            "image features",
            &features,
            &fixture.f32s("image_features"),
            FORWARD,
        );
    }
}

/// A row's first token has no predecessor that could predict it: what its label says is nothing.
#[test]
fn the_first_label_of_a_row_does_not_count() {
    let fixture = Fixture::open("decoder.safetensors");
    let config = VlmConfig {
        text: fixture.decoder_config(),
        vision: None,
        head: brazier_models::Head::Lm,
    };
    for device in &devices() {
        let model = fixture.model(&config, "", device);
        let mut rows = Rows::of(&fixture);
        let second = rows.length;
        assert_ne!(rows.labels[0], IGNORE_INDEX);
        let mut losses = Vec::new();
        for labels in [(rows.labels[0], IGNORE_INDEX), (5, 7), (IGNORE_INDEX, 0)] {
            (rows.labels[0], rows.labels[second]) = labels;
            let inputs = VlmInputs::new(&rows.batch(), &config, device, DType::F32).unwrap();
            losses.push(
                model
                    .loss_sum(model.hidden(&inputs), &inputs)
                    .into_scalar::<f32>(),
            );
        }
        assert_eq!(losses[0], losses[1]);
        assert_eq!(losses[0], losses[2]);
    }
}
