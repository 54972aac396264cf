//! The promises of this room, tested on disks that die at any operation, and on full ones.

use std::{
    collections::BTreeSet,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use brazier_models::{HostDtype, HostTensor};

use super::{disk::*, *};
use crate::fs::{self, FsError, Output};

/// Small, so that a snapshot takes several files.
const MAX_FILE_BYTES: usize = 100;

/// What goes wrong.
#[derive(Clone, Copy)]
enum Fault {
    /// The process dies in the middle of this operation, counted from 0.
    DiesAt(usize),
    /// Writing fails after so many bytes; everything else works.
    FullAfter(usize),
}

/// A disk on which something goes wrong. Bytes that were not synced are lost when it dies.
struct FaultyDisk {
    fault: Fault,
    state: Arc<Mutex<FaultyState>>,
}

#[derive(Default)]
struct FaultyState {
    operations: usize,
    written: usize,
    dead: bool,
    unsynced: BTreeSet<PathBuf>,
}

impl FaultyDisk {
    /// Does `whole`, or `half` of it and dies.
    fn operate<T>(
        &self,
        path: &Path,
        whole: impl FnOnce(&mut FaultyState) -> fs::Result<T>,
        half: impl FnOnce(),
    ) -> fs::Result<T> {
        let mut state = self.state.lock().unwrap();
        let dies_now = matches!(self.fault, Fault::DiesAt(at) if at == state.operations);
        state.operations += 1;
        if dies_now && !state.dead {
            half();
            state.dead = true;
            for file in &state.unsynced {
                fs::truncate(file, 0).unwrap();
            }
        }
        if state.dead {
            Err(failure(path, io::ErrorKind::Other))
        } else {
            whole(&mut state)
        }
    }
}

fn failure(path: &Path, kind: io::ErrorKind) -> FsError {
    FsError {
        operation: "write",
        path: path.into(),
        source: kind.into(),
    }
}

impl Disk for FaultyDisk {
    fn create_dir(&self, path: &Path) -> fs::Result<()> {
        self.operate(path, |_| RealDisk.create_dir(path), || ())
    }

    fn create(&self, path: &Path) -> fs::Result<Output> {
        let create = |state: &mut FaultyState| {
            state.unsynced.insert(path.into());
            RealDisk.create(path)
        };
        self.operate(path, create, || ())
    }

    fn write(&self, file: &mut Output, bytes: &[u8]) -> fs::Result<()> {
        let path = file.path().to_path_buf();
        let file = std::cell::RefCell::new(file);
        let whole = |state: &mut FaultyState| {
            state.written += bytes.len();
            if matches!(self.fault, Fault::FullAfter(limit) if state.written > limit) {
                RealDisk.write(&mut file.borrow_mut(), &bytes[..bytes.len() / 2])?;
                return Err(failure(&path, io::ErrorKind::StorageFull));
            }
            RealDisk.write(&mut file.borrow_mut(), bytes)
        };
        let half = || {
            RealDisk
                .write(&mut file.borrow_mut(), &bytes[..bytes.len() / 2])
                .unwrap()
        };
        self.operate(&path, whole, half)
    }

    fn sync(&self, file: &Output) -> fs::Result<()> {
        let sync = |state: &mut FaultyState| {
            state.unsynced.remove(file.path());
            Ok(())
        };
        self.operate(file.path(), sync, || ())
    }

    fn sync_dir(&self, path: &Path) -> fs::Result<()> {
        self.operate(path, |_| Ok(()), || ())
    }

    fn rename(&self, from: &Path, to: &Path) -> fs::Result<()> {
        let rename = |state: &mut FaultyState| {
            assert!(
                state.unsynced.is_empty(),
                "renamed before it was on the disk: {:?}",
                state.unsynced
            );
            RealDisk.rename(from, to)
        };
        self.operate(from, rename, || ())
    }

    fn remove_file(&self, path: &Path) -> fs::Result<()> {
        self.operate(path, |_| RealDisk.remove_file(path), || ())
    }

    fn remove_dir_all(&self, path: &Path) -> fs::Result<()> {
        let forget = |state: &mut FaultyState| {
            state.unsynced.retain(|file| !file.starts_with(path));
            RealDisk.remove_dir_all(path)
        };
        let half = || {
            if let Some(last) = fs::read_dir(path)
                .ok()
                .and_then(|files| files.into_iter().next_back())
            {
                fs::remove_file(&last).unwrap();
            }
        };
        self.operate(path, forget, half)
    }
}

fn snapshot(step: u64, fill: u8) -> Snapshot {
    let tensor = |name: &str, shape: &[usize], dtype: HostDtype| HostTensor {
        name: name.into(),
        shape: shape.into(),
        dtype,
        bytes: vec![fill; shape.iter().product::<usize>() * dtype.size_bytes()],
    };
    let state = RunState {
        step,
        samples: step * 8,
        tokens: u64::MAX,
        labelled_tokens: 3,
        best: Some(Best {
            step,
            value: 0.1 + f64::from(fill) / 3.0,
        }),
        evaluations_without_improvement: 1,
        model_fingerprint: "f".into(),
        config_hash: "c".into(),
        data: [("seed".to_string(), "0".to_string())].into(),
    };
    let tensors = vec![
        tensor("a", &[3, 7], HostDtype::F32),
        tensor("b", &[9], HostDtype::Bf16),
        tensor("c", &[5], HostDtype::F32),
        tensor("empty", &[0, 4], HostDtype::F32),
        tensor("scalar", &[], HostDtype::F32),
    ];
    Snapshot { tensors, state }
}

fn sorted(mut snapshot: Snapshot) -> Snapshot {
    snapshot.tensors.sort_by(|left, right| left.name.cmp(&right.name));
    snapshot
}

/// Other tests start processes, which hold the lock of a store that is gone until they run another program.
const PATIENCE: Duration = Duration::from_secs(10);

fn open(dir: &Path) -> CheckpointStore {
    CheckpointStore::open_on(dir, Box::new(RealDisk), MAX_FILE_BYTES, PATIENCE).unwrap()
}

fn open_faulty(dir: &Path, fault: Fault) -> CheckpointStore {
    let disk = FaultyDisk {
        fault,
        state: Arc::default(),
    };
    CheckpointStore::open_on(dir, Box::new(disk), MAX_FILE_BYTES, PATIENCE).unwrap()
}

fn keep(last: usize, best: usize, every: Option<u64>) -> KeepOptions {
    KeepOptions { last, best, every }
}

fn by_loss() -> Ranking {
    Ranking {
        metric: "eval_loss".into(),
        better: Better::Lower,
    }
}

fn names(dir: &Path) -> Vec<String> {
    let name = |path: PathBuf| path.file_name().unwrap().to_str().unwrap().to_string();
    fs::read_dir(dir).unwrap().into_iter().map(name).collect()
}

#[test]
fn a_snapshot_comes_back_bit_for_bit() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let written = snapshot(1000, 0x3f);
    let metric = Metric {
        name: "eval_loss".into(),
        value: 0.1,
    };
    let info = store.commit(&written, Some(&metric)).unwrap();
    assert!(info.files.len() > 1, "the test wants several files");
    assert_eq!(names(dir.path()), [".lock", "step-00001000"]);
    let found = store.newest().unwrap().unwrap();
    assert_eq!(found, info);
    assert_eq!(found.metric, Some(metric));
    assert_eq!(sorted(load(&found).unwrap()), sorted(written));
}

#[test]
fn files_are_read_by_the_safetensors_library() {
    let dir = tempfile::tempdir().unwrap();
    let info = open(dir.path()).commit(&snapshot(1, 7), None).unwrap();
    for entry in &info.files {
        let bytes = fs::read(&info.path.join(&entry.name)).unwrap();
        let read = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(read.len(), entry.num_tensors);
    }
}

#[test]
fn dying_at_any_operation_leaves_the_last_commit() {
    let mut finished = false;
    for at in 1..500 {
        let dir = tempfile::tempdir().unwrap();
        let store = open_faulty(dir.path(), Fault::DiesAt(at));
        // New, replaced, then one that pushes it out.
        let commits = [
            snapshot(1, 1),
            snapshot(1, 2),
            snapshot(1, 3),
            snapshot(2, 4),
            snapshot(3, 5),
        ];
        let mut committed = None;
        let mut under_way = None;
        for snapshot in commits {
            if store.commit(&snapshot, None).is_err() {
                under_way = Some(snapshot);
                break;
            }
            committed = Some(snapshot);
            if store.retain(&keep(1, 0, None), &by_loss()).is_err() {
                break;
            }
        }
        finished = under_way.is_none() && store.retain(&keep(1, 0, None), &by_loss()).is_ok();
        drop(store);

        let store = open(dir.path());
        let found = store.newest().unwrap().map(|info| sorted(load(&info).unwrap()));
        let acceptable = [committed.map(sorted), under_way.map(sorted)];
        assert!(
            acceptable.contains(&found),
            "died at operation {at}: found {found:?}"
        );
        for (_, path) in store.steps().unwrap() {
            load(&CheckpointInfo::read(&path).unwrap()).unwrap();
        }
        let leftovers: Vec<_> = names(dir.path())
            .into_iter()
            .filter(|name| name.starts_with('.') && name != ".lock")
            .collect();
        assert!(leftovers.is_empty(), "died at operation {at}: {leftovers:?}");
        if finished {
            break;
        }
    }
    assert!(finished, "the run never got through");
}

#[test]
fn a_full_disk_costs_only_the_new_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let size = open(dir.path())
        .commit(&snapshot(50, 1), None)
        .unwrap()
        .size_bytes() as usize;
    for limit in [0, 10, size / 2, size - 1, size + 10] {
        let store = open_faulty(dir.path(), Fault::FullAfter(limit));
        let error = store.commit(&snapshot(100, 2), None).unwrap_err();
        let message = error.to_string();
        assert_eq!(error.io_kind(), Some(io::ErrorKind::StorageFull));
        assert!(
            message.starts_with("checkpoint of step 100 not written: cannot write "),
            "{message}"
        );
        assert!(
            message.contains("no storage space; the last complete checkpoint is step 50 at "),
            "{message}"
        );
        assert!(message.contains("hint: free space"), "{message}");
        assert_eq!(names(dir.path()), [".lock", "step-00000050"]);
        assert_eq!(
            sorted(load(&store.newest().unwrap().unwrap()).unwrap()),
            sorted(snapshot(50, 1))
        );
    }
}

#[test]
fn a_commit_that_fails_leaves_the_one_it_would_replace() {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path()).commit(&snapshot(50, 1), None).unwrap();
    let store = open_faulty(dir.path(), Fault::FullAfter(100));
    store.commit(&snapshot(50, 2), None).unwrap_err();
    assert_eq!(
        sorted(load(&store.newest().unwrap().unwrap()).unwrap()),
        sorted(snapshot(50, 1))
    );
}

#[test]
fn retention_keeps_the_newest_the_best_and_the_multiples() {
    let check = |keep: KeepOptions, ranking: Ranking, expected: &[u64]| {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        let losses = [
            (900, Some(0.5)),
            (950, Some(f64::NAN)),
            (1000, Some(0.2)),
            (1050, None),
            (10_000, Some(0.5)),
        ];
        for (step, loss) in losses {
            let metric = loss.map(|value| Metric {
                name: "eval_loss".into(),
                value,
            });
            store.commit(&snapshot(step, 1), metric.as_ref()).unwrap();
        }
        store.retain(&keep, &ranking).unwrap();
        let steps: Vec<u64> = store.steps().unwrap().into_iter().map(|(step, _)| step).collect();
        assert_eq!(steps, expected, "{keep:?} {ranking:?}");
    };
    let by_gain = || Ranking {
        metric: "eval_loss".into(),
        better: Better::Higher,
    };
    check(keep(0, 0, None), by_loss(), &[10_000]);
    check(keep(2, 0, None), by_loss(), &[1050, 10_000]);
    check(keep(1, 1, None), by_loss(), &[1000, 10_000]);
    check(keep(1, 2, None), by_loss(), &[900, 1000, 10_000]);
    check(keep(1, 1, None), by_gain(), &[900, 10_000]);
    check(keep(1, 0, Some(100)), by_loss(), &[900, 1000, 10_000]);
    check(keep(9, 9, Some(1)), by_loss(), &[900, 950, 1000, 1050, 10_000]);
    let other = Ranking {
        metric: "eval_exact_match".into(),
        better: Better::Higher,
    };
    check(keep(1, 3, None), other, &[10_000]);
}

#[test]
fn damage_is_named_with_the_checkpoint_to_use_instead() {
    let check = |damage: &dyn Fn(&Path), file: &str, reason: &str| {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        store.commit(&snapshot(50, 1), None).unwrap();
        let info = store.commit(&snapshot(100, 1), None).unwrap();
        damage(&info.path);
        let message = store
            .newest()
            .and_then(|info| load(&info.unwrap()))
            .unwrap_err()
            .to_string();
        assert!(message.contains(file) && message.contains(reason), "{message}");
        assert!(message.contains("to go on from step 50 at "), "{message}");
    };
    let tensors = "tensors-00002.safetensors";
    check(
        &|dir| fs::truncate(&dir.join(tensors), 40).unwrap(),
        tensors,
        "40 bytes, expected ",
    );
    check(
        &|dir| fs::remove_file(&dir.join(tensors)).unwrap(),
        tensors,
        "No such file",
    );
    for position in [0, 7, 20, 100] {
        let flip = |dir: &Path| {
            let path = dir.join(tensors);
            let mut bytes = fs::read(&path).unwrap();
            let position = position.min(bytes.len() - 1);
            bytes[position] ^= 0x40;
            fs::write_durable(&path, &bytes).unwrap();
        };
        check(&flip, tensors, "its bytes have changed");
    }
    check(
        &|dir| fs::truncate(&dir.join("manifest.json"), 40).unwrap(),
        "manifest.json",
        "40 bytes: EOF",
    );
}

#[test]
fn another_format_is_refused_as_such() {
    let dir = tempfile::tempdir().unwrap();
    let info = open(dir.path()).commit(&snapshot(1, 1), None).unwrap();
    let manifest = info.path.join("manifest.json");
    let text = fs::read_to_string(&manifest)
        .unwrap()
        .replace("\"version\": 1", "\"version\": 2, \"new\": 0");
    fs::write_durable(&manifest, text.as_bytes()).unwrap();
    let message = CheckpointInfo::read(&info.path).unwrap_err().to_string();
    assert!(
        message.contains("format brazier-checkpoint 2, this program reads format"),
        "{message}"
    );
}

#[test]
fn tensors_that_cannot_be_told_apart_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut twins = snapshot(1, 1);
    twins.tensors[2].name = "a".into();
    assert!(
        store
            .commit(&twins, None)
            .unwrap_err()
            .to_string()
            .contains("tensor a: two tensors")
    );
    let mut short = snapshot(1, 1);
    short.tensors[0].bytes.pop();
    assert!(
        store
            .commit(&short, None)
            .unwrap_err()
            .to_string()
            .contains("83 bytes, expected 84")
    );
    assert_eq!(names(dir.path()), [".lock"]);
}

#[test]
fn a_second_writer_is_refused_until_the_first_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    fs::create_dir_all(&dir.path().join(".partial-step-00000009")).unwrap();
    let second = CheckpointStore::open_on(dir.path(), Box::new(RealDisk), MAX_FILE_BYTES, Duration::ZERO);
    let message = second.err().unwrap().to_string();
    assert!(
        message.contains(&format!("(pid {})", std::process::id())),
        "{message}"
    );
    assert!(
        dir.path().join(".partial-step-00000009").is_dir(),
        "the first one's work was removed"
    );
    drop(store);
    open(dir.path());
    assert_eq!(names(dir.path()), [".lock"]);
}

#[test]
fn a_run_starts_from_the_first_that_is_there() {
    let root = tempfile::tempdir().unwrap();
    let own = open(&root.path().join("own/checkpoints"));
    let other_run = root.path().join("other");
    let import = Path::new("weights");
    let path = |path: &Path| Resume::Path(path.into());

    // Nothing there yet.
    assert_eq!(decide_start(&Resume::Auto, &own, None).unwrap(), Start::Scratch);
    assert_eq!(
        decide_start(&Resume::None, &own, Some(import)).unwrap(),
        Start::Import(import.into())
    );
    assert_eq!(
        decide_start(&Resume::Auto, &own, Some(import)).unwrap(),
        Start::Import(import.into())
    );
    let error = decide_start(&path(&other_run), &own, Some(import)).unwrap_err();
    assert!(matches!(error, CheckpointError::NotFound { .. }), "{error}");

    // Another run, named in three ways.
    let other = open(&other_run.join("checkpoints"));
    let nine = other.commit(&snapshot(900, 1), None).unwrap();
    let ten = other.commit(&snapshot(1000, 1), None).unwrap();
    for (asked, found) in [
        (&nine.path, &nine),
        (&other_run, &ten),
        (&other_run.join("checkpoints"), &ten),
    ] {
        let start = decide_start(&path(asked), &own, Some(import)).unwrap();
        assert!(
            matches!(&start, Start::Other(info) if info.step() == found.step()),
            "{start:?}"
        );
    }

    // Own checkpoints come first, even when another run is named: the job was requeued.
    let first = own.commit(&snapshot(5, 1), None).unwrap();
    let second = own.commit(&snapshot(6, 1), None).unwrap();
    for resume in [
        Resume::Auto,
        path(&other_run),
        path(Path::new("gone")),
        path(&second.path),
    ] {
        assert_eq!(
            decide_start(&resume, &own, Some(import)).unwrap(),
            Start::Resume(second.clone())
        );
    }
    let error = decide_start(&path(&first.path), &own, None).unwrap_err();
    assert!(
        matches!(error, CheckpointError::Rewind { newest: 6, .. }),
        "{error}"
    );
    let error = decide_start(&Resume::None, &own, Some(import)).unwrap_err();
    assert!(
        matches!(error, CheckpointError::WouldMix { step: 6, .. }),
        "{error}"
    );

    // A damaged newest one is an error, not a reason to start elsewhere.
    fs::truncate(&second.path.join("manifest.json"), 3).unwrap();
    let error = decide_start(&Resume::Auto, &own, Some(import)).unwrap_err();
    assert!(matches!(error, CheckpointError::Damaged { .. }), "{error}");
}

#[test]
fn the_background_writer_writes_in_order_and_reports_failures() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = AsyncWriter::new(Arc::new(open(dir.path())), keep(2, 0, None), by_loss());
    assert_eq!(writer.submit(snapshot(1, 1), None).unwrap(), None);
    assert_eq!(writer.submit(snapshot(2, 1), None).unwrap().unwrap().step(), 1);
    writer.submit(snapshot(3, 1), None).unwrap();
    assert_eq!(writer.wait().unwrap().unwrap().step(), 3);
    writer.submit(snapshot(4, 1), None).unwrap();
    assert_eq!(writer.wait().unwrap().unwrap().step(), 4);
    assert_eq!(writer.wait().unwrap(), None);
    assert_eq!(names(dir.path()), [".lock", "step-00000003", "step-00000004"]);
    drop(writer);

    let store = Arc::new(open_faulty(dir.path(), Fault::FullAfter(0)));
    let mut writer = AsyncWriter::new(store, keep(2, 0, None), by_loss());
    writer.submit(snapshot(5, 1), None).unwrap();
    let error = writer.submit(snapshot(6, 1), None).unwrap_err();
    assert!(
        matches!(error, CheckpointError::NotWritten { step: 5, .. }),
        "{error}"
    );
    writer.submit(snapshot(7, 1), None).unwrap();
    assert!(matches!(
        writer.wait().unwrap_err(),
        CheckpointError::NotWritten { step: 7, .. }
    ));
    assert_eq!(names(dir.path()), [".lock", "step-00000003", "step-00000004"]);
}

/// Files that several ranks have written make one checkpoint, which reads as if one had.
#[test]
fn parts_of_ranks_make_a_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let whole = snapshot(5, 3);
    let mut writer = AsyncWriter::new(Arc::new(open(dir.path())), keep(2, 0, None), by_loss());
    let folder = writer.begin(5).unwrap();
    let parts = whole.tensors.chunks(2).chain([&[][..]]).enumerate();
    let parts: Vec<PartWriter> = parts
        .map(|(number, part)| PartWriter::start(folder.clone(), number, 5, part.to_vec()).unwrap())
        .collect();
    let files = parts.into_iter().flat_map(|part| part.wait().unwrap()).collect();
    assert!(
        newest(dir.path()).unwrap().is_none(),
        "no manifest, no checkpoint"
    );
    writer.complete(whole.state.clone(), None, files).unwrap();
    let info = writer.wait().unwrap().unwrap();
    assert!(info.files.len() >= 2, "{:?}", info.files);
    assert_eq!(sorted(load(&info).unwrap()), sorted(whole.clone()));
    assert_eq!(names(dir.path()), [".lock", "step-00000005"]);

    // The same step once more, while the first one is still on its way to the disk.
    let again = snapshot(5, 4);
    for (round, whole) in [&whole, &again].into_iter().enumerate() {
        let folder = writer.begin(5).unwrap();
        let part = PartWriter::start(folder, round, 5, whole.tensors.clone()).unwrap();
        writer
            .complete(whole.state.clone(), None, part.wait().unwrap())
            .unwrap();
    }
    let info = writer.wait().unwrap().unwrap();
    assert_eq!(sorted(load(&info).unwrap()), sorted(again));
    writer.begin(6).unwrap();
    writer.store().abandon(6);
    assert_eq!(names(dir.path()), [".lock", "step-00000005"]);

    // A rank that cannot write says of which step, and what there is instead.
    let gone = dir.path().join(".partial-gone");
    let error = PartWriter::start(gone, 0, 9, whole.tensors)
        .unwrap()
        .wait()
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("checkpoint of step 9 not written") && error.contains("step 5"),
        "{error}"
    );
}
