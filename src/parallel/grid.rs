//! Ranks of which several hold one model together.

use std::sync::Arc;

use super::{CollectiveError, Group};

/// The ranks of a run in rows and columns: those of a row, which are neighbours, hold one model together and see the same
/// batches; those of a column hold the same part of it and see different ones.
pub struct Grid {
    /// All.
    pub world: Arc<Group>,
    /// The column of this rank.
    pub data: Arc<Group>,
    /// Its row.
    pub tensor: Arc<Group>,
}

impl Grid {
    /// Arranges ranks in rows of `tensor`. All of them have to ask together.
    ///
    /// # Errors
    /// If they do not divide into such rows, or one is missing or has failed.
    pub fn new(world: Arc<Group>, tensor: usize) -> Result<Self, CollectiveError> {
        let place = world.world();
        if tensor == 0 || !place.size.is_multiple_of(tensor) {
            return Err(CollectiveError::Engine {
                rank: place.rank,
                reason: format!("{} ranks do not divide into groups of {tensor}", place.size),
            });
        }
        if tensor == 1 {
            return Ok(Self {
                data: world.clone(),
                tensor: Arc::new(Group::alone()),
                world,
            });
        }
        Ok(Self {
            data: Arc::new(world.split(place.of_tensor(tensor).rank)?),
            tensor: Arc::new(world.split(place.of_data(tensor).rank)?),
            world,
        })
    }
}
