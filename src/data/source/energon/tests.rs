use std::{collections::HashMap, path::PathBuf};

use tempfile::TempDir;

use super::{
    super::{Cache, Format, Selection, open_all, tar::tests::shard},
    *,
};
use crate::fs;

/// A folder of three shards with two samples each, as energon 2.3.0 and 7.4.0 describe it.
struct Prepared {
    dir: TempDir,
}

const DATASET: &str = "__class__: VQAWebdataset\n__module__: megatron.energon\n\
    field_map: {answers: txt, context: 'json[question]', image: 'jpg,png'}\n";
const SPLIT: &str =
    "split_parts:\n  train: ['{000000..000001}.tar']\n  val: [000002.tar]\n  test: []\nexclude: []\n";
const INFO: &str =
    r#"{"energon_version": "7.4.0", "shard_counts": {"000000.tar": 2, "000001.tar": 2, "000002.tar": 2}}"#;

impl Prepared {
    fn new() -> Self {
        let prepared = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        for number in 0..3 {
            let name = |index: usize, part: &str| format!("{number}{index}.{part}");
            let question =
                format!(r#"{{"question": "q{number}", "conversations": [{{"value": "c{number}"}}]}}"#);
            let members = [
                (name(0, "jpg"), b"JPG".as_slice()),
                (name(0, "txt"), b"a"),
                (name(0, "json"), question.as_bytes()),
                (name(1, "png"), b"PNG"),
                (name(1, "txt"), b"b"),
                (name(1, "json"), question.as_bytes()),
            ];
            let members: Vec<(&str, &[u8])> = members
                .iter()
                .map(|(name, content)| (name.as_str(), *content))
                .collect();
            prepared.write_bytes(&format!("00000{number}.tar"), &shard(&members));
        }
        prepared.write(".nv-meta/dataset.yaml", DATASET);
        prepared.write(".nv-meta/split.yaml", SPLIT);
        prepared.write(".nv-meta/.info.json", INFO);
        prepared
    }

    fn write(&self, name: &str, content: &str) {
        self.write_bytes(name, content.as_bytes());
    }

    fn write_bytes(&self, name: &str, content: &[u8]) {
        let path = self.dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write_durable(&path, content).unwrap();
    }

    fn path(&self) -> PathBuf {
        self.dir.path().into()
    }

    fn rows(&self, path: &Path, split: Option<&str>) -> Result<Vec<Value>, String> {
        let selection = Selection {
            split: split.map(str::to_owned),
            format: Format::Auto,
            ..Selection::of(path)
        };
        let opened = open_all(&selection, &Cache::default()).map_err(|error| error.to_string())?;
        let rows = opened
            .iter()
            .flat_map(|rows| (0..rows.len()).map(|index| rows.read(index)));
        rows.map(|row| row.map_err(|problem| problem.to_string()))
            .collect()
    }

    fn texts(&self, split: Option<&str>, key: &str) -> String {
        match self.rows(&self.path(), split) {
            Ok(rows) => {
                let texts = rows
                    .iter()
                    .map(|row| row.get(key).and_then(Value::as_text).unwrap_or("-"));
                texts.collect::<Vec<_>>().join(" ")
            }
            Err(message) => message,
        }
    }
}

#[test]
fn samples_become_rows_by_their_class() {
    let prepared = Prepared::new();
    let rows = prepared.rows(&prepared.path(), Some("train")).unwrap();
    assert_eq!(rows.len(), 4);
    let image = Value::Object(vec![
        ("bytes".into(), Value::Bytes(b"PNG".to_vec())),
        ("path".into(), Value::Text("01.png".into())),
    ]);
    assert_eq!(rows[1].get("image"), Some(&image));
    assert_eq!(prepared.texts(Some("train"), "question"), "q0 q0 q1 q1");
    assert_eq!(prepared.texts(Some("val"), "answer"), "a b");
    assert_eq!(prepared.texts(Some("val"), "__key__"), "20 21");

    prepared.write(
        ".nv-meta/dataset.yaml",
        "sample_type: {__module__: megatron.energon, __class__: CaptioningSample}\n\
         field_map: {image: 'jpg,png', caption: 'json[conversations][0][value]'}\nsubflavors: {from: x}\n",
    );
    assert_eq!(prepared.texts(Some("val"), "answer"), "c2 c2");
    assert_eq!(prepared.texts(Some("val"), "question"), " ");
    let rows = prepared.rows(&prepared.path(), Some("val")).unwrap();
    assert_eq!(
        rows[0]
            .get("__subflavors__")
            .and_then(|flavours| flavours.get("from")?.as_text()),
        Some("x")
    );

    prepared.write(
        ".nv-meta/dataset.yaml",
        "__module__: megatron.energon\n__class__: CrudeWebdataset\n",
    );
    assert_eq!(prepared.texts(Some("val"), "txt"), "a b");
    assert_eq!(prepared.texts(Some("val"), "question"), "q2 q2");
}

/// S2.B14: names of shards were summed without expanding braces, only `.info.yaml` was read, `exclude` ignored.
#[test]
fn s2_b14_braces_both_infos_and_exclude_are_read() {
    let prepared = Prepared::new();
    let excluding = SPLIT.replace(
        "exclude: []",
        "exclude: [000000.tar, '{000001,000002}.tar/21', 000001.tar/10]",
    );
    prepared.write(".nv-meta/split.yaml", &excluding);
    assert_eq!(prepared.texts(Some("train"), "__key__"), "11");
    assert_eq!(prepared.texts(Some("val"), "__key__"), "20");
    fs::remove_file(&prepared.path().join(".nv-meta/.info.json")).unwrap();
    prepared.write(
        ".nv-meta/.info.yaml",
        "shard_counts: {000000.tar: 2, 000001.tar: 2, 000002.tar: 2}\n",
    );
    assert_eq!(prepared.texts(Some("train"), "__key__"), "11");
}

#[test]
fn a_split_is_named_or_the_only_one() {
    let prepared = Prepared::new();
    assert!(
        prepared
            .texts(None, "__key__")
            .contains("has the splits train, val")
    );
    assert!(
        prepared
            .texts(Some("test"), "__key__")
            .contains("there is no split \"test\"\n  hint: it has train, val")
    );
    prepared.write(
        ".nv-meta/split.json",
        r#"{"split_parts": {"train": ["000000.tar"], "val": []}}"#,
    );
    assert_eq!(prepared.texts(None, "__key__"), "00 01");
}

#[test]
fn what_would_change_the_rows_is_refused() {
    let prepared = Prepared::new();
    for (file, content, expected) in [
        (
            "dataset.yaml",
            "__class__: VidQASample\n",
            "samples of the class VidQASample make no row",
        ),
        (
            "dataset.yaml",
            "__class__: TextSample\nsample_loader: a.py:f\n",
            "sample_loader is code in Python",
        ),
        (
            "dataset.yaml",
            "__class__: TextSample\nfield_map: {image: jpg}\n",
            "field_map.image is not known here",
        ),
        (
            "dataset.yaml",
            "__class__: TextSample\nfield_map: {text: '[x'}\n",
            "is no place",
        ),
        ("dataset.yaml", "__class__: TextSample\n", "field_map has no text"),
        (
            "dataset.yaml",
            "__class__: CrudeSample\nshuffle_over_epochs: -1\n",
            "shuffle_over_epochs: -1 is not known",
        ),
        ("dataset.yaml", "- a\n", "is a list, not a mapping"),
        (
            "dataset.yaml",
            "__class__: TextSample\nfield_map: {text: 'json[x]'}\n",
            "no [x] in 20.json",
        ),
        ("split.yaml", "split_parts: {val: [../x.tar]}\n", "has no count"),
        (
            "split.yaml",
            "split_parts: {val: [1]}\n",
            "holds a number, not a name",
        ),
        ("split.yaml", "{}", "names no split_parts"),
        (
            ".info.json",
            r#"{"shard_counts": {"000002.tar": 3}}"#,
            "has 2 samples, but 3 when it was prepared",
        ),
        (".info.json", "{}", "names no shard_counts"),
    ] {
        prepared.write(".nv-meta/dataset.yaml", DATASET);
        prepared.write(".nv-meta/split.yaml", SPLIT);
        prepared.write(".nv-meta/.info.json", INFO);
        prepared.write(&format!(".nv-meta/{file}"), content);
        let message = prepared.texts(Some("val"), "__key__");
        assert!(message.contains(expected), "{expected}: {message}");
    }
    prepared.write(".nv-meta/split.yaml", "split_parts: {val: [../x.tar]}\n");
    prepared.write(".nv-meta/.info.json", r#"{"shard_counts": {"../x.tar": 1}}"#);
    prepared.write(".nv-meta/dataset.yaml", DATASET);
    assert!(
        prepared
            .texts(Some("val"), "__key__")
            .contains("leads out of the folder")
    );
}

#[test]
fn one_of_several_answers_is_drawn_by_weight() {
    let answers = Value::from_json(br#"["a", "b", "c"]"#).unwrap();
    let draw = |weights: Option<&str>, key: usize| {
        let weights = weights.map(|weights| Value::from_json(weights.as_bytes()).unwrap());
        one_answer(&answers, weights.as_ref(), &key.to_string()).map_err(|problem| problem.to_string())
    };
    let mut counts = [0; 3];
    for key in 0..3000 {
        let drawn = draw(Some("[1, 0, 2.0]"), key).unwrap();
        assert_eq!(draw(Some("[1, 0, 2.0]"), key).unwrap(), drawn);
        let place = answers
            .as_list()
            .unwrap()
            .iter()
            .position(|answer| *answer == drawn)
            .unwrap();
        counts[place] += 1;
    }
    assert!((900..1100).contains(&counts[0]) && counts[1] == 0, "{counts:?}");
    let mut counts = HashMap::new();
    (0..3000).for_each(|key| *counts.entry(format!("{:?}", draw(None, key))).or_insert(0) += 1);
    assert!(
        counts.len() == 3 && counts.values().all(|count| (850..1150).contains(count)),
        "{counts:?}"
    );
    for wrong in ["[1, 2]", "[0, 0, 0]", "[1, -1, 1]", "[1, \"x\", 1]", "3"] {
        assert!(draw(Some(wrong), 0).unwrap_err().contains("answer"), "{wrong}");
    }
}

#[test]
fn a_metadataset_joins_folders() {
    let prepared = Prepared::new();
    let path = prepared.path().join("all.yaml");
    let read = |text: &str, split: Option<&str>| {
        prepared.write("all.yaml", &format!("__module__: megatron.energon\n{text}"));
        prepared.rows(&path, split).map(|rows| rows.len())
    };
    let v1 = "__class__: Metadataset\nsplits:\n  train:\n    datasets:\n      - path: .\n        weight: 3\n        \
              subflavors: {augmentation: false}\n  val: {datasets: [{path: ., split_part: val}]}\n";
    assert_eq!((read(v1, Some("train")), read(v1, Some("val"))), (Ok(4), Ok(2)));
    let v2 = "__class__: MetadatasetV2\nsplits:\n  train:\n    blend_epochized:\n      - {path: ., repetitions: 1}\n      \
              - {path: ., split_part: val, repetitions: 1}\n";
    assert_eq!(read(v2, None), Ok(6));
    for (text, expected) in [
        (
            v2.replace("repetitions: 1", "repetitions: 2"),
            "repetitions of a data set is not read here",
        ),
        (
            v2.replace("blend_epochized", "join")
                .replace("repetitions: 1", "weight: 1"),
            "join of a data set",
        ),
        (
            v2.replace("repetitions: 1", "weight: 1"),
            "name each data set in data.train, with its weight",
        ),
        ("a: 1".to_owned(), "is no Metadataset of energon"),
        (v1.to_owned(), "has the splits train, val"),
    ] {
        let message = read(&text, None).unwrap_err();
        assert!(message.contains(expected), "{message}");
    }
}

/// S2.4: the offsets are those that energon 7.4.1 wrote for the same shards.
#[test]
fn what_we_prepare_is_read_and_indexed_as_by_energon() {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/sources/energon");
    let dir = tempfile::tempdir().unwrap();
    for name in ["000000.tar", "000001.tar"] {
        fs::copy(&fixture.join(name), &dir.path().join(name)).unwrap();
    }
    let field = |name: &str, expression: &str| (name.to_owned(), expression.to_owned());
    let mut options = PrepareOptions {
        path: dir.path().into(),
        sample_type: "VQASample".into(),
        field_map: vec![
            field("image", "png"),
            field("context", "json[question]"),
            field("answers", "txt"),
        ],
        split: SplitChoice::Ratio([1, 1, 0]),
        exclude: Vec::new(),
        overwrite: false,
    };
    let page = prepare(&options).unwrap().to_string();
    assert!(
        page.starts_with("4 samples in 2 shards\n  train: 2 samples in 1 shards\n"),
        "{page}"
    );
    for name in ["000000.tar.idx", "000001.tar.idx"] {
        assert_eq!(
            fs::read(&dir.path().join(name)).unwrap(),
            fs::read(&fixture.join(name)).unwrap()
        );
    }
    let rows = |path: &Path| {
        let selection = Selection {
            split: Some("val".into()),
            ..Selection::of(path)
        };
        let opened = open_all(&selection, &Cache::default()).unwrap();
        assert_eq!(opened.len(), 1);
        [0, 1].map(|index| opened[0].read(index).unwrap().get("question").cloned())
    };
    assert_eq!(rows(dir.path()), rows(&fixture));

    let refused = |options: &PrepareOptions| prepare(options).unwrap_err().to_string();
    assert!(refused(&options).contains("is prepared already"));
    options.overwrite = true;
    let left_over =
        ["split.json", "index.sqlite", "index.uuid"].map(|name| dir.path().join(".nv-meta").join(name));
    for path in &left_over {
        fs::write_durable(path, b"of an earlier time").unwrap();
    }
    prepare(&options).unwrap();
    assert!(!left_over.iter().any(|path| fs::exists(path)));
    fs::write_durable(&dir.path().join("empty.tar"), &shard(&[])).unwrap();
    assert!(
        refused(&options)
            .contains("the shard \"empty.tar\" has no samples\n  hint: leave it out by --exclude")
    );
    options.exclude = vec!["empty.tar".into()];
    prepare(&options).unwrap();
    options.exclude = vec!["*.tar".into()];
    assert!(refused(&options).contains("no tar file in this folder"));
    options.sample_type = "VidQASample".into();
    assert!(refused(&options).contains("samples of the class VidQASample make no row"));
    fs::copy(&fixture.join("000000.tar"), &dir.path().join("copy.tar")).unwrap();
    options = PrepareOptions {
        sample_type: "CrudeSample".into(),
        exclude: vec!["empty.tar".into()],
        ..options
    };
    assert!(refused(&options).contains("the sample \"00\" is in 000000.tar and in copy.tar"));
}
