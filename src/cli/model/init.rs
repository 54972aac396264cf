//! `brazier model init`

use std::{path::PathBuf, process::ExitCode, time::Instant};

use brazier_models::{
    FeatureSelect, ProjectorKind, Vlm,
    params::{self, ParamInfo},
};
use burn::tensor::DType;
use clap::{Args, ValueEnum};

use super::{
    super::{Failure, session},
    OutputArgs,
    folders::main_dtype,
    report, written,
};
use crate::{
    data::{IMAGE_TOKEN, Tokenizer},
    device,
    hub::{self, ExportOptions, ExportTensor, Part, Weights},
};

#[derive(Args)]
#[command(after_help = "\
The weights of both parts are copied, not computed: they stay what they are, byte for byte. The projector is drawn from
the seed. The folder that is written is one that `train` takes as model.from.

Example:
  brazier model init --language Qwen/Qwen3-0.6B --vision openai/clip-vit-large-patch14-336 --out models/qwen3-vlm
  brazier train --config run.yaml --set model.from=models/qwen3-vlm --set train.mode=alignment")]
pub(in crate::cli) struct InitArgs {
    /// Language model: a folder, or a name on the Hugging Face hub. Its tokenizer comes along
    #[arg(long, value_name = "MODEL")]
    language: PathBuf,
    /// Vision tower, or a CLIP or SigLIP model of which the vision tower is taken
    #[arg(long, value_name = "MODEL")]
    vision: PathBuf,
    /// What turns image features into token embeddings: mlp | linear | pixel_shuffle:FACTOR
    #[arg(long, default_value = "mlp", value_parser = parse_projector)]
    projector: ProjectorKind,
    /// Hidden state of the vision tower that is used: -1 is the last block's output, -2 the one before
    #[arg(long, default_value_t = -2, allow_negative_numbers = true)]
    vision_feature_layer: i64,
    /// Tokens of the vision tower that are used: patches only, or the class token too
    #[arg(long, value_enum, default_value_t = SelectArg::Default)]
    vision_feature_select: SelectArg,
    /// The token that stands for an image in text; the tokenizer must have it
    #[arg(long, value_name = "TOKEN", default_value = IMAGE_TOKEN)]
    image_token: String,
    /// Same seed, same projector
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
        None if text == "linear" => Ok(ProjectorKind::Linear),
        Some(("pixel_shuffle", factor)) => match factor.parse() {
            Ok(factor) if factor > 0 => Ok(ProjectorKind::PixelShuffle { factor }),
            _ => Err("the factor of pixel_shuffle is a whole number above 0".into()),
        },
        _ => Err("expected mlp, linear or pixel_shuffle:FACTOR, for instance pixel_shuffle:2".into()),
    }
}

pub(super) fn init(args: &InitArgs) -> Result<ExitCode, Failure> {
    let started = Instant::now();
    hub::check_target(&args.output.out)?;
    let language_dir = session::locate(&args.language)?;
    let vision_dir = session::locate(&args.vision)?;
    let tokenizer = Tokenizer::load(&language_dir)?;
    let image_token_id = tokenizer.token_to_id(&args.image_token).ok_or_else(|| {
        Failure::Input(format!(
            "--image-token {}: the tokenizer of {} has no such token\n  hint: add it to the tokenizer as a special \
             token, or name one that is there and unused, such as a reserved one",
            args.image_token,
            args.language.display()
        ))
    })?;
    let select = match args.vision_feature_select {
        SelectArg::Default => FeatureSelect::Default,
        SelectArg::Full => FeatureSelect::Full,
    };
    let join = hub::JoinOptions {
        projector: args.projector,
        vision_feature_layer: args.vision_feature_layer,
        vision_feature_select: select,
        image_token_id,
    };
    let config = hub::join_configs(&language_dir, &vision_dir, &join)?;
    let processor = match &config.vision {
        Some(vision) => session::image_options(Some(&vision_dir), vision)?.processor,
        None => return Err(anyhow::anyhow!("a joined model has a vision tower").into()),
    };
    let model = Vlm::init_deferred(&config, None, args.seed, &device::for_files()?, DType::F32)?;
    let expected = session::expected(&model);
    let language = Weights::open(&language_dir, Part::Language, &config, &expected)?;
    let vision = Weights::open(&vision_dir, Part::Vision, &config, &expected)?;
    let is_stored = |name: &str| language.contains(name) || vision.contains(name);
    let fresh = params::param_handles(&model, |name| !is_stored(name));
    let dtype = main_dtype(&language);
    let names = expected.iter().map(|(name, _)| name);
    let stored = names.filter_map(|name| {
        ExportTensor::stored(name, &language).or_else(|| ExportTensor::stored(name, &vision))
    });
    let drawn = fresh.iter().map(|handle| {
        let ParamInfo { path, shape, .. } = handle.info.clone();
        ExportTensor::fetched(path, shape, handle.dtype, || handle.fetch()).kept_as(dtype)
    });
    let options = ExportOptions {
        image_token: args.image_token.clone(),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn projectors_are_named_as_in_configurations() {
        for (text, kind) in [
            ("mlp", ProjectorKind::Mlp2),
            ("linear", ProjectorKind::Linear),
            ("pixel_shuffle:4", ProjectorKind::PixelShuffle { factor: 4 }),
        ] {
            assert_eq!(parse_projector(text), Ok(kind));
        }
        for text in ["", "mlp:2", "pixel_shuffle", "pixel_shuffle:0", "pixel_shuffle:x"] {
            assert!(parse_projector(text).is_err(), "{text}");
        }
    }
}
