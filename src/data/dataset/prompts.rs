//! Questions of held-out rows.

use super::{
    super::{
        batch::{PixelImage, SampleId},
        error::DataError,
        rows::{self, Conversation, Message, Role},
        template::encode_prompt,
    },
    Dataset,
};

/// A question to be answered: the conversation up to the header of an assistant turn, with the reference's earlier
/// answers.
#[derive(Debug, Clone, PartialEq)]
pub struct Prompt {
    /// The row.
    pub sample: SampleId,
    /// Which of the row's assistant turns, from 0.
    pub turn: usize,
    /// Token ids, each image as its copies of the image token; the answer's first token comes next.
    pub input_ids: Vec<i32>,
    /// Images of the conversation so far, in the order of their placeholders.
    pub images: Vec<PixelImage>,
    /// Text of the last user turn, without placeholders.
    pub question: String,
    /// The answer in the row.
    pub reference: String,
    /// The row's tag for this turn: the group in which accuracy is counted.
    pub tag: Option<String>,
}

impl Dataset {
    /// One prompt for each assistant turn of a row; `index < len()`. Rows that are no conversation have none.
    ///
    /// Turns whose prompt alone fills `sequence_length`, in a row that was cut, are left out, and so are turns with images
    /// that were cut off.
    ///
    /// # Errors
    /// [`DataError::SampleImage`] if an image cannot be read or decoded; [`DataError::Rows`] if the file was changed
    /// since it was opened.
    pub fn prompts(&self, index: usize) -> Result<Vec<Prompt>, DataError> {
        let row = &self.rows[index];
        let sample = self.sample_at(row.place);
        let source = &self.sources[row.place.source as usize];
        let parsed = source.parse(row.place, &self.encoder);
        let rows::Row::Chat(whole) = parsed.map_err(self.row_error(row.place))? else {
            return Ok(Vec::new());
        };
        let images = self.images(row, |_| true)?;
        let answers = whole
            .messages
            .iter()
            .enumerate()
            .filter(|(_, message)| message.role == Role::Assistant);
        let mut prompts = Vec::with_capacity(whole.tags.len());
        for ((turn, (place, answer)), tag) in answers.enumerate().zip(&whole.tags) {
            let before = Conversation {
                messages: whole.messages[..place].to_vec(),
                tools: whole.tools.clone(),
                ..Conversation::default()
            };
            let num_images = before.messages.iter().map(Message::num_images).sum::<usize>();
            if num_images > images.len() && self.encoder.images.is_some() {
                break;
            }
            let input_ids = encode_prompt(
                &self.encoder.tokenizer,
                &self.encoder.template,
                &before,
                self.encoder.num_image_tokens(),
            )?;
            if input_ids.len() >= self.encoder.sequence_length {
                break;
            }
            let mut asked = before.messages.iter().rev();
            let question = asked.find(|message| message.role == Role::User);
            prompts.push(Prompt {
                sample: sample.clone(),
                turn,
                input_ids,
                images: images.iter().take(num_images).cloned().collect(),
                question: question.map(Message::text).unwrap_or_default(),
                reference: answer.text(),
                tag: tag.clone(),
            });
        }
        Ok(prompts)
    }
}
