use tar::{Builder, EntryType, Header};

use super::*;

pub(in crate::data::source) fn header(size: usize, entry_type: EntryType) -> Header {
    let mut header = Header::new_gnu();
    header.set_size(size as u64);
    header.set_mode(0o644);
    header.set_entry_type(entry_type);
    header
}

pub(in crate::data::source) fn shard(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for (name, content) in members {
        let mut header = header(content.len(), EntryType::Regular);
        builder.append_data(&mut header, name, *content).unwrap();
    }
    builder.into_inner().unwrap()
}

fn open(bytes: Vec<u8>) -> Result<Shard, DataError> {
    Shard::open(Path::new("a.tar"), bytes.into(), &Cache::default(), None)
}

fn read(members: &[(&str, &[u8])]) -> Result<Value, String> {
    let shard = open(shard(members)).map_err(|error| error.to_string())?;
    assert_eq!(shard.len(), 1);
    shard.read(0).map_err(|error| error.to_string())
}

fn image_of(path: &str, bytes: &[u8]) -> Value {
    Value::Object(vec![
        ("bytes".into(), Value::Bytes(bytes.to_vec())),
        ("path".into(), Value::Text(path.into())),
    ])
}

#[test]
fn consecutive_members_of_a_key_are_a_sample() {
    let long = format!("d/{}.txt", "x".repeat(150));
    let bytes = shard(&[
        ("__meta__/0.txt", b"not a member"),
        ("d/1.txt", b"one"),
        ("d/1.left.png", b"PNG"),
        ("README", b"no dot"),
        ("d/1.cls", b" 7\n"),
        ("./d/2.txt", b"two"),
        (&long, b"three"),
    ]);
    let shard = open(bytes).unwrap();
    let row = shard.read(0).unwrap();
    assert_eq!(shard.len(), 3);
    assert_eq!(row.get("__key__"), Some(&Value::Text("d/1".into())));
    assert_eq!(row.get("txt"), Some(&Value::Text("one".into())));
    assert_eq!(row.get("cls"), Some(&Value::Int(7)));
    assert_eq!(
        row.get("images"),
        Some(&Value::List(vec![image_of("d/1.left.png", b"PNG")]))
    );
    assert_eq!(
        shard.read(1).unwrap().get("txt"),
        Some(&Value::Text("two".into()))
    );
    assert_eq!(
        shard.read(2).unwrap().get("txt"),
        Some(&Value::Text("three".into()))
    );
}

#[test]
fn json_gives_its_entries_and_names_images() {
    let named = br#"{"question": "?", "images": ["1.b.png", "a.png"]}"#;
    let row = read(&[("1.a.png", b"A"), ("1.json", named), ("1.b.png", b"B")]).unwrap();
    assert_eq!(row.get("question"), Some(&Value::Text("?".into())));
    let images = [image_of("1.b.png", b"B"), image_of("1.a.png", b"A")];
    assert_eq!(row.get("images"), Some(&Value::List(images.into())));

    let refused = |json: &[u8]| read(&[("1.a.png", b"A"), ("1.json", json), ("1.txt", b"t")]).unwrap_err();
    assert!(
        refused(br#"{"images": ["2.png"]}"#).contains("names \"2.png\", which is not in the sample \"1\"")
    );
    assert!(refused(br#"{"images": []}"#).contains("has the image \"a.png\", which its images do not name"));
    assert!(refused(br#"{"images": "a.png"}"#).contains("images is text, not a list"));
    assert!(refused(br#"{"txt": 1}"#).contains("two members of the sample give \"txt\""));
    assert!(refused(b"{").contains("1.json: column 1: EOF"));
}

#[test]
fn members_are_decoded_by_their_names() {
    let packed = super::super::held::tests::gzip(b"packed");
    let row = read(&[("1.txt.gz", &packed), ("1.npy", b"\x93NUMPY")]).unwrap();
    assert_eq!(row.get("txt.gz"), Some(&Value::Text("packed".into())));
    assert_eq!(row.get("npy"), Some(&Value::Bytes(b"\x93NUMPY".to_vec())));
    let bomb = super::super::held::tests::gzip(&vec![0; (256 << 20) + 1]);
    for (name, content, expected) in [
        (
            "1.pth",
            b"x".as_slice(),
            "1.pth: reading .pth would run what is in it",
        ),
        ("1.cls", b"one", "1.cls: \"one\" is no whole number"),
        ("1.txt", b"\xff", "1.txt: not UTF-8 from byte 0 on"),
        ("1.txt.gz", b"x", "cannot decompress it"),
        ("1.txt.gz", &bomb, "decompresses to more than"),
    ] {
        let message = read(&[(name, content)]).unwrap_err();
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn hostile_shards_are_refused() {
    // The writer refuses such names, so they are written into the header.
    let named = |name: &str, entry_type: EntryType, claimed: usize| {
        let mut header = header(claimed, entry_type);
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_cksum();
        [header.as_bytes().as_slice(), &[b'x'; 512], &[0; 1024]].concat()
    };
    let two = |first: &str, second: &str| shard(&[(first, b"1"), ("2.txt", b"2"), (second, b"3")]);
    let whole = shard(&[("1.txt", b"1"), ("2.txt", b"2")]);
    for (bytes, expected) in [
        (named("../1.txt", EntryType::Regular, 3), "leads out of the tar"),
        (named("/etc/1.txt", EntryType::Regular, 3), "leads out of the tar"),
        (named("a\n.txt", EntryType::Regular, 3), "leads out of the tar"),
        (
            named("1.txt", EntryType::Regular, 1 << 32),
            "ends behind the end of the file",
        ),
        (named("1.txt", EntryType::Symlink, 0), "is no file but Symlink"),
        (named("1.txt", EntryType::Block, 0), "is no file but Block"),
        (
            two("1.txt", "1.png"),
            "members of the sample \"1\" do not follow each other",
        ),
        (
            shard(&[("1.txt", b"1"), ("1.txt", b"2")]),
            "\"1.txt\" is there twice",
        ),
        (whole[..1024].to_vec(), "it has no end mark"),
        (whole[..1100].to_vec(), "no tar file that can be read"),
        (whole[..1537].to_vec(), "was cut off"),
        (b"hello".to_vec(), "no tar file that can be read"),
        (Vec::new(), "no end mark"),
    ] {
        let message = open(bytes)
            .err()
            .map(|error| error.to_string())
            .unwrap_or_default();
        assert!(message.contains(expected), "{expected}: {message}");
    }
}

#[test]
fn the_index_of_a_large_shard_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.tar");
    let content = vec![1; 1 << 20];
    let names: Vec<String> = (0..40).map(|number| format!("{number}.bin")).collect();
    let members: Vec<(&str, &[u8])> = names.iter().map(|name| (name.as_str(), &content[..])).collect();
    crate::fs::write_durable(&path, &shard(&members)).unwrap();
    let cache = Cache::new(Some(dir.path().join("cache")));
    let samples = || {
        let bytes = Bytes::from_owner(crate::fs::mmap(&path).unwrap());
        Shard::open(&path, bytes, &cache, None)
            .unwrap()
            .samples()
            .to_vec()
    };
    let first = samples();
    assert_eq!(first.len(), 40);
    let kept = crate::fs::read_dir(&dir.path().join("cache")).unwrap();
    assert_eq!(kept.len(), 1);
    assert_eq!(samples(), first);
    crate::fs::write_durable(&kept[0], b"[").unwrap();
    assert_eq!(samples(), first, "a damaged index is made again");
}

/// As `data convert` writes them, and others who name images where rows have them.
#[test]
fn images_are_placed_wherever_rows_name_them() {
    let text = |name: &str| Value::Text(name.into());
    let row = read(&[("1.json", br#"{"image": "1.png", "n": 1}"#), ("1.png", b"A")]).unwrap();
    assert_eq!(
        (row.get("image"), row.get("images")),
        (Some(&image_of("1.png", b"A")), None)
    );
    let parts = br#"{"messages": [{"content": [{"type": "image", "image": "1.a.png"}, {"type": "image_url",
        "image_url": {"url": "b.png"}}]}], "images": null}"#;
    let row = read(&[("1.json", parts), ("1.a.png", b"A"), ("1.b.png", b"B")]).unwrap();
    let content = row.get("messages").unwrap().as_list().unwrap()[0]
        .get("content")
        .unwrap();
    let content = content.as_list().unwrap();
    assert_eq!(content[0].get("image"), Some(&image_of("1.a.png", b"A")));
    assert_eq!(content[1].get("image_url"), Some(&image_of("1.b.png", b"B")));
    assert_eq!(row.get("images"), None);
    // Names that are not all of them may mean anything.
    let row = read(&[
        ("1.json", br#"{"image": "1.a.png"}"#),
        ("1.a.png", b"A"),
        ("1.b.png", b"B"),
    ])
    .unwrap();
    assert_eq!(row.get("image"), Some(&text("1.a.png")));
    assert_eq!(row.get("images").unwrap().as_list().unwrap().len(), 2);
    // A text that is no image may be called as one is.
    let row = read(&[
        ("1.json", br#"{"image": "1.png", "file_name": "1.png"}"#),
        ("1.png", b"A"),
    ])
    .unwrap();
    assert_eq!(row.get("file_name"), Some(&text("1.png")));
}
