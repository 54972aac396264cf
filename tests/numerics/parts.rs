//! Vision tower and projectors by themselves.

use std::collections::{BTreeMap, HashMap};

use brazier::learner::{Trainable, options::TrainMode};
use brazier_models::{
    AttentionBias, DecoderConfig, FeatureSelect, IGNORE_INDEX, LanguageModelType, MlpKind, ProjectorKind,
    RopeScaling, Segment, Segmented, VisionConfig, VisionLanguageConfig, VisionModelType, Vlm, VlmConfig,
    VlmInputs, params::list_params,
};
use burn::{
    module::{Module, ModuleVisitor, Param, ParamId},
    tensor::{DType, Device, Gradients, Tensor},
};
use serde_json::Value;

use crate::{
    BACKWARD, FORWARD, check, check_gradients, check_unused,
    fixture::{Fixture, Rows, activation, vision_config},
    support::{devices, plain_step},
    values,
};

/// The smallest decoder, for tests of what comes before it.
fn small_text(width: usize) -> DecoderConfig {
    DecoderConfig {
        model_type: LanguageModelType::Llama,
        vocab_size: 8,
        hidden_size: width,
        intermediate_size: 4,
        num_hidden_layers: 1,
        num_attention_heads: 1,
        num_key_value_heads: 1,
        head_dim: 2,
        rms_norm_eps: 1e-5,
        rope_theta: 10000.0,
        rope_scaling: RopeScaling::Default,
        max_position_embeddings: 64,
        tie_word_embeddings: true,
        attention_bias: AttentionBias::None,
        qk_norm: false,
        sliding_window: None,
        mlp: MlpKind::SwiGlu,
        mlp_bias: false,
        initializer_range: 0.02,
    }
}

/// A batch of `num_images` images and nothing else.
fn only_images(pixels: Vec<f32>, num_images: usize, vision: &VisionLanguageConfig) -> Rows {
    let length = vision.num_image_tokens() * num_images;
    Rows {
        rows: 1,
        length,
        input_ids: vec![vision.image_token_id as i32; length],
        labels: vec![IGNORE_INDEX; length],
        segments: vec![vec![length]],
        pixels,
        num_images,
    }
}

/// Gradients of the parameters a tape reached, by path.
fn gradients_of(model: &Vlm, gradients: Gradients) -> BTreeMap<String, Vec<f32>> {
    struct Collector {
        paths: HashMap<ParamId, String>,
        gradients: Gradients,
        found: BTreeMap<String, Vec<f32>>,
    }
    impl ModuleVisitor for Collector {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if let Some(gradient) = param.val().grad_remove(&mut self.gradients) {
                self.found.insert(self.paths[&param.id].clone(), values(gradient));
            }
        }
    }
    let paths = list_params(model)
        .into_iter()
        .map(|info| (info.id, info.path))
        .collect();
    let mut collector = Collector {
        paths,
        gradients,
        found: BTreeMap::new(),
    };
    model.visit(&mut collector);
    collector.found
}

/// A model of which every used parameter is on the tape.
fn taped(model: Vlm) -> Vlm {
    let step = plain_step(TrainMode::Full);
    Trainable::select(&model, step.mode, &step.optimizer).mark(model.train())
}

/// `variant` is the prefix of its tensors.
fn check_tower(variant: &str, device: &Device) {
    let fixture = Fixture::open("vision.safetensors");
    let about = &fixture.about["variants"][variant];
    let vision = VisionLanguageConfig {
        vision: VisionConfig {
            hidden_act: activation(&about["hidden_act"]),
            ..vision_config(&fixture.about["vision_config"])
        },
        projector: ProjectorKind::Linear,
        vision_feature_layer: about["vision_feature_layer"].as_i64().unwrap(),
        vision_feature_select: FeatureSelect::Default,
        vision_post_layernorm: false,
        image_token_id: 0,
    };
    let rows = only_images(fixture.f32s("pixels"), fixture.shape("pixels")[0], &vision);
    let config = VlmConfig {
        text: small_text(4),
        vision: Some(vision),
        head: brazier_models::Head::Lm,
    };
    let model = taped(fixture.model(&config, "", device));
    let inputs = VlmInputs::new(&rows.batch(), &config, device, DType::F32).unwrap();

    let segments = model.segments(&inputs).into_iter();
    let mut x = None;
    for (index, segment) in segments
        .take_while(|&segment| segment != Segment::Projector)
        .enumerate()
    {
        let state = model.forward_segment(segment, x, &inputs);
        let name = format!("{variant}hidden.{index}");
        check(
            &name,
            &values(state.clone().inner()),
            &fixture.f32s(&name),
            FORWARD,
        );
        x = Some(state);
    }
    let x = x.unwrap();
    let patches = x.dims()[1] - 1;
    let objective_weights = Tensor::from_inner(fixture.tensor::<3>("objective_weights", device));
    let objective = (x.narrow(1, 1, patches) * objective_weights).sum();
    check(
        "objective",
        &values(objective.clone().inner()),
        &fixture.f32s(&format!("{variant}objective")),
        FORWARD,
    );

    let gradients = gradients_of(&model, objective.backward());
    check_gradients(&fixture, &format!("{variant}grad."), &gradients, 1.0);
    check_unused(&model, &about["without_gradient"]);
}

#[test]
fn the_vision_tower_agrees_with_transformers() {
    for device in &devices() {
        check_tower("", device);
        check_tower("gelu.", device);
    }
}

fn check_projector(name: &str, projector: ProjectorKind, device: &Device) {
    let fixture = Fixture::open("projector.safetensors");
    let vision = VisionLanguageConfig {
        vision: VisionConfig {
            model_type: VisionModelType::Clip,
            hidden_size: fixture.number("vision_width") as usize,
            intermediate_size: 4,
            num_hidden_layers: 1,
            num_attention_heads: 1,
            image_size: 8,
            patch_size: 2,
            layer_norm_eps: 1e-5,
            hidden_act: activation(&Value::from("gelu")),
            vision_use_head: false,
            initializer_range: 0.02,
        },
        projector,
        vision_feature_layer: -1,
        vision_feature_select: FeatureSelect::Default,
        vision_post_layernorm: false,
        image_token_id: 0,
    };
    let rows = only_images(vec![0.0; 2 * 3 * 64], 2, &vision);
    let config = VlmConfig {
        text: small_text(fixture.number("text_width") as usize),
        vision: Some(vision),
        head: brazier_models::Head::Lm,
    };
    let model = taped(fixture.model(&config, &format!("{name}."), device));
    let inputs = VlmInputs::new(&rows.batch(), &config, device, DType::F32).unwrap();

    let features = Tensor::from_inner(fixture.tensor::<3>("features", device)).require_grad();
    let output = model.forward_segment(Segment::Projector, Some(features.clone()), &inputs);
    check(
        name,
        &values(output.clone().inner()),
        &fixture.f32s(&format!("{name}.output")),
        FORWARD,
    );
    let objective_weights = fixture.tensor::<3>(&format!("{name}.objective_weights"), device);
    let mut gradients = (output * Tensor::from_inner(objective_weights)).sum().backward();
    let gradient = values(features.grad_remove(&mut gradients).unwrap());
    check(
        "gradient of features",
        &gradient,
        &fixture.f32s(&format!("{name}.grad.features")),
        BACKWARD,
    );
    check_gradients(
        &fixture,
        &format!("{name}.grad."),
        &gradients_of(&model, gradients),
        1.0,
    );
}

#[test]
fn projectors_agree_with_pytorch() {
    for device in &devices() {
        check_projector("linear", ProjectorKind::Linear, device);
        check_projector("pixel_shuffle", ProjectorKind::PixelShuffle { factor: 2 }, device);
        check_projector("average_pool", ProjectorKind::AveragePool { kernel: 2 }, device);
        check_projector("mlp3", ProjectorKind::Mlp3, device);
    }
}
