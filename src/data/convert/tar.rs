//! Tar shards: a row is `KEY.json` with its images beside it, `KEY.jpg`, or `KEY.0.jpg` and so on where there are several.

use std::{collections::HashSet, io::BufWriter, path::PathBuf};

use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

use super::{
    super::{
        error::RowProblem,
        rows::{Fields, for_each_image},
        source::{holds_bytes, is_image, member_name},
        value::Value,
    },
    Sink,
    error::{ConvertError, Refusal},
    json, pictures,
    target::{BUFFER_BYTES, failed},
};
use crate::fs::Output;

/// The entry by which readers of shards give a sample's key.
const KEY: &str = "__key__";

/// How samples are called, over all shards.
pub(super) struct Keys {
    number_all: bool,
    /// Whether rows bring their keys along, once there was one.
    own: Option<bool>,
    seen: HashSet<[u8; 16]>,
}

impl Keys {
    /// By the rows' own keys where they have them, unless all are to be numbered.
    pub(super) fn new(number_all: bool) -> Self {
        Self {
            number_all,
            own: None,
            seen: HashSet::new(),
        }
    }

    /// Takes the key of a row out of it, or makes one.
    pub(super) fn of(&mut self, number: usize, row: &mut Value) -> Result<String, RowProblem> {
        let own = take_key(row)?.filter(|_| !self.number_all);
        if *self.own.get_or_insert(own.is_some()) != own.is_some() {
            return Err(problem(format!(
                "some rows have a {KEY:?} and some have none\n  hint: --new-keys numbers all of them"
            )));
        }
        let Some(key) = own else {
            return Ok(format!("{number:09}"));
        };
        let mut hash = [0; 16];
        hash.copy_from_slice(&Sha256::digest(key.as_bytes())[..16]);
        match self.seen.insert(hash) {
            true => Ok(key),
            false => Err(problem(format!(
                "an earlier row has the same {KEY}, {key:?}\n  hint: --new-keys numbers all rows"
            ))),
        }
    }
}

fn take_key(row: &mut Value) -> Result<Option<String>, RowProblem> {
    let Value::Object(entries) = row else {
        return Ok(None);
    };
    let Some(at) = entries.iter().position(|(name, _)| name == KEY) else {
        return Ok(None);
    };
    match entries.remove(at).1 {
        Value::Text(key) => Ok(Some(key)),
        Value::Null => Ok(None),
        other => Err(RowProblem::expected(KEY, "text", &other)),
    }
}

/// Moves images under a key of the user's to where readers of shards put them.
pub(super) fn rename_images(row: &mut Value, fields: &Fields) -> Result<(), RowProblem> {
    let (Some(own), Value::Object(entries)) = (fields.images.as_deref(), row) else {
        return Ok(());
    };
    if own == "image" || own == "images" || own == "modalities" {
        return Ok(());
    }
    let Some(at) = entries.iter().position(|(name, _)| name == own) else {
        return Ok(());
    };
    let usual = match entries[at].1 {
        Value::List(_) => "images",
        _ => "image",
    };
    if entries.iter().any(|(name, _)| name == usual) {
        return Err(problem(format!(
            "{own:?} would be {usual:?} in a shard, but the row has that key, too"
        )));
    }
    usual.clone_into(&mut entries[at].0);
    Ok(())
}

/// A shard.
pub(super) struct TarWriter {
    path: PathBuf,
    builder: Builder<BufWriter<Output>>,
    num_lost_names: usize,
}

impl TarWriter {
    pub(super) fn create(output: Output) -> Self {
        Self {
            path: output.path().to_path_buf(),
            builder: Builder::new(BufWriter::with_capacity(BUFFER_BYTES, output)),
            num_lost_names: 0,
        }
    }

    fn append(&mut self, name: &str, bytes: &[u8]) -> Result<(), ConvertError> {
        let mut header = Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        header.set_entry_type(EntryType::Regular);
        // Without a time: the same rows give the same bytes.
        header.set_mtime(0);
        self.builder
            .append_data(&mut header, name, bytes)
            .map_err(|error| failed(&self.path, error))
    }
}

impl Sink for TarWriter {
    fn push(&mut self, key: &str, mut row: Value) -> Result<(), Refusal> {
        let (members, num_lost_names) = members(key, &mut row)?;
        let json = json::line(&row)?;
        self.append(&member_name(key, "json").map_err(problem)?, &json)?;
        for (name, bytes) in &members {
            self.append(name, bytes)?;
        }
        self.num_lost_names += num_lost_names;
        Ok(())
    }

    fn size_bytes(&self) -> u64 {
        self.builder.get_ref().get_ref().written_bytes()
    }

    fn finish(self: Box<Self>) -> Result<usize, ConvertError> {
        let Self {
            path,
            builder,
            num_lost_names,
        } = *self;
        let buffered = builder.into_inner().map_err(|error| failed(&path, error))?;
        let output = buffered.into_inner().map_err(|error| failed(&path, error))?;
        output.sync()?;
        Ok(num_lost_names)
    }
}

type Members = Vec<(String, Vec<u8>)>;

/// Takes images and other bytes out of a row; names of members stand for the images.
fn members(key: &str, row: &mut Value) -> Result<(Members, usize), RowProblem> {
    let usual = Fields::default();
    let mut num_images = 0;
    for_each_image(row, &usual, &mut |mut site| {
        num_images += usize::from(pictures::is_held(&mut site));
        Ok(())
    })?;
    let file = key.rsplit('/').next().unwrap_or_default();
    let (mut members, mut num_names) = (Members::new(), 0);
    pictures::place(row, &usual, &mut |bytes, path| {
        let own = path
            .as_deref()
            .and_then(|path| path.rsplit_once('.'))
            .map(|(_, ending)| ending.to_lowercase());
        let ending = pictures::ending_of(&bytes)
            .map(str::to_owned)
            .or(own.filter(|ending| is_image(ending)));
        let ending = ending.ok_or_else(|| {
            problem(
                "an image is of no format that shards know: jpg, png, webp, bmp, gif, tif, ppm or pgm"
                    .to_owned(),
            )
        })?;
        let part = match num_images {
            1 => ending,
            _ => format!("{}.{ending}", members.len()),
        };
        let name = format!("{file}.{part}");
        num_names += usize::from(path.is_some_and(|path| path.rsplit('/').next() != Some(&name)));
        members.push((member_name(key, &part).map_err(problem)?, bytes));
        Ok(name)
    })?;
    check_names(row, &usual, members.len())?;
    if let Value::Object(entries) = row {
        for (part, value) in entries.extract_if(.., |(_, value)| matches!(value, Value::Bytes(_))) {
            let Value::Bytes(bytes) = value else { continue };
            if !holds_bytes(&part) {
                return Err(RowProblem::field(
                    &part,
                    "a member of this name holds no bytes".to_owned(),
                ));
            }
            members.push((member_name(key, &part).map_err(problem)?, bytes));
        }
    }
    Ok((members, num_names))
}

/// Whether whoever reads the shard finds all images again.
fn check_names(row: &mut Value, usual: &Fields, num_images: usize) -> Result<(), RowProblem> {
    let mut num_found = 0;
    for_each_image(row, usual, &mut |_| {
        num_found += 1;
        Ok(())
    })?;
    match num_found == num_images {
        true => Ok(()),
        false => Err(problem(
            "an image is where no reader of shards looks for one\n  hint: name its key by --fields images=KEY".to_owned(),
        )),
    }
}

fn problem(reason: String) -> RowProblem {
    RowProblem::Source { reason }
}
