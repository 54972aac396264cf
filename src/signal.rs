//! Stopping on request: SIGTERM, SIGINT or SIGUSR1 asks for it once, the second signal does not ask.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use signal_hook::{
    consts::{SIGINT, SIGTERM, SIGUSR1},
    flag,
};

/// Signals that ask a run to stop, with their names.
const STOP_SIGNALS: [(i32, &str); 3] = [(SIGTERM, "SIGTERM"), (SIGINT, "SIGINT"), (SIGUSR1, "SIGUSR1")];

/// A handle, cheap to clone, that tells whether the run was asked to stop.
#[derive(Debug, Clone, Default)]
pub struct StopRequest {
    /// Read by the handler of a second signal, so it has to be a flag of its own.
    is_set: Arc<AtomicBool>,
    /// 0: not asked. Else one more than the index in `STOP_SIGNALS`, or `BY_PROGRAM`.
    reason: Arc<AtomicUsize>,
}

const BY_PROGRAM: usize = STOP_SIGNALS.len() + 1;

impl StopRequest {
    /// A request that listens to no signal: for tests and for runs inside another program.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes over SIGTERM, SIGINT and SIGUSR1 of this process. The first of them only sets the request. Any further one
    /// ends the process at once, without cleaning up, with the shell's code for it: 128 plus its number, that is
    /// 143, 130 or 138. Nothing that was committed to disk is lost by that.
    ///
    /// # Errors
    /// If the system refuses a handler.
    pub fn listen() -> io::Result<Self> {
        let request = Self::new();
        for (index, (signal, _)) in STOP_SIGNALS.into_iter().enumerate() {
            // Handlers run in this order: the first signal must find the flag unset here and set it after.
            flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&request.is_set))?;
            flag::register(signal, Arc::clone(&request.is_set))?;
            flag::register_usize(signal, Arc::clone(&request.reason), index + 1)?;
        }
        Ok(request)
    }

    /// Asks for a stop as a signal would.
    pub fn request(&self) {
        self.is_set.store(true, Ordering::SeqCst);
        self.reason.store(BY_PROGRAM, Ordering::SeqCst);
    }

    /// What asked for the stop: the signal's name, `request` for [`StopRequest::request`]; `None` while nobody did.
    pub fn requested(&self) -> Option<&'static str> {
        match self.reason.load(Ordering::SeqCst) {
            0 => None,
            reason => Some(STOP_SIGNALS.get(reason - 1).map_or("request", |(_, name)| *name)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead, BufReader, Write},
        process::{Command, Stdio},
    };

    use signal_hook::low_level::raise;

    use super::*;

    #[test]
    fn a_program_can_ask_and_clones_hear_it() {
        let request = StopRequest::new();
        let clone = request.clone();
        assert_eq!(clone.requested(), None);
        request.request();
        assert_eq!(clone.requested(), Some("request"));
    }

    /// Run by the test below in a process of its own: raises the two signals named in its environment.
    #[test]
    fn child() {
        let Ok(signals) = std::env::var("BRAZIER_TEST_SIGNALS") else {
            return;
        };
        let request = StopRequest::listen().unwrap();
        for number in signals.split(',') {
            raise(number.parse().unwrap()).unwrap();
            writeln!(io::stderr(), "asked by {:?}", request.requested()).unwrap();
        }
    }

    #[test]
    fn the_first_signal_asks_and_the_second_ends_the_process() {
        for (index, (signal, name)) in STOP_SIGNALS.into_iter().enumerate() {
            let second = STOP_SIGNALS[(index + 1) % STOP_SIGNALS.len()].0;
            let mut child = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "--nocapture", "signal::tests::child"])
                .env("BRAZIER_TEST_SIGNALS", format!("{signal},{second}"))
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            let lines = BufReader::new(child.stderr.take().unwrap()).lines();
            let asked: Vec<_> = lines
                .map(Result::unwrap)
                .filter(|line| line.contains("asked by"))
                .collect();
            assert_eq!(asked, [format!("asked by Some(\"{name}\")")]);
            assert_eq!(child.wait().unwrap().code(), Some(128 + second));
        }
    }
}
