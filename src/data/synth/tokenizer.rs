//! The byte-level BPE tokenizer of the data set, learnt from its training text.

use std::path::Path;

use serde_json::json;
use tokenizers::{
    AddedToken, TokenizerBuilder,
    models::bpe::{BPE, BpeTrainer},
    normalizers::NormalizerWrapper,
    pre_tokenizers::byte_level::ByteLevel,
};

use super::{SynthError, write_json};
use crate::{data::template::CHAT_TEMPLATE_JINJA, fs};

const IM_END: &str = "<|im_end|>";
const PAD: &str = "<|pad|>";
const IMAGE: &str = "<image>";
/// Ids follow this order, from 0.
const SPECIAL_TOKENS: [&str; 5] = ["<|endoftext|>", "<|im_start|>", IM_END, PAD, IMAGE];
/// All 256 bytes, the special tokens, and room for every word of the questions and answers.
const MAX_VOCAB_SIZE: usize = 512;
const ROLES: [&str; 3] = ["system\n", "user\n", "assistant\n"];

/// Learns the tokenizer from `texts` and writes the folder that Hugging Face's `AutoTokenizer` loads. Returns the
/// size of the vocabulary.
pub(super) fn write_tokenizer(dir: &Path, texts: &[&str]) -> Result<usize, SynthError> {
    let special = SPECIAL_TOKENS.map(|token| AddedToken::from(token, true).normalized(false));
    let mut trainer = BpeTrainer::builder()
        .show_progress(false)
        .vocab_size(MAX_VOCAB_SIZE)
        .min_frequency(2)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .special_tokens(special.to_vec())
        .build();
    let mut tokenizer =
        TokenizerBuilder::<BPE, NormalizerWrapper, ByteLevel, ByteLevel, ByteLevel>::default()
            .with_model(BPE::default())
            .with_pre_tokenizer(Some(ByteLevel::new(false, true, true)))
            .with_decoder(Some(ByteLevel::new(false, true, true)))
            .build()
            .map_err(SynthError::Tokenizer)?;
    let lines = texts
        .iter()
        .chain(&ROLES)
        .chain(&ROLES)
        .map(|text| text.to_string());
    tokenizer
        .train(&mut trainer, lines)
        .map_err(SynthError::Tokenizer)?;

    fs::create_dir_all(dir)?;
    let text = tokenizer.to_string(true).map_err(SynthError::Tokenizer)?;
    super::write_file(&dir.join("tokenizer.json"), text.as_bytes())?;
    let config = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": null,
        "eos_token": IM_END,
        "pad_token": PAD,
        "unk_token": null,
        "extra_special_tokens": { "image_token": IMAGE },
        "clean_up_tokenization_spaces": false,
        "padding_side": "right",
        "chat_template": CHAT_TEMPLATE_JINJA,
    });
    write_json(&dir.join("tokenizer_config.json"), &config)?;
    let map = json!({ "eos_token": IM_END, "pad_token": PAD, "image_token": IMAGE });
    write_json(&dir.join("special_tokens_map.json"), &map)?;
    Ok(tokenizer.get_vocab_size(true))
}
