//! What rows say: their kinds, images, and the templates that render them.

use std::{
    fs,
    io::Cursor,
    path::{Path, PathBuf},
    sync::Arc,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use brazier::data::{
    BadRows, Cache, ClassOptions, DataOptions, DataSource, Dataset, Date, Grouping, ImageOptions, Masks,
    NamedTemplate, PaddingSide, RowKind, Split, TemplateChoice, TemplateOptions, Tokenizer, TooLong,
    decode_image,
};
use image::{DynamicImage, ImageFormat, Rgb, RgbImage};
use serde_json::json;

use crate::{harness::Target, repair, sources::fixture};

const KINDS: [RowKind; 7] = [
    RowKind::Auto,
    RowKind::Chat,
    RowKind::Text,
    RowKind::PromptCompletion,
    RowKind::Instruction,
    RowKind::Vqa,
    RowKind::Classification,
];

/// The tokenizer's files of the templates' fixtures, in a folder.
pub(crate) fn tokenizer_folder(dir: &Path) {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/templates");
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        fs::copy(from.join(name), dir.join(name)).unwrap();
    }
}

/// A data set of one file.
pub(crate) fn options(tokenizer: &Path, rows: PathBuf) -> DataOptions {
    DataOptions {
        train: vec![DataSource::new(rows)],
        eval: Vec::new(),
        cache: Cache::default(),
        keep_encoded: None,
        tokenizer: tokenizer.into(),
        classes: None,
        template: TemplateOptions::default(),
        masks: Masks::default(),
        bad_rows: BadRows::List,
        sequence_length: 200,
        too_long: TooLong::TruncateTurns,
        random_truncation: false,
        grouping: Grouping::Packed { max_images: Some(2) },
        pad_to_multiple_of: None,
        padding_side: PaddingSide::Right,
        shuffle: true,
        seed: 1,
        workers: 0,
        prefetch: 1,
    }
}

/// Opens a data set and reads all of it.
pub(crate) fn read(options: &DataOptions, tokenizer: &Arc<Tokenizer>) -> String {
    let images = Some(ImageOptions::clip(4, 2));
    let opened = match Dataset::open(Split::Train, options, images, tokenizer.clone()) {
        Ok(opened) => opened,
        Err(error) => return error.to_string(),
    };
    for index in 0..opened.len() {
        let (ids, labels) = opened.ids_and_labels(index);
        assert_eq!(ids.len(), labels.len());
        drop(opened.example(index));
    }
    let bad = opened.bad_rows().iter().map(ToString::to_string);
    format!("{} {}", opened.report(), bad.collect::<String>())
}

fn png() -> Vec<u8> {
    written(
        &RgbImage::from_pixel(5, 4, Rgb([9, 99, 199])).into(),
        ImageFormat::Png,
    )
}

fn written(image: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

/// Rows of every kind, read as every kind and with several templates.
pub(crate) fn row_kinds(dir: &Path) -> Target {
    const WORDS: &[&str] = &[
        "messages",
        "conversations",
        "role",
        "from",
        "content",
        "value",
        "user",
        "assistant",
        "system",
        "tool",
        "developer",
        "images",
        "modalities",
        "image",
        "type",
        "text",
        "input_ids",
        "prompt",
        "completion",
        "instruction",
        "input",
        "output",
        "question",
        "answer",
        "answers",
        "label",
        "train",
        "weight",
        "tools",
        "tool_calls",
        "null",
        "true",
        "{",
        "}",
        "[",
        "]",
        "\"",
        "<image>",
        "<|im_end|>",
        "<|eot_id|>",
        "../../a.png",
        "bytes",
        "path",
        "",
        "\\u0000",
        "\u{10fffd}",
        "\u{100000}",
        "\n",
        "thinking",
        "data:image/png;base64,",
    ];
    let image = json!({"bytes": STANDARD.encode(png()), "path": null});
    let turns = json!([{"role": "system", "content": "s"},
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]},
        {"role": "assistant", "content": "It.", "thinking": "t", "train": true},
        {"role": "user", "content": "<image>And?"},
        {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": {"a": 1}}}]},
        {"role": "tool", "content": "1"}, {"role": "assistant", "content": "One."}]);
    let tools = json!([{"type": "function", "function": {"name": "f", "parameters": {}}}]);
    let rows = [
        json!({"messages": turns, "images": [image, "a.png"], "tools": tools}),
        json!({"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}),
        json!({"conversations": [{"role": "user", "content": "<image>q"}, {"role": "assistant", "content": "a"}],
               "modalities": [{"type": "image", "value": image}]}),
        json!({"text": "<|im_end|> once"}),
        json!({"input_ids": [5, 6, 2, 2], "label": 1}),
        json!({"prompt": "p", "completion": "c"}),
        json!({"instruction": "i", "input": "", "output": "o"}),
        json!({"question": "q", "answers": ["a", "b"], "image": "a.png"}),
        json!({"text": "t", "label": "yes"}),
    ];
    let mut seeds = Vec::new();
    for (number, row) in rows.iter().enumerate() {
        for kind in [0, (number % KINDS.len()) as u8, 6] {
            seeds.push(
                [
                    &[kind + 7 * (number % 4) as u8],
                    row.to_string().as_bytes(),
                    b"\n",
                ]
                .concat(),
            );
        }
    }
    fs::write(dir.join("a.png"), png()).unwrap();
    tokenizer_folder(dir);
    let tokenizer = Arc::new(Tokenizer::load(dir).unwrap());
    let path = dir.join("rows.jsonl");
    let options = options(dir, path.clone());
    let target = Target::new(seeds, WORDS, move |case| {
        fs::write(&path, &case[1..]).unwrap();
        let mut options = options.clone();
        let kind = KINDS[usize::from(case[0]) % 7];
        options.train[0].rows.kind = kind;
        if kind == RowKind::Classification {
            options.grouping = Grouping::Alone;
            options.classes = Some(ClassOptions {
                labels: vec!["no".into(), "yes".into()],
                weights: None,
            });
        }
        options.template.choice = match case[0] / 7 {
            0 => None,
            1 => Some(TemplateChoice::Named(NamedTemplate::Qwen3)),
            2 => Some(TemplateChoice::Named(NamedTemplate::Apertus)),
            _ => Some(TemplateChoice::Named(NamedTemplate::Llama3)),
        };
        read(&options, &tokenizer)
    });
    Target { head: 1, ..target }
}

/// Bytes that are to be an image.
pub(crate) fn images(_: &Path) -> Target {
    let colours = RgbImage::from_fn(7, 6, |x, y| Rgb([x as u8 * 30, y as u8 * 40, 7]));
    let colours = DynamicImage::from(colours);
    let mut seeds = vec![
        written(&colours.to_rgba16().into(), ImageFormat::Png),
        written(&colours.to_luma_alpha8().into(), ImageFormat::Png),
        fixture("1-0.png"),
    ];
    for format in [
        ImageFormat::Png,
        ImageFormat::Jpeg,
        ImageFormat::WebP,
        ImageFormat::Gif,
        ImageFormat::Bmp,
        ImageFormat::Tiff,
    ] {
        seeds.push(written(&colours, format));
    }
    let options = ImageOptions::clip(4, 2);
    let target = Target::new(seeds, &[], move |bytes| match decode_image(bytes, &options) {
        Ok(image) => format!("{} pixels", image.pixels.len()),
        Err(problem) => problem.to_string(),
    });
    Target {
        repair: Some(repair::png),
        // What one image may take by the decoder's own bound, and as much again for its levels.
        max_memory: 2 << 30,
        ..target
    }
}

/// Chat templates, as a tokenizer brings them.
pub(crate) fn templates(dir: &Path) -> Target {
    const WORDS: &[&str] = &[
        "{{",
        "}}",
        "{%",
        "%}",
        "{#",
        "#}",
        "{%-",
        "-%}",
        "for m in messages",
        "endfor",
        "if",
        "elif",
        "else",
        "endif",
        "set",
        "endset",
        "macro",
        "endmacro",
        "call",
        "endcall",
        "filter",
        "endfilter",
        "generation",
        "endgeneration",
        "break",
        "continue",
        "recursive",
        "loop(",
        "loop.index0",
        "loop.previtem",
        "namespace(a=1)",
        "messages",
        "m.role",
        "m['content']",
        "tools",
        "add_generation_prompt",
        "eos_token",
        "bos_token",
        "raise_exception('x')",
        "strftime_now('%Y-%-d %q')",
        "range(100000)",
        "range(-9223372036854775808, 9223372036854775807, 1)",
        "| tojson",
        "| tojson(indent=999999999)",
        "| indent(999999999)",
        "| center(999999999)",
        "| join(',')",
        "| replace('', 'xx')",
        "| batch(0)",
        "| slice(0)",
        "| round(400)",
        "| int",
        "| float",
        "| list",
        "| sort",
        "| unique",
        "| items",
        "| length",
        "| trim",
        "| string",
        "| format",
        "| default(x, true)",
        "| selectattr('a')",
        "| map('upper')",
        "| groupby('a')",
        "~",
        "**",
        "//",
        "%",
        "-9223372036854775808",
        "9223372036854775807",
        "* 9999999999",
        "'x' * 99999",
        "[1] * 99999999",
        "[::-1]",
        "[-1:9999999999999]",
        "[::0]",
        ".split('')",
        ".strip('\\u0000')",
        ".startswith(",
        ".items()",
        ".format(1)",
        ".replace('a', 'bb', -1)",
        ".get('a')",
        "is defined",
        "is iterable",
        "is divisibleby 0",
        "in",
        "not in",
        "self",
        "super()",
        "none",
        "lipsum()",
        "cycler(",
        "joiner(",
        "dict(a=1)",
        "debug()",
        "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}",
        "{% for a in range(9999) %}{% for b in range(9999) %}{% for c in range(9999) %}x{% endfor %}{% endfor %}{% endfor %}",
    ];
    let named = NamedTemplate::ALL.map(|template| template.source().as_bytes().to_vec());
    let mut seeds: Vec<Vec<u8>> = named.into();
    let recorded: serde_json::Value = serde_json::from_slice(
        &fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/templates/cases.json")).unwrap(),
    )
    .unwrap();
    let recorded = recorded["templates"].as_object().unwrap().values();
    seeds.extend(recorded.filter_map(|text| Some(text.as_str()?.as_bytes().to_vec())));
    tokenizer_folder(dir);
    let rows = dir.join("rows.jsonl");
    let turns = json!([{"role": "system", "content": "s"},
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]},
        {"role": "assistant", "content": "It.", "thinking": "t"}, {"role": "user", "content": "And?"},
        {"role": "assistant", "content": "One.", "tool_calls": [{"function": {"name": "f", "arguments": {"a": 1}}}]},
        {"role": "tool", "content": "1"}, {"role": "assistant", "content": "Two."}]);
    let row =
        json!({"messages": turns, "images": [{"bytes": STANDARD.encode(png())}], "tools": [{"name": "f"}]});
    fs::write(&rows, row.to_string()).unwrap();
    let tokenizer = Arc::new(Tokenizer::load(dir).unwrap());
    let place = dir.join("template.jinja");
    let mut options = options(dir, rows);
    options.template.choice = Some(TemplateChoice::File(place.clone()));
    options.template.date = Date::parse("2024-07-26");
    Target::new(seeds, WORDS, move |bytes| {
        fs::write(&place, bytes).unwrap();
        read(&options, &tokenizer)
    })
}
