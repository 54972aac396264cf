//! Weights from a folder's files, checked against the model and read one tensor at a time.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    path::{Path, PathBuf},
};

use brazier_models::{HostDtype, HostTensor, VlmConfig};
use safetensors::Dtype;
use serde::Deserialize;

use super::{
    HubError, Result,
    names::{EMBEDDING, LM_HEAD, Part, constant_value, is_constant},
    stored::{Form, StoredFile, file_name, is_float, wrong_dtype},
};
use crate::fs;

/// The file of an unsharded model.
pub(super) const SINGLE_FILE: &str = "model.safetensors";
/// The list of a sharded model's files.
pub(super) const INDEX_FILE: &str = "model.safetensors.index.json";
/// The list of the files of a sharded model that PyTorch pickled.
pub(super) const PICKLED_INDEX_FILE: &str = "pytorch_model.bin.index.json";
/// An unsharded file or the index of shards: in safetensors, and pickled by PyTorch. transformers looks in this order.
const FORMATS: [(&str, &str); 2] = [
    (SINGLE_FILE, INDEX_FILE),
    ("pytorch_model.bin", PICKLED_INDEX_FILE),
];
const MAX_INDEX_BYTES: u64 = 256 << 20;

/// Which file of a sharded model holds which tensor.
pub(super) struct Index {
    path: PathBuf,
    weight_map: BTreeMap<String, String>,
}

/// What is read of an index; the rest of it is statistics.
#[derive(Deserialize)]
struct RawIndex {
    weight_map: BTreeMap<String, String>,
}

/// The weights of a model, or of a part of it: every tensor is known and in place, none has been read.
#[derive(Debug)]
pub struct Weights {
    files: Vec<StoredFile>,
    /// By the model's names.
    places: BTreeMap<String, Place>,
}

#[derive(Debug, Clone)]
struct Place {
    file: usize,
    form: Form,
}

impl Weights {
    /// Opens the files of a folder and compares them with what the model needs.
    ///
    /// `expected` lists every parameter with its shape; of a part of a model only those of that part are looked at. A
    /// tied head may be stored too if it equals the embedding table.
    ///
    /// # Errors
    /// If files are missing, damaged or contradict their index, and with the full list of missing, unused and misshapen
    /// tensors.
    pub fn open(
        dir: &Path,
        part: Part,
        config: &VlmConfig,
        expected: &[(String, Vec<usize>)],
    ) -> Result<Self> {
        let (paths, index) = find_files(dir)?;
        let files = paths
            .iter()
            .map(|path| StoredFile::open(path))
            .collect::<Result<Vec<_>>>()?;
        if let Some(index) = &index {
            check_index(index, &files)?;
        }
        let expected = expected.iter().filter(|(name, _)| part.holds(name));
        let places = match_tensors(dir, part, config, expected, &files)?;
        Ok(Self { files, places })
    }

    /// Bytes of all tensors, as they are stored.
    pub fn size_bytes(&self) -> u64 {
        let sizes = self.places.values().map(|place| place.form.size_bytes() as u64);
        sizes.sum()
    }

    /// Number of files.
    pub fn num_files(&self) -> usize {
        self.files.len()
    }

    /// Number of tensors and elements in each element type, as safetensors names it.
    pub fn dtypes(&self) -> BTreeMap<String, (usize, u64)> {
        let mut dtypes = BTreeMap::new();
        for place in self.places.values() {
            let entry: &mut (usize, u64) = dtypes.entry(place.form.dtype.to_string()).or_default();
            entry.0 += 1;
            entry.1 += place.form.shape.iter().product::<usize>() as u64;
        }
        dtypes
    }

    /// The element type in which a tensor loses nothing: its own, and f32 for f16.
    pub fn dtype(&self, name: &str) -> Option<HostDtype> {
        self.form(name).map(|form| host_dtype(form.dtype))
    }

    /// Whether there is such a tensor.
    pub fn contains(&self, name: &str) -> bool {
        self.places.contains_key(name)
    }

    /// Reads one tensor. Stored f32 and bf16 stay what they are unless `dtype` asks for one of them; f16 becomes f32,
    /// which loses nothing.
    ///
    /// # Errors
    /// If the file cannot be read, or has no tensor of this name.
    pub fn read(&self, name: &str, dtype: Option<HostDtype>) -> Result<HostTensor> {
        let (_, form) = self.find(name)?;
        let dtype = dtype.unwrap_or(host_dtype(form.dtype));
        Ok(HostTensor {
            name: name.into(),
            shape: form.shape.clone(),
            dtype,
            bytes: self.read_as(name, stored_dtype(dtype))?,
        })
    }

    /// Reads one tensor to a place of its size, in an element type.
    ///
    /// # Errors
    /// As [`Weights::read`].
    pub fn read_into(&self, name: &str, dtype: HostDtype, bytes: &mut [u8]) -> Result<()> {
        let (file, form) = self.find(name)?;
        file.read_into(form, stored_dtype(dtype), bytes)
    }

    /// Bytes of one tensor in an element type.
    pub(super) fn read_as(&self, name: &str, dtype: Dtype) -> Result<Vec<u8>> {
        let (file, form) = self.find(name)?;
        file.read(form, dtype)
    }

    /// Form of one tensor.
    pub(super) fn form(&self, name: &str) -> Option<&Form> {
        self.places.get(name).map(|place| &place.form)
    }

    /// Names of all tensors.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.places.keys().map(String::as_str)
    }

    fn find(&self, name: &str) -> Result<(&StoredFile, &Form)> {
        let place = self.places.get(name).ok_or_else(|| HubError::Mismatch {
            dir: self
                .files
                .first()
                .map(|file| file.path().into())
                .unwrap_or_default(),
            problems: vec![format!("missing: {name}")],
        })?;
        Ok((&self.files[place.file], &place.form))
    }
}

/// The element type in which a stored tensor loses nothing.
fn host_dtype(dtype: Dtype) -> HostDtype {
    match dtype {
        Dtype::BF16 => HostDtype::Bf16,
        _ => HostDtype::F32,
    }
}

/// The element type of safetensors.
pub(super) fn stored_dtype(dtype: HostDtype) -> Dtype {
    match dtype {
        HostDtype::F32 => Dtype::F32,
        HostDtype::Bf16 => Dtype::BF16,
    }
}

/// Reads all weights of a model folder under the model's names, in the order of `expected`; see [`Weights`].
///
/// # Errors
/// As [`Weights::open`] and [`Weights::read`].
pub fn read_weights(
    dir: &Path,
    config: &VlmConfig,
    expected: &[(String, Vec<usize>)],
    dtype: Option<HostDtype>,
) -> Result<Vec<HostTensor>> {
    let weights = Weights::open(dir, Part::Whole, config, expected)?;
    let names = expected.iter().map(|(name, _)| name);
    names.map(|name| weights.read(name, dtype)).collect()
}

/// Files with weights, and what the index says of them.
pub(super) fn find_files(dir: &Path) -> Result<(Vec<PathBuf>, Option<Index>)> {
    for (single, index) in FORMATS {
        let (single, index) = (dir.join(single), dir.join(index));
        if single.is_file() {
            return Ok((vec![single], None));
        }
        if index.is_file() {
            return indexed_files(dir, index);
        }
    }
    let [safetensors, pickled] = FORMATS.map(|(single, index)| format!("{single} nor {index}"));
    Err(HubError::NoWeights {
        dir: dir.into(),
        reason: format!("neither {safetensors}, nor {pickled}\n  hint: is the download complete?"),
    })
}

/// The files that an index names.
fn indexed_files(dir: &Path, index: PathBuf) -> Result<(Vec<PathBuf>, Option<Index>)> {
    let index = read_index(index)?;
    let mut files = Vec::new();
    for name in index.files() {
        let file = dir.join(name);
        if !is_plain(name) || !file.is_file() {
            let reason = format!(
                "names the file {name}, which is not in the folder\n  hint: is the download complete?"
            );
            let path = index.path.clone();
            return Err(HubError::Damaged { path, reason });
        }
        files.push(file);
    }
    Ok((files, Some(index)))
}

fn read_index(path: PathBuf) -> Result<Index> {
    let bytes = fs::read_at_most(&path, MAX_INDEX_BYTES)?;
    match serde_json::from_slice(&bytes) {
        Ok(RawIndex { weight_map }) => Ok(Index { path, weight_map }),
        Err(error) => Err(HubError::Json {
            path,
            reason: error.to_string(),
        }),
    }
}

impl Index {
    /// Whether it lists files that PyTorch pickled.
    pub(super) fn is_pickled(&self) -> bool {
        file_name(&self.path) == PICKLED_INDEX_FILE
    }

    /// Names of the files, sorted.
    fn files(&self) -> BTreeSet<&str> {
        self.weight_map.values().map(String::as_str).collect()
    }
}

/// Whether it names a file of the folder itself.
fn is_plain(name: &str) -> bool {
    Path::new(name).file_name().is_some_and(|last| last == name)
}

/// Files without which a folder is no model, each with a word on who asks for it.
pub(super) fn missing_files(dir: &Path) -> Result<Vec<String>> {
    let mut missing = Vec::new();
    if !dir.join("config.json").is_file() {
        missing.push("config.json is missing".to_owned());
    }
    for (single, index) in FORMATS {
        if dir.join(single).is_file() {
            break;
        }
        if dir.join(index).is_file() {
            let shards = read_index(dir.join(index))?;
            let files = shards
                .files()
                .into_iter()
                .filter(|name| !dir.join(name).is_file());
            missing.extend(files.map(|name| format!("{name} is missing; {index} names it")));
            break;
        }
    }
    Ok(missing)
}

/// Each tensor is where the index says, and nowhere else.
fn check_index(index: &Index, files: &[StoredFile]) -> Result<()> {
    let mut stored = HashSet::new();
    let mut problems = Vec::new();
    for shard in files {
        let file = file_name(shard.path());
        for (name, _) in shard.tensors() {
            match index.weight_map.get(name) {
                Some(said) if said == file => {}
                Some(said) => problems.push(format!("{name} is in {file}, not only in {said}")),
                None => problems.push(format!("{name} is in {file} but not in the index")),
            }
            stored.insert((name, file));
        }
    }
    for (name, file) in &index.weight_map {
        if !stored.contains(&(name.as_str(), file.as_str())) {
            problems.push(format!("{name} is not in {file}"));
        }
    }
    if problems.is_empty() {
        return Ok(());
    }
    problems.sort();
    let reason = format!("contradicts the files:\n  {}", problems.join("\n  "));
    Err(HubError::Damaged {
        path: index.path.clone(),
        reason,
    })
}

/// A stored constant that is not the one built in: the model would compute something else than its makers'.
fn wrong_constant(shard: &StoredFile, name: &str, form: &Form) -> Result<Option<String>> {
    let Some(expected) = constant_value(name) else {
        return Ok(None);
    };
    let bytes = shard.read(form, Dtype::F32)?;
    let values = bytes.as_chunks::<4>().0.iter();
    // bf16 keeps eight bits.
    let is_expected =
        |&bytes: &[u8; 4]| (f64::from(f32::from_le_bytes(bytes)) / expected - 1.0).abs() < 1.0 / 256.0;
    let is_fine = values.clone().count() == 1 && values.clone().all(is_expected);
    Ok((!is_fine).then(|| format!("constant: {name} is not {expected}, which is built in")))
}

/// For each expected tensor the stored one, or every difference.
fn match_tensors<'a>(
    dir: &Path,
    part: Part,
    config: &VlmConfig,
    expected: impl Iterator<Item = &'a (String, Vec<usize>)>,
    files: &[StoredFile],
) -> Result<BTreeMap<String, Place>> {
    let mut problems = Vec::new();
    let mut stored: HashMap<String, Place> = HashMap::new();
    for (file, shard) in files.iter().enumerate() {
        for (disk_name, form) in shard.tensors() {
            problems.extend(wrong_constant(shard, disk_name, form)?);
            match part.model_name(disk_name, config.vision.is_some()) {
                None if is_constant(disk_name) || part.other_half(disk_name).is_some() => {}
                None => problems.push(format!("unused: {disk_name} {:?}", form.shape)),
                Some(name) if is_constant(&name) => {}
                Some(name) => {
                    let form = form.clone();
                    if stored.insert(name.clone(), Place { file, form }).is_some() {
                        problems.push(format!("twice: {name}, under two names"));
                    }
                }
            }
        }
    }
    if config.text.tie_word_embeddings {
        drop_tied_head(&mut stored, files, &mut problems)?;
    }
    let mut places = BTreeMap::new();
    for (name, shape) in expected {
        match stored.remove(name) {
            None => problems.push(format!("missing: {name} {shape:?}")),
            Some(Place { form, .. }) if form.shape != *shape => {
                problems.push(format!("misshapen: {name} {:?}, expected {shape:?}", form.shape));
            }
            Some(Place { file, form }) if !is_float(form.dtype) => {
                return Err(wrong_dtype(files[file].path().into(), name, form.dtype));
            }
            Some(place) => drop(places.insert(name.clone(), place)),
        }
    }
    problems.extend(
        stored
            .iter()
            .map(|(name, place)| format!("unused: {name} {:?}", place.form.shape)),
    );
    if problems.is_empty() {
        return Ok(places);
    }
    problems.sort();
    Err(HubError::Mismatch {
        dir: dir.into(),
        problems,
    })
}

/// Some programs store a tied head all the same. It must be the embedding table, or the config is wrong.
fn drop_tied_head(
    stored: &mut HashMap<String, Place>,
    files: &[StoredFile],
    problems: &mut Vec<String>,
) -> Result<()> {
    let Some(head) = stored.remove(LM_HEAD) else {
        return Ok(());
    };
    let is_embedding = match stored.get(EMBEDDING) {
        Some(table) => files[head.file].is_equal(&head.form, &files[table.file], &table.form)?,
        None => false,
    };
    if !is_embedding {
        problems.push(format!(
            "unused: {LM_HEAD} {:?} differs from the embedding table, but tie_word_embeddings is true",
            head.form.shape
        ));
    }
    Ok(())
}
