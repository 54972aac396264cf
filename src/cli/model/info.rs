//! `brazier model info`

use std::{path::PathBuf, process::ExitCode, time::Instant};

use brazier_models::{HostDtype, Vlm, VlmConfig};
use burn::tensor::DType;
use clap::Args;

use super::{
    super::{Failure, print, session, show},
    throughput,
};
use crate::{
    config::num_parameters,
    device::{self},
    device_choice::DeviceChoice,
    hub::{self, Part, Weights},
};

#[derive(Args)]
#[command(after_help = "\
Examples:
  brazier model info models/Qwen3-0.6B             what it is
  brazier model info Qwen/Qwen3-0.6B               the same, from the cache of the Hugging Face hub
  brazier model info Qwen/Qwen3-0.6B --load bf16   also load it, and show time, throughput and peak memory")]
pub(in crate::cli) struct InfoArgs {
    /// A model folder (with config.json), or a model's name on the Hugging Face hub
    model: PathBuf,
    /// Also read all weights into a model with this element type
    #[arg(long, value_name = "f32|bf16", value_parser = parse_dtype)]
    load: Option<HostDtype>,
    /// Where to put the model: auto | cuda[:INDEX] | wgpu | flex | ndarray
    #[arg(long, default_value = "auto", requires = "load")]
    device: String,
}

fn parse_dtype(text: &str) -> Result<HostDtype, String> {
    match text {
        "f32" => Ok(HostDtype::F32),
        "bf16" => Ok(HostDtype::Bf16),
        _ => Err("expected f32 or bf16".into()),
    }
}

pub(super) fn info(args: &InfoArgs) -> Result<ExitCode, Failure> {
    let dir = session::locate(&args.model)?;
    let config = hub::read_config(&dir)?;
    let counts = num_parameters(&config);
    print(format_args!("{}\n{config:#?}", show(&dir)));
    let architecture = hub::usual_layout(&config, &dir)?.architecture(&config);
    print(format_args!("loaded by     {architecture}"));
    if let Some(vision) = &config.vision {
        print(format_args!(
            "image tokens  {} for each image",
            vision.num_image_tokens()
        ));
    }
    print(format_args!(
        "parameters {} (vision {}, projector {}, language {})",
        counts.total(),
        counts.vision,
        counts.projector,
        counts.language
    ));
    let skeleton = Vlm::init_deferred(&config, None, 0, &device::for_files()?, DType::F32)?;
    let weights = Weights::open(&dir, Part::Whole, &config, &session::expected(&skeleton))?;
    let dtypes = weights.dtypes().into_iter();
    let dtypes: Vec<String> = dtypes
        .map(|(dtype, (tensors, elements))| format!("{dtype} {tensors} tensors of {elements} numbers"))
        .collect();
    print(format_args!(
        "weights       {:.3} GB in {} files: {}",
        weights.size_bytes() as f64 / 1e9,
        weights.num_files(),
        dtypes.join(", ")
    ));
    let tokenizer = match dir.join("tokenizer.json").is_file() {
        true => "tokenizer.json",
        false => "none: no tokenizer.json",
    };
    print(format_args!("tokenizer     {tokenizer}"));
    if let Some(dtype) = args.load {
        load(args, &config, &weights, dtype)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Loads the weights as `train` and `generate` do, and says how that went.
fn load(args: &InfoArgs, config: &VlmConfig, weights: &Weights, dtype: HostDtype) -> Result<(), Failure> {
    let choice: DeviceChoice = args
        .device
        .parse()
        .map_err(|error| Failure::Input(format!("--device: {error}")))?;
    let (dtype, element_bytes) = match dtype {
        HostDtype::F32 => (DType::F32, 4),
        HostDtype::Bf16 => (DType::BF16, 2),
    };
    let device = device::open(choice, dtype)?;
    let started = Instant::now();
    let model = Vlm::init_deferred(config, None, 0, &device, dtype)?;
    let model = session::fill(model, std::slice::from_ref(weights), dtype)?;
    let elapsed = started.elapsed();
    let elements: usize = brazier_models::params::list_params(&model)
        .iter()
        .map(|info| info.num_elements())
        .sum();
    print(format_args!(
        "loaded        {:.3} GB of parameters; read {}",
        (elements * element_bytes) as f64 / 1e9,
        throughput(weights.size_bytes(), elapsed)
    ));
    Ok(())
}
