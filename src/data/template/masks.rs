//! Which of a conversation is trained.

use super::super::rows::{Message, Role};

/// Which ends of turns are trained. The end of a turn is the special token that follows its text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TrainEos {
    /// Those of every turn.
    All,
    /// Those of trained turns.
    Turn,
    /// That of the last trained turn.
    Last,
    /// None: the model does not learn to stop.
    None,
}

/// Which of a conversation is trained. Images, padding and headers of turns never are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Masks {
    /// Roles whose turns are trained, unless a turn says otherwise itself.
    pub roles: Vec<Role>,
    /// Which ends of turns are; left out: those of trained turns, and where the template marks what is trained with
    /// `{% generation %}`, exactly what it marks.
    pub eos: Option<TrainEos>,
}

impl Default for Masks {
    fn default() -> Self {
        Self {
            roles: vec![Role::Assistant],
            eos: None,
        }
    }
}

impl Masks {
    /// Whether a turn is trained.
    pub(in crate::data) fn train(&self, message: &Message) -> bool {
        message
            .train
            .unwrap_or_else(|| self.roles.contains(&message.role))
    }
}
