//! The processes of a run and their places in it.

mod device;
mod engine;
mod error;
mod grid;
mod group;
mod launch;
#[cfg(feature = "mpi")]
mod mpi;
mod nccl;
mod nodelist;
mod tcp;
mod threads;

pub use device::{Collective, DeviceDtype, DeviceEngine, DeviceSpans, Devices};
pub use engine::Engine;
pub use error::CollectiveError;
pub use grid::Grid;
pub use group::{Group, Pending};
pub use launch::{Launch, LaunchError, Launcher};
#[cfg(feature = "mpi")]
pub use mpi::Mpi;
pub use nccl::{Library as NcclLibrary, Nccl, Stream, dotted as nccl_version};
pub use nodelist::{NodeListError, node_list};
pub use tcp::Tcp;
pub use threads::Threads;

/// This process among those of the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct World {
    /// This process, from 0.
    pub rank: usize,
    /// Number of processes.
    pub size: usize,
}

impl World {
    /// One process by itself.
    pub const ALONE: Self = Self { rank: 0, size: 1 };

    /// This process among those that hold one model together, `tensor` neighbours.
    #[must_use]
    pub fn of_tensor(self, tensor: usize) -> Self {
        Self {
            rank: self.rank % tensor,
            size: tensor,
        }
    }

    /// Its model among the copies of the model.
    #[must_use]
    pub fn of_data(self, tensor: usize) -> Self {
        Self {
            rank: self.rank / tensor,
            size: self.size / tensor,
        }
    }
}
