//! Encoded rows that are kept in the cache.

use std::{path::PathBuf, time::Duration};

use super::*;
use crate::data::{BadRows, Cache, TemplateOptions, TrainEos};

const TEXT: &str = "{\"messages\": [{\"role\": \"user\", \"content\": \"ab\"}, {\"role\": \"assistant\", \"content\": \"cd ef\"}]}\n";

/// Rows with images, without, and one with nothing to learn.
fn folder() -> Folder {
    let unlabelled = r#"{"messages": [{"role": "user", "content": "ab"}]}"#;
    let rows = format!(
        "{}{TEXT}{unlabelled}\n{}",
        one_line(TWO_TURNS),
        one_line(TWO_TURNS)
    );
    let mut folder = Folder::new(&rows, 2);
    folder.options.cache = Cache::new(Some(folder.dir.path().join("cache")));
    folder.options.keep_encoded = Some(0);
    folder
}

fn kept(folder: &Folder) -> Vec<PathBuf> {
    let dir = folder.dir.path().join("cache");
    let mut files = fs::read_dir(&dir).unwrap_or_default();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "rows"));
    files
}

/// All that is known of the rows.
fn shown(dataset: &Dataset) -> String {
    let rows = (0..dataset.len()).map(|index| {
        let example = dataset.example(index).unwrap();
        format!(
            "{} {:?} {:?} {:?}",
            example.sample, example.input_ids, example.labels, example.class
        )
    });
    let bad = dataset.bad_rows().iter().map(ToString::to_string);
    format!(
        "{:?}\n{:#?}\n{:?}",
        dataset.report(),
        rows.collect::<Vec<_>>(),
        bad.collect::<Vec<_>>()
    )
}

fn fresh(folder: &mut Folder) -> String {
    let keep = folder.options.keep_encoded.take();
    let dataset = folder.open().unwrap();
    folder.options.keep_encoded = keep;
    shown(&dataset)
}

/// Puts another number in the place of each token of a kept file.
fn forge(file: &Path, token: u32) {
    let mut bytes = fs::read(file).unwrap();
    let num_tokens = u64::from_le_bytes(bytes[16..24].try_into().unwrap()) as usize;
    for number in bytes[40..40 + 4 * num_tokens].chunks_exact_mut(4) {
        number.copy_from_slice(&token.to_le_bytes());
    }
    let body = bytes.len() - 4;
    let sum = crc32c::crc32c(&bytes[..body]).to_le_bytes();
    bytes[body..].copy_from_slice(&sum);
    fs::write_durable(file, &bytes).unwrap();
}

#[test]
fn rows_are_encoded_once() {
    let mut folder = folder();
    let expected = fresh(&mut folder);
    assert_eq!(kept(&folder).len(), 0);
    assert_eq!(shown(&folder.open().unwrap()), expected, "made");
    let files = kept(&folder);
    assert_eq!(files.len(), 1);
    assert_eq!(shown(&folder.open().unwrap()), expected, "taken");

    forge(&files[0], 7);
    let taken = folder.open().unwrap();
    assert!(
        taken
            .rows
            .iter()
            .all(|row| row.tokens.iter().all(|&token| token == 7))
    );
}

#[test]
fn lengths_and_policies_are_applied_to_what_is_kept() {
    let mut folder = folder();
    let longest = folder.open().unwrap().report().longest;
    for too_long in [TooLong::Drop, TooLong::Truncate, TooLong::TruncateTurns] {
        for sequence_length in [longest, longest - 1, longest - 8] {
            folder.options.sequence_length = sequence_length;
            folder.options.too_long = too_long;
            let expected = fresh(&mut folder);
            assert_eq!(
                shown(&folder.open().unwrap()),
                expected,
                "{too_long:?} {sequence_length}"
            );
        }
    }
    assert_eq!(kept(&folder).len(), 2, "with the ends of turns and without");
}

#[test]
fn what_encoding_depends_on_is_part_of_the_name() {
    let mut folder = folder();
    folder.open().unwrap();
    let mut num_kept = 1;
    let mut differs = |folder: &mut Folder, what: &str| {
        let expected = fresh(folder);
        assert_eq!(shown(&folder.open().unwrap()), expected, "{what}");
        num_kept += 1;
        assert_eq!(kept(folder).len(), num_kept, "{what}");
    };
    folder.options.masks.eos = Some(TrainEos::Last);
    differs(&mut folder, "masks");
    let template = folder.dir.path().join("plain.jinja");
    let source = "{% for m in messages %}<|im_start|>{{ m.role }}{% for p in m.content %}{{ '<image>' if p.type == 'image' \
                  else p.text }}{% endfor %}<|im_end|>{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\
                  {% endif %}";
    folder.options.template = TemplateOptions {
        choice: Some(crate::data::TemplateChoice::File(template.clone())),
        ..TemplateOptions::default()
    };
    fs::write_durable(&template, source.as_bytes()).unwrap();
    differs(&mut folder, "the template");
    fs::write_durable(&template, source.replace("m.role }}", "m.role }}-").as_bytes()).unwrap();
    differs(&mut folder, "its source");
    folder.options.template = TemplateOptions::default();
    folder.open().unwrap();
    let text = folder.dir.path().join("chatml.jinja");
    fs::write_durable(&text, crate::data::CHAT_TEMPLATE_JINJA.as_bytes()).unwrap();
    folder.options.template.choice = Some(crate::data::TemplateChoice::File(text));
    differs(&mut folder, "ChatML's text in a file");
    folder.options.train[0].columns = Some(["messages", "images"].map(String::from).into());
    differs(&mut folder, "columns");
    let dir = folder.dir.path().to_owned();
    folder.options.train[0].image_dir = Some(dir.join("."));
    differs(&mut folder, "where images are");
    folder.options.bad_rows = BadRows::Skip { limit: 0 };
    differs(&mut folder, "whether images are decoded");
    fs::write_durable(folder.rows(), TEXT.replace("cd", "dc").as_bytes()).unwrap();
    differs(&mut folder, "the file");
    let tokenizer = dir.join("tokenizer_config.json");
    let config = fs::read_to_string(&tokenizer).unwrap();
    fs::write_durable(
        &tokenizer,
        config
            .replacen('{', "{\"audio_token\": \"<image>\",", 1)
            .as_bytes(),
    )
    .unwrap();
    folder.tokenizer = Arc::new(Tokenizer::load(&dir).unwrap());
    differs(&mut folder, "the tokenizer");
}

#[test]
fn what_is_damaged_is_made_again() {
    let folder = folder();
    let expected = shown(&folder.open().unwrap());
    let file = &kept(&folder)[0];
    let whole = fs::read(file).unwrap();
    for at in (0..whole.len()).step_by(whole.len() / 50) {
        let mut flipped = whole.clone();
        flipped[at] ^= 4;
        for broken in [flipped, whole[..at].to_vec()] {
            fs::write_durable(file, &broken).unwrap();
            assert_eq!(shown(&folder.open().unwrap()), expected);
            assert_eq!(fs::read(file).unwrap(), whole);
        }
    }
}

#[test]
fn wrong_rows_are_told_each_time() {
    let mut folder = folder();
    let rows = format!("{}{{\n{TEXT}", one_line(&TWO_TURNS.replace("0.png", "late.png")));
    fs::write_durable(folder.rows(), rows.as_bytes()).unwrap();
    folder.options.bad_rows = BadRows::Skip { limit: 2 };
    let expected = shown(&folder.open().unwrap());
    assert!(
        expected.contains("late.png") && expected.contains("rows.jsonl:2"),
        "{expected}"
    );
    assert_eq!(shown(&folder.open().unwrap()), expected);
    folder.options.bad_rows = BadRows::Error;
    assert_eq!(open_error(&folder).matches("late.png").count(), 1);
    assert_eq!(
        open_error(&folder).matches("late.png").count(),
        1,
        "kept, and told again"
    );

    let late = folder.dir.path().join("late.png");
    fs::copy(&folder.dir.path().join("0.png"), &late).unwrap();
    folder.options.bad_rows = BadRows::Skip { limit: 2 };
    assert_eq!(folder.open().unwrap().len(), 2, "the image has come");
}

#[test]
fn an_image_that_goes_or_changes_is_noticed() {
    let mut folder = folder();
    folder.options.bad_rows = BadRows::Skip { limit: 2 };
    folder.open().unwrap();
    let image = folder.dir.path().join("0.png");
    let bytes = fs::read(&image).unwrap();
    fs::remove_file(&image).unwrap();
    assert_eq!(folder.open().unwrap().bad_rows().len(), 2, "gone");
    // Another time of change, even on a file system with coarse clocks.
    std::thread::sleep(Duration::from_millis(20));
    fs::write_durable(&image, &vec![b'x'; bytes.len()]).unwrap();
    assert_eq!(folder.open().unwrap().bad_rows().len(), 2, "no picture any more");
    fs::write_durable(&image, &bytes).unwrap();
    assert_eq!(folder.open().unwrap().bad_rows().len(), 0);
}

/// A cache that cannot be written costs the next start some time, and this one nothing.
#[test]
fn what_cannot_be_kept_is_told_and_no_error() {
    let mut folder = folder();
    let file = folder.dir.path().join("a file");
    fs::write_durable(&file, b"").unwrap();
    folder.options.cache = Cache::new(Some(file.join("cache")));
    let dataset = folder.open().unwrap();
    assert_eq!(dataset.len(), 3);
    let reason = dataset.not_kept().unwrap().to_string();
    assert!(reason.contains("a file/cache"), "{reason}");
}

#[test]
fn several_may_keep_the_same_rows_at_once() {
    let mut folder = folder();
    let expected = fresh(&mut folder);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            let folder = &folder;
            let expected = &expected;
            scope.spawn(move || assert_eq!(shown(&folder.open().unwrap()), *expected));
        }
    });
    let left = fs::read_dir(&folder.dir.path().join("cache")).unwrap();
    assert_eq!(left, kept(&folder), "nothing is left beside it");
    assert_eq!(shown(&folder.open().unwrap()), expected);
}
