//! The half of a two-tower model that a VLM has no use for. MultiMeditron's folders hold it beside the vision tower, and so
//! do ours of that kind: its bytes go from folder to folder.

use std::{path::Path, sync::Arc};

use super::{
    ExportTensor, Part, Result,
    names::is_constant,
    stored::{StoredFile, is_float, wrong_dtype},
    weights::find_files,
};

/// The tensors of that half in a folder which holds `part`; a folder with a vision tower alone has none.
pub(super) fn other_half<'a>(dir: &Path, part: Part) -> Result<Vec<ExportTensor<'a>>> {
    let mut found = Vec::new();
    for path in find_files(dir)?.0 {
        let file = Arc::new(StoredFile::open(&path)?);
        for (disk_name, form) in file.tensors() {
            let Some(name) = part.other_half(disk_name).filter(|name| !is_constant(name)) else {
                continue;
            };
            if !is_float(form.dtype) {
                return Err(wrong_dtype(path, disk_name, form.dtype));
            }
            found.push(ExportTensor::of_file(name, file.clone(), form.clone()));
        }
    }
    Ok(found)
}
