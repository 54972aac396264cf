//! Writes rows as the files of a target.

use super::{
    super::{error::RowProblem, rows::Fields, source, value::Value},
    ImagePlace, Notes, Sink,
    arrow::{self, ArrowWriter},
    error::{ConvertError, Refusal},
    formats::TargetFormat,
    jsonl::JsonLines,
    parquet::ParquetWriter,
    pictures::{self, ImageFolder},
    tar::{Keys, TarWriter, rename_images},
    target::{Partial, Target, failed},
    types::Type,
};
use crate::fs;

/// When a file of a folder is full.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) rows: usize,
    pub(super) bytes: u64,
}

/// The files that are being written.
pub(super) struct Shards<'a> {
    target: &'a Target,
    partial: &'a Partial,
    fields: &'a Fields,
    /// Of a table.
    columns: &'a [(String, Type)],
    limits: Limits,
    images: ImageFolder,
    keys: Option<Keys>,
    sink: Option<Box<dyn Sink>>,
    num_rows_in_sink: usize,
    num_shards: usize,
    pub(super) num_rows: usize,
}

impl<'a> Shards<'a> {
    pub(super) fn new(
        target: &'a Target,
        partial: &'a Partial,
        fields: &'a Fields,
        columns: &'a [(String, Type)],
        limits: Limits,
        new_keys: bool,
    ) -> Self {
        Self {
            target,
            partial,
            fields,
            columns,
            limits,
            images: ImageFolder::new(partial.images.clone(), target.image_folder_name()),
            keys: (target.format == TargetFormat::Tar).then(|| Keys::new(new_keys)),
            sink: None,
            num_rows_in_sink: 0,
            num_shards: 0,
            num_rows: 0,
        }
    }

    pub(super) fn target(&self) -> &'a Target {
        self.target
    }

    /// Writes a row whose images are gathered.
    pub(super) fn push(&mut self, number: usize, mut row: Value, notes: &mut Notes) -> Result<(), Refusal> {
        let mut key = String::new();
        if let Some(keys) = &mut self.keys {
            key = keys.of(number, &mut row)?;
            rename_images(&mut row, self.fields)?;
        }
        match (self.target.images, self.target.format) {
            (ImagePlace::Files, _) => self.put_images(number, &mut row)?,
            (ImagePlace::Inline, TargetFormat::Jsonl) => pictures::encode(&mut row, self.fields)?,
            _ => {}
        }
        let mut sink = match self.sink.take() {
            Some(sink) => sink,
            None => self.open()?,
        };
        let pushed = sink.push(&key, row);
        let is_full = self.num_rows_in_sink + 1 >= self.limits.rows || sink.size_bytes() >= self.limits.bytes;
        self.sink = Some(sink);
        pushed?;
        self.num_rows += 1;
        self.num_rows_in_sink += 1;
        if self.target.is_folder && is_full {
            self.close(notes)?;
        }
        Ok(())
    }

    fn put_images(&mut self, number: usize, row: &mut Value) -> Result<(), Refusal> {
        let (mut place, mut failure) = (0, None);
        let images = &mut self.images;
        let done = pictures::place(row, self.fields, &mut |bytes, path| {
            let put = images.put((number, place), &bytes, path.as_deref());
            place += 1;
            put.map_err(|refusal| match refusal {
                Refusal::Row(problem) => problem,
                Refusal::Failed(error) => {
                    failure = Some(error);
                    RowProblem::Changed
                }
            })
        });
        match failure {
            Some(error) => Err(error.into()),
            None => Ok(done?),
        }
    }

    fn open(&mut self) -> Result<Box<dyn Sink>, ConvertError> {
        let path = match self.target.is_folder {
            true => self.partial.rows.join(partial_name(self.num_shards)),
            false => self.partial.rows.clone(),
        };
        let output = fs::Output::create(&path)?;
        let compression = self.target.compression;
        self.num_shards += 1;
        self.num_rows_in_sink = 0;
        Ok(match self.target.format {
            TargetFormat::Jsonl => Box::new(JsonLines::create(output, compression)?),
            TargetFormat::Parquet => Box::new(ParquetWriter::create(output, self.columns, compression)?),
            TargetFormat::Arrow => Box::new(ArrowWriter::create(output, self.columns, compression)?),
            TargetFormat::Tar => Box::new(TarWriter::create(output)),
        })
    }

    fn close(&mut self, notes: &mut Notes) -> Result<(), ConvertError> {
        if let Some(sink) = self.sink.take() {
            notes.num_lost_names += sink.finish()?;
        }
        Ok(())
    }

    /// Ends the last file and gives all of them their names. Says how many there are, and how many images beside them.
    pub(super) fn finish(mut self, notes: &mut Notes) -> Result<(usize, usize), ConvertError> {
        if self.sink.is_some() && self.num_rows_in_sink == 0 {
            // All that was to come in was wrong.
            self.sink = None;
            self.num_shards -= 1;
            fs::remove_file(&self.partial.rows.join(partial_name(self.num_shards)))?;
        }
        self.close(notes)?;
        if !self.target.is_folder {
            return Ok((1, self.images.num_images));
        }
        let folder = &self.partial.rows;
        let mut names = Vec::with_capacity(self.num_shards);
        for number in 0..self.num_shards {
            let name = self.target.shard_name(number, self.num_shards);
            let path = folder.join(&name);
            fs::rename(&folder.join(partial_name(number)), &path)?;
            if self.target.format == TargetFormat::Tar {
                // Reads the shard, too.
                source::write_index(&path).map_err(|error| failed(&path, error))?;
            }
            names.push(name);
        }
        if self.target.format == TargetFormat::Arrow {
            arrow::describe(folder, &names, self.columns, &self.target.split)?;
        }
        fs::sync_dir(folder)?;
        Ok((self.num_shards, self.images.num_images))
    }
}

fn partial_name(number: usize) -> String {
    format!("{number}.partial")
}
