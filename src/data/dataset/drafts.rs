//! The encoded rows of all sources: made, or taken from the cache.

use rayon::prelude::*;

use super::{
    super::{
        error::{DataError, RowProblem},
        options::DataOptions,
    },
    Place, Source,
    encoder::{Draft, Encoder},
    kept::{self, Kept},
};

/// A row, or what is wrong with it.
pub(super) type Encoding = Result<Draft, RowProblem>;

/// All rows in the order of the files.
pub(super) struct Drafts {
    pub(super) rows: Vec<(Place, Encoding)>,
    /// Why rows that should be in the cache are not: the next start encodes them again.
    pub(super) not_kept: Option<DataError>,
}

/// All rows. Those that are not in the cache are read and encoded on all cores, and put into it.
pub(super) fn of(sources: &[Source], encoder: &Encoder, options: &DataOptions) -> Drafts {
    let build = options.keep_encoded.and_then(|_| kept::build());
    let find = |source: &Source| match &build {
        Some(build) => Kept::find(source, encoder, options, build),
        None => Ok(None),
    };
    let mut not_kept = None;
    let found: Vec<Result<Option<Kept>, DataError>> = sources.par_iter().map(find).collect();
    let found = found.into_iter().map(|kept| {
        kept.unwrap_or_else(|error| {
            not_kept.get_or_insert(error);
            None
        })
    });
    let kept: Vec<Option<Kept>> = found.collect();
    let held: Vec<Option<Vec<Option<Draft>>>> = kept
        .iter()
        .map(|kept| kept.as_ref().and_then(Kept::load))
        .collect();
    let mut missing = Vec::new();
    for (number, (source, held)) in sources.iter().zip(&held).enumerate() {
        let is_missing = |index: &usize| held.as_ref().is_none_or(|drafts| drafts[*index].is_none());
        missing.extend((0..source.rows.len()).filter(is_missing).map(|index| Place {
            source: number as u32,
            index: index as u32,
        }));
    }
    let mut made = encode(&missing, sources, encoder).into_iter();
    let mut all = Vec::new();
    for (number, ((source, kept), held)) in sources.iter().zip(kept).zip(held).enumerate() {
        let is_new = held.is_none();
        let held = held.unwrap_or_else(|| (0..source.rows.len()).map(|_| None).collect());
        // As many as are missing were made, in the same order.
        let mut encodings: Vec<Encoding> = held
            .into_iter()
            .filter_map(|draft| draft.map(Ok).or_else(|| made.next()))
            .collect();
        if let Some(kept) = kept.filter(|_| is_new) {
            // Another process may have been faster, and what it wrote is in use.
            let mut held = kept.load();
            if held.is_none() {
                match kept.save(&encodings) {
                    Ok(()) => held = kept.load(),
                    Err(error) => _ = not_kept.get_or_insert(error),
                }
            }
            share(&mut encodings, held);
        }
        all.extend(encodings.into_iter().enumerate().map(|(index, encoding)| {
            let place = Place {
                source: number as u32,
                index: index as u32,
            };
            (place, encoding)
        }));
    }
    Drafts { rows: all, not_kept }
}

fn encode(places: &[Place], sources: &[Source], encoder: &Encoder) -> Vec<Encoding> {
    let encode = |place: &Place| {
        let source = &sources[place.source as usize];
        encoder.encode(source.parse(*place, encoder)?, source)
    };
    places.par_iter().map(encode).collect()
}

/// Lets go of tokens that now lie in a file, where the processes of a machine share them.
fn share(encodings: &mut [Encoding], kept: Option<Vec<Option<Draft>>>) {
    for (encoding, kept) in encodings.iter_mut().zip(kept.into_iter().flatten()) {
        if let (Ok(draft), Some(kept)) = (encoding, kept) {
            draft.tokens = kept.tokens;
        }
    }
}
