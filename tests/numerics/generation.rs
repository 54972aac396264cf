//! Greedy generation, token by token as transformers does it: with images, and prompts of several lengths in one batch.

use brazier::{
    data::PixelImage,
    generate::{GenerateOptions, PromptRef, Sampling, generate},
};
use brazier_models::{Vlm, VlmConfig};
use burn::tensor::{DType, Device};

use crate::{
    fixture::Fixture,
    language::{FAMILIES, family},
    support::devices,
};

const ROWS: usize = 3;

/// `max_position_embeddings` must leave room for prompt and answer; nothing else depends on it here.
fn recorded_positions(mut config: VlmConfig, recorded: &Fixture) -> VlmConfig {
    config.text.max_position_embeddings = recorded.number("max_position_embeddings") as usize;
    config
}

fn continue_all(model: &Vlm, device: &Device, prompts: &[PromptRef], max_new_tokens: usize) -> Vec<Vec<i32>> {
    let options = GenerateOptions {
        max_new_tokens,
        stop_ids: Vec::new(),
        sampling: Sampling::Greedy,
    };
    let answers = generate(model, device, DType::F32, prompts, &options, |_| ()).unwrap();
    let signed = |answer: Vec<u32>| answer.into_iter().map(|token| token as i32).collect();
    answers.into_iter().map(signed).collect()
}

fn check_answers(model: &Vlm, device: &Device, recorded: &Fixture, name: &str, images: &[Vec<PixelImage>]) {
    let ids = |kind: &str| -> Vec<Vec<i32>> {
        let row = |row| recorded.i32s(&format!("{name}.{kind}.{row}"));
        (0..ROWS).map(row).collect()
    };
    let (prompts, answers) = (ids("prompt"), ids("answer"));
    let prompts: Vec<PromptRef> = prompts
        .iter()
        .zip(images)
        .map(|(input_ids, images)| PromptRef { input_ids, images })
        .collect();
    assert!(
        prompts
            .iter()
            .any(|prompt| prompt.input_ids.len() != prompts[0].input_ids.len())
    );
    assert_eq!(answers[0].len(), 64);
    assert_eq!(
        continue_all(model, device, &prompts, 64),
        answers,
        "{name}, one batch"
    );
    for (prompt, answer) in prompts.iter().zip(&answers) {
        let alone = continue_all(model, device, &[*prompt], 64);
        assert_eq!(&alone[0], answer, "{name}, alone");
    }
}

#[test]
fn every_family_says_what_transformers_says() {
    let recorded = Fixture::open("generation.safetensors");
    for device in &devices() {
        for name in FAMILIES {
            let (fixture, config) = family(name);
            let model = fixture.model(&recorded_positions(config, &recorded), "", device);
            check_answers(&model, device, &recorded, name, &[vec![], vec![], vec![]]);
        }
    }
}

/// Two images, none and one.
#[test]
fn a_vlm_says_what_transformers_says() {
    let recorded = Fixture::open("generation.safetensors");
    let fixture = Fixture::open("vlm.safetensors");
    let size = recorded.shape("vlm.pixels")[3];
    let pixels = recorded.f32s("vlm.pixels");
    let mut images = pixels.chunks(3 * size * size).map(|pixels| PixelImage {
        pixels: pixels.into(),
        size,
    });
    let images = [2, 0, 1].map(|count| images.by_ref().take(count).collect::<Vec<_>>());
    for device in &devices() {
        let config = recorded_positions(fixture.vlm_config(), &recorded);
        check_answers(
            &fixture.model(&config, "", device),
            device,
            &recorded,
            "vlm",
            &images,
        );
    }
}
