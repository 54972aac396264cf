//! Shapes and kinds of vision towers and of what joins them to a decoder.

use super::{DecoderConfig, ModelConfigError, check_size, refuse};
use crate::segmented::Segment;

/// Families of vision towers. All of them are a ViT of pre-norm blocks over patches with learned positions; what differs
/// follows from the family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VisionModelType {
    /// CLIP (<https://arxiv.org/abs/2103.00020>): a class token before the patches, a norm before the first block.
    Clip,
    /// SigLIP (<https://arxiv.org/abs/2303.15343>) and SigLIP 2 of a fixed resolution
    /// (<https://arxiv.org/abs/2502.14786>): patches alone, projected with a bias.
    Siglip,
}

impl VisionModelType {
    /// All of them.
    pub const ALL: [Self; 2] = [VisionModelType::Clip, VisionModelType::Siglip];

    /// As `model_type` in `config.json`.
    pub fn name(self) -> &'static str {
        match self {
            VisionModelType::Clip => "clip_vision_model",
            VisionModelType::Siglip => "siglip_vision_model",
        }
    }

    /// Whether a class token stands before the patches.
    pub fn has_class_token(self) -> bool {
        match self {
            VisionModelType::Clip => true,
            VisionModelType::Siglip => false,
        }
    }

    /// Whether embeddings are normed before the first block.
    pub fn has_pre_norm(self) -> bool {
        match self {
            VisionModelType::Clip => true,
            VisionModelType::Siglip => false,
        }
    }

    /// Whether the projection of patches has a bias.
    pub fn has_patch_bias(self) -> bool {
        match self {
            VisionModelType::Clip => false,
            VisionModelType::Siglip => true,
        }
    }
}

/// Activation of a vision block's MLP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VisionActivation {
    /// `x * sigmoid(1.702 x)`, as OpenAI's CLIP was trained.
    QuickGelu,
    /// Exact GELU (erf).
    Gelu,
    /// GELU with tanh in the place of erf, as SigLIP was trained (`gelu_pytorch_tanh`).
    GeluTanh,
}

impl VisionActivation {
    /// All of them.
    pub const ALL: [Self; 3] = [
        VisionActivation::QuickGelu,
        VisionActivation::Gelu,
        VisionActivation::GeluTanh,
    ];

    /// As `hidden_act` in `config.json`.
    pub fn name(self) -> &'static str {
        match self {
            VisionActivation::QuickGelu => "quick_gelu",
            VisionActivation::Gelu => "gelu",
            VisionActivation::GeluTanh => "gelu_pytorch_tanh",
        }
    }
}

/// A vision tower: patch embedding, learned positions, pre-norm blocks, and what its family has around them.
#[derive(Debug, Clone, PartialEq)]
pub struct VisionConfig {
    /// Whose files it has.
    pub model_type: VisionModelType,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width inside the MLP.
    pub intermediate_size: usize,
    /// Number of blocks.
    pub num_hidden_layers: usize,
    /// Attention heads; divides `hidden_size`.
    pub num_attention_heads: usize,
    /// Side of the square input, in pixels. Not always a multiple of `patch_size`: what is left over at the right and at the
    /// bottom is not seen.
    pub image_size: usize,
    /// Side of a patch, in pixels.
    pub patch_size: usize,
    /// Epsilon inside the root of LayerNorm.
    pub layer_norm_eps: f64,
    /// MLP activation.
    pub hidden_act: VisionActivation,
    /// Whether the files have SigLIP's pooling head, which a VLM does not use: it is carried through them untouched.
    pub vision_use_head: bool,
    /// Standard deviation of freshly drawn weights.
    pub initializer_range: f64,
}

impl VisionConfig {
    /// Patches along one side of the image.
    pub fn grid(&self) -> usize {
        self.image_size / self.patch_size
    }

    /// Number of patches of one image: `(image_size / patch_size)²`.
    pub fn num_patches(&self) -> usize {
        self.grid().pow(2)
    }

    /// Tokens inside the tower: the patches, and the class token where the family has one.
    pub fn num_positions(&self) -> usize {
        self.num_patches() + usize::from(self.model_type.has_class_token())
    }

    /// Checks what [`crate::VisionTower::init`] takes for granted.
    pub fn validate(&self) -> Result<(), ModelConfigError> {
        for (key, value, most) in [
            ("hidden_size", self.hidden_size, 1 << 20),
            ("intermediate_size", self.intermediate_size, 1 << 22),
            (
                "num_hidden_layers",
                self.num_hidden_layers,
                DecoderConfig::MAX_LAYERS,
            ),
            ("num_attention_heads", self.num_attention_heads, 1 << 12),
            ("image_size", self.image_size, 1 << 16),
            ("patch_size", self.patch_size, 1 << 16),
        ] {
            check_size(&format!("vision_config.{key}"), value, most)?;
        }
        if !self.hidden_size.is_multiple_of(self.num_attention_heads) {
            return Err(refuse(
                "vision_config.num_attention_heads",
                self.num_attention_heads,
                format!("must divide hidden_size = {}", self.hidden_size),
            ));
        }
        if self.patch_size > self.image_size {
            return Err(refuse(
                "vision_config.patch_size",
                self.patch_size,
                format!("larger than image_size = {}", self.image_size),
            ));
        }
        if self.vision_use_head && self.model_type != VisionModelType::Siglip {
            return Err(refuse(
                "vision_config.vision_use_head",
                true,
                format!("a model of type {} has no pooling head", self.model_type.name()),
            ));
        }
        Ok(())
    }
}

/// How image features become token embeddings. Every layer has a bias.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProjectorKind {
    /// One linear layer.
    Linear,
    /// Linear, exact GELU, linear: LLaVA-1.5's `mlp2x_gelu`.
    Mlp2,
    /// Linear to the tower's own width, exact GELU, linear to the decoder's, exact GELU, linear: MultiMeditron's.
    Mlp3,
    /// `factor × factor` neighbouring patches become one token of `factor²` times the width, then one linear layer.
    PixelShuffle {
        /// Side of the block of patches that becomes one token; divides the patch grid's side.
        factor: usize,
    },
    /// `kernel × kernel` neighbouring patches become their mean, then one linear layer.
    AveragePool {
        /// Side of the block of patches that becomes one token; divides the patch grid's side.
        kernel: usize,
    },
}

impl ProjectorKind {
    /// Side of the block of patches that becomes one token, and the key that says it; `None` where each patch stays one.
    fn block(self) -> Option<(&'static str, usize)> {
        match self {
            ProjectorKind::Linear | ProjectorKind::Mlp2 | ProjectorKind::Mlp3 => None,
            ProjectorKind::PixelShuffle { factor } => Some(("projector.factor", factor)),
            ProjectorKind::AveragePool { kernel } => Some(("projector.kernel", kernel)),
        }
    }

    /// Inputs and outputs of each linear layer, in order, between a tower and a decoder of these widths.
    pub fn layers(self, vision: usize, text: usize) -> Vec<(usize, usize)> {
        match self {
            ProjectorKind::Linear | ProjectorKind::AveragePool { .. } => vec![(vision, text)],
            ProjectorKind::Mlp2 => vec![(vision, text), (text, text)],
            ProjectorKind::Mlp3 => vec![(vision, vision), (vision, text), (text, text)],
            ProjectorKind::PixelShuffle { factor } => vec![(vision * factor * factor, text)],
        }
    }
}

/// Which of the vision tower's tokens are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FeatureSelect {
    /// Patches without the class token, in a tower that has one (Hugging Face's `default`).
    Default,
    /// All tokens: class token and patches, or all patches of a tower without class token.
    Full,
}

impl FeatureSelect {
    /// The patches and nothing else, in the family's terms.
    pub fn patches(family: VisionModelType) -> Self {
        match family.has_class_token() {
            true => FeatureSelect::Default,
            false => FeatureSelect::Full,
        }
    }

    /// As `vision_feature_select_strategy` in `config.json`.
    pub fn name(self) -> &'static str {
        match self {
            FeatureSelect::Default => "default",
            FeatureSelect::Full => "full",
        }
    }
}

/// Vision tower, projector and the rule that joins them to the decoder.
#[derive(Debug, Clone, PartialEq)]
pub struct VisionLanguageConfig {
    /// The vision tower.
    pub vision: VisionConfig,
    /// The projector.
    pub projector: ProjectorKind,
    /// Hidden state that is used: `-1` is the last block's output, `-2` the one before, `0` the embeddings.
    pub vision_feature_layer: i64,
    /// Tokens that are used.
    pub vision_feature_select: FeatureSelect,
    /// Whether the tower's last norm is applied to the last block's output: what transformers calls `last_hidden_state` of a
    /// SigLIP tower. LLaVA takes hidden states as the blocks leave them.
    pub vision_post_layernorm: bool,
    /// Id of the token whose embedding is replaced by an image feature.
    pub image_token_id: u32,
}

impl VisionLanguageConfig {
    /// Tokens and width of an image's hidden state behind a segment of the vision part.
    ///
    /// # Shapes
    /// → `[t, d]`
    pub fn features(&self, after: Segment, text: &DecoderConfig) -> [usize; 2] {
        match after {
            Segment::VisionEmbeddings | Segment::VisionBlock(_) => {
                [self.vision.num_positions(), self.vision.hidden_size]
            }
            _ => [self.num_image_tokens(), text.hidden_size],
        }
    }

    /// Number of vision blocks that run to produce the selected hidden state.
    ///
    /// # Errors
    /// If `vision_feature_layer` names a hidden state the tower does not have.
    pub fn num_vision_blocks(&self) -> Result<usize, ModelConfigError> {
        let num_states = self.vision.num_hidden_layers as i64 + 1;
        let layer = self.vision_feature_layer;
        let index = if layer < 0 { num_states + layer } else { layer };
        if (0..num_states).contains(&index) {
            Ok(index as usize)
        } else {
            Err(refuse(
                "vision_feature_layer",
                layer,
                format!(
                    "the tower has hidden states 0 to {} (or -1 to -{num_states})",
                    num_states - 1
                ),
            ))
        }
    }

    /// Whether a class token is among the tokens that the projector gets.
    pub fn keeps_class_token(&self) -> bool {
        self.vision.model_type.has_class_token() && self.vision_feature_select == FeatureSelect::Full
    }

    /// Image tokens of one image after the projector.
    pub fn num_image_tokens(&self) -> usize {
        match self.projector.block() {
            Some((_, side)) => self.vision.num_patches() / (side * side),
            None => self.vision.num_patches() + usize::from(self.keeps_class_token()),
        }
    }

    pub(super) fn validate(&self, vocab_size: usize) -> Result<(), ModelConfigError> {
        self.vision.validate()?;
        let num_blocks = self.num_vision_blocks()?;
        if self.image_token_id as usize >= vocab_size {
            return Err(refuse(
                "image_token_id",
                self.image_token_id,
                format!("outside the vocabulary of {vocab_size}"),
            ));
        }
        if self.vision_post_layernorm && num_blocks != self.vision.num_hidden_layers {
            let reason =
                "the tower's last norm belongs to its last hidden state; use layer -1, or leave it out";
            return Err(refuse("vision_post_layernorm", true, reason));
        }
        if !self.vision.model_type.has_class_token() && self.vision_feature_select == FeatureSelect::Default {
            let family = self.vision.model_type.name();
            let reason = format!(
                "it drops the class token, and a {family} has none (transformers would drop the first patch); write full"
            );
            return Err(refuse("vision_feature_select", "default", reason));
        }
        self.validate_block()
    }

    /// Blocks of patches must tile the grid.
    fn validate_block(&self) -> Result<(), ModelConfigError> {
        let Some((key, side)) = self.projector.block() else {
            return Ok(());
        };
        let grid = self.vision.grid();
        if side == 0 || !grid.is_multiple_of(side) {
            return Err(refuse(
                key,
                side,
                format!("must divide the patch grid's side = {grid}"),
            ));
        }
        if self.keeps_class_token() {
            return Err(refuse(
                "vision_feature_select",
                "full",
                "this projector needs a square grid; use default, which drops the class token",
            ));
        }
        Ok(())
    }
}
