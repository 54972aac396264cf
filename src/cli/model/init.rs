//! `brazier model init`

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::Instant,
};

use brazier_models::{
    FeatureSelect, ProjectorKind, VisionModelType, Vlm,
    params::{self, ParamInfo},
};
use burn::tensor::DType;
use clap::{Args, ValueEnum};

use super::{
    super::{Failure, session},
    LayoutArg, OutputArgs,
    folders::main_dtype,
    report, written,
};
use crate::{
    data::{IMAGE_TOKEN, Tokenizer},
    device,
    hub::{self, ExportOptions, ExportTensor, Part, ResizeOptions, Weights},
};

#[derive(Args)]
#[command(after_help = "\
The weights of both parts are copied, not computed: they stay what they are, byte for byte. The projector is drawn from
the seed. The folder that is written is one that `train` takes as model.from.

Examples:
  brazier model init --language Qwen/Qwen3-0.6B --vision openai/clip-vit-large-patch14-336 --out models/qwen3-vlm
  brazier train --config run.yaml --set model.from=models/qwen3-vlm --set train.mode=alignment

  brazier model init --language Qwen/Qwen3-8B --vision google/siglip2-base-patch16-512 --projector \\
    pixel_shuffle:4 --add-image-token --layout multimeditron --out models/meditron")]
pub(in crate::cli) struct InitArgs {
    /// Language model: a folder, or a name on the Hugging Face hub. Its tokenizer comes along
    #[arg(long, value_name = "MODEL")]
    language: PathBuf,
    /// Vision tower of CLIP or SigLIP, or one of these models, of which the vision tower is taken
    #[arg(long, value_name = "MODEL")]
    vision: PathBuf,
    /// What turns image features into token embeddings: mlp | mlp3 | linear | pixel_shuffle:FACTOR | average_pool:KERNEL
    /// [default: mlp; mlp3 with --layout multimeditron]
    #[arg(long, value_parser = parse_projector)]
    projector: Option<ProjectorKind>,
    /// Hidden state of the vision tower that is used: -1 is the last block's output, -2 the one before [default: -2; -1 with
    /// --layout multimeditron and with --vision-post-layernorm]
    #[arg(long, allow_negative_numbers = true)]
    vision_feature_layer: Option<i64>,
    /// Tokens of the vision tower that are used: without the class token of CLIP, or all [default: the patches]
    #[arg(long, value_enum)]
    vision_feature_select: Option<SelectArg>,
    /// Apply the tower's last norm to the last hidden state [with --layout multimeditron: for SigLIP always, for CLIP never]
    #[arg(long)]
    vision_post_layernorm: bool,
    /// The token that stands for an image in text
    #[arg(long, value_name = "TOKEN", default_value = IMAGE_TOKEN)]
    image_token: String,
    /// Give the tokenizer that token if it lacks it. Its row of the vocabulary's tables is drawn around the mean of the
    /// others, unless the tables have a row to spare
    #[arg(long)]
    add_image_token: bool,
    /// Same seed, same projector and same fresh rows
    #[arg(long, default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum SelectArg {
    Default,
    Full,
}

fn parse_projector(text: &str) -> Result<ProjectorKind, String> {
    match text.split_once(':') {
        None if text == "mlp" => Ok(ProjectorKind::Mlp2),
        None if text == "mlp3" => Ok(ProjectorKind::Mlp3),
        None if text == "linear" => Ok(ProjectorKind::Linear),
        Some(("pixel_shuffle", factor)) => match factor.parse() {
            Ok(factor) if factor > 0 => Ok(ProjectorKind::PixelShuffle { factor }),
            _ => Err("the factor of pixel_shuffle is a whole number above 0".into()),
        },
        Some(("average_pool", kernel)) => match kernel.parse() {
            Ok(kernel) if kernel > 0 => Ok(ProjectorKind::AveragePool { kernel }),
            _ => Err("the kernel of average_pool is a whole number above 0".into()),
        },
        _ => Err(
            "expected mlp, mlp3, linear, pixel_shuffle:FACTOR or average_pool:KERNEL, for instance pixel_shuffle:2"
                .into(),
        ),
    }
}

pub(super) fn init(args: &InitArgs) -> Result<ExitCode, Failure> {
    let started = Instant::now();
    hub::check_target(&args.output.out)?;
    let language_dir = session::locate(&args.language)?;
    let vision_dir = session::locate(&args.vision)?;
    let tokenizer = Tokenizer::load(&language_dir)?;
    let image_token = ImageToken::of(args, &tokenizer)?;
    let old_rows = hub::read_decoder_config(&language_dir)?.vocab_size;
    let rows = RESIZE.rows(old_rows, image_token.id as usize + 1);
    let join = hub::JoinOptions {
        vocab_size: Some(rows),
        ..join_options(args, &vision_dir, image_token.id)?
    };
    let config = hub::join_configs(&language_dir, &vision_dir, &join)?;
    let processor = match &config.vision {
        Some(vision) => session::image_options(Some(&vision_dir), vision)?.processor,
        None => return Err(anyhow::anyhow!("a joined model has a vision tower").into()),
    };
    let model = Vlm::init_deferred(&config, None, args.seed, &device::for_files()?, DType::F32)?;
    let expected = session::expected(&model);
    let mut stored = expected.clone();
    for (_, shape) in stored.iter_mut().filter(|(name, _)| hub::is_vocabulary(name)) {
        shape[0] = old_rows;
    }
    let language = Weights::open(&language_dir, Part::Language, &config, &stored)?;
    let vision = Weights::open(&vision_dir, Part::Vision, &config, &stored)?;
    let is_stored = |name: &str| language.contains(name) || vision.contains(name);
    let fresh = params::param_handles(&model, |name| !is_stored(name));
    let dtype = main_dtype(&language);
    let std = config.text.initializer_range;
    let names = expected.iter().map(|(name, _)| name);
    let stored = names.filter_map(|name| match hub::is_vocabulary(name) && rows > old_rows {
        true => ExportTensor::resized(name, &language, rows, RESIZE, std, args.seed),
        false => ExportTensor::stored(name, &language).or_else(|| ExportTensor::stored(name, &vision)),
    });
    let drawn = fresh.iter().map(|handle| {
        let ParamInfo { path, shape, .. } = handle.info.clone();
        ExportTensor::fetched(path, shape, handle.dtype, || handle.fetch()).kept_as(dtype)
    });
    let options = ExportOptions {
        layout: args.output.layout.layout_of(&args.language, &args.vision)?,
        image_token: args.image_token.clone(),
        added_image_token: image_token.is_new.then_some(image_token.id),
        ..args
            .output
            .options(dtype, hub::token_ids(&language_dir)?, processor)
    };
    let tensors = stored.chain(drawn).collect();
    let summary =
        hub::export(&args.output.out, &config, tensors, &language_dir, &options).map_err(written)?;
    report(&summary, started.elapsed());
    Ok(ExitCode::SUCCESS)
}

/// How the tables grow for a token that is added: as transformers does without a word from the user.
const RESIZE: ResizeOptions = ResizeOptions {
    pad_to_multiple_of: None,
    mean_resizing: true,
};

/// The token that stands for an image.
struct ImageToken {
    id: u32,
    /// Whether the tokenizer lacks it.
    is_new: bool,
}

impl ImageToken {
    fn of(args: &InitArgs, tokenizer: &Tokenizer) -> Result<Self, Failure> {
        match tokenizer.token_to_id(&args.image_token) {
            Some(id) => Ok(Self { id, is_new: false }),
            None if args.add_image_token => Ok(Self {
                id: tokenizer.vocab_size() as u32,
                is_new: true,
            }),
            None => Err(Failure::Input(format!(
                "--image-token {}: the tokenizer of {} has no such token\n  hint: add it with --add-image-token, or name \
                 one that is there and unused, such as a reserved one",
                args.image_token,
                args.language.display()
            ))),
        }
    }
}

/// How the parts are joined: as the arguments say, or else as the layout has it.
fn join_options(
    args: &InitArgs,
    vision_dir: &Path,
    image_token_id: u32,
) -> Result<hub::JoinOptions, Failure> {
    let is_multimeditron = args.output.layout == LayoutArg::Multimeditron;
    let (projector, layer) = match is_multimeditron {
        true => (ProjectorKind::Mlp3, -1),
        false if args.vision_post_layernorm => (ProjectorKind::Mlp2, -1),
        false => (ProjectorKind::Mlp2, -2),
    };
    let is_siglip = hub::read_vision_config(vision_dir)?.model_type == VisionModelType::Siglip;
    Ok(hub::JoinOptions {
        projector: args.projector.unwrap_or(projector),
        vision_feature_layer: args.vision_feature_layer.unwrap_or(layer),
        vision_feature_select: args.vision_feature_select.map(|select| match select {
            SelectArg::Default => FeatureSelect::Default,
            SelectArg::Full => FeatureSelect::Full,
        }),
        vision_post_layernorm: args.vision_post_layernorm || (is_multimeditron && is_siglip),
        image_token_id,
        vocab_size: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn projectors_are_named_as_in_configurations() {
        for (text, kind) in [
            ("mlp", ProjectorKind::Mlp2),
            ("mlp3", ProjectorKind::Mlp3),
            ("linear", ProjectorKind::Linear),
            ("average_pool:2", ProjectorKind::AveragePool { kernel: 2 }),
            ("pixel_shuffle:4", ProjectorKind::PixelShuffle { factor: 4 }),
        ] {
            assert_eq!(parse_projector(text), Ok(kind));
        }
        for text in [
            "",
            "mlp:2",
            "pixel_shuffle",
            "pixel_shuffle:0",
            "pixel_shuffle:x",
            "average_pool:0",
        ] {
            assert!(parse_projector(text).is_err(), "{text}");
        }
    }
}
