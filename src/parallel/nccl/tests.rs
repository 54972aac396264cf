//! Against a stand-in for NCCL whose devices are threads and whose device memory is the host's.
#![expect(unsafe_code, reason = "stands in for a C library")]

use std::{
    collections::HashMap,
    ffi::{c_char, c_int, c_void},
    rc::Rc,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use super::{
    Library, Nccl, Stream,
    library::{Comm, Functions, RawStream, Status, UniqueId},
};
use crate::parallel::{
    Collective, CollectiveError, DeviceDtype, DeviceSpans, Group, Threads, engine::Engine,
};

const PATIENCE: Duration = Duration::from_secs(60);

/// One rank's half of an operation.
struct Half {
    from: usize,
    to: usize,
    count: usize,
    stream: RawStream,
}

// SAFETY: ranks wait for each other before they touch what it points to.
unsafe impl Send for Half {}

impl Half {
    fn new(from: *const c_void, to: *mut c_void, count: usize, stream: RawStream) -> Self {
        Self {
            from: from as usize,
            to: to as usize,
            count,
            stream,
        }
    }
}

/// Ranks that have joined under one id.
struct Ranks {
    halves: Mutex<Vec<Option<Half>>>,
    is_broken: AtomicBool,
}

struct Joined {
    ranks: Arc<Ranks>,
    rank: usize,
}

/// Work that has not ended.
#[derive(Default)]
struct Queue(AtomicUsize);

impl Stream for Queue {
    fn raw(&self) -> *mut c_void {
        (&raw const *self).cast_mut().cast()
    }

    fn is_done(&self) -> Result<bool, String> {
        Ok(self.0.load(Ordering::Acquire) == 0)
    }
}

fn known() -> MutexGuard<'static, HashMap<Vec<u8>, Arc<Ranks>>> {
    static KNOWN: OnceLock<Mutex<HashMap<Vec<u8>, Arc<Ranks>>>> = OnceLock::new();
    let known = KNOWN.get_or_init(Mutex::default);
    known.lock().unwrap_or_else(PoisonError::into_inner)
}

unsafe extern "C" fn version(version: *mut c_int) -> Status {
    unsafe { *version = 22_703 };
    0
}

unsafe extern "C" fn other_version(version: *mut c_int) -> Status {
    unsafe { *version = 21_805 };
    0
}

unsafe extern "C" fn unique_id(id: *mut UniqueId) -> Status {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let mut bytes = [0xa5; UniqueId::BYTES];
    bytes[..8].copy_from_slice(&NEXT.fetch_add(1, Ordering::Relaxed).to_le_bytes());
    unsafe { *id = UniqueId(bytes) };
    0
}

unsafe extern "C" fn init_rank(comm: *mut Comm, size: c_int, id: UniqueId, rank: c_int) -> Status {
    // An id that has lost bytes on its way names nobody.
    if id.0[8..].iter().any(|&byte| byte != 0xa5) {
        return 4;
    }
    let new = || {
        Arc::new(Ranks {
            halves: Mutex::new((0..size).map(|_| None).collect()),
            is_broken: AtomicBool::new(false),
        })
    };
    let ranks = known().entry(id.0.to_vec()).or_insert_with(new).clone();
    let joined = Joined {
        ranks,
        rank: rank as usize,
    };
    unsafe { *comm = Box::into_raw(Box::new(joined)).cast() };
    0
}

unsafe extern "C" fn abort(comm: Comm) -> Status {
    drop(unsafe { Box::from_raw(comm.cast::<Joined>()) });
    0
}

unsafe extern "C" fn async_error(comm: Comm, status: *mut Status) -> Status {
    let joined = unsafe { &*comm.cast::<Joined>() };
    let broken = joined.ranks.is_broken.load(Ordering::Relaxed);
    unsafe { *status = if broken { 6 } else { 0 } };
    0
}

unsafe extern "C" fn error_string(status: Status) -> *const c_char {
    match status {
        6 => c"remote process exited or there was a network error".as_ptr(),
        _ => c"invalid argument".as_ptr(),
    }
}

/// Leaves this rank's half; the last one does the work of all.
unsafe fn meet(comm: Comm, half: Half, work: impl Fn(&[Half])) -> Status {
    let joined = unsafe { &*comm.cast::<Joined>() };
    unsafe { &*half.stream.cast::<Queue>() }
        .0
        .fetch_add(1, Ordering::AcqRel);
    let mut halves = joined.ranks.halves.lock().unwrap_or_else(PoisonError::into_inner);
    halves[joined.rank] = Some(half);
    if halves.iter().all(Option::is_some) {
        let all: Vec<Half> = halves.iter_mut().filter_map(Option::take).collect();
        work(&all);
        for half in &all {
            unsafe { &*half.stream.cast::<Queue>() }
                .0
                .fetch_sub(1, Ordering::AcqRel);
        }
    }
    0
}

unsafe fn floats<'a>(address: usize, count: usize) -> &'a mut [f32] {
    unsafe { std::slice::from_raw_parts_mut(address as *mut f32, count) }
}

fn sum_at(all: &[Half], at: usize) -> f32 {
    all.iter()
        .map(|half| unsafe { *(half.from as *const f32).add(at) })
        .sum()
}

unsafe extern "C" fn all_reduce(
    from: *const c_void,
    to: *mut c_void,
    count: usize,
    dtype: c_int,
    op: c_int,
    comm: Comm,
    stream: RawStream,
) -> Status {
    if (dtype, op) != (7, 0) {
        return 4;
    }
    let half = Half::new(from, to, count, stream);
    unsafe {
        meet(comm, half, |all| {
            let sums: Vec<f32> = (0..count).map(|at| sum_at(all, at)).collect();
            all.iter()
                .for_each(|half| floats(half.to, half.count).copy_from_slice(&sums));
        })
    }
}

unsafe extern "C" fn reduce_scatter(
    from: *const c_void,
    to: *mut c_void,
    count: usize,
    dtype: c_int,
    op: c_int,
    comm: Comm,
    stream: RawStream,
) -> Status {
    if (dtype, op) != (7, 0) {
        return 4;
    }
    let half = Half::new(from, to, count, stream);
    unsafe {
        meet(comm, half, |all| {
            for (rank, half) in all.iter().enumerate() {
                for (at, sum) in floats(half.to, count).iter_mut().enumerate() {
                    *sum = sum_at(all, rank * count + at);
                }
            }
        })
    }
}

unsafe extern "C" fn all_gather(
    from: *const c_void,
    to: *mut c_void,
    count: usize,
    dtype: c_int,
    comm: Comm,
    stream: RawStream,
) -> Status {
    let width = if dtype == 9 { 2 } else { 4 };
    let half = Half::new(from, to, count, stream);
    unsafe {
        meet(comm, half, |all| {
            for to in all {
                for (rank, from) in all.iter().enumerate() {
                    let (len, place) = (count * width, to.to + rank * count * width);
                    std::ptr::copy_nonoverlapping(from.from as *const u8, place as *mut u8, len);
                }
            }
        })
    }
}

const STAND_IN: Functions = Functions {
    get_version: version,
    get_unique_id: unique_id,
    comm_init_rank: init_rank,
    comm_abort: abort,
    comm_get_async_error: async_error,
    get_error_string: error_string,
    all_reduce,
    reduce_scatter,
    all_gather,
};

/// Runs all ranks with devices that reach each other, and gives what each returns.
fn on_ranks<T: Send>(size: usize, timeout: Duration, run: impl Fn(Group) -> T + Sync) -> Vec<T> {
    let run = &run;
    std::thread::scope(|scope| {
        let ranks: Vec<_> = Threads::group(size, timeout)
            .into_iter()
            .map(|engine| {
                scope.spawn(move || {
                    let mut group = Group::start(move || Ok(engine), timeout).unwrap();
                    group.join_devices(|host| join(host, STAND_IN)).unwrap();
                    run(group)
                })
            })
            .collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

fn join(host: &mut dyn Engine, functions: Functions) -> Result<Nccl, CollectiveError> {
    Nccl::join(host, Library::of(functions), Rc::new(Queue::default()))
}

/// What the devices make of this rank's values.
fn collective(group: &Group, collective: Collective, values: Vec<f32>) -> Result<Vec<f32>, CollectiveError> {
    let size = group.world().size;
    let pending = group.on_devices("test", move |devices| {
        let mut out = vec![f32::NAN; collective.count_out(values.len(), size)];
        devices.run(
            collective,
            DeviceSpans {
                from: values.as_ptr() as u64,
                to: out.as_mut_ptr() as u64,
                count: values.len(),
                dtype: DeviceDtype::F32,
            },
        )?;
        Ok(out)
    });
    pending.wait()
}

/// What the engine in host memory makes of them.
fn in_host_memory(group: &Group, collective: Collective, values: Vec<f32>) -> Vec<f32> {
    let done = match collective {
        Collective::AllReduce => group.all_reduce(values).wait(),
        Collective::ReduceScatter => group.reduce_scatter(values).wait(),
        Collective::AllGather => {
            let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            let bytes = group.all_gather(bytes).wait().unwrap();
            Ok(bytes
                .as_chunks::<4>()
                .0
                .iter()
                .map(|value| f32::from_le_bytes(*value))
                .collect())
        }
    };
    done.unwrap()
}

const ALL: [Collective; 3] = [
    Collective::AllReduce,
    Collective::ReduceScatter,
    Collective::AllGather,
];

/// Numbers whose sums are exact, other ones for each rank.
fn values(rank: usize, count: usize) -> Vec<f32> {
    (0..count).map(|at| (rank * 1000 + at) as f32).collect()
}

#[test]
fn devices_give_what_host_memory_gives() {
    for size in 1..=4 {
        on_ranks(size, PATIENCE, |group| {
            for round in 1..4 {
                for op in ALL {
                    let values = values(group.world().rank, 12 * round);
                    let expected = in_host_memory(&group, op, values.clone());
                    assert_eq!(
                        collective(&group, op, values).unwrap(),
                        expected,
                        "{op:?} of {size}"
                    );
                }
            }
        });
    }
}

#[test]
fn bf16_values_are_gathered_as_they_are() {
    let gathered = on_ranks(3, PATIENCE, |group| {
        let part = [group.world().rank as u16; 5];
        let pending = group.on_devices("test", move |devices| {
            let mut out = vec![u16::MAX; 15];
            let spans = DeviceSpans {
                from: part.as_ptr() as u64,
                to: out.as_mut_ptr() as u64,
                count: part.len(),
                dtype: DeviceDtype::Bf16,
            };
            devices.run(Collective::AllGather, spans)?;
            Ok(out)
        });
        pending.wait().unwrap()
    });
    let expected: Vec<u16> = (0..15).map(|at| at / 5).collect();
    assert!(
        gathered.iter().all(|gathered| *gathered == expected),
        "{gathered:?}"
    );
}

#[test]
fn a_group_that_is_split_off_has_devices_of_its_own() {
    on_ranks(4, PATIENCE, |group| {
        let rank = group.world().rank;
        let (row, column) = (group.split(rank / 2).unwrap(), group.split(rank % 2).unwrap());
        assert!(row.has_devices() && column.has_devices());
        let sum = |group: &Group| collective(group, Collective::AllReduce, values(rank, 2)).unwrap()[0];
        let of = |ranks: [usize; 2]| (ranks[0] + ranks[1]) as f32 * 1000.0;
        assert_eq!(sum(&row), of([rank / 2 * 2, rank / 2 * 2 + 1]));
        assert_eq!(sum(&column), of([rank % 2, rank % 2 + 2]));
        assert_eq!(sum(&group), 6000.0);
    });
}

#[test]
fn who_waits_for_a_rank_that_has_failed_hears_of_it() {
    let started = Instant::now();
    let ends = on_ranks(3, PATIENCE, |group| {
        if group.world().rank == 1 {
            group.abort("the disk is full");
            return None;
        }
        collective(&group, Collective::AllReduce, vec![1.0]).err()
    });
    let expected = CollectiveError::Peer {
        rank: 1,
        message: "the disk is full".to_owned(),
    };
    assert_eq!(ends, [Some(expected.clone()), None, Some(expected)]);
    assert!(started.elapsed() < PATIENCE / 4, "{:?}", started.elapsed());
}

#[test]
fn a_rank_that_does_not_come_is_waited_for_no_longer_than_told() {
    let told = Duration::from_secs(1);
    let ends = on_ranks(2, told, |group| {
        let Some(0) = Some(group.world().rank) else {
            std::thread::sleep(3 * told);
            return None;
        };
        collective(&group, Collective::AllGather, vec![1.0]).err()
    });
    let Some(Some(CollectiveError::TimedOut {
        rank: 0, operation, ..
    })) = ends.first()
    else {
        panic!("{ends:?}")
    };
    assert_eq!(*operation, "all_gather");
}

#[test]
fn what_nccl_says_is_said() {
    let ends = on_ranks(2, PATIENCE, |group| {
        let rank = group.world().rank;
        if rank == 1 {
            // Breaks what both have joined, once the other waits.
            std::thread::sleep(Duration::from_millis(100));
            known().values().for_each(|ranks| {
                if ranks
                    .halves
                    .lock()
                    .unwrap()
                    .iter()
                    .any(|half| half.as_ref().is_some_and(|half| half.count == 77))
                {
                    ranks.is_broken.store(true, Ordering::Relaxed);
                }
            });
            return None;
        }
        let error = collective(&group, Collective::AllReduce, vec![1.0; 77]).err();
        // NCCL has been told to stop.
        let again = collective(&group, Collective::AllReduce, vec![1.0; 77]).unwrap_err();
        assert!(again.to_string().contains("given up"), "{again}");
        error
    });
    let said = ends[0].as_ref().unwrap().to_string();
    assert!(
        said.contains("rank 0: all_reduce: NCCL says: remote process exited"),
        "{said}"
    );
}

#[test]
fn ranks_with_other_versions_are_refused() {
    let ends: Vec<String> = std::thread::scope(|scope| {
        let ranks: Vec<_> = Threads::group(3, PATIENCE)
            .into_iter()
            .map(|engine| {
                scope.spawn(move || {
                    let old = engine.world().rank == 2;
                    let mut group = Group::start(move || Ok(engine), PATIENCE).unwrap();
                    let get_version = if old { other_version } else { version };
                    let functions = Functions {
                        get_version,
                        ..STAND_IN
                    };
                    group
                        .join_devices(move |host| join(host, functions))
                        .unwrap_err()
                        .to_string()
                })
            })
            .collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    });
    let expected = "the version of NCCL differs between ranks: rank 0 has 2.27.3, rank 2 has 2.18.5";
    assert!(ends.iter().all(|end| end.starts_with(expected)), "{ends:?}");
}

#[test]
fn a_library_that_is_not_there_is_named() {
    let said = Library::open_any(&["libno-such-nccl.so.2"]).err().unwrap();
    assert!(said.contains("libno-such-nccl.so.2"), "{said}");
    // The C library is one, and has none of NCCL's functions.
    let said = Library::open_any(&["libc.so.6"]).err().unwrap();
    assert!(said.contains("ncclGetVersion"), "{said}");
}

#[test]
fn what_was_given_up_does_not_begin_again() {
    let ends = on_ranks(1, PATIENCE, |group| {
        let pending = group.on_devices("test", |devices| {
            devices.device.give_up();
            let spans = DeviceSpans {
                from: 0,
                to: 0,
                count: 0,
                dtype: DeviceDtype::F32,
            };
            devices.run(Collective::AllReduce, spans)
        });
        pending.wait().unwrap_err().to_string()
    });
    assert!(ends[0].contains("given up"), "{ends:?}");
}
