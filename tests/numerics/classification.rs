//! Classification heads against transformers, and what they refuse.

use brazier_models::{
    Head, HostBatch, HostClasses, InputError, PaddingSide, ProjectorKind, Segmented, Vlm, VlmConfig,
    VlmInputs,
};
use burn::tensor::{DType, Device};

use crate::{
    FORWARD, check, check_gradients,
    fixture::Fixture,
    loss_and_gradients,
    support::{devices, tiny_vlm},
    values,
};

/// A recorded batch; rows are padded to different degrees.
struct Rows {
    shape: [usize; 2],
    input_ids: Vec<i32>,
    labels: Vec<i32>,
    classes: Vec<i32>,
    segments: Vec<Vec<usize>>,
    weights: Vec<f32>,
}

impl Rows {
    fn of(fixture: &Fixture) -> Self {
        let &[rows, length] = fixture.shape("input_ids") else {
            panic!("rows of tokens")
        };
        let classes = fixture.i32s("classes");
        let class_weights = fixture.f32s("class_weights");
        Self {
            shape: [rows, length],
            input_ids: fixture.i32s("input_ids"),
            labels: vec![-100; rows * length],
            segments: fixture
                .i32s("lengths")
                .into_iter()
                .map(|length| vec![length as usize])
                .collect(),
            weights: classes
                .iter()
                .map(|&class| class_weights[class as usize])
                .collect(),
            classes,
        }
    }

    fn batch(&self) -> HostBatch<'_> {
        HostBatch {
            rows: self.shape[0],
            length: self.shape[1],
            input_ids: &self.input_ids,
            labels: &self.labels,
            padding_side: PaddingSide::Right,
            segments: &self.segments,
            pixels: &[],
            num_images: 0,
            classes: Some(HostClasses {
                classes: &self.classes,
                weights: &self.weights,
            }),
        }
    }
}

/// A recorded model and its configuration.
pub(crate) fn classifier(name: &str) -> (Fixture, VlmConfig) {
    let fixture = Fixture::open(&format!("{name}.safetensors"));
    let config = config(&fixture);
    (fixture, config)
}

fn config(fixture: &Fixture) -> VlmConfig {
    let num_labels = fixture.number("num_labels") as usize;
    VlmConfig {
        text: fixture.decoder_config(),
        vision: None,
        head: Head::Classification {
            labels: (0..num_labels).map(|id| format!("LABEL_{id}")).collect(),
        },
    }
}

/// Logits, the loss with class weights and without, and the gradient of every parameter.
fn check_family(name: &str, device: &Device) {
    let fixture = Fixture::open(name);
    let config = config(&fixture);
    let model = fixture.model(&config, "", device);
    let mut rows = Rows::of(&fixture);
    let inputs = VlmInputs::new(&rows.batch(), &config, device, DType::F32).unwrap();
    assert_eq!(inputs.num_labelled, rows.shape[0]);
    let logits = model.class_logits(model.hidden(&inputs));
    check("logits", &values(logits), &fixture.f32s("logits"), FORWARD);

    let weight: f32 = rows.weights.iter().sum();
    let (loss, gradients) = loss_and_gradients(&model, &inputs);
    check(
        "weighted loss",
        &[loss / weight],
        &fixture.f32s("weighted_loss"),
        FORWARD,
    );
    check_gradients(&fixture, "grad.", &gradients, 1.0 / weight);

    rows.weights.fill(1.0);
    let inputs = VlmInputs::new(&rows.batch(), &config, device, DType::F32).unwrap();
    let loss: f32 = model.loss_sum(model.hidden(&inputs), &inputs).into_scalar();
    check(
        "loss",
        &[loss / rows.shape[0] as f32],
        &fixture.f32s("loss"),
        FORWARD,
    );
}

#[test]
fn llama_and_qwen3_agree_with_transformers() {
    for device in &devices() {
        check_family("classification_llama.safetensors", device);
        check_family("classification_qwen3.safetensors", device);
    }
}

/// The head looks at a row's last token by its length: what stands in the padding is nothing to it, even a real token.
#[test]
fn padding_does_not_show() {
    let fixture = Fixture::open("classification_llama.safetensors");
    let (config, device) = (config(&fixture), &devices()[0]);
    let model = fixture.model(&config, "", device);
    let mut rows = Rows::of(&fixture);
    let logits = |rows: &Rows| {
        let inputs = VlmInputs::new(&rows.batch(), &config, device, DType::F32).unwrap();
        values(model.class_logits(model.hidden(&inputs)))
    };
    let before = logits(&rows);
    rows.input_ids
        .iter_mut()
        .filter(|id| **id == 0)
        .for_each(|id| *id = 7);
    assert_eq!(logits(&rows), before);
    rows.segments[1][0] += 1;
    assert_ne!(logits(&rows), before);
}

#[test]
fn classes_must_fit_the_head() {
    let fixture = Fixture::open("classification_llama.safetensors");
    let config = config(&fixture);
    let check = |config: &VlmConfig, change: &dyn Fn(&mut Rows), expected: &str| {
        let mut rows = Rows::of(&fixture);
        change(&mut rows);
        let error = VlmInputs::new(&rows.batch(), config, &devices()[0], DType::F32)
            .err()
            .unwrap();
        assert!(error.to_string().contains(expected), "{error}");
    };
    check(
        &config,
        &|rows| rows.classes[2] = 3,
        "row 2: class 3 is not one of the head's 3",
    );
    check(&config, &|rows| rows.classes[0] = -1, "row 0: class -1");
    check(
        &config,
        &|rows| rows.segments[3] = vec![2, 1],
        "row 3: 2 segments, but a classified row is one",
    );
    check(
        &config,
        &|rows| rows.weights.truncate(3),
        "weights has 3 values, expected 4",
    );
    let language_model = VlmConfig {
        head: Head::Lm,
        ..config.clone()
    };
    check(
        &language_model,
        &|_| (),
        "the batch has classes, but the model's head is a language model's",
    );
    let rows = Rows::of(&fixture);
    let unclassified = HostBatch {
        classes: None,
        ..rows.batch()
    };
    let error = VlmInputs::new(&unclassified, &config, &devices()[0], DType::F32)
        .err()
        .unwrap();
    assert!(matches!(error, InputError::Head { .. }), "{error}");
}

#[test]
fn heads_that_make_no_sense_are_refused() {
    let fixture = Fixture::open("classification_llama.safetensors");
    let check = |config: VlmConfig, labels: &[&str], expected: &str| {
        let head = Head::Classification {
            labels: labels.iter().map(|&label| label.to_owned()).collect(),
        };
        let config = VlmConfig { head, ..config };
        let error = Vlm::init(&config, 0, &devices()[0], DType::F32).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    };
    check(
        config(&fixture),
        &["one"],
        "head.num_labels = 1: a classification needs two classes",
    );
    check(
        config(&fixture),
        &["a", "b", "a"],
        "head.labels = a: two classes have this name",
    );
    let mut vlm = tiny_vlm();
    if let Some(vision) = &mut vlm.vision {
        vision.projector = ProjectorKind::Mlp2;
    }
    check(
        vlm,
        &["a", "b"],
        "no layout for a classification head on a model that sees",
    );
}
