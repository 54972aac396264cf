//! The name of a device, as configuration and command line spell it. What exists on this machine, `device` knows.

use std::{fmt, str::FromStr};

use thiserror::Error;

/// Which device to compute on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DeviceChoice {
    /// The first of cuda, wgpu, flex and ndarray that is compiled in and present.
    Auto,
    /// An NVIDIA GPU.
    Cuda {
        /// Which one, from 0.
        index: usize,
    },
    /// A GPU through Vulkan, Metal or DirectX.
    Wgpu,
    /// The CPU, by Burn's own kernels.
    Flex,
    /// The CPU, by the `ndarray` crate.
    Ndarray,
}

impl DeviceChoice {
    /// The device of one of the ranks of a host: each has a GPU of its own.
    #[must_use]
    pub fn of_rank(self, local_rank: usize) -> Self {
        match self {
            Self::Cuda { index } => Self::Cuda {
                index: index + local_rank,
            },
            other => other,
        }
    }
}

/// A name that is no device's.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("no device is called {name}: expected auto, cuda, cuda:<index>, wgpu, flex or ndarray")]
pub struct UnknownDevice {
    /// The name.
    pub name: String,
}

impl FromStr for DeviceChoice {
    type Err = UnknownDevice;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        match name {
            "auto" => return Ok(Self::Auto),
            "cuda" => return Ok(Self::Cuda { index: 0 }),
            "wgpu" => return Ok(Self::Wgpu),
            "flex" => return Ok(Self::Flex),
            "ndarray" => return Ok(Self::Ndarray),
            _ => {}
        }
        let index = name.strip_prefix("cuda:").and_then(|index| index.parse().ok());
        index
            .map(|index| Self::Cuda { index })
            .ok_or_else(|| UnknownDevice {
                name: name.to_owned(),
            })
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cuda { index } => write!(f, "cuda:{index}"),
            Self::Wgpu => f.write_str("wgpu"),
            Self::Flex => f.write_str("flex"),
            Self::Ndarray => f.write_str("ndarray"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_written() {
        for (name, choice) in [
            ("auto", DeviceChoice::Auto),
            ("cuda:0", DeviceChoice::Cuda { index: 0 }),
            ("cuda:3", DeviceChoice::Cuda { index: 3 }),
            ("wgpu", DeviceChoice::Wgpu),
            ("flex", DeviceChoice::Flex),
            ("ndarray", DeviceChoice::Ndarray),
        ] {
            assert_eq!(name.parse(), Ok(choice));
            assert_eq!(choice.to_string(), name);
        }
        assert_eq!("cuda".parse(), Ok(DeviceChoice::Cuda { index: 0 }));
        for name in ["", "gpu", "cuda:", "cuda:x", "CUDA", "cuda:-1"] {
            assert_eq!(
                name.parse::<DeviceChoice>(),
                Err(UnknownDevice {
                    name: name.to_owned()
                })
            );
        }
    }
}
