//! SLURM's ways of writing a duration and a signal before its end.

use std::{fmt, str::FromStr};

use super::SlurmError;

/// A time limit as `sbatch --time` takes it. Displayed as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimeLimit {
    text: String,
    /// The same in seconds.
    pub seconds: u64,
}

impl FromStr for TimeLimit {
    type Err = SlurmError;

    /// `minutes`, `minutes:seconds`, `hours:minutes:seconds`, `days-hours`, `days-hours:minutes` or
    /// `days-hours:minutes:seconds`; see `man sbatch`.
    fn from_str(text: &str) -> Result<Self, SlurmError> {
        match seconds(text) {
            Some(seconds) if seconds > 0 => Ok(Self {
                text: text.to_owned(),
                seconds,
            }),
            _ => Err(SlurmError::Time { text: text.into() }),
        }
    }
}

impl fmt::Display for TimeLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn seconds(text: &str) -> Option<u64> {
    let (days, rest) = match text.split_once('-') {
        Some((days, rest)) => (Some(number(days)?), rest),
        None => (None, text),
    };
    let parts = rest.split(':').map(number).collect::<Option<Vec<u64>>>()?;
    let (hours, minutes, seconds) = match (days, &parts[..]) {
        (Some(_), &[hours]) => (hours, 0, 0),
        (Some(_), &[hours, minutes]) => (hours, minutes, 0),
        (None, &[minutes]) => (0, minutes, 0),
        (None, &[minutes, seconds]) => (0, minutes, seconds),
        (_, &[hours, minutes, seconds]) => (hours, minutes, seconds),
        _ => return None,
    };
    Some(((days.unwrap_or(0) * 24 + hours) * 60 + minutes) * 60 + seconds)
}

/// At most six digits, so that no sum overflows.
fn number(text: &str) -> Option<u64> {
    let is_number = (1..=6).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| is_number)
}

/// The signal by which SLURM says that the time is nearly over, and how long before the end. Displayed as
/// `sbatch --signal` takes it, for instance `USR1@300`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Warning {
    name: &'static str,
    /// Seconds before the end of the time limit.
    pub seconds: u64,
}

/// Signals that make a run save and stop.
const SIGNALS: [&str; 2] = ["USR1", "TERM"];

impl FromStr for Warning {
    type Err = SlurmError;

    fn from_str(text: &str) -> Result<Self, SlurmError> {
        let refused = || SlurmError::Signal { text: text.into() };
        let (name, seconds) = text.split_once('@').ok_or_else(refused)?;
        let name = name.strip_prefix("SIG").unwrap_or(name);
        // SLURM keeps the seconds in 16 bits.
        let seconds = seconds.parse::<u16>().ok().filter(|&seconds| seconds > 0);
        let name = SIGNALS.into_iter().find(|&signal| signal == name);
        let (name, seconds) = name.zip(seconds).ok_or_else(refused)?;
        Ok(Self {
            name,
            seconds: seconds.into(),
        })
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.name, self.seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_as_sbatch_reads_them() {
        for (text, seconds) in [
            ("30", 1800),
            ("90:30", 5430),
            ("12:00:00", 43_200),
            ("1-0", 86_400),
            ("1-12:30", 131_400),
            ("2-01:02:03", 176_523),
        ] {
            let limit: TimeLimit = text.parse().unwrap();
            assert_eq!((limit.seconds, limit.to_string().as_str()), (seconds, text));
        }
        for text in [
            "",
            "0",
            "00:00:00",
            "12h",
            "1:2:3:4",
            "1-",
            "-1",
            "1:-2",
            "9999999",
            "1-1:1:1:1",
        ] {
            assert!(text.parse::<TimeLimit>().is_err(), "{text}");
        }
    }

    #[test]
    fn signals_that_a_run_listens_to() {
        let warning: Warning = "USR1@300".parse().unwrap();
        assert_eq!((warning.seconds, warning.to_string().as_str()), (300, "USR1@300"));
        assert_eq!("SIGTERM@60".parse::<Warning>().unwrap().to_string(), "TERM@60");
        for text in [
            "USR1",
            "USR2@300",
            "KILL@5",
            "USR1@0",
            "USR1@70000",
            "B:USR1@300",
            "@",
        ] {
            assert!(text.parse::<Warning>().is_err(), "{text}");
        }
    }
}
