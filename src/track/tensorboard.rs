//! TensorBoard event files, written by hand: no maintained crate does it.
//!
//! A file is a sequence of TFRecords (length, CRC of the length, bytes, CRC of the bytes; see
//! <https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details>), each an `Event` of
//! <https://github.com/tensorflow/tensorboard/blob/master/tensorboard/compat/proto/event.proto>. Of it we need
//! `wall_time` = 1 (double), `step` = 2 (int64), `file_version` = 3 (string), `summary` = 5, `session_log` = 7;
//! `Summary.value` = 1; `Summary.Value.tag` = 1 and `.simple_value` = 2 (float); `SessionLog.status` = 1.

use std::{
    fs::File,
    io::Write,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use super::{EvalRecord, StepRecord, TrackError};
use crate::fs;

const SESSION_START: u64 = 1;

/// One open event file.
#[derive(Debug)]
pub(super) struct EventFile {
    path: PathBuf,
    file: File,
}

impl EventFile {
    /// Begins a new event file. Its session start makes TensorBoard forget what earlier files of this folder say about
    /// steps that are about to be done again: those after `resume_step`, or all if it is 0.
    pub(super) fn open(dir: &Path, resume_step: u64) -> Result<Self, TrackError> {
        fs::create_dir_all(dir)?;
        let path = dir.join(file_name(dir)?);
        let mut events = Self {
            file: fs::create(&path)?,
            path,
        };
        let now = wall_time();
        let first_step = if resume_step == 0 { 0 } else { resume_step + 1 };
        events.append(&event(now, 0, 3, b"brain.Event:2"))?;
        events.append(&event(now, first_step, 7, &varint_field(1, SESSION_START)))?;
        Ok(events)
    }

    pub(super) fn step(&mut self, record: &StepRecord) -> Result<(), TrackError> {
        self.scalars(record.step, &step_scalars(record))
    }

    pub(super) fn eval(&mut self, record: &EvalRecord) -> Result<(), TrackError> {
        let tag = |name: &str| format!("eval/{}", name.strip_prefix("eval_").unwrap_or(name));
        let scalars: Vec<_> = record
            .metrics
            .iter()
            .map(|(name, value)| (tag(name), *value))
            .collect();
        self.scalars(record.step, &scalars)
    }

    fn scalars(&mut self, step: u64, scalars: &[(String, f64)]) -> Result<(), TrackError> {
        self.append(&event(wall_time(), step, 5, &summary(scalars)))
    }

    fn append(&mut self, event: &[u8]) -> Result<(), TrackError> {
        let bad = |source| TrackError::Write {
            path: self.path.clone(),
            source,
        };
        self.file.write_all(&tf_record(event)).map_err(bad)
    }
}

fn step_scalars(record: &StepRecord) -> Vec<(String, f64)> {
    let mut scalars = vec![
        ("train/loss".to_string(), f64::from(record.loss)),
        ("train/lr".to_string(), record.lr),
        ("train/grad_norm".to_string(), f64::from(record.grad_norm)),
        ("train/epoch".to_string(), record.epoch),
        ("train/total_tokens".to_string(), record.total_tokens as f64),
        ("perf/tokens_per_second".to_string(), record.tokens_per_second),
        ("perf/samples_per_second".to_string(), record.samples_per_second),
        ("perf/tflops".to_string(), record.tflops),
        ("perf/step_seconds".to_string(), record.step_seconds),
        ("perf/data_seconds".to_string(), record.data_seconds),
        (
            "perf/forward_backward_seconds".to_string(),
            record.forward_backward_seconds,
        ),
        ("perf/optimizer_seconds".to_string(), record.optimizer_seconds),
    ];
    scalars.extend(record.mfu.map(|mfu| ("perf/mfu".to_string(), mfu)));
    let cache = [
        ("hits", record.vision_cache_hits),
        ("misses", record.vision_cache_misses),
    ];
    for (name, images) in cache {
        scalars.extend(images.map(|images| (format!("perf/vision_cache_{name}"), images as f64)));
    }
    let memory = [
        ("device", record.device_memory_bytes),
        ("process", record.process_memory_bytes),
    ];
    for (name, bytes) in memory {
        scalars.extend(bytes.map(|bytes| (format!("memory/{name}_bytes"), bytes as f64)));
    }
    scalars
}

/// A name that sorts behind all others of the folder, since TensorBoard reads the files in this order.
fn file_name(dir: &Path) -> Result<String, TrackError> {
    let newest = fs::read_dir(dir)?
        .iter()
        .filter_map(|path| seconds_in_name(path))
        .max()
        .unwrap_or(0);
    let seconds = (wall_time() as u64).max(newest + 1);
    let host = rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .replace(['/', '\0'], "_");
    Ok(format!(
        "events.out.tfevents.{seconds:010}.{host}.{}",
        std::process::id()
    ))
}

fn seconds_in_name(path: &Path) -> Option<u64> {
    let rest = path.file_name()?.to_str()?.strip_prefix("events.out.tfevents.")?;
    rest.split('.').next()?.parse().ok()
}

fn wall_time() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0.0, |elapsed| elapsed.as_secs_f64())
}

/// An event with one payload: a length-delimited field of the given number.
fn event(wall_time: f64, step: u64, payload_field: u64, payload: &[u8]) -> Vec<u8> {
    let mut bytes = key(1, 1);
    bytes.extend(wall_time.to_le_bytes());
    bytes.extend(varint_field(2, step));
    bytes.extend(bytes_field(payload_field, payload));
    bytes
}

fn summary(scalars: &[(String, f64)]) -> Vec<u8> {
    let value = |(tag, value): &(String, f64)| {
        let mut bytes = bytes_field(1, tag.as_bytes());
        bytes.extend(key(2, 5));
        bytes.extend((*value as f32).to_le_bytes());
        bytes_field(1, &bytes)
    };
    scalars.iter().flat_map(value).collect()
}

fn key(field: u64, wire_type: u64) -> Vec<u8> {
    varint(field << 3 | wire_type)
}

fn varint_field(field: u64, value: u64) -> Vec<u8> {
    // proto3 leaves a zero out.
    if value == 0 {
        Vec::new()
    } else {
        [key(field, 0), varint(value)].concat()
    }
}

fn bytes_field(field: u64, bytes: &[u8]) -> Vec<u8> {
    [key(field, 2), varint(bytes.len() as u64), bytes.to_vec()].concat()
}

/// Seven bits a byte, the lowest first; the high bit says that more follow.
fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

fn tf_record(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    let mut record = Vec::with_capacity(data.len() + 16);
    record.extend(length);
    record.extend(masked_crc(&length).to_le_bytes());
    record.extend(data);
    record.extend(masked_crc(data).to_le_bytes());
    record
}

/// TFRecord rotates and shifts CRC32C so that a CRC of data with CRCs in it keeps its strength.
fn masked_crc(data: &[u8]) -> u32 {
    crc32c::crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The other side of the comparison was written by `RecordWriter` of TensorBoard 2.21.0
    /// (`tensorboard.summary.writer.record_writer`) from its own protobuf classes.
    #[test]
    fn records_are_those_of_tensorboards_own_writer() {
        let version = tf_record(&event(1234.5, 0, 3, b"brain.Event:2"));
        let start = tf_record(&event(1234.5, 301, 7, &varint_field(1, SESSION_START)));
        let scalars = [
            ("train/loss".to_string(), f64::from(0.1_f32)),
            ("eval/exact_match/how many".to_string(), 1.0),
            ("x".repeat(130), -2.5),
        ];
        let scalars = tf_record(&event(1234.5, 300, 5, &summary(&scalars)));
        assert_eq!(
            hex(&version),
            "1800000000000000a37f4b220900000000004a93401a0d627261696e2e4576656e743a3265b8d3fb"
        );
        assert_eq!(
            hex(&start),
            "100000000000000095fbfe180900000000004a934010ad023a020801c02893a5"
        );
        let expected = "d1000000000000009fc921d90900000000004a934010ac022ac2010a110a0a747261696e2f6c6f737315cdcccc3d\
                        0a200a196576616c2f65786163745f6d617463682f686f77206d616e79150000803f0a8a010a8201";
        let expected = format!("{expected}{}15000020c0097251c0", "78".repeat(130));
        assert_eq!(hex(&scalars), expected);
    }

    #[test]
    fn a_later_file_sorts_behind_the_earlier_ones() {
        let dir = tempfile::tempdir().unwrap();
        let names: Vec<_> = (0..3)
            .map(|step| EventFile::open(dir.path(), step).unwrap().path)
            .collect();
        assert_eq!(fs::read_dir(dir.path()).unwrap(), names);
    }

    #[test]
    fn a_session_starts_behind_the_step_it_resumes_from() {
        let dir = tempfile::tempdir().unwrap();
        for (resume_step, first_step) in [(0, 0), (300, 301)] {
            let bytes = fs::read(&EventFile::open(dir.path(), resume_step).unwrap().path).unwrap();
            let start = event(0.0, first_step, 7, &varint_field(1, SESSION_START));
            // Behind the framing, the key of the time and the time itself.
            let found = &bytes[bytes.len() - start.len() - 4..bytes.len() - 4];
            assert_eq!(found[9..], start[9..]);
        }
    }

    #[test]
    fn tags_group_by_room() {
        let record = StepRecord {
            device_memory_bytes: Some(5),
            ..StepRecord::default()
        };
        let tags: Vec<_> = step_scalars(&record).into_iter().map(|(tag, _)| tag).collect();
        assert!(
            tags.contains(&"train/loss".to_string()) && tags.contains(&"memory/device_bytes".to_string())
        );
        assert!(!tags.contains(&"memory/process_bytes".to_string()));
    }
}
