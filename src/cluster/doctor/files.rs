//! Where the run is going to write.

use std::path::Path;

use super::{Asked, Probe, Section, State, launch, readable};

/// File systems that several nodes see.
const SHARED: [&str; 15] = [
    "9p",
    "afs",
    "beegfs",
    "ceph",
    "cifs",
    "fuse.ceph",
    "fuse.sshfs",
    "gpfs",
    "lustre",
    "nfs",
    "nfs4",
    "orangefs",
    "panfs",
    "smb3",
    "wekafs",
];
/// A checkpoint of a small model needs as much.
const LITTLE_BYTES: u64 = 1 << 30;

pub(super) fn examine(probe: &dyn Probe, asked: &Asked, out: &mut Section<'_>) {
    if let Some(output) = &asked.output {
        place(probe, "output", output, launch::num_nodes(probe) > 1, out);
    }
    if let Some(cache) = &asked.cache {
        place(probe, "cache", cache, false, out);
    }
    place(probe, "working folder", Path::new("."), false, out);
}

fn place(probe: &dyn Probe, name: &'static str, path: &Path, must_be_shared: bool, out: &mut Section<'_>) {
    // Folders that are going to be made lie where their parents are.
    let existing = path
        .ancestors()
        .find_map(|parent| match parent.as_os_str().is_empty() {
            true => probe.real("."),
            false => probe.real(&parent.to_string_lossy()),
        });
    let Some((real, space)) = existing.and_then(|real| Some((real.clone(), probe.space(&real)?))) else {
        return out.add(
            name,
            State::Note,
            format!("{}: cannot be looked at", path.display()),
        );
    };
    let kind = file_system(&probe.text("/proc/self/mounts").unwrap_or_default(), &real);
    let is_shared = kind.as_deref().is_some_and(|kind| SHARED.contains(&kind));
    let nodes = if is_shared { "network" } else { "local" };
    let detail = format!(
        "{} on {} ({nodes}), {} of {} free",
        path.display(),
        kind.as_deref().unwrap_or("an unknown file system"),
        readable(space.free_bytes),
        readable(space.total_bytes)
    );
    if must_be_shared && !is_shared {
        let hint =
            "put it on a file system that all nodes see: every rank writes its part of a checkpoint there";
        out.hinted(name, State::Missing, detail, hint.into());
    } else if kind.as_deref() == Some("tmpfs") {
        let hint = "a tmpfs is memory, and gone with the node";
        out.hinted(name, State::Note, detail, hint.into());
    } else if space.free_bytes < LITTLE_BYTES {
        let hint = "make room: a checkpoint holds at least 12 bytes for each trained parameter, and two exist for a moment";
        out.hinted(name, State::Note, detail, hint.into());
    } else {
        out.add(name, State::Found, detail);
    }
}

/// The type of the file system that a path is on: of the longest mount point above it, the last one mounted there.
fn file_system(mounts: &str, path: &str) -> Option<String> {
    let mut best: Option<(usize, &str)> = None;
    for line in mounts.lines() {
        let mut words = line.split(' ').skip(1);
        let (Some(point), Some(kind)) = (words.next(), words.next()) else {
            continue;
        };
        let point = point.replace("\\040", " ");
        let is_above = Path::new(path).starts_with(&point);
        if is_above && best.is_none_or(|(length, _)| point.len() >= length) {
            best = Some((point.len(), kind));
        }
    }
    best.map(|(_, kind)| kind.to_owned())
}
