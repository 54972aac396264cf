//! What an engine does: the operations between ranks, on host memory, blocking.

use super::{CollectiveError, World};

/// Moves numbers between ranks. Every rank calls the same operations with the same lengths in the same order, from one
/// thread; each call returns when this rank has its result.
///
/// Sums are the same bits on every rank, and the same from run to run with the same number of ranks.
pub trait Engine {
    /// This rank among all.
    fn world(&self) -> World;

    /// Sums over ranks, in place.
    ///
    /// # Errors
    /// If a rank is missing, has failed, or does something else.
    fn all_reduce(&mut self, values: &mut Vec<f32>) -> Result<(), CollectiveError>;

    /// Sums over ranks, of which each keeps its own part of `world.size` equal ones.
    ///
    /// # Errors
    /// As [`Engine::all_reduce`].
    fn reduce_scatter(&mut self, values: Vec<f32>) -> Result<Vec<f32>, CollectiveError>;

    /// The parts of all ranks, equally long, one after the other.
    ///
    /// # Errors
    /// As [`Engine::all_reduce`].
    fn all_gather(&mut self, part: Vec<u8>) -> Result<Vec<u8>, CollectiveError>;

    /// What each rank gives, of any length; for a few numbers and words.
    ///
    /// # Errors
    /// As [`Engine::all_reduce`].
    fn exchange(&mut self, part: Vec<u8>) -> Result<Vec<Vec<u8>>, CollectiveError>;

    /// An engine of those ranks that give the same `colour` as this one, in the order of their ranks. All ranks of this engine
    /// have to ask together. It must go before this one does.
    ///
    /// # Errors
    /// As [`Engine::all_reduce`].
    fn split(&mut self, colour: usize) -> Result<Box<dyn Engine>, CollectiveError>;

    /// Whether a rank has failed, as far as this one has heard of it; does not wait.
    ///
    /// # Errors
    /// If one has.
    fn check(&mut self) -> Result<(), CollectiveError> {
        Ok(())
    }

    /// Tells the others, as far as that is possible, that this rank has failed.
    fn abort_handle(&self) -> Box<dyn Fn(&str) + Send + Sync>;
}
