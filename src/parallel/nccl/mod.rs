//! Devices that reach each other through NVIDIA's NCCL: NVLink, InfiniBand, Slingshot.
//!
//! Ranks join through the engine that stands beside it, which carries NCCL's id. The library is found when it is needed.

mod library;
#[cfg(test)]
mod tests;

use std::{ffi::c_void, rc::Rc, sync::Arc};

use super::{
    CollectiveError, World,
    device::{Collective, DeviceDtype, DeviceEngine, DeviceSpans},
    engine::Engine,
};
pub use library::Library;
use library::{Call, Communicator, UniqueId};

/// Where a device does one thing after the other.
pub trait Stream {
    /// `cudaStream_t`
    fn raw(&self) -> *mut c_void;

    /// Whether it has done all it was given.
    ///
    /// # Errors
    /// What the device says.
    fn is_done(&self) -> Result<bool, String>;
}

/// The device of a rank among those of all ranks. Belongs to the thread that made it.
pub struct Nccl {
    library: Arc<Library>,
    // Goes before the stream that it works on.
    communicator: Communicator,
    stream: Rc<dyn Stream>,
    size: usize,
}

impl Nccl {
    /// Joins the devices of all ranks of `host`, each of which calls this. The device of `stream` has to be the calling thread's
    /// current one.
    ///
    /// # Errors
    /// If a rank is missing, has another version of NCCL, or what NCCL says.
    pub fn join(
        host: &mut dyn Engine,
        library: Arc<Library>,
        stream: Rc<dyn Stream>,
    ) -> Result<Self, CollectiveError> {
        let World { rank, size } = host.world();
        let failed = |reason| CollectiveError::Engine { rank, reason };
        let version = library.version().map_err(failed)?;
        // All are there and fit together before anybody waits where nothing is known of who is missing.
        let versions = host.exchange(version.to_le_bytes().to_vec())?;
        if let Some(other) = versions.iter().position(|other| *other != versions[0]) {
            let read = |bytes: &[u8]| bytes.try_into().map_or(0, u32::from_le_bytes);
            return Err(CollectiveError::Settings {
                what: "the version of NCCL".to_owned(),
                first: dotted(read(&versions[0])),
                rank: other,
                other: dotted(read(&versions[other])),
            });
        }
        let own = match rank {
            0 => library.unique_id().map_err(failed)?.0.to_vec(),
            _ => Vec::new(),
        };
        let ids = host.exchange(own)?;
        let id: [u8; UniqueId::BYTES] = ids[0]
            .as_slice()
            .try_into()
            .map_err(|_| failed("rank 0 gave no id for NCCL".to_owned()))?;
        let communicator = Communicator::join(library.clone(), UniqueId(id), size, rank);
        let communicator = communicator.map_err(|reason| {
            failed(format!(
                "{reason}\n  hint: each rank needs a GPU of its own; NCCL_DEBUG=WARN tells more; parallel.transport: host does \
                 without NCCL"
            ))
        })?;
        Ok(Self {
            library,
            stream,
            communicator,
            size,
        })
    }
}

/// `22703` as `2.27.3`.
pub fn dotted(version: u32) -> String {
    format!("{}.{}.{}", version / 10_000, version / 100 % 100, version % 100)
}

/// `ncclDataType_t`
fn nccl_dtype(dtype: DeviceDtype) -> i32 {
    match dtype {
        DeviceDtype::F32 => 7,
        DeviceDtype::Bf16 => 9,
    }
}

impl DeviceEngine for Nccl {
    fn begin(&mut self, collective: Collective, spans: DeviceSpans) -> Result<(), String> {
        let call = Call {
            from: spans.from,
            to: spans.to,
            count: match collective {
                Collective::ReduceScatter => spans.count / self.size,
                Collective::AllReduce | Collective::AllGather => spans.count,
            },
            dtype: nccl_dtype(spans.dtype),
            stream: self.stream.raw(),
        };
        match collective {
            Collective::AllReduce => self.communicator.all_reduce(&call),
            Collective::ReduceScatter => self.communicator.reduce_scatter(&call),
            Collective::AllGather => self.communicator.all_gather(&call),
        }
    }

    fn is_done(&mut self) -> Result<bool, String> {
        self.communicator.check()?;
        self.stream.is_done()
    }

    fn give_up(&mut self) {
        self.communicator.abort();
    }

    fn split(&mut self, host: &mut dyn Engine) -> Result<Box<dyn DeviceEngine>, CollectiveError> {
        let joined = Self::join(host, self.library.clone(), self.stream.clone())?;
        Ok(Box::new(joined))
    }
}
