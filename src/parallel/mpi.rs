//! Ranks that are processes, by MPI: on the CPUs of one host or of many.
//!
//! Built with the feature `mpi`, against the MPI of the machine.

use mpi::{
    Count, Threading,
    collective::SystemOperation,
    datatype::PartitionMut,
    environment::Universe,
    topology::{Color, SimpleCommunicator},
    traits::{Communicator, CommunicatorCollectives},
};

use super::{CollectiveError, World, engine::Engine};

/// One process of an MPI job. Belongs to the thread that made it.
pub struct Mpi {
    communicator: SimpleCommunicator,
    world: World,
    /// Its rank in the whole job.
    name: usize,
    /// Ends MPI when it goes, so after the communicator; that of the whole job has it.
    _universe: Option<Universe>,
}

impl Mpi {
    /// Joins the job.
    ///
    /// # Errors
    /// If this process has joined before.
    pub fn join() -> Result<Self, CollectiveError> {
        let failed = |reason: &str| CollectiveError::Engine {
            rank: 0,
            reason: reason.to_owned(),
        };
        let (universe, provided) = mpi::initialize_with_threading(Threading::Funneled)
            .ok_or_else(|| failed("MPI is in use by this process already"))?;
        if provided < Threading::Funneled {
            return Err(failed("this MPI cannot be used by a program with threads"));
        }
        let communicator = universe.world();
        let world = place(&communicator).ok_or_else(|| failed("MPI gives no rank"))?;
        Ok(Self {
            communicator,
            world,
            name: world.rank,
            _universe: Some(universe),
        })
    }

    /// MPI counts in 32 bits.
    fn check_len(&self, len: usize) -> Result<Count, CollectiveError> {
        Count::try_from(len).map_err(|_| {
            self.failed(format!(
                "a message of {len} values is too long for MPI; use smaller parallel.bucket_elements"
            ))
        })
    }

    fn failed(&self, reason: String) -> CollectiveError {
        CollectiveError::Engine {
            rank: self.name,
            reason,
        }
    }
}

fn place(communicator: &SimpleCommunicator) -> Option<World> {
    Some(World {
        rank: usize::try_from(communicator.rank()).ok()?,
        size: usize::try_from(communicator.size()).ok()?,
    })
}

impl Engine for Mpi {
    fn world(&self) -> World {
        self.world
    }

    fn all_reduce(&mut self, values: &mut Vec<f32>) -> Result<(), CollectiveError> {
        self.check_len(values.len())?;
        let mut sums = vec![0.0; values.len()];
        self.communicator
            .all_reduce_into(values.as_slice(), sums.as_mut_slice(), SystemOperation::sum());
        *values = sums;
        Ok(())
    }

    fn reduce_scatter(&mut self, values: Vec<f32>) -> Result<Vec<f32>, CollectiveError> {
        self.check_len(values.len())?;
        let mut part = vec![0.0; values.len() / self.world.size];
        self.communicator.reduce_scatter_block_into(
            values.as_slice(),
            part.as_mut_slice(),
            SystemOperation::sum(),
        );
        Ok(part)
    }

    fn all_gather(&mut self, part: Vec<u8>) -> Result<Vec<u8>, CollectiveError> {
        self.check_len(part.len())?;
        let mut whole = vec![0; part.len() * self.world.size];
        self.communicator
            .all_gather_into(part.as_slice(), whole.as_mut_slice());
        Ok(whole)
    }

    fn exchange(&mut self, part: Vec<u8>) -> Result<Vec<Vec<u8>>, CollectiveError> {
        let own = self.check_len(part.len())?;
        let mut counts: Vec<Count> = vec![0; self.world.size];
        self.communicator.all_gather_into(&own, counts.as_mut_slice());
        let lens: Vec<usize> = counts
            .iter()
            .map(|&count| count.unsigned_abs() as usize)
            .collect();
        self.check_len(lens.iter().sum())?;
        // Open MPI refuses to gather nothing at all.
        if lens.iter().all(|&len| len == 0) {
            return Ok(vec![Vec::new(); lens.len()]);
        }
        let starts: Vec<Count> = counts
            .iter()
            .scan(0, |start, count| {
                let this = *start;
                *start += count;
                Some(this)
            })
            .collect();
        let mut all = vec![0; lens.iter().sum()];
        let mut parts = PartitionMut::new(&mut all[..], counts, starts);
        self.communicator
            .all_gather_varcount_into(part.as_slice(), &mut parts);
        let mut rest = all.as_slice();
        let split = lens.into_iter().map(|len| {
            let (part, after) = rest.split_at(len);
            rest = after;
            part.to_vec()
        });
        Ok(split.collect())
    }

    fn split(&mut self, colour: usize) -> Result<Box<dyn Engine>, CollectiveError> {
        let failed = || self.failed("MPI gives no group of ranks".to_owned());
        let colour = i32::try_from(colour).map_err(|_| failed())?;
        let communicator = self.communicator.split_by_color(Color::with_value(colour));
        let communicator = communicator.ok_or_else(failed)?;
        Ok(Box::new(Self {
            world: place(&communicator).ok_or_else(failed)?,
            communicator,
            name: self.name,
            _universe: None,
        }))
    }

    /// Nothing: when one process ends with an error, `mpirun` and `srun` end the others.
    fn abort_handle(&self) -> Box<dyn Fn(&str) + Send + Sync> {
        Box::new(|_| ())
    }
}
