//! The vision-language model: image features take the place of image tokens in a causal decoder.
//!
//! Reference: `transformers/models/llava/modeling_llava.py`. Without a vision part it is a plain language model.

use burn::{
    module::Module,
    tensor::{DType, Device, Int, Tensor, TensorData},
};

use crate::{
    cache::{KvCache, Past},
    config::{Head, ModelConfigError, VisionLanguageConfig, VlmConfig},
    decoder::{CausalLm, Pass, Scope},
    dropout,
    init::Init,
    inputs::{ImageInputs, Images, VlmInputs},
    layers::keep_rows,
    lora::LoraConfig,
    ops,
    projector::Projector,
    segmented::{Segment, Segmented},
    shard::Shard,
    vision::VisionTower,
};

/// Vision tower, projector and language model. Parameter paths are those of LLaVA's files.
#[derive(Module, Debug)]
pub struct Vlm {
    vision_tower: Option<VisionTower>,
    multi_modal_projector: Option<Projector>,
    /// The decoder with its head.
    pub language_model: CausalLm,
    #[module(skip)]
    config: VlmConfig,
    #[module(skip)]
    lora: Option<LoraConfig>,
    /// Vision blocks that feed the projector; later ones exist in files only.
    num_vision_blocks: usize,
    /// Whether the tower's last norm stands before the projector.
    norms_features: bool,
    #[module(skip)]
    pub(crate) shard: Shard,
}

impl Vlm {
    /// Fresh weights, a pure function of `seed`, stored in `dtype`.
    ///
    /// # Errors
    /// If the configuration contradicts itself.
    pub fn init(
        config: &VlmConfig,
        seed: u64,
        device: &Device,
        dtype: DType,
    ) -> Result<Self, ModelConfigError> {
        Self::init_with_lora(config, None, seed, device, dtype)
    }

    /// As [`Vlm::init`], with adapters on the layers that `lora` names. They change nothing yet.
    ///
    /// # Errors
    /// If a configuration contradicts itself, or they do not fit.
    pub fn init_with_lora(
        config: &VlmConfig,
        lora: Option<&LoraConfig>,
        seed: u64,
        device: &Device,
        dtype: DType,
    ) -> Result<Self, ModelConfigError> {
        Self::build(config, lora, &Init::new(seed, device, dtype))
    }

    /// As [`Vlm::init_with_lora`], but a weight is drawn when it is first asked for. For a model whose weights are read from
    /// files next ([`crate::params::fill_params`]): it costs neither the time nor the memory of random numbers.
    ///
    /// # Errors
    /// If a configuration contradicts itself, or they do not fit.
    pub fn init_deferred(
        config: &VlmConfig,
        lora: Option<&LoraConfig>,
        seed: u64,
        device: &Device,
        dtype: DType,
    ) -> Result<Self, ModelConfigError> {
        Self::build(config, lora, &Init::new(seed, device, dtype).deferred())
    }

    fn build(config: &VlmConfig, lora: Option<&LoraConfig>, init: &Init) -> Result<Self, ModelConfigError> {
        config.validate()?;
        if let Some(lora) = lora {
            lora.validate(config)?;
        }
        let init = init.with_lora(lora);
        let projector = |vision: &VisionLanguageConfig| {
            let init = init
                .at("multi_modal_projector")
                .with_std(config.text.initializer_range);
            Projector::init(vision, config.text.hidden_size, &init)
        };
        Ok(Self {
            vision_tower: config
                .vision
                .as_ref()
                .map(|vision| VisionTower::init(&vision.vision, &init.at("vision_tower"))),
            multi_modal_projector: config.vision.as_ref().map(projector),
            language_model: CausalLm::init(&config.text, &config.head, &init.at("language_model")),
            config: config.clone(),
            lora: lora.cloned(),
            num_vision_blocks: match &config.vision {
                Some(vision) => vision.num_vision_blocks()?,
                None => 0,
            },
            norms_features: config
                .vision
                .as_ref()
                .is_some_and(|vision| vision.vision_post_layernorm),
            shard: Shard::WHOLE,
        })
    }

    /// Becomes a shard whose parameters are there already.
    pub(crate) fn hold(&mut self, shard: Shard) {
        self.language_model.hold(&self.config.text, shard);
        self.shard = shard;
    }

    /// What the model was built from.
    pub fn config(&self) -> &VlmConfig {
        &self.config
    }

    /// The adapters, if the model has any.
    pub fn lora(&self) -> Option<&LoraConfig> {
        self.lora.as_ref()
    }

    /// The segments before the head, in order, of a batch with images or without.
    pub fn chain(&self, has_images: bool) -> Vec<Segment> {
        let mut segments = Vec::new();
        if has_images {
            segments.push(Segment::VisionEmbeddings);
            segments.extend((0..self.num_vision_blocks).map(Segment::VisionBlock));
            segments.push(Segment::Projector);
        }
        segments.push(Segment::Embed);
        for block in 0..self.language_model.model.layers.len() {
            match self.shard.is_whole() {
                true => segments.push(Segment::Block(block)),
                false => segments.extend([Segment::Attention(block), Segment::Mlp(block)]),
            }
        }
        segments
    }

    /// Whether a parameter takes part in the forward pass. The others (CLIP's `post_layernorm`, SigLIP's pooling head, vision
    /// blocks behind the selected feature layer) are carried through files and never trained.
    pub fn uses(&self, path: &str) -> bool {
        let Some(inside) = path.strip_prefix("vision_tower.vision_model.") else {
            return true;
        };
        match inside
            .strip_prefix("encoder.layers.")
            .and_then(|rest| rest.split('.').next())
        {
            Some(index) => index
                .parse::<usize>()
                .is_ok_and(|index| index < self.num_vision_blocks),
            None if inside.starts_with("post_layernorm.") => self.norms_features,
            None => !inside.starts_with("head."),
        }
    }

    /// Projected features of images, in reading order; `None` for a batch of text.
    ///
    /// # Shapes
    /// → `[m, tokens, d]`
    pub fn image_features(&self, inputs: &VlmInputs) -> Option<Tensor<3>> {
        let segments = self.segments(inputs).into_iter();
        let mut x = None;
        for segment in segments.take_while(|segment| segment.is_vision()) {
            x = Some(self.run_segment(segment, x, inputs));
        }
        x.or_else(|| given_features(inputs))
    }

    /// Images to the first hidden state of the tower.
    ///
    /// # Shapes
    /// `[m, 3, size, size]` → `[m, t, d]`
    ///
    /// # Panics
    /// If the model has no vision part; [`VlmInputs::new`] refuses images for such a model.
    pub fn embed_pixels(&self, pixels_mchw: Tensor<4>) -> Tensor<3> {
        match &self.vision_tower {
            Some(tower) => tower.vision_model.embed(pixels_mchw),
            None => unreachable!("images were given to a language model without vision"),
        }
    }

    /// Runs a later segment of the vision part on images, whatever batch they are of.
    ///
    /// # Shapes
    /// `[m, t, d]` → `[m, t, d]`, see [`VisionLanguageConfig::features`]
    ///
    /// # Panics
    /// If it is none, or the model has no vision part.
    pub fn forward_vision(&self, segment: Segment, x_mtd: Tensor<3>) -> Tensor<3> {
        match (segment, &self.vision_tower, &self.multi_modal_projector) {
            (Segment::VisionBlock(index), Some(tower), _) => {
                tower.vision_model.encoder.layers[index].forward(x_mtd)
            }
            (Segment::Projector, Some(tower), Some(projector)) => self.project(tower, projector, x_mtd),
            (segment, ..) => unreachable!("{segment:?} takes no image of this model"),
        }
    }

    /// The selected hidden state to token embeddings.
    fn project(&self, tower: &VisionTower, projector: &Projector, x_mtd: Tensor<3>) -> Tensor<3> {
        projector.forward(match self.norms_features {
            true => tower.vision_model.post_layernorm.forward(x_mtd),
            false => x_mtd,
        })
    }

    /// The token table's gradient from that of the hidden state behind [`Segment::Embed`], as rows to be added up
    /// ([`ops::add_rows`]); its own is not on the tape. Of a shard that of its part, all of it.
    ///
    /// # Shapes
    /// `dx_btd [b, t, d]` → rows of the table `[b*t]` and what to add to them `[b*t, d]`
    pub fn table_gradient(&self, dx_btd: Tensor<3>, inputs: &VlmInputs) -> (Tensor<1, Int>, Tensor<2>) {
        let [b, t, d] = dx_btd.dims();
        let dx_nd = dx_btd.reshape([b * t, d]);
        // Behind an image token there is a feature.
        let dx_nd = match &inputs.images {
            Some(images) => keep_rows(dx_nd, images.sources_n.clone().lower_elem((b * t) as i64)),
            None => dx_nd,
        };
        let ids_n = inputs.input_ids_bt.clone().reshape([b * t]);
        let table = &self.language_model.model.embed_tokens;
        table.gradient(ids_n, self.first_token(), dx_nd)
    }

    /// The token that the first row of the token table is for.
    fn first_token(&self) -> usize {
        self.shard.range(self.config.text.vocab_size).start
    }

    /// Token embeddings with image features in the image tokens' places.
    ///
    /// # Shapes
    /// `features [m, tokens, d]` → `[b, t, d]`
    fn embed(&self, features: Option<Tensor<3>>, inputs: &VlmInputs) -> Tensor<3> {
        let [b, t] = inputs.input_ids_bt.dims();
        let (ids_n, table) = (
            inputs.input_ids_bt.clone().reshape([b * t]),
            &self.language_model.model.embed_tokens,
        );
        let embedded_nd = match self.shard.is_whole() {
            true => table.forward(ids_n),
            false => table.forward_own(ids_n, self.first_token()),
        };
        let d = embedded_nd.dims()[1];
        let spliced_nd = match (features, &inputs.images) {
            (Some(features), Some(images)) => {
                let [m, tokens, _] = features.dims();
                let all = Tensor::cat(vec![embedded_nd, features.reshape([m * tokens, d])], 0);
                ops::take_rows(all, images.sources_n.clone())
            }
            // They are in the first shard's term.
            (None, Some(images)) if !self.shard.is_first() => {
                keep_rows(embedded_nd, images.sources_n.clone().lower_elem((b * t) as i64))
            }
            _ => embedded_nd,
        };
        spliced_nd.reshape([b, t, d])
    }

    /// Hidden states of the labelled tokens before the final norm.
    ///
    /// # Shapes
    /// → `[1, n, d]`
    ///
    /// # Panics
    /// If the model is a part of one, which has terms of them.
    pub fn hidden(&self, inputs: &VlmInputs) -> Tensor<3> {
        assert!(self.shard.is_whole(), "hidden states of a shard");
        let mut x = None;
        for segment in self.segments(inputs) {
            x = Some(self.forward_segment(segment, x, inputs));
        }
        x.unwrap_or_else(|| unreachable!("a model has blocks"))
    }

    /// Logits at every position, f32: for tests and small models.
    ///
    /// # Shapes
    /// → `[b, t, v]`
    ///
    /// # Panics
    /// If the model is a part of one.
    pub fn logits(&self, inputs: &VlmInputs) -> Tensor<3> {
        assert!(self.shard.is_whole(), "logits of a shard");
        let mut x_btd = self.embed(self.image_features(inputs), inputs);
        for layer in &self.language_model.model.layers {
            x_btd = layer.forward(x_btd, &inputs.rope, scope(inputs), Pass::WHOLE);
        }
        let [b, t, d] = x_btd.dims();
        self.language_model
            .logits(x_btd.reshape([b * t, d]))
            .reshape([b as i32, t as i32, -1])
    }

    /// Logits of the classes of each row, f32; `x` are the hidden states of their last tokens before the final norm.
    ///
    /// # Shapes
    /// `[1, b, d]` → `[b, labels]`
    ///
    /// # Panics
    /// If the model has no classification head: [`VlmInputs::new`] refuses classes for such a model.
    pub fn class_logits(&self, x: Tensor<3>) -> Tensor<2> {
        self.language_model.logits(x.squeeze_dim(0))
    }

    /// Runs prompts, padded on the right, and keeps their keys and values.
    ///
    /// # Shapes
    /// `lengths` of the `b` prompts without padding → logits of each one's last token, `[b, v]`, f32.
    ///
    /// # Panics
    /// If a length is 0 or exceeds the rows, or if the model is a part of one.
    pub fn prefill(&self, inputs: &VlmInputs, lengths: &[usize], capacity: usize) -> (Tensor<2>, KvCache) {
        assert!(self.shard.is_whole(), "generation by a shard");
        let x_btd = self.embed(self.image_features(inputs), inputs);
        let ([b, t, _], device) = (x_btd.dims(), x_btd.device());
        assert!(
            lengths.len() == b && lengths.iter().all(|length| (1..=t).contains(length)),
            "prefill: lengths {lengths:?} for {b} rows of {t} tokens"
        );
        let last: Vec<i32> = lengths
            .iter()
            .enumerate()
            .map(|(row, length)| (row * t + length - 1) as i32)
            .collect();
        let last_b = Tensor::from_data(TensorData::new(last, [b]), (&device, DType::I32));
        let mut cache = KvCache::new(&self.config.text, lengths, t, capacity, &device, x_btd.dtype());
        (self.advance(x_btd, last_b, &mut cache), cache)
    }

    /// One more token per row.
    ///
    /// # Shapes
    /// `ids_b [b]` → logits `[b, v]`, f32
    pub fn decode(&self, ids_b: Tensor<1, Int>, cache: &mut KvCache) -> Tensor<2> {
        let ([b], device) = (ids_b.dims(), ids_b.device());
        let embedded = self.language_model.model.embed_tokens.forward(ids_b);
        let d = embedded.dims()[1];
        let all_b = Tensor::arange(0..b as i64, (&device, DType::I32));
        self.advance(embedded.reshape([b, 1, d]), all_b, cache)
    }

    /// Runs the blocks on tokens behind those held; logits of the tokens numbered `rows_n`.
    fn advance(&self, mut x_btd: Tensor<3>, rows_n: Tensor<1, Int>, cache: &mut KvCache) -> Tensor<2> {
        let (t, device) = (x_btd.dims()[1], x_btd.device());
        let text = &self.config.text;
        let rope = cache.rope_table(text, t, &device);
        let hidden = cache.hidden_places(text, &device);
        let layers = self.language_model.model.layers.iter().zip(&mut cache.layers);
        for (index, (layer, cache)) in layers.enumerate() {
            let hidden_b1s = hidden.of(text.attention_mask(index));
            let pass = Pass {
                is_first: true,
                rows_n: self.is_last(index).then_some(&rows_n),
            };
            x_btd = layer.forward(x_btd, &rope, Scope::Past(Past { cache, hidden_b1s }), pass);
        }
        self.language_model.logits(x_btd.squeeze_dim(0))
    }

    fn is_last(&self, block: usize) -> bool {
        block + 1 == self.config.text.num_hidden_layers
    }

    /// What is asked of a block where the head is all that reads the last one.
    fn pass<'a>(&self, block: usize, inputs: &'a VlmInputs) -> Pass<'a> {
        Pass {
            is_first: self.shard.is_first(),
            rows_n: self.is_last(block).then_some(&inputs.label_rows_n),
        }
    }

    fn run_segment(&self, segment: Segment, x: Option<Tensor<3>>, inputs: &VlmInputs) -> Tensor<3> {
        // Nothing comes before the first segment; where it is not the first one of the model, something has been given.
        match (segment, x.or_else(|| given_features(inputs))) {
            (Segment::VisionEmbeddings, None) => match &inputs.images {
                Some(ImageInputs {
                    images: Images::Pixels(pixels_mchw),
                    ..
                }) => self.embed_pixels(pixels_mchw.clone()),
                _ => unreachable!("the first segment is listed for batches with pixels only"),
            },
            (Segment::VisionBlock(_) | Segment::Projector, Some(x)) => self.forward_vision(segment, x),
            // Images are in the first shard's term.
            (Segment::Embed, x) => self.embed(x.filter(|_| self.shard.is_first()), inputs),
            (Segment::Block(index), Some(x)) => {
                let layer = &self.language_model.model.layers[index];
                layer.forward(x, &inputs.rope, scope(inputs), self.pass(index, inputs))
            }
            (Segment::Attention(index), Some(x)) => {
                let layer = &self.language_model.model.layers[index];
                layer.forward_attention(x, &inputs.rope, scope(inputs), self.pass(index, inputs))
            }
            (Segment::Mlp(index), Some(x)) => {
                if let Some(rows_n) = self.pass(index, inputs).rows_n {
                    dropout::narrow(rows_n);
                }
                let layer = &self.language_model.model.layers[index];
                layer.forward_mlp(x, self.shard.is_first())
            }
            (segment, _) => unreachable!("segment {segment:?} out of order"),
        }
    }
}

fn scope(inputs: &VlmInputs) -> Scope<'_> {
    inputs.segments.as_ref().map_or(Scope::Row, Scope::Segments)
}

/// What the vision part has made of a batch's images, as far as the batch brings it along.
fn given_features(inputs: &VlmInputs) -> Option<Tensor<3>> {
    match &inputs.images.as_ref()?.images {
        Images::Features { x_mtd, .. } => Some(x_mtd.clone()),
        Images::Pixels(_) => None,
    }
}

impl Segmented for Vlm {
    type Inputs = VlmInputs;

    fn segments(&self, inputs: &VlmInputs) -> Vec<Segment> {
        let mut segments = self.chain(inputs.images.is_some());
        if let Some(ImageInputs {
            images: Images::Features { after, .. },
            ..
        }) = &inputs.images
        {
            let done = segments.iter().position(|segment| segment == after);
            segments.drain(..done.map_or(0, |last| last + 1));
        }
        segments
    }

    fn forward_segment(&self, segment: Segment, x: Option<Tensor<3>>, inputs: &VlmInputs) -> Tensor<3> {
        let sequences = inputs.dropout.as_ref().map(|keys| keys.of(segment));
        dropout::with_sequences(sequences, || self.run_segment(segment, x, inputs))
    }

    fn loss_sum(&self, x: Tensor<3>, inputs: &VlmInputs) -> Tensor<1> {
        let (x_nd, targets_n) = (x.squeeze_dim(0), inputs.targets_n.clone());
        match self.config.head {
            Head::Lm => self.language_model.loss_sum(x_nd, targets_n),
            Head::Classification { .. } => {
                self.language_model
                    .class_loss_sum(x_nd, targets_n, &inputs.weights)
            }
        }
    }

    fn owner(path: &str) -> Vec<Segment> {
        let index = |rest: &str| rest.split('.').next().and_then(|i| i.parse::<usize>().ok());
        if let Some(rest) = path.strip_prefix("vision_tower.vision_model.") {
            return match rest.strip_prefix("encoder.layers.").and_then(index) {
                Some(i) => vec![Segment::VisionBlock(i)],
                None if rest.starts_with("post_layernorm.") => vec![Segment::Projector],
                None => vec![Segment::VisionEmbeddings],
            };
        }
        if path.starts_with("multi_modal_projector.") {
            return vec![Segment::Projector];
        }
        match path.strip_prefix("language_model.model.layers.").and_then(index) {
            Some(i) => {
                let is_first = ["self_attn.", "input_layernorm.", "attention_layernorm."];
                let is_first = is_first.iter().any(|name| path.contains(&format!(".{name}")));
                let half = if is_first {
                    Segment::Attention(i)
                } else {
                    Segment::Mlp(i)
                };
                vec![half, Segment::Block(i)]
            }
            // Tied embeddings belong to both ends; an untied table is simply never found in the head's tape, and at the
            // other end its gradient is not on one.
            None if path.contains("embed_tokens") => vec![Segment::Embed, Segment::Head],
            None => vec![Segment::Head],
        }
    }
}
