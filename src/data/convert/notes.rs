//! What was written, and what of the rows the format does not hold.

use std::{fmt, path::PathBuf};

use super::{
    super::{batch::SampleId, error::RowError, source::Rows, value::Value},
    ConvertOptions, ImagePlace,
    formats::TargetFormat,
    target::Target,
};

/// Wrong rows that are shown.
const SHOWN_ROWS: usize = 10;

/// What was written. Displays as a few lines.
#[derive(Debug)]
pub struct Converted {
    /// The file or folder.
    pub path: PathBuf,
    /// What it holds.
    pub format: TargetFormat,
    pub(super) is_folder: bool,
    /// Rows written.
    pub num_rows: usize,
    /// Files with rows.
    pub num_files: usize,
    /// Files of images.
    pub num_image_files: usize,
    /// Rows left out.
    pub bad: Vec<RowError>,
    pub(super) notes: Notes,
}

/// What is not as it was.
#[derive(Debug, Default)]
pub(super) struct Notes {
    is_table: bool,
    num_null_keys: usize,
    first_null: Option<String>,
    num_large: usize,
    first_large: Option<String>,
    /// Columns whose whole numbers became floats.
    pub(super) widened: Vec<String>,
    /// Columns of other types that are read as text.
    rewritten: Vec<String>,
    pub(super) num_lost_names: usize,
    has_moved: bool,
    renamed: Option<String>,
}

impl Notes {
    pub(super) fn of(opened: &[Box<dyn Rows>], options: &ConvertOptions, target: &Target) -> Self {
        let mut rewritten: Vec<String> = opened.iter().flat_map(|rows| rows.rewritten()).collect();
        rewritten.sort();
        rewritten.dedup();
        let own = options.fields.images.clone();
        Self {
            is_table: target.format.is_table(),
            rewritten,
            has_moved: target.images == ImagePlace::Keep,
            renamed: own.filter(|_| target.format == TargetFormat::Tar),
            ..Self::default()
        }
    }

    /// Looks for what the target does not hold.
    pub(super) fn see(&mut self, value: &Value, sample: &SampleId) {
        match value {
            Value::Float(number) if number.is_finite() && number.abs() >= 2.0_f64.powi(63) => {
                self.num_large += 1;
                self.first_large.get_or_insert_with(|| sample.to_string());
            }
            Value::List(values) => values.iter().for_each(|value| self.see(value, sample)),
            Value::Object(entries) => {
                for (_, value) in entries {
                    if self.is_table && *value == Value::Null {
                        self.num_null_keys += 1;
                        self.first_null.get_or_insert_with(|| sample.to_string());
                    }
                    self.see(value, sample);
                }
            }
            _ => {}
        }
    }

    fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        if let Some(first) = &self.first_null {
            lines.push(format!(
                "{} keys hold null, first in {first}: a table does not tell that from a key that is not there",
                self.num_null_keys
            ));
        }
        if !self.widened.is_empty() {
            lines.push(format!(
                "whole numbers became floats (1 is 1.0) where other rows have fractions: {}",
                self.widened.join(", ")
            ));
        }
        if let Some(first) = &self.first_large {
            lines.push(format!(
                "{} numbers are beyond 64 bits, first in {first}: they are floats of 53 bits",
                self.num_large
            ));
        }
        if !self.rewritten.is_empty() {
            lines.push(format!(
                "columns of dates, times and the like are text now: {}",
                self.rewritten.join(", ")
            ));
        }
        if self.num_lost_names > 0 {
            lines.push(format!(
                "{} images had other names: members of a shard are named by the key of their sample",
                self.num_lost_names
            ));
        }
        if let Some(own) = self
            .renamed
            .as_deref()
            .filter(|own| !["images", "image", "modalities"].contains(own))
        {
            lines.push(format!(
                "{own:?} is \"images\" or \"image\" in the shards, where their readers look for them"
            ));
        }
        if self.has_moved {
            lines.push(
                "paths of images are as they were; where the rows have moved, name their folder by image_dir in data.train"
                    .to_owned(),
            );
        }
        lines
    }
}

impl fmt::Display for Converted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {} rows as {}",
            self.path.display(),
            self.num_rows,
            self.format
        )?;
        if self.is_folder {
            write!(f, " in {} files", self.num_files)?;
        }
        match self.num_image_files {
            0 => writeln!(f)?,
            count => writeln!(f, ", {count} files of images")?,
        }
        for line in self.notes.lines() {
            writeln!(f, "  note: {line}")?;
        }
        if !self.bad.is_empty() {
            writeln!(f, "{} rows are wrong and left out:", self.bad.len())?;
            self.bad
                .iter()
                .take(SHOWN_ROWS)
                .try_for_each(|row| writeln!(f, "  {row}"))?;
        }
        if self.bad.len() > SHOWN_ROWS {
            writeln!(f, "  … and {} more", self.bad.len() - SHOWN_ROWS)?;
        }
        if self.format == TargetFormat::Tar && self.is_folder {
            writeln!(
                f,
                "for megatron-energon: brazier data prepare {} --sample-type CrudeWebdataset --split-ratio 1,0,0",
                self.path.display()
            )?;
        }
        Ok(())
    }
}
