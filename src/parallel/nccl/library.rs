//! NCCL's functions, found in the library when they are needed: a build needs neither it nor its headers.
//!
//! Declarations follow NCCL's reference
//! (<https://docs.nvidia.com/deeplearning/nccl/user-guide/docs/api.html>); all are there since NCCL 2.4, bf16 since 2.10.
#![expect(unsafe_code, reason = "a C library")]

use std::{
    error::Error,
    ffi::{CStr, c_char, c_int, c_void},
    mem::MaybeUninit,
    sync::Arc,
};

use libloading::Library as Shared;

/// `libnccl2` and pip's wheel have the first name alone; a development package has both.
const NAMES: [&str; 2] = ["libnccl.so.2", "libnccl.so"];

/// Names a communicator to all of its ranks; `ncclUniqueId`.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct UniqueId(pub(super) [u8; UniqueId::BYTES]);

impl UniqueId {
    pub(super) const BYTES: usize = 128;
}

/// `ncclComm_t`
pub(super) type Comm = *mut c_void;
/// `cudaStream_t`
pub(super) type RawStream = *mut c_void;
/// `ncclResult_t`
pub(super) type Status = c_int;

const SUCCESS: Status = 0;
/// The operation goes on, of a communicator that does not wait.
const IN_PROGRESS: Status = 7;
/// `ncclSum`
const SUM: c_int = 0;

macro_rules! functions {
    ($($(#[$about:meta])* $name:ident = $symbol:literal: fn($($arg:ty),*) -> $out:ty;)*) => {
        /// Addresses of the functions; tests have others.
        #[derive(Clone, Copy)]
        pub(super) struct Functions {
            $($(#[$about])* pub(super) $name: unsafe extern "C" fn($($arg),*) -> $out,)*
        }

        impl Functions {
            fn find(library: &Shared) -> Result<Self, libloading::Error> {
                Ok(Self {
                    // SAFETY: the types are those of NCCL's header.
                    $($name: unsafe { *library.get($symbol)? },)*
                })
            }
        }
    };
}

functions! {
    get_version = b"ncclGetVersion": fn(*mut c_int) -> Status;
    get_unique_id = b"ncclGetUniqueId": fn(*mut UniqueId) -> Status;
    /// Communicator, ranks, id, rank.
    comm_init_rank = b"ncclCommInitRank": fn(*mut Comm, c_int, UniqueId, c_int) -> Status;
    comm_abort = b"ncclCommAbort": fn(Comm) -> Status;
    comm_get_async_error = b"ncclCommGetAsyncError": fn(Comm, *mut Status) -> Status;
    get_error_string = b"ncclGetErrorString": fn(Status) -> *const c_char;
    /// From, to, values, dtype, reduction, communicator, stream.
    all_reduce = b"ncclAllReduce": fn(*const c_void, *mut c_void, usize, c_int, c_int, Comm, RawStream) -> Status;
    /// From, to, values of a part, dtype, reduction, communicator, stream.
    reduce_scatter = b"ncclReduceScatter": fn(*const c_void, *mut c_void, usize, c_int, c_int, Comm, RawStream) -> Status;
    /// From, to, values of a part, dtype, communicator, stream.
    all_gather = b"ncclAllGather": fn(*const c_void, *mut c_void, usize, c_int, Comm, RawStream) -> Status;
}

/// NCCL.
pub struct Library {
    functions: Functions,
    /// Where the functions are; none in tests.
    _shared: Option<Shared>,
}

impl Library {
    /// Looks for NCCL where the dynamic linker looks.
    ///
    /// # Errors
    /// If it is not there, or is not NCCL.
    pub fn open() -> Result<Arc<Self>, String> {
        Self::open_any(&NAMES)
    }

    pub(super) fn open_any(names: &[&str]) -> Result<Arc<Self>, String> {
        let mut failed = String::new();
        for name in names {
            // SAFETY: what NCCL runs when it is loaded is what any program that links it runs.
            match unsafe { Shared::new(*name) } {
                Ok(shared) => {
                    let functions = Functions::find(&shared);
                    let functions = functions.map_err(|error| format!("{name}: {}", in_full(&error)))?;
                    return Ok(Arc::new(Self {
                        functions,
                        _shared: Some(shared),
                    }));
                }
                Err(error) => failed = format!("{failed}\n  {}", in_full(&error)),
            }
        }
        Err(format!("NCCL is not there:{failed}"))
    }

    #[cfg(test)]
    pub(super) fn of(functions: Functions) -> Arc<Self> {
        Arc::new(Self {
            functions,
            _shared: None,
        })
    }

    /// As `22703` for 2.27.3.
    ///
    /// # Errors
    /// What NCCL says.
    pub fn version(&self) -> Result<u32, String> {
        let mut version = 0;
        // SAFETY: the address is that of an int.
        self.check(unsafe { (self.functions.get_version)(&raw mut version) })?;
        Ok(version.unsigned_abs())
    }

    pub(super) fn unique_id(&self) -> Result<UniqueId, String> {
        let mut id = MaybeUninit::uninit();
        // SAFETY: the address is that of an id, which is there after a success.
        unsafe {
            self.check((self.functions.get_unique_id)(id.as_mut_ptr()))?;
            Ok(id.assume_init())
        }
    }

    fn check(&self, status: Status) -> Result<(), String> {
        if matches!(status, SUCCESS | IN_PROGRESS) {
            return Ok(());
        }
        // SAFETY: NCCL's strings are constants.
        let words = unsafe {
            let words = (self.functions.get_error_string)(status);
            (!words.is_null()).then(|| CStr::from_ptr(words).to_string_lossy())
        };
        Err(format!(
            "NCCL says: {} (ncclResult_t {status})",
            words.unwrap_or_default()
        ))
    }
}

fn in_full(error: &libloading::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

/// Ranks that NCCL has joined; `None` once it has been given up.
pub(super) struct Communicator {
    library: Arc<Library>,
    raw: Option<Comm>,
}

/// What NCCL is told of an operation.
pub(super) struct Call {
    pub(super) from: u64,
    pub(super) to: u64,
    /// Values that go, of an all-reduce; of a part, of the others.
    pub(super) count: usize,
    /// `ncclDataType_t`
    pub(super) dtype: c_int,
    pub(super) stream: RawStream,
}

impl Communicator {
    /// Waits for all `size` ranks.
    pub(super) fn join(
        library: Arc<Library>,
        id: UniqueId,
        size: usize,
        rank: usize,
    ) -> Result<Self, String> {
        let mut raw = std::ptr::null_mut();
        // SAFETY: the address is that of a communicator, and the id is one that NCCL has made.
        library.check(unsafe {
            (library.functions.comm_init_rank)(&raw mut raw, size as c_int, id, rank as c_int)
        })?;
        Ok(Self {
            library,
            raw: Some(raw),
        })
    }

    fn raw(&self) -> Result<Comm, String> {
        self.raw
            .ok_or_else(|| "the ranks were given up before".to_owned())
    }

    pub(super) fn all_reduce(&self, call: &Call) -> Result<(), String> {
        let (raw, run) = (self.raw()?, self.library.functions.all_reduce);
        let (from, to) = (call.from as *const c_void, call.to as *mut c_void);
        // SAFETY: whoever calls gives addresses of device memory of this length that stays there.
        self.library
            .check(unsafe { run(from, to, call.count, call.dtype, SUM, raw, call.stream) })
    }

    pub(super) fn reduce_scatter(&self, call: &Call) -> Result<(), String> {
        let (raw, run) = (self.raw()?, self.library.functions.reduce_scatter);
        let (from, to) = (call.from as *const c_void, call.to as *mut c_void);
        // SAFETY: whoever calls gives addresses of device memory of these lengths that stays there.
        self.library
            .check(unsafe { run(from, to, call.count, call.dtype, SUM, raw, call.stream) })
    }

    pub(super) fn all_gather(&self, call: &Call) -> Result<(), String> {
        let (raw, run) = (self.raw()?, self.library.functions.all_gather);
        let (from, to) = (call.from as *const c_void, call.to as *mut c_void);
        // SAFETY: whoever calls gives addresses of device memory of these lengths that stays there.
        self.library
            .check(unsafe { run(from, to, call.count, call.dtype, raw, call.stream) })
    }

    /// What has gone wrong since an operation was begun.
    pub(super) fn check(&self) -> Result<(), String> {
        let (raw, mut status) = (self.raw()?, SUCCESS);
        // SAFETY: the address is that of a status.
        self.library
            .check(unsafe { (self.library.functions.comm_get_async_error)(raw, &raw mut status) })?;
        self.library.check(status)
    }

    /// Ends what is under way.
    pub(super) fn abort(&mut self) {
        if let Some(raw) = self.raw.take() {
            // SAFETY: it is a communicator, and nobody has it any longer. That it cannot be ended changes nothing: the run is
            // over.
            let _ = unsafe { (self.library.functions.comm_abort)(raw) };
        }
    }
}

impl Drop for Communicator {
    /// Operations have ended, or a rank has failed: `ncclCommDestroy` would wait for all.
    fn drop(&mut self) {
        self.abort();
    }
}
