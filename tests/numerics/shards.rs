//! Shards of a model: their terms add up to what the whole computes, forward and gradients.

use std::{
    collections::{BTreeMap, HashMap},
    convert::Infallible,
};

use brazier_models::{
    AttentionBias, Cut, DecoderConfig, Head, HostBatch, HostDtype, LanguageModelType, LoraConfig, LoraParts,
    LoraTargets, MlpKind, PaddingSide, RopeScaling, Segment, Segmented, Shard, Vlm, VlmConfig, VlmInputs,
    ops,
    params::{ParamInfo, fill_params, from_host_flat, list_params, read_params},
};
use burn::{
    module::{Module, ModuleVisitor, Param, ParamId},
    tensor::{DType, Device, Gradients, Tensor, TensorData},
};

use crate::support::{Noise, devices};

fn noise(count: usize, seed: u64) -> Vec<f32> {
    Noise(seed).take(count)
}

/// A decoder of a family, whose vocabulary does not divide.
fn config(model_type: LanguageModelType) -> VlmConfig {
    let is = |other| model_type == other;
    VlmConfig {
        text: DecoderConfig {
            model_type,
            vocab_size: 23,
            hidden_size: 12,
            intermediate_size: 20,
            num_hidden_layers: 2,
            num_attention_heads: 4,
            num_key_value_heads: 2,
            head_dim: 4,
            rms_norm_eps: 1e-5,
            rope_theta: 10000.0,
            rope_scaling: RopeScaling::Default,
            max_position_embeddings: 32,
            tie_word_embeddings: is(LanguageModelType::Qwen3),
            attention_bias: match is(LanguageModelType::Llama) {
                true => AttentionBias::All,
                false => AttentionBias::None,
            },
            qk_norm: !is(LanguageModelType::Llama),
            sliding_window: None,
            mlp: match is(LanguageModelType::Apertus) {
                true => MlpKind::Xielu,
                false => MlpKind::SwiGlu,
            },
            mlp_bias: is(LanguageModelType::Llama),
            initializer_range: 0.3,
        },
        vision: None,
        head: Head::Lm,
    }
}

fn inputs(config: &VlmConfig, device: &Device) -> VlmInputs {
    let (ids, segments) = ([1, 22, 4, 11, 12, 0, 5, 21, 9, 3], [vec![3, 2], vec![5]]);
    let batch = HostBatch {
        rows: 2,
        length: 5,
        input_ids: &ids,
        labels: &ids,
        padding_side: PaddingSide::Right,
        segments: &segments,
        pixels: &[],
        num_images: 0,
        classes: None,
    };
    let inputs = VlmInputs::for_loss(&batch, config, device, DType::F32).unwrap();
    inputs.with_dropout(&batch, config, 7, 0)
}

/// Fresh weights; the matrices that start as 0 and the biases get other values, the same for every shard.
fn model(config: &VlmConfig, lora: Option<&LoraConfig>, device: &Device) -> Vlm {
    let model = Vlm::init_with_lora(config, lora, 5, device, DType::F32).unwrap();
    let model = fill_params(model, HostDtype::F32, |info, bytes| {
        let is_plain =
            info.path.ends_with("bias") || info.path.contains("lora_B") || info.path.contains("norm");
        let values = noise(info.num_elements(), info.path.len() as u64);
        for (bytes, value) in bytes.chunks_exact_mut(4).zip(&values) {
            bytes.copy_from_slice(&(value + 0.1).to_le_bytes());
        }
        Ok::<_, Infallible>(is_plain)
    });
    model.unwrap().train()
}

fn floats<const D: usize>(x: Tensor<D>) -> Vec<f32> {
    x.into_data().try_to_vec().unwrap()
}

#[derive(Default)]
struct Results {
    output: Vec<f32>,
    input_gradient: Vec<f32>,
    gradients: BTreeMap<String, Tensor<2>>,
}

/// A link from a given input, with gradients of a fixed combination of its output; of the head with the loss as output.
fn run(
    model: &Vlm,
    segment: Segment,
    x: &Tensor<3>,
    inputs: &VlmInputs,
    log_sums: Option<&Tensor<1>>,
) -> Results {
    let leaf = Tensor::<3>::from_inner(x.clone()).require_grad();
    let output = match (segment, log_sums) {
        (Segment::Head, Some(log_sums)) => model
            .loss_term(leaf.clone(), inputs, Some(log_sums.clone()))
            .reshape([1, 1, 1]),
        (Segment::Head, None) => model.loss_sum(leaf.clone(), inputs).reshape([1, 1, 1]),
        (Segment::Embed, _) => model.forward_segment(segment, None, inputs),
        _ => model.forward_segment(segment, Some(leaf.clone()), inputs),
    };
    let count = output.shape().num_elements();
    let factors = TensorData::new(noise(count, 3), output.dims());
    let factors = Tensor::<3>::from_data(factors, (&output.device(), DType::F32));
    if segment == Segment::Embed {
        assert!(!output.is_tracked(), "a whole table would be its gradient");
        return Results {
            output: floats(output),
            input_gradient: Vec::new(),
            gradients: table_gradient(model, factors, inputs),
        };
    }
    let mut gradients = (output.clone() * factors).sum().backward();
    Results {
        output: floats(output.inner()),
        input_gradient: leaf.grad_remove(&mut gradients).map(floats).unwrap_or_default(),
        gradients: parameter_gradients(model, &mut gradients),
    }
}

/// It is not on the tape.
fn table_gradient(model: &Vlm, dx: Tensor<3>, inputs: &VlmInputs) -> BTreeMap<String, Tensor<2>> {
    let (rows_n, values_nd) = model.table_gradient(dx.inner(), inputs);
    let zeros = model
        .language_model
        .model
        .embed_tokens
        .weight
        .val()
        .inner()
        .zeros_like();
    let path = "language_model.model.embed_tokens.weight".to_owned();
    BTreeMap::from([(path, ops::add_rows(zeros, rows_n, values_nd))])
}

fn parameter_gradients(model: &Vlm, gradients: &mut Gradients) -> BTreeMap<String, Tensor<2>> {
    struct Taker<'a>(
        HashMap<ParamId, String>,
        &'a mut Gradients,
        BTreeMap<String, Tensor<2>>,
    );
    impl ModuleVisitor for Taker<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if let Some(gradient) = param.val().grad_remove(self.1) {
                let rows = gradient.dims()[0] as i32;
                self.2
                    .insert(self.0[&param.id].clone(), gradient.reshape([rows, -1]));
            }
        }
    }
    let paths = list_params(model)
        .into_iter()
        .map(|info| (info.id, info.path))
        .collect();
    let mut taker = Taker(paths, gradients, BTreeMap::new());
    model.visit(&mut taker);
    taker.2
}

#[track_caller]
fn assert_sum(what: &str, terms: &[Vec<f32>], whole: &[f32]) {
    let scale = whole.iter().fold(1e-2_f32, |largest, x| largest.max(x.abs()));
    assert!(
        terms.iter().all(|term| term.len() == whole.len()),
        "{what}: lengths"
    );
    for (at, whole) in whole.iter().enumerate() {
        let sum: f32 = terms.iter().map(|term| term[at]).sum();
        assert!(
            (sum - whole).abs() <= 1e-5 * scale,
            "{what} at {at}: {sum}, whole {whole}"
        );
    }
}

fn lora() -> LoraConfig {
    LoraConfig {
        r: 3,
        lora_alpha: 6.0,
        lora_dropout: 0.4,
        use_rslora: false,
        target_modules: LoraTargets::AllLinear,
        parts: LoraParts::Language,
    }
}

#[test]
fn terms_of_shards_add_up_to_the_whole() {
    let device = devices().remove(0);
    for (model_type, lora) in [
        (LanguageModelType::Llama, None),
        (LanguageModelType::Qwen3, None),
        (LanguageModelType::Apertus, None),
        (LanguageModelType::Llama, Some(lora())),
    ] {
        let config = config(model_type);
        Shard::check(2, &config.text).unwrap();
        let inputs = inputs(&config, &device);
        let whole = model(&config, lora.as_ref(), &device);
        let shards = [0, 1].map(|index| whole.clone().into_shard(Shard { index, count: 2 }));
        let [b, t] = inputs.input_ids_bt.dims();
        let hidden = |b: usize, t: usize| {
            let data = TensorData::new(noise(b * t * 12, 1), [b, t, 12]);
            Tensor::<3>::from_data(data, (&device, DType::F32))
        };
        // Behind the last attention there are the tokens that the head reads.
        let (all, read) = (hidden(b, t), hidden(1, inputs.num_labelled));
        let sums = shards
            .each_ref()
            .map(|shard| shard.log_sums(Tensor::from_inner(read.clone())).unwrap());
        let log_sums = sums
            .map(|sums| sums.inner().exp())
            .into_iter()
            .reduce(|sum, term| sum + term);
        let log_sums = log_sums.map(Tensor::log);
        for (segment, x) in [
            (Segment::Embed, &all),
            (Segment::Attention(0), &all),
            (Segment::Mlp(0), &all),
            (Segment::Attention(1), &all),
            (Segment::Mlp(1), &read),
            (Segment::Head, &read),
        ] {
            let what = format!("{model_type:?}, lora {}, {segment:?}", lora.is_some());
            let expected = run(&whole, segment, x, &inputs, None);
            let terms = shards
                .each_ref()
                .map(|shard| run(shard, segment, x, &inputs, log_sums.as_ref()));
            let of = |field: fn(&Results) -> &Vec<f32>| terms.each_ref().map(|term| field(term).clone());
            assert_sum(&what, &of(|term| &term.output), &expected.output);
            assert_sum(&what, &of(|term| &term.input_gradient), &expected.input_gradient);
            assert!(!expected.gradients.is_empty(), "{what}: nothing has a gradient");
            for (path, whole) in &expected.gradients {
                check_gradient(&format!("{what}, {path}"), path, whole, &terms);
            }
        }
        // The halves are those of the block.
        for layer in [0, 1] {
            let block = run(&whole, Segment::Block(layer), &all, &inputs, None);
            let first = whole.forward_segment(
                Segment::Attention(layer),
                Some(Tensor::from_inner(all.clone())),
                &inputs,
            );
            let second = run(&whole, Segment::Mlp(layer), &first.inner(), &inputs, None);
            assert_eq!(block.output, second.output);
        }
    }
}

/// Of what is cut each shard has its part of the gradient; of the rest a term.
fn check_gradient(what: &str, path: &str, whole: &Tensor<2>, terms: &[Results]) {
    for (index, term) in terms.iter().enumerate() {
        let cut = Cut::of(path);
        if cut == Cut::Copied {
            continue;
        }
        let part = Shard { index, count: 2 }.part(cut, whole);
        assert_sum(what, &[floats(term.gradients[path].clone())], &floats(part));
    }
    if Cut::of(path) == Cut::Copied {
        let terms = terms
            .iter()
            .filter_map(|term| term.gradients.get(path).cloned().map(floats));
        assert_sum(what, &terms.collect::<Vec<_>>(), &floats(whole.clone()));
    }
}

/// Cut and put together again a model is what it was.
#[test]
fn parts_make_up_the_whole() {
    let device = devices().remove(0);
    let config = config(LanguageModelType::Llama);
    let whole = model(&config, Some(&lora()), &device);
    let shards = [0, 1, 2].map(|index| {
        // Three parts divide neither heads nor columns evenly; the values do not mind.
        whole.clone().into_shard(Shard { index, count: 3 })
    });
    let values = |model: &Vlm| read_params(model, |_| true);
    // Drawn later or now, as parts or cut: the same.
    for shard in &shards {
        let deferred = Vlm::init_deferred(&config, None, 5, &device, DType::F32).unwrap();
        let whole = deferred.whole_params();
        let nothing = |_: &ParamInfo, _: &mut [u8]| Ok::<_, Infallible>(false);
        let filled = deferred.fill(shard.shard(), HostDtype::F32, nothing).unwrap();
        let drawn = Vlm::init(&config, 5, &device, DType::F32).unwrap();
        let cut = drawn.into_shard(shard.shard());
        for (filled, cut) in values(&filled).iter().zip(&values(&cut)) {
            assert_eq!((&filled.name, &filled.shape), (&cut.name, &cut.shape));
            assert!(filled.bytes == cut.bytes, "{}", cut.name);
        }
        let names = |infos: Vec<ParamInfo>| {
            infos
                .into_iter()
                .map(|info| (info.path, info.shape))
                .collect::<Vec<_>>()
        };
        assert_eq!(names(filled.whole_params()), names(whole));
    }
    let others = shards.each_ref().map(values);
    let [first, ..] = shards;
    let joined = first.reshard(Shard::WHOLE, |info, _| {
        let parts = others.iter().map(|tensors| {
            let tensor = tensors.iter().find(|tensor| tensor.name == info.path).unwrap();
            let [rows, columns] = [tensor.shape[0], tensor.num_elements() / tensor.shape[0]];
            from_host_flat(tensor, &device, DType::F32).reshape([rows, columns])
        });
        Ok::<_, Infallible>(Tensor::cat(parts.collect(), Cut::of(&info.path).axis().unwrap()))
    });
    let joined = joined.unwrap();
    assert!(joined.shard().is_whole());
    for (joined, whole) in values(&joined).iter().zip(&values(&whole)) {
        assert_eq!((&joined.name, &joined.shape), (&whole.name, &whole.shape));
        assert!(joined.bytes == whole.bytes, "{}", whole.name);
    }
}
