//! Rows that are longer than a sequence may be.

use super::{
    super::{error::RowProblem, options::TooLong, template::Encoded},
    Place, Row, RowImage,
    encoder::{Encoder, Prepared},
};

impl Encoder {
    /// Leaves out, cuts or refuses a row that is too long; leaves out one with nothing to learn.
    pub(super) fn fit(
        &self,
        mut encoded: Encoded,
        mut images: Vec<RowImage>,
        place: Place,
    ) -> Result<Prepared, RowProblem> {
        let (length, limit) = (self.length(&encoded.tokens), self.sequence_length);
        let truncated = length > limit;
        if truncated {
            match self.too_long {
                TooLong::Drop => return Ok(Prepared::TooLong),
                TooLong::Error => return Err(RowProblem::TooLong { length, limit }),
                TooLong::Truncate => self.truncate(&mut encoded, length)?,
                TooLong::TruncateTurns => match self.truncate_turns(&mut encoded, &mut images) {
                    true => {}
                    false => return Ok(Prepared::TooLong),
                },
            }
        }
        if let Some(limit) = self.max_images.filter(|&limit| images.len() > limit) {
            return Err(RowProblem::TooManyImages {
                images: images.len(),
                limit,
            });
        }
        if encoded.trained.is_empty() {
            return Ok(Prepared::Unlabelled { truncated });
        }
        let row = Row {
            place,
            length: self.length(&encoded.tokens),
            tokens: encoded.tokens.into(),
            trained: encoded.trained.into(),
            images: images.into(),
            image_numbers: [].into(),
            class: None,
        };
        Ok(Prepared::Kept { row, truncated })
    }

    /// Cuts at `sequence_length`. A turn that is cut loses its end token, and none is put in its place: the model
    /// would learn to stop in the middle. Turns before the cut keep theirs.
    fn truncate(&self, encoded: &mut Encoded, length: usize) -> Result<(), RowProblem> {
        let after_image = encoded
            .tokens
            .iter()
            .rposition(|&token| Some(token) == self.image_id);
        let after_image = after_image.map_or(0, |place| place + 1);
        let image_end = self.length(&encoded.tokens[..after_image]);
        let limit = self.sequence_length;
        if image_end > limit {
            return Err(RowProblem::CutsImage {
                length,
                limit,
                image_end,
            });
        }
        // After the last image, a token is a token.
        cut(encoded, after_image + limit - image_end);
        Ok(())
    }

    /// Cuts after the last trained turn that fits, with the images of what is cut off. `false` if none does.
    fn truncate_turns(&self, encoded: &mut Encoded, images: &mut Vec<RowImage>) -> bool {
        let fits = |end: &&usize| self.length(&encoded.tokens[..**end]) <= self.sequence_length;
        let Some(&end) = encoded.ends.iter().rev().find(fits) else {
            return false;
        };
        cut(encoded, end);
        let kept = encoded
            .tokens
            .iter()
            .filter(|&&token| Some(token) == self.image_id);
        images.truncate(kept.count());
        true
    }
}

fn cut(encoded: &mut Encoded, num_kept: usize) {
    encoded.tokens.truncate(num_kept);
    encoded.trained.retain_mut(|range| {
        range.end = range.end.min(num_kept);
        range.start < range.end
    });
    encoded.ends.retain(|end| *end <= num_kept);
}
