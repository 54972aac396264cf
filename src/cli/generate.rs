//! `brazier generate`

use std::{io::Write, path::PathBuf, process::ExitCode};

use burn::tensor::DType;
use clap::Args;

use super::{Failure, session};
use crate::{
    data::{
        Cache, ChatTemplate, Conversation, IMAGE_TOKEN, Message, Role, TemplateOptions, Tokenizer,
        encode_prompt, load_image,
    },
    device::{self},
    device_choice::DeviceChoice,
    generate::{GenerateOptions, PromptRef, Sampling, generate as continue_prompts},
    hub,
};

#[derive(Args)]
pub(super) struct GenerateArgs {
    /// A model folder in Hugging Face's format, for instance RUN/export
    #[arg(long, short, value_name = "DIR")]
    model: PathBuf,
    /// A folder of adapters for that model, for instance the export of a run with model.lora
    #[arg(long, short, value_name = "DIR")]
    adapter: Option<PathBuf>,
    /// The question
    #[arg(long, short, value_name = "TEXT")]
    prompt: String,
    /// An image to ask about; may be repeated, images stand before the question
    #[arg(long, short, value_name = "FILE")]
    image: Vec<PathBuf>,
    /// Longest answer, in tokens
    #[arg(long, default_value_t = 64)]
    max_new_tokens: usize,
    /// Draw tokens instead of taking the most probable: softmax(logits / T)
    #[arg(long, value_name = "T")]
    temperature: Option<f64>,
    /// Draw among the K most probable tokens only
    #[arg(long, value_name = "K", requires = "temperature")]
    top_k: Option<usize>,
    /// Draw among the fewest tokens whose probabilities reach P
    #[arg(long, value_name = "P", requires = "temperature")]
    top_p: Option<f64>,
    /// Same seed, same answer
    #[arg(long, default_value_t = 0, requires = "temperature")]
    seed: u64,
    /// auto | cuda[:INDEX] | wgpu | flex | ndarray
    #[arg(long, default_value = "auto")]
    device: String,
}

impl GenerateArgs {
    fn sampling(&self) -> Result<Sampling, Failure> {
        let Some(temperature) = self.temperature else {
            return Ok(Sampling::Greedy);
        };
        let refuse = |what: String| Err(Failure::Input(what));
        if !(temperature.is_finite() && temperature > 0.0) {
            return refuse(format!(
                "--temperature {temperature}: must be above 0; leave it out for greedy answers"
            ));
        }
        if self.top_k == Some(0) {
            return refuse("--top-k 0: must be at least 1".to_owned());
        }
        if let Some(top_p) = self.top_p.filter(|&p| !(p > 0.0 && p <= 1.0)) {
            return refuse(format!("--top-p {top_p}: must be above 0 and at most 1"));
        }
        Ok(Sampling::Random {
            temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            seed: self.seed,
        })
    }
}

pub(super) fn generate(args: &GenerateArgs) -> Result<ExitCode, Failure> {
    let sampling = args.sampling()?;
    let choice: DeviceChoice = args
        .device
        .parse()
        .map_err(|error| Failure::Input(format!("--device: {error}")))?;
    let choice = device::decide(choice)?;
    let folder = session::locate(&args.model)?;
    let config = hub::read_config(&folder)?;
    let tokenizer = session::of_model(Tokenizer::load(&folder)?, &config);
    let cache = Cache::of_environment(&|name| std::env::var(name).ok());
    device::set_up(choice, cache.dir(), 1);
    device::compute_here(choice);
    let device = device::open(choice, DType::F32)?;
    let images = match (&config.vision, args.image.is_empty()) {
        (_, true) => Vec::new(),
        (None, false) => {
            return Err(Failure::Input(format!(
                "{} has no vision part, but --image was given",
                args.model.display()
            )));
        }
        (Some(vision), false) => {
            let options = session::image_options(Some(&folder), vision)?;
            args.image
                .iter()
                .map(|path| load_image(path, &options).map_err(|error| Failure::Input(error.to_string())))
                .collect::<Result<Vec<_>, _>>()?
        }
    };
    let num_image_tokens = config
        .vision
        .as_ref()
        .map_or(0, |vision| vision.num_image_tokens());
    let content = IMAGE_TOKEN.repeat(images.len()) + &args.prompt;
    let conversation = Conversation::new(vec![Message::new(Role::User, content)]);
    let template = ChatTemplate::choose(&TemplateOptions::default(), &tokenizer)?;
    let input_ids = encode_prompt(&tokenizer, &template, &conversation, num_image_tokens)?;
    let adapters = match &args.adapter {
        Some(dir) => Some(session::Adapters::read(dir, &config)?),
        None => None,
    };
    let model = session::import(&folder, &config, adapters.as_ref(), &device, DType::F32)?;
    let options = GenerateOptions {
        max_new_tokens: args.max_new_tokens,
        stop_ids: template.stop_ids(&tokenizer)?,
        sampling,
    };
    let prompt = PromptRef {
        input_ids: &input_ids,
        images: &images,
    };
    let texts = continue_prompts(&model, &device, DType::F32, &[prompt], &options, |_| ())?;
    let text = tokenizer.decode(&texts[0])?;
    let _ = writeln!(std::io::stdout(), "{text}");
    Ok(ExitCode::SUCCESS)
}
