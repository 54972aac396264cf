//! Rows that are longer than a sequence may be.

use super::{
    super::{batch::Class, classified::ClassOptions, error::RowProblem, options::TooLong},
    Place, Row,
    encoder::{Draft, Encoder, Prepared},
};

impl Encoder {
    /// Leaves out, cuts or refuses a row that is too long; leaves out one with nothing to learn.
    pub(super) fn fit(&self, mut draft: Draft, place: Place) -> Result<Prepared, RowProblem> {
        let (length, limit) = (self.length(&draft.tokens), self.sequence_length);
        let truncated = length > limit;
        if truncated {
            match (self.too_long, draft.class) {
                (TooLong::Drop, _) => return Ok(Prepared::TooLong),
                (TooLong::Error, _) => return Err(RowProblem::TooLong { length, limit }),
                (TooLong::TruncateTurns, None) => match self.truncate_turns(&mut draft) {
                    true => {}
                    false => return Ok(Prepared::TooLong),
                },
                (TooLong::Truncate | TooLong::TruncateTurns, _) => self.truncate(&mut draft, length)?,
            }
        }
        let num_images = draft.images.len();
        if let Some(limit) = self.max_images.filter(|&limit| num_images > limit) {
            return Err(RowProblem::TooManyImages {
                images: num_images,
                limit,
            });
        }
        if draft.trained.is_empty() && draft.class.is_none() {
            return Ok(Prepared::Unlabelled { truncated });
        }
        let weighted = |(class, options): (usize, &ClassOptions)| Class {
            id: class as i32,
            weight: options.weight(class),
        };
        let row = Row {
            place,
            length: self.length(&draft.tokens),
            tokens: draft.tokens,
            trained: draft.trained.into(),
            images: draft.images.into(),
            image_numbers: [].into(),
            class: draft.class.zip(self.classes.as_ref()).map(weighted),
        };
        Ok(Prepared::Kept { row, truncated })
    }

    /// Cuts at `sequence_length`. A turn that is cut loses its end token, and none is put in its place: the model
    /// would learn to stop in the middle. Turns before the cut keep theirs.
    fn truncate(&self, draft: &mut Draft, length: usize) -> Result<(), RowProblem> {
        let after_image = draft
            .tokens
            .iter()
            .rposition(|&token| Some(token) == self.image_id);
        let after_image = after_image.map_or(0, |place| place + 1);
        let image_end = self.length(&draft.tokens[..after_image]);
        let limit = self.sequence_length;
        if image_end > limit {
            return Err(RowProblem::CutsImage {
                length,
                limit,
                image_end,
            });
        }
        // After the last image, a token is a token.
        cut(draft, after_image + limit - image_end);
        Ok(())
    }

    /// Cuts after the last trained turn that fits, with the images of what is cut off. `false` if none does.
    fn truncate_turns(&self, draft: &mut Draft) -> bool {
        let fits = |end: &&usize| self.length(&draft.tokens[..**end]) <= self.sequence_length;
        let Some(&end) = draft.ends.iter().rev().find(fits) else {
            return false;
        };
        cut(draft, end);
        let is_image = |token: &&u32| Some(**token) == self.image_id;
        let num_images = draft.tokens.iter().filter(is_image).count();
        draft.images.truncate(num_images);
        true
    }
}

fn cut(draft: &mut Draft, num_kept: usize) {
    draft.tokens = draft.tokens.slice(0, num_kept);
    draft.trained.retain_mut(|range| {
        range.end = range.end.min(num_kept);
        range.start < range.end
    });
}
