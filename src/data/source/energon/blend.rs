//! `Metadataset` files of energon: several data sets by the names of the splits. What says how often a data set comes is
//! written in `data.train` here, so only files that join whole data sets are read.

use std::path::{Path, PathBuf};

use super::{
    super::super::{error::DataError, value::Value},
    yaml,
};
use crate::fs;

const MAX_BYTES: u64 = 16 << 20;

/// Whether a file may be one.
pub(in crate::data::source) fn is_blend(path: &Path) -> bool {
    let name = path.extension().and_then(|extension| extension.to_str());
    matches!(name, Some("yaml" | "yml"))
}

/// Folders of a split, each with the split to take of it.
pub(in crate::data::source) fn read(
    path: &Path,
    split: Option<&str>,
) -> Result<Vec<(PathBuf, String)>, DataError> {
    let failed = |reason: String| DataError::Source {
        path: path.into(),
        reason,
    };
    let bytes = fs::read_at_most(path, MAX_BYTES)?;
    let text = std::str::from_utf8(&bytes).map_err(|error| failed(error.to_string()))?;
    let document = yaml::read(text).map_err(failed)?;
    let class = document
        .get("__class__")
        .and_then(Value::as_text)
        .unwrap_or_default();
    if !matches!(class, "Metadataset" | "MetadatasetV2") {
        return Err(failed("is no Metadataset of energon".to_owned()));
    }
    let splits = document
        .get("splits")
        .and_then(Value::as_object)
        .unwrap_or_default();
    let names: Vec<&str> = splits.iter().map(|(name, _)| name.as_str()).collect();
    let split = match (split, &names[..]) {
        (Some(split), _) => split,
        (None, [only]) => only,
        (None, _) => return Err(super::super::files::which_split(path, &owned(&names))),
    };
    let found = splits.iter().find(|(name, _)| name == split);
    let (_, found) = found.ok_or_else(|| super::super::files::no_split(path, split, &owned(&names)))?;
    let lists = ["datasets", "blend", "blend_epochized"];
    let references = match lists.iter().find_map(|key| found.get(key)) {
        Some(Value::List(references)) => references.as_slice(),
        Some(other) => return Err(failed(format!("a blend is {}, not a list", other.kind()))),
        None => std::slice::from_ref(found),
    };
    let folder = path.parent().unwrap_or(Path::new(""));
    let several = references.len() > 1;
    references
        .iter()
        .map(|reference| one(reference, split, folder, several).map_err(failed))
        .collect()
}

fn owned(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn one(reference: &Value, split: &str, folder: &Path, several: bool) -> Result<(PathBuf, String), String> {
    let Value::Object(entries) = reference else {
        return Err(format!("a data set is {}, not a mapping", reference.kind()));
    };
    for (key, value) in entries {
        let once = matches!(value, Value::Int(1)) || *value == Value::Float(1.0);
        match key.as_str() {
            "path" | "split_part" | "subflavors" | "subflavor" => {}
            "repetitions" | "shuffle_over_epochs_multiplier" if once => {}
            // Of one data set, any weight is all.
            "weight" if !several => {}
            key => {
                return Err(format!(
                    "{key} of a data set is not read here\n  hint: name each data set in data.train, with its weight"
                ));
            }
        }
    }
    let path = reference
        .get("path")
        .and_then(Value::as_text)
        .ok_or("a data set has no path")?;
    let part = reference
        .get("split_part")
        .and_then(Value::as_text)
        .unwrap_or(split);
    Ok((folder.join(path), part.to_owned()))
}
