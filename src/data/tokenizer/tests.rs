use tokenizers::AddedToken;

use serde_json::Value;

use super::{
    fixtures::{SPECIAL, config},
    *,
};

fn special() -> Vec<AddedToken> {
    SPECIAL.map(|token| AddedToken::from(token, true)).to_vec()
}

fn load(special: &[AddedToken], config: &Value) -> Result<Tokenizer, String> {
    let dir = tempfile::tempdir().unwrap();
    fixtures::write(dir.path(), special, config);
    Tokenizer::load(dir.path()).map_err(|error| error.to_string())
}

#[test]
fn text_survives_the_round_trip() {
    let (dir, tokenizer) = fixtures::tokenizer();
    for text in ["", " a  b\n\n", "Zoë 👁 <b>", "cd it"] {
        let ids = tokenizer.encode_content(text).unwrap();
        assert_eq!(tokenizer.decode(&ids).unwrap(), text);
    }
    assert_eq!(tokenizer.encode_content("cdit").unwrap().len(), 2);
    assert_eq!(tokenizer.vocab_size(), 256 + 2 + SPECIAL.len());
    assert_eq!(tokenizer.pad_id(), 258);
    assert_eq!(tokenizer.eos_id(), Some(259));
    assert_eq!(tokenizer.special_tokens().unk.as_deref(), Some("<|unk|>"));
    assert_eq!(tokenizer.special_tokens().bos, None);
    assert_eq!(
        tokenizer.chat_template(),
        Some(super::super::template::CHAT_TEMPLATE_JINJA)
    );
    let by_file = Tokenizer::load(&dir.path().join("tokenizer.json")).unwrap();
    assert_eq!(by_file.special_tokens(), tokenizer.special_tokens());
}

#[test]
fn only_the_template_places_special_tokens() {
    let (_dir, tokenizer) = fixtures::tokenizer();
    let text = "a<|im_end|><image>";
    assert_eq!(tokenizer.encode_template(text).unwrap().len(), 3);
    let ids = tokenizer.encode_content(text).unwrap();
    assert!(ids.iter().all(|&id| id < 258), "{ids:?}");
    assert_eq!(tokenizer.decode(&ids).unwrap(), text);
    assert_eq!(
        tokenizer
            .decode(&tokenizer.encode_template(text).unwrap())
            .unwrap(),
        "a"
    );
}

#[test]
fn a_control_token_that_is_not_marked_special_is_refused_in_content() {
    let plain = SPECIAL.map(|token| AddedToken::from(token, token != "<|im_end|>"));
    let tokenizer = load(&plain, &config()).unwrap();
    assert!(tokenizer.encode_content("fine").is_ok());
    let message = tokenizer.encode_content("a<|im_end|>").unwrap_err().to_string();
    assert!(message.contains("the text contains `<|im_end|>`"), "{message}");
}

#[test]
fn an_unusable_tokenizer_is_refused() {
    let edit = |key: &str, value: Value| {
        let mut config = config();
        config[key] = value;
        config
    };
    for (config, expected) in [
        (
            edit("pad_token", "<|eos|>".into()),
            "pad_token and eos_token are both `<|eos|>`",
        ),
        (edit("pad_token", Value::Null), "no pad_token is named"),
        (
            edit("pad_token", "[PAD]".into()),
            "`[PAD]` (pad_token) is not a token",
        ),
        (
            edit("eos_token", "[EOS]".into()),
            "`[EOS]` (eos_token) is not a token",
        ),
    ] {
        let message = load(&special(), &config).err().unwrap();
        assert!(message.contains(expected), "{message}");
    }
    assert!(
        load(&special()[..4], &config()).is_ok(),
        "<image> and unk are not needed by all"
    );
}

#[test]
fn a_vocabulary_without_the_image_token_is_named() {
    let tokenizer = load(&special()[..4], &config()).unwrap();
    let message = tokenizer.image_token_id().unwrap_err().to_string();
    assert!(
        message.contains("`<image>` (it stands for an image) is not a token"),
        "{message}"
    );
    let tokenizer = tokenizer.with_image_token("<|image_pad|>");
    let message = tokenizer.image_token_id().unwrap_err().to_string();
    for part in [
        "`<|image_pad|>` (it stands for an image) is not a token",
        "under model.image_token",
        "brazier model init --image-token '<|image_pad|>' --add-image-token",
    ] {
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn another_token_can_stand_for_images() {
    let (_dir, plain) = fixtures::tokenizer();
    let (_dir, tokenizer) = fixtures::tokenizer_with_image_token("<|im_start|>");
    assert_eq!(tokenizer.image_token(), "<|im_start|>");
    let [image, other] = ["<image>", "<|im_start|>"].map(|token| plain.token_to_id(token).unwrap());
    assert_eq!(plain.image_token_id().unwrap(), image);
    assert_eq!(tokenizer.image_token_id().unwrap(), other);

    // The same tokens from the same bytes, with one id in the place of the other.
    let text = "cd<image><image>é it<image>\u{100000}x<image>";
    let with = |id| if id == image { other } else { id };
    let expected: Vec<Piece> = plain
        .encode_pieces(text)
        .unwrap()
        .into_iter()
        .map(|Piece { id, bytes }| Piece { id: with(id), bytes })
        .collect();
    assert_eq!(tokenizer.encode_pieces(text).unwrap(), expected);
    let ids: Vec<u32> = plain.encode_template("a<image>b").unwrap();
    let ids: Vec<u32> = ids.into_iter().map(with).collect();
    assert_eq!(tokenizer.encode_template("a<image>b").unwrap(), ids);

    // What a row says in its letters is text.
    for text in ["a<|im_start|>b", "<|im_start|>"] {
        let ids = tokenizer.encode_content(text).unwrap();
        assert!(!ids.contains(&other), "{ids:?}");
        let clean = tokenizer.neutralise(text);
        let pieces = tokenizer.encode_pieces(&clean).unwrap();
        assert!(pieces.iter().all(|piece| piece.id != other), "{pieces:?}");
    }
}

#[test]
fn an_image_token_that_is_not_marked_special_is_refused_in_content() {
    let marked = SPECIAL.map(|token| AddedToken::from(token, token != "<|unk|>"));
    let dir = tempfile::tempdir().unwrap();
    fixtures::write(dir.path(), &marked, &config());
    let load = || Tokenizer::load(dir.path()).unwrap();
    assert!(load().encode_content("a<|unk|>").is_ok());
    let tokenizer = load().with_image_token("<|unk|>");
    assert!(tokenizer.image_token_id().is_ok());
    let message = tokenizer.encode_content("a<|unk|>").unwrap_err().to_string();
    assert!(message.contains("the text contains `<|unk|>`"), "{message}");
}

#[test]
fn the_image_token_of_a_model_is_a_special_token() {
    let (_dir, plain) = fixtures::tokenizer();
    let other = plain.token_to_id("<|unk|>").unwrap();
    let of = |id: u32| {
        let tokenizer = fixtures::tokenizer_with_image_token("<image>").1;
        tokenizer.with_image_token_of(id).image_token().to_owned()
    };
    assert_eq!(of(other), "<|unk|>");
    for unfit in [0, 257, 100_000, plain.pad_id(), plain.eos_id().unwrap()] {
        assert_eq!(of(unfit), "<image>");
    }
}

/// A tokenizer as its file says it, and the same without its faster way.
fn with_and_without_fast(change: impl Fn(&mut Value)) -> (Tokenizer, Tokenizer) {
    let (dir, tokenizer) = fixtures::tokenizer();
    let mut json: Value = serde_json::from_slice(&fs::read(tokenizer.path()).unwrap()).unwrap();
    change(&mut json);
    fs::write_durable(tokenizer.path(), json.to_string().as_bytes()).unwrap();
    let mut without = Tokenizer::load(dir.path()).unwrap();
    without.fast = None;
    (Tokenizer::load(dir.path()).unwrap(), without)
}

#[test]
fn the_faster_way_changes_nothing() {
    let nfc = |json: &mut Value| json["normalizer"] = serde_json::json!({"type": "NFC"});
    let spaced = |json: &mut Value| json["pre_tokenizer"]["add_prefix_space"] = true.into();
    let plain = |_: &mut Value| {};
    let taken: [&dyn Fn(&mut Value); 2] = [&plain, &nfc];
    let declined: [&dyn Fn(&mut Value); 1] = [&spaced];
    for (place, change) in taken.into_iter().chain(declined).enumerate() {
        let (with, without) = with_and_without_fast(change);
        assert_eq!(with.fast.is_some(), place < taken.len());
        for text in [
            "",
            "cd it's  \n\n12",
            "<|im_start|>user\nZoë cdit<|im_end|>\n",
            "e\u{301}<image>\u{e9}",
            "a\u{100000}b\u{100001}<|eos|>",
        ] {
            assert_eq!(
                with.encode_template(text).unwrap(),
                without.encode_template(text).unwrap()
            );
            assert_eq!(
                with.encode_content(text).unwrap(),
                without.encode_content(text).unwrap()
            );
            assert_eq!(
                with.encode_pieces(text).unwrap(),
                without.encode_pieces(text).unwrap()
            );
        }
    }
}

#[test]
fn random_tokens_are_refused() {
    let (dir, tokenizer) = fixtures::tokenizer();
    let json = fs::read_to_string(tokenizer.path()).unwrap();
    let json = json.replacen(r#""dropout":null"#, r#""dropout":0.1"#, 1);
    fs::write_durable(tokenizer.path(), json.as_bytes()).unwrap();
    let message = Tokenizer::load(dir.path()).err().unwrap().to_string();
    assert!(message.contains("model.dropout is set"), "{message}");
}

#[test]
fn missing_and_damaged_files_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let message = Tokenizer::load(dir.path()).err().unwrap().to_string();
    assert!(
        message.starts_with("cannot read") && message.contains("tokenizer.json"),
        "{message}"
    );
    fs::write_durable(&dir.path().join("tokenizer.json"), b"{}").unwrap();
    let message = Tokenizer::load(dir.path()).err().unwrap().to_string();
    assert!(
        message.starts_with("cannot use") && message.contains("tokenizer.json"),
        "{message}"
    );
}

#[test]
fn what_looks_like_a_special_token_becomes_plain_text() {
    let (_dir, tokenizer) = fixtures::tokenizer();
    let text = "é<|im_end|>cd<image>\u{10ffff}";
    let clean = tokenizer.neutralise(text);
    assert!(
        !clean.contains("<|im_end|>") && !clean.contains("<image>"),
        "{clean}"
    );
    let pieces = tokenizer.encode_pieces(&clean).unwrap();
    let ids: Vec<u32> = pieces.iter().map(|piece| piece.id).collect();
    assert!(ids.iter().all(|&id| id < 258), "{ids:?}");
    assert_eq!(tokenizer.decode(&ids).unwrap(), text);
    assert_eq!(tokenizer.neutralise("plain"), "plain");
    assert!(Tokenizer::has_private(text) && !Tokenizer::has_private("é👁"));

    // The template's own tokens are tokens, and say where they stand.
    let pieces = tokenizer.encode_pieces("cd<|im_end|>é").unwrap();
    let ids: Vec<u32> = pieces.iter().map(|piece| piece.id).collect();
    assert_eq!(ids[1], tokenizer.token_to_id(TURN_END).unwrap());
    let places: Vec<_> = pieces.iter().map(|piece| piece.bytes.clone()).collect();
    assert_eq!(places, [0..2, 2..12, 12..14, 12..14]);
}

#[test]
fn the_end_of_a_turn_is_the_first_of_the_last_special_tokens() {
    let (_dir, tokenizer) = fixtures::tokenizer();
    let end = |text: &str| {
        tokenizer
            .trailing_special(text)
            .map(|range| text[range].to_owned())
    };
    assert_eq!(end("a<|im_end|>\n<|eos|>\n").as_deref(), Some("<|im_end|>"));
    assert_eq!(end("a<|im_end|>b"), None);
    assert_eq!(end("a<image>"), None, "an image ends no turn");
    assert_eq!(tokenizer.special_at("<|eos|>x"), Some(7));
    assert_eq!(tokenizer.special_at("x<|eos|>"), None);
}

/// Why a folder is refused whose `tokenizer.json` is changed so.
fn refusal_of(change: impl Fn(Value) -> String) -> String {
    let folder = tempfile::tempdir().unwrap();
    fixtures::write(folder.path(), &[], &config());
    let path = folder.path().join("tokenizer.json");
    let json = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    fs::write_durable(&path, change(json).as_bytes()).unwrap();
    Tokenizer::load(folder.path()).err().unwrap().to_string()
}

/// The crate that reads them panics on this one.
#[test]
fn a_broken_decoder_is_an_error() {
    let message = refusal_of(|mut json| {
        json["decoder"] = serde_json::json!("@");
        json.to_string().replace("\"@\"", "{\"type\": \"ByteLevel\" 7}")
    });
    assert!(message.contains("tokenizer.json"), "{message}");
}

/// And here when it uses what it has read.
#[test]
fn a_post_processor_of_tokens_that_are_not_there_is_an_error() {
    let message = refusal_of(|mut json| {
        let token = serde_json::json!({"SpecialToken": {"id": "<|nobody|>", "type_id": 0}});
        let text = serde_json::json!({"Sequence": {"id": "A", "type_id": 0}});
        json["post_processor"] = serde_json::json!({
            "type": "TemplateProcessing", "single": [token, text], "pair": [text], "special_tokens": {},
        });
        json.to_string()
    });
    assert!(
        message.contains("tokenizer.json") && message.contains("damaged"),
        "{message}"
    );
}
