//! What a cluster is told, and what it has: scripts for SLURM, and a look at a machine.

pub mod doctor;
pub mod slurm;
