//! All rows of a data set in their order, read on all cores within bounded memory.

use std::{
    path::Path,
    sync::atomic::{AtomicUsize, Ordering},
};

use rayon::prelude::*;

use super::{
    super::{
        batch::SampleId,
        error::{DataError, RowError, RowProblem},
        source::Rows,
        value::Value,
    },
    columns::size_bytes,
    error::{ConvertError, Refusal},
};

/// Rows that are in memory at once take about so much.
const MEMORY_BYTES: usize = 64 << 20;
const MAX_ROWS: usize = 1024;
const FIRST_ROWS: usize = 16;

/// The rows to convert.
pub(super) struct Source<'a> {
    opened: &'a [Box<dyn Rows>],
    /// First row of each file, and the number of rows.
    starts: Vec<usize>,
    pub(super) num_rows: usize,
    max_bad_rows: usize,
    memory_bytes: usize,
    /// Rows that are left out.
    pub(super) bad: Vec<RowError>,
}

impl<'a> Source<'a> {
    pub(super) fn new(opened: &'a [Box<dyn Rows>], limit: Option<usize>, max_bad_rows: usize) -> Self {
        let mut starts = vec![0];
        for rows in opened {
            starts.push(starts.last().copied().unwrap_or(0) + rows.len());
        }
        let num_rows = starts.last().copied().unwrap_or(0);
        Self {
            opened,
            starts,
            num_rows: limit.map_or(num_rows, |limit| limit.min(num_rows)),
            max_bad_rows,
            memory_bytes: MEMORY_BYTES,
            bad: Vec::new(),
        }
    }

    fn place(&self, number: usize) -> (&'a dyn Rows, usize) {
        let file = self.starts.partition_point(|&start| start <= number) - 1;
        (self.opened[file].as_ref(), number - self.starts[file])
    }

    fn sample(&self, number: usize) -> SampleId {
        let (rows, index) = self.place(number);
        SampleId {
            file: rows.path().clone(),
            line: rows.line(index),
        }
    }

    /// Reads every row, lets `work` do with it what can be done on any thread (it is told the folder from which paths
    /// start), and gives it to `take` in the order of the rows.
    pub(super) fn each<T: Send>(
        &mut self,
        work: impl Fn(&mut Value, &Path) -> Result<T, RowProblem> + Sync,
        progress: &dyn Fn(usize, usize),
        mut take: impl FnMut(usize, &SampleId, Value, T) -> Result<(), Refusal>,
    ) -> Result<(), ConvertError> {
        let known_bad: Vec<SampleId> = self.bad.iter().map(|bad| bad.sample.clone()).collect();
        let (mut next, mut at_once) = (0, FIRST_ROWS);
        while next < self.num_rows {
            let end = self.num_rows.min(next + at_once);
            let used = AtomicUsize::new(0);
            let read = |number: usize| {
                // Rows much larger than those before: another time.
                if used.load(Ordering::Relaxed) > self.memory_bytes {
                    return None;
                }
                let (rows, index) = self.place(number);
                let done = rows.read(index).and_then(|mut row| {
                    if row.as_object().is_none() {
                        return Err(RowProblem::expected("the row", "an object", &row));
                    }
                    let done = work(&mut row, rows.path().parent().unwrap_or(Path::new("")))?;
                    used.fetch_add(size_bytes(&row), Ordering::Relaxed);
                    Ok((row, done))
                });
                Some(done)
            };
            let done: Vec<_> = (next..end).into_par_iter().map(read).collect();
            let mut num_done = 0;
            for (number, done) in (next..).zip(done) {
                // Later ones may be there; they are read again.
                let Some(done) = done else { break };
                num_done += 1;
                let sample = self.sample(number);
                if known_bad.contains(&sample) {
                    continue;
                }
                match done
                    .map_err(Refusal::Row)
                    .and_then(|(row, done)| take(number, &sample, row, done))
                {
                    Ok(()) => {}
                    Err(Refusal::Row(problem)) => self.refuse(RowError { sample, problem })?,
                    Err(Refusal::Failed(error)) => return Err(error),
                }
            }
            next += num_done;
            let row_bytes = used.into_inner() / num_done.max(1);
            at_once = (self.memory_bytes / 2 / row_bytes.max(1)).clamp(1, MAX_ROWS);
            progress(next, self.num_rows);
        }
        Ok(())
    }

    fn refuse(&mut self, bad: RowError) -> Result<(), ConvertError> {
        self.bad.push(bad);
        if self.bad.len() <= self.max_bad_rows {
            return Ok(());
        }
        let count = self.bad.len();
        let first = Box::new(self.bad.swap_remove(0));
        match self.max_bad_rows {
            0 => Err(DataError::Rows { first, more: 0 }.into()),
            limit => Err(ConvertError::TooManyBadRows { count, limit, first }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::super::source::{Cache, Selection, open_all},
        *,
    };

    #[test]
    fn rows_of_any_size_come_once_and_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rows.jsonl");
        let row = |number: usize| {
            // The first ones are small, so that many of the large ones are tried at once.
            let length = if number < 300 { 1 } else { 4000 };
            format!("{{\"n\": {number}, \"x\": \"{}\"}}\n", "x".repeat(length))
        };
        let rows: String = (0..600).map(row).collect();
        crate::fs::write_durable(&path, rows.as_bytes()).unwrap();
        let opened = open_all(&Selection::of(&path), &Cache::default()).unwrap();
        for memory_bytes in [1, 20_000, 1 << 30] {
            let mut source = Source::new(&opened, Some(599), 0);
            source.memory_bytes = memory_bytes;
            let mut seen = Vec::new();
            let take = |number: usize, sample: &SampleId, row: Value, ()| {
                assert_eq!(
                    (sample.line, row.get("n")),
                    (number + 1, Some(&Value::Int(number as i64)))
                );
                seen.push(number);
                Ok(())
            };
            assert!(source.each(|_, _| Ok(()), &|_, _| {}, take).is_ok());
            assert_eq!(seen, (0..599).collect::<Vec<_>>());
        }
    }
}
