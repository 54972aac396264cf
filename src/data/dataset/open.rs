//! Reading every row once.

use std::ops::Range;

use rayon::prelude::*;

use super::{
    super::{
        error::{DataError, RowError},
        options::{BadRows, DataOptions},
        rows,
    },
    DatasetReport, Place, Row, Source, drafts,
    encoder::{self, Encoder},
};

/// Rows in the order of the files.
pub(super) struct Prepared {
    pub(super) rows: Vec<Row>,
    pub(super) report: DatasetReport,
    pub(super) bad_rows: Vec<RowError>,
    pub(super) has_conversations: bool,
    /// See [`drafts::Drafts`].
    pub(super) not_kept: Option<DataError>,
}

/// Reads and encodes all rows, on all cores.
pub(super) fn prepare_all(
    sources: &[Source],
    encoder: &Encoder,
    options: &DataOptions,
) -> Result<Prepared, DataError> {
    let policy = options.bad_rows;
    let has_conversations = has_conversation(sources, encoder);
    if has_conversations {
        encoder.check_template()?;
    }
    let drafts::Drafts {
        rows: drafts,
        not_kept,
    } = drafts::of(sources, encoder, options);
    let prepared: Vec<Result<encoder::Prepared, RowError>> = drafts
        .into_par_iter()
        .map(|(place, draft)| {
            let fitting = draft.and_then(|draft| encoder.fit(draft, place));
            fitting.map_err(|problem| RowError {
                sample: sources[place.source as usize].sample(place),
                problem,
            })
        })
        .collect();
    let num_bad = prepared.iter().filter(|prepared| prepared.is_err()).count();
    let mut report = DatasetReport {
        rows: prepared.len(),
        bad: num_bad,
        ..DatasetReport::default()
    };
    let (mut rows, mut bad_rows) = (Vec::with_capacity(prepared.len()), Vec::new());
    for prepared in prepared {
        match (prepared, policy) {
            (Err(first), BadRows::Error) => {
                return Err(DataError::Rows {
                    first: Box::new(first),
                    more: num_bad - 1,
                });
            }
            (Err(first), BadRows::Skip { limit }) if num_bad > limit => {
                return Err(DataError::TooManyBadRows {
                    count: num_bad,
                    limit,
                    first: Box::new(first),
                });
            }
            (Err(bad), BadRows::Skip { .. } | BadRows::List) => bad_rows.push(bad),
            (Ok(encoder::Prepared::TooLong), _) => report.dropped += 1,
            (Ok(encoder::Prepared::Unlabelled { truncated }), _) => {
                report.unlabelled += 1;
                report.truncated += usize::from(truncated);
            }
            (Ok(encoder::Prepared::Kept { row, truncated }), _) => {
                report.truncated += usize::from(truncated);
                count(&mut report, &row);
                rows.push(row);
            }
        }
    }
    Ok(Prepared {
        rows,
        report,
        bad_rows,
        has_conversations,
        not_kept,
    })
}

/// Whether the template is needed: a data set of texts has no use for one. The first row that can be read tells for its
/// source.
fn has_conversation(sources: &[Source], encoder: &Encoder) -> bool {
    let is_conversation = |(number, source): (usize, &Source)| {
        let mut rows = (0..source.rows.len()).filter_map(|index| {
            let place = Place {
                source: number as u32,
                index: index as u32,
            };
            source.parse(place, encoder).ok()
        });
        matches!(rows.next(), Some(rows::Row::Chat(_)))
    };
    encoder.classes.is_none() && sources.iter().enumerate().any(is_conversation)
}

fn count(report: &mut DatasetReport, row: &Row) {
    report.kept += 1;
    report.images += row.images.len();
    report.tokens += row.length;
    report.labelled_tokens += match row.class {
        Some(_) => 1,
        None => row.trained.iter().map(Range::len).sum::<usize>(),
    };
    report.longest = report.longest.max(row.length);
}
