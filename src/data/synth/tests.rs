use sha2::{Digest, Sha256};
use tokenizers::Tokenizer;

use super::{
    questions::HELD_OUT_TAG,
    scene::{Colour, Shape, Size},
    *,
};

const OPTIONS: SynthOptions = SynthOptions {
    train_images: 300,
    eval_images: 60,
    image_size: 32,
    seed: 7,
};

fn quiet(_: usize, _: usize) {}

/// Relative path and content hash of every file below a folder.
fn hashes(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![dir.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(&folder).unwrap() {
            match fs::read(&path) {
                Ok(bytes) => {
                    let name = path.strip_prefix(dir).unwrap().to_path_buf();
                    found.insert(name, Sha256::digest(&bytes).to_vec());
                }
                Err(_) => folders.push(path),
            }
        }
    }
    found
}

fn in_pool<T: Send>(num_threads: usize, work: impl FnOnce() -> T + Send) -> T {
    rayon::ThreadPoolBuilder::new()
        .num_threads(num_threads)
        .build()
        .unwrap()
        .install(work)
}

#[test]
fn equal_options_give_equal_bytes_on_any_number_of_threads() {
    let dir = tempfile::tempdir().unwrap();
    let draw = |name: &str, threads: usize, options: &SynthOptions| {
        let target = dir.path().join(name);
        in_pool(threads, || synthesize(&target, options, &quiet).unwrap());
        hashes(&target)
    };
    let one = draw("one", 1, &OPTIONS);
    assert_eq!(one.len(), OPTIONS.train_images + OPTIONS.eval_images + 6);
    assert_eq!(one, draw("four", 4, &OPTIONS));
    let other = draw("other", 2, &SynthOptions { seed: 8, ..OPTIONS });
    let train = Path::new("train.jsonl");
    assert_ne!(one[train], other[train]);
}

#[test]
fn evaluation_shares_no_picture_with_training() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("shapes");
    synthesize(&target, &OPTIONS, &quiet).unwrap();
    let train: HashSet<Vec<u8>> = hashes(&target.join("images/train")).into_values().collect();
    let eval: HashSet<Vec<u8>> = hashes(&target.join("images/eval")).into_values().collect();
    assert_eq!(
        (train.len(), eval.len()),
        (OPTIONS.train_images, OPTIONS.eval_images)
    );
    assert!(train.is_disjoint(&eval));
}

#[test]
fn evaluation_shares_no_layout_with_training_even_where_chance_would() {
    // Many more training pictures than usual, so that layouts of two objects would meet by chance.
    let options = SynthOptions {
        train_images: 20_000,
        eval_images: 1_000,
        ..OPTIONS
    };
    let train = train_samples(&options);
    let eval = eval_samples(&options, &train);
    let known: HashSet<&Scene> = train.iter().map(|sample| &sample.scene).collect();
    assert!(eval.iter().all(|sample| !known.contains(&sample.scene)));
    let distinct: HashSet<&Scene> = eval.iter().map(|sample| &sample.scene).collect();
    assert_eq!(distinct.len(), eval.len());
    // The rule has work to do: without it, some would be the same.
    let pairs = |index| {
        if index % 2 == 0 {
            Pairs::Known
        } else {
            Pairs::WithHeldOut
        }
    };
    let redrawn = eval.iter().enumerate().filter(|(index, sample)| {
        Scene::draw(&mut dice(&options, Split::Eval, *index, SCENE), pairs(*index)) != sample.scene
    });
    assert!(redrawn.count() > 0);
}

#[test]
fn training_neither_shows_nor_names_a_held_out_pair() {
    let train = train_samples(&SynthOptions {
        train_images: 3_000,
        ..OPTIONS
    });
    let eval = eval_samples(&OPTIONS, &train);
    for sample in &train {
        assert!(sample.scene.objects.iter().all(|object| !object.is_held_out()));
        for turn in &sample.turns {
            let text = format!("{} {}", turn.question, turn.answer);
            for (colour, shape) in HELD_OUT_PAIRS {
                assert!(
                    !text.contains(&format!("{} {}", colour.word(), shape.word())),
                    "{text}"
                );
                let is_short = turn.kind != Kind::Row;
                assert!(
                    !(is_short && text.contains(colour.word()) && text.contains(shape.word())),
                    "{text}"
                );
            }
            assert_ne!(turn.tag(), HELD_OUT_TAG);
        }
    }
    let held_out = |sample: &&Sample| sample.scene.objects.iter().any(|object| object.is_held_out());
    assert_eq!(eval.iter().filter(held_out).count(), OPTIONS.eval_images / 2);
    assert!(
        eval.iter()
            .flat_map(|sample| &sample.turns)
            .any(|turn| turn.tag() == HELD_OUT_TAG)
    );
    // Each part of a held-out pair is well known from training, only not with the other.
    for (colour, shape) in HELD_OUT_PAIRS {
        let count = |holds: &dyn Fn(Colour, Shape) -> bool| {
            train
                .iter()
                .map(|sample| sample.scene.count(|o| holds(o.colour, o.shape)))
                .sum::<usize>()
        };
        assert!(count(&|c, _| c == colour) > 500 && count(&|_, s| s == shape) > 500);
    }
}

#[test]
fn a_guesser_without_eyes_is_mostly_wrong() {
    let options = SynthOptions {
        train_images: 3_000,
        eval_images: 500,
        ..OPTIONS
    };
    let train = train_samples(&options);
    let (overall, by_tag) = blind_accuracy(&train, &eval_samples(&options, &train));
    assert!((0.1..0.4).contains(&overall), "{overall}");
    let tags: Vec<&str> = by_tag.keys().map(String::as_str).collect();
    let mut expected: Vec<&str> = Kind::ALL.iter().map(|kind| kind.tag()).collect();
    expected.push(HELD_OUT_TAG);
    expected.sort_unstable();
    assert_eq!(tags, expected);
    for (tag, accuracy) in by_tag {
        assert!(accuracy < 0.6, "{tag}: {accuracy}");
    }
}

#[test]
fn rows_are_chat_rows_with_one_picture() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("shapes");
    let summary = synthesize(&target, &OPTIONS, &quiet).unwrap();
    let text = fs::read_to_string(&target.join("eval.jsonl")).unwrap();
    let rows: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(rows.len(), OPTIONS.eval_images);
    let mut questions = 0;
    for row in &rows {
        let messages = row["messages"].as_array().unwrap();
        assert_eq!(messages[0]["content"][0], json!({ "type": "image" }));
        assert_eq!(messages[0]["content"][1]["type"], "text");
        for (index, message) in messages.iter().enumerate() {
            assert_eq!(message["role"], ["user", "assistant"][index % 2]);
            assert!(index == 0 || message["content"].is_string());
        }
        let tags = row["tags"].as_array().unwrap();
        assert_eq!(messages.len(), 2 * tags.len());
        questions += tags.len();
        let [image] = row["images"].as_array().unwrap().as_slice() else {
            panic!("one image")
        };
        let png = fs::read(&target.join(image.as_str().unwrap())).unwrap();
        let picture = image::load_from_memory(&png).unwrap();
        assert_eq!((picture.width(), picture.height()), (32, 32));
    }
    assert_eq!(questions, summary.eval_questions);
}

#[test]
fn the_tokenizer_knows_its_special_tokens_and_encodes_anything() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("shapes");
    let summary = synthesize(&target, &OPTIONS, &quiet).unwrap();
    let folder = target.join("tokenizer");
    let tokenizer = Tokenizer::from_bytes(fs::read(&folder.join("tokenizer.json")).unwrap()).unwrap();
    assert_eq!(tokenizer.get_vocab_size(true), summary.vocab_size);
    assert!(summary.vocab_size <= 512);
    for (id, token) in [
        "<|endoftext|>",
        "<|im_start|>",
        "<|im_end|>",
        "<|pad|>",
        "<image>",
    ]
    .iter()
    .enumerate()
    {
        assert_eq!(tokenizer.token_to_id(token), Some(id as u32));
    }
    for text in [
        "What colour is the circle?",
        " leading, trailing ",
        "äöü 漢字 🙂\t\r\n",
        "<image> \u{0}",
    ] {
        let ids = tokenizer.encode_fast(text, false).unwrap();
        assert_eq!(tokenizer.decode(ids.get_ids(), false).unwrap(), text);
    }
    for word in ["red", " circle", " large", "yes", "nothing", "user", "assistant"] {
        assert_eq!(tokenizer.encode_fast(word, false).unwrap().len(), 1, "{word}");
    }
    let config: Value =
        serde_json::from_str(&fs::read_to_string(&folder.join("tokenizer_config.json")).unwrap()).unwrap();
    assert_eq!(config["eos_token"], "<|im_end|>");
    assert_eq!(config["pad_token"], "<|pad|>");
    assert_eq!(
        config["chat_template"],
        crate::data::template::CHAT_TEMPLATE_JINJA
    );
}

#[test]
fn a_data_set_is_replaced_only_where_it_is_ours() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("shapes");
    assert!(!is_current(&target, &OPTIONS));
    synthesize(&target, &OPTIONS, &quiet).unwrap();
    assert!(is_current(&target, &OPTIONS));

    let smaller = SynthOptions {
        train_images: 20,
        eval_images: 10,
        ..OPTIONS
    };
    for other in [
        smaller.clone(),
        SynthOptions { seed: 8, ..OPTIONS },
        SynthOptions {
            image_size: 48,
            ..OPTIONS
        },
    ] {
        assert!(!is_current(&target, &other));
    }
    synthesize(&target, &smaller, &quiet).unwrap();
    assert!(is_current(&target, &smaller));
    assert_eq!(fs::read_dir(&target.join("images/train")).unwrap().len(), 20);
    assert_eq!(
        fs::read_dir(dir.path()).unwrap(),
        std::slice::from_ref(&target),
        "something is left beside the data set"
    );

    let foreign = dir.path().join("thesis");
    fs::create_dir_all(&foreign).unwrap();
    fs::write_atomic(&foreign.join("chapter1.tex"), b"precious").unwrap();
    let error = synthesize(&foreign, &smaller, &quiet).unwrap_err();
    assert!(matches!(error, SynthError::NotOurs { .. }), "{error}");
    assert_eq!(fs::read(&foreign.join("chapter1.tex")).unwrap(), b"precious");
}

#[test]
fn options_out_of_range_are_refused_before_anything_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("shapes");
    for (options, message) in [
        (
            SynthOptions {
                train_images: 0,
                ..OPTIONS
            },
            "train_images = 0: must be 1 to 1000000",
        ),
        (
            SynthOptions {
                eval_images: 1_000_001,
                ..OPTIONS
            },
            "eval_images = 1000001: must be 1 to 1000000",
        ),
        (
            SynthOptions {
                image_size: 8,
                ..OPTIONS
            },
            "image_size = 8: must be 24 to 1024",
        ),
    ] {
        assert_eq!(
            synthesize(&target, &options, &quiet).unwrap_err().to_string(),
            message
        );
    }
    assert!(fs::read_dir(dir.path()).unwrap().is_empty());
}

#[test]
fn progress_counts_every_picture() {
    let dir = tempfile::tempdir().unwrap();
    let heard = std::cell::RefCell::new(Vec::new());
    synthesize(&dir.path().join("shapes"), &OPTIONS, &|done, total| {
        heard.borrow_mut().push((done, total))
    })
    .unwrap();
    assert_eq!(*heard.borrow(), [(256, 360), (300, 360), (360, 360)]);
}

#[test]
fn pictures_show_the_colours_where_the_scene_has_them() {
    for index in 0..50 {
        let mut dice = Dice::new(3, index);
        let scene = Scene::draw(&mut dice, Pairs::WithHeldOut);
        let png = draw::draw_png(&scene, 32, &mut dice).unwrap();
        let picture = image::load_from_memory(&png).unwrap().to_rgb8();
        for cell in scene::Cell::all() {
            let near = |rgb: [f32; 3]| {
                let is_near = |pixel: &image::Rgb<u8>| {
                    (0..3).all(|channel| (f32::from(pixel[channel]) - rgb[channel]).abs() <= 14.0)
                };
                let (left, top) = (cell.column() as u32 * 16, cell.row() as u32 * 16);
                let inside = |&(x, y): &(u32, u32)| x / 16 == left / 16 && y / 16 == top / 16;
                let places = (0..32).flat_map(|y| (0..32).map(move |x| (x, y))).filter(inside);
                places.filter(|&(x, y)| is_near(picture.get_pixel(x, y))).count()
            };
            let shown: Vec<Colour> = Colour::ALL
                .into_iter()
                .filter(|colour| near(colour.rgb()) >= 4)
                .collect();
            match scene.at(cell) {
                Some(object) => {
                    assert!(shown.contains(&object.colour), "{object:?}: {shown:?}");
                    let num_pixels = near(object.colour.rgb());
                    assert!(
                        object.size == Size::Large || num_pixels < 80,
                        "{object:?}: {num_pixels}"
                    );
                }
                None => assert_eq!(shown, []),
            }
        }
    }
}

/// The answer, worked out again from the words of the question.
fn answer(scene: &Scene, kind: Kind, question: &str) -> String {
    let has = |word: &str| question.split([' ', '?', '.']).any(|part| part == word);
    let colour = Colour::ALL.into_iter().find(|colour| has(colour.word()));
    let shape = Shape::ALL.into_iter().find(|shape| has(shape.word()));
    let is_meant = |object: &&scene::Object| match (kind, colour, shape) {
        (Kind::Check, _, shape) => Some(object.shape) == shape,
        (_, colour, shape) => {
            colour.is_none_or(|colour| object.colour == colour)
                && shape.is_none_or(|shape| object.shape == shape)
        }
    };
    let meant: Vec<&scene::Object> = scene.objects.iter().filter(is_meant).collect();
    let the_one = || {
        assert_eq!(meant.len(), 1, "{question}: {scene:?}");
        meant[0]
    };
    let name = |object: &scene::Object| format!("{} {}", object.colour.word(), object.shape.word());
    let nothing = || "nothing".to_string();
    match kind {
        Kind::Count => scene.objects.len().to_string(),
        Kind::CountColour => meant.len().to_string(),
        Kind::Colour => the_one().colour.word().to_string(),
        Kind::Shape => the_one().shape.word().to_string(),
        Kind::Size => the_one().size.word().to_string(),
        Kind::Where => the_one().cell.words().to_string(),
        Kind::Check => if Some(the_one().colour) == colour {
            "yes"
        } else {
            "no"
        }
        .to_string(),
        Kind::At => {
            let cell = scene::Cell::all()
                .find(|cell| question.contains(cell.words()))
                .unwrap();
            scene.at(cell).map_or_else(nothing, |object| name(&object))
        }
        Kind::Row => {
            let cells = scene::Cell::all().filter(|cell| has(cell.words().split(' ').next().unwrap()));
            let describe = |object: scene::Object| format!("{} {}", object.size.word(), name(&object));
            let parts: Vec<String> = cells
                .map(|cell| scene.at(cell).map_or_else(nothing, describe))
                .collect();
            assert_eq!(parts.len(), scene::GRID_SIDE);
            parts.join(", ")
        }
    }
}

#[test]
fn answers_are_what_the_picture_shows() {
    let options = SynthOptions {
        eval_images: 1_000,
        ..OPTIONS
    };
    let train = train_samples(&options);
    for sample in train.iter().chain(&eval_samples(&options, &train)) {
        for turn in &sample.turns {
            assert_eq!(
                turn.answer,
                answer(&sample.scene, turn.kind, &turn.question),
                "{turn:?}"
            );
        }
    }
}

/// Rows repeat what was said in part: they are described in full, and nobody knows them from the short answers.
#[test]
fn no_short_question_names_what_was_said_before() {
    let names = Colour::ALL
        .map(Colour::word)
        .into_iter()
        .chain(Shape::ALL.map(Shape::word));
    let names: Vec<&str> = names.chain(scene::Cell::all().map(scene::Cell::words)).collect();
    for sample in train_samples(&SynthOptions {
        train_images: 1_000,
        ..OPTIONS
    }) {
        let mut said = String::new();
        for turn in sample.turns.iter().filter(|turn| turn.kind != Kind::Row) {
            for name in names.iter().filter(|name| turn.question.contains(**name)) {
                assert!(!said.contains(name), "{name}: {:?}", sample.turns);
            }
            said = format!("{said} {} {}", turn.question, turn.answer);
        }
    }
}
