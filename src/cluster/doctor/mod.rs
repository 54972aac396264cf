//! What a machine has of what training needs, line by line, and what to do about the rest.

mod files;
mod gpu;
mod launch;
mod machine;
mod network;
mod probe;
#[cfg(test)]
mod tests;

use std::{fmt, path::PathBuf};

pub use machine::available_memory;
pub use probe::{Machine, Probe};

/// What this program was built with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Build {
    /// Backends, by the names of devices.
    pub backends: Vec<String>,
    /// Whether processes can exchange tensors by MPI.
    pub has_mpi: bool,
}

impl Build {
    fn has_cuda(&self) -> bool {
        self.backends.iter().any(|name| name.starts_with("cuda"))
    }
}

/// What a configuration or a flag asks for: without it, training would not run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Asked {
    /// The device, by its name.
    pub device: Option<String>,
    /// Ranks on this host.
    pub devices: Option<usize>,
    /// The run directory.
    pub output: Option<PathBuf>,
    /// Where files made of data are kept.
    pub cache: Option<PathBuf>,
}

impl Asked {
    fn cuda(&self) -> bool {
        self.device
            .as_deref()
            .is_some_and(|name| name.starts_with("cuda"))
    }
}

/// How it stands with one thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// There.
    Found,
    /// Not there, and nobody asked for it.
    Absent,
    /// There, and worth a word.
    Note,
    /// Asked for, and not there or not right.
    Missing,
}

impl State {
    /// One word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Found => "found",
            Self::Absent => "none",
            Self::Note => "note",
            Self::Missing => "MISSING",
        }
    }

    /// Missing if somebody asked for it.
    fn absent(is_needed: bool) -> Self {
        if is_needed { Self::Missing } else { Self::Absent }
    }
}

/// One line of the report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Heading under which it stands.
    pub area: &'static str,
    /// What was looked for.
    pub name: &'static str,
    /// How it stands.
    pub state: State,
    /// What was seen.
    pub detail: String,
    /// What to do.
    pub hint: Option<String>,
}

/// Everything that was looked for. Displayed as a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The lines.
    pub findings: Vec<Finding>,
}

/// Looks at a machine.
pub fn examine(probe: &dyn Probe, build: &Build, asked: &Asked) -> Report {
    let mut report = Report { findings: Vec::new() };
    self::build(build, asked, &mut report.under("build"));
    gpu::examine(probe, build, asked, &mut report.under("NVIDIA"));
    network::examine(probe, asked, &mut report.under("between GPUs"));
    launch::examine(probe, build, &mut report.under("launch"));
    machine::examine(probe, &mut report.under("machine"));
    files::examine(probe, asked, &mut report.under("files"));
    report
}

fn build(build: &Build, asked: &Asked, out: &mut Section<'_>) {
    let backends = build.backends.join(", ");
    let kind = |name: &str| name.split(':').next().unwrap_or_default().to_owned();
    let wanted = asked.device.as_deref().filter(|&name| name != "auto");
    let is_there = |name: &str| build.backends.iter().any(|backend| kind(backend) == kind(name));
    match wanted {
        Some(name) if !is_there(name) => out.hinted(
            "backends",
            State::Missing,
            format!("{backends}; {name} was asked for"),
            format!("cargo build --release --features {}", kind(name)),
        ),
        _ => out.add("backends", State::Found, backends),
    }
    match build.has_mpi {
        true => out.add("MPI", State::Found, "compiled in".into()),
        false => out.add("MPI", State::Absent, "not compiled in".into()),
    }
}

impl Report {
    /// Whether training would run, as far as was asked.
    pub fn is_fine(&self) -> bool {
        self.findings
            .iter()
            .all(|finding| finding.state != State::Missing)
    }

    fn under(&mut self, area: &'static str) -> Section<'_> {
        Section { area, report: self }
    }
}

/// Where findings of one area go.
struct Section<'a> {
    area: &'static str,
    report: &'a mut Report,
}

impl Section<'_> {
    fn add(&mut self, name: &'static str, state: State, detail: String) {
        self.push(name, state, detail, None);
    }

    fn hinted(&mut self, name: &'static str, state: State, detail: String, hint: String) {
        self.push(name, state, detail, Some(hint));
    }

    fn push(&mut self, name: &'static str, state: State, detail: String, hint: Option<String>) {
        self.report.findings.push(Finding {
            area: self.area,
            name,
            state,
            detail,
            hint,
        });
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut area = "";
        for finding in &self.findings {
            if finding.area != area {
                let gap = if area.is_empty() { "" } else { "\n" };
                area = finding.area;
                writeln!(f, "{gap}{area}")?;
            }
            let state = finding.state.name();
            writeln!(f, "  {state:<8} {:<16} {}", finding.name, finding.detail)?;
            if let Some(hint) = &finding.hint {
                writeln!(f, "{:28}hint: {hint}", "")?;
            }
        }
        let missing = self
            .findings
            .iter()
            .filter(|finding| finding.state == State::Missing);
        match missing.count() {
            0 => write!(f, "\nnothing that was asked for is missing"),
            1 => write!(f, "\n1 thing that was asked for is missing"),
            count => write!(f, "\n{count} things that were asked for are missing"),
        }
    }
}

/// `1.5 GiB`.
fn readable(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if value < 1024.0 {
            return format!("{value:.1} {unit}");
        }
        value /= 1024.0;
    }
    format!("{value:.1} TiB")
}
