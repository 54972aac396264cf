//! How processes find each other: the first waits where all know, the others call it, and learn from it where the rest are.
//!
//! Every call begins with a [`Hello`]. When all have called, the first answers each with the addresses of all; then each
//! calls those before it and is called by those behind it.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs},
    time::{Duration, Instant},
};

use super::World;

const MAGIC: &[u8; 8] = b"BRZMEET1";
const HELLO_BYTES: usize = 18;
const POLL: Duration = Duration::from_millis(20);
/// Who is connected and says nothing for so long is no rank.
const HELLO_PATIENCE: Duration = Duration::from_secs(5);
/// Ranks that have been told where the others are need no longer to reach them.
const CONNECTING: Duration = Duration::from_secs(60);
const ATTEMPT: Duration = Duration::from_secs(5);
/// A name that is not known for so long will not be.
const NAME_PATIENCE: Duration = Duration::from_secs(30);
const MAX_ANSWER_BYTES: u64 = 16 << 20;
const GOOD: &str = "good";

type Streams = Vec<Option<TcpStream>>;

/// The first words of a rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Hello {
    world: World,
    /// Where it waits for those behind it.
    port: u16,
}

impl Hello {
    fn write(self, stream: &mut TcpStream) -> io::Result<()> {
        let numbers = [self.world.rank, self.world.size].map(|number| (number as u32).to_le_bytes());
        let words = [&MAGIC[..], &numbers.concat(), &self.port.to_le_bytes()].concat();
        stream.write_all(&words)
    }

    /// `None` if it is somebody else.
    fn read(stream: &mut TcpStream) -> Option<Self> {
        let mut words = [0; HELLO_BYTES];
        stream.set_nonblocking(false).ok()?;
        stream.set_read_timeout(Some(HELLO_PATIENCE)).ok()?;
        stream.read_exact(&mut words).ok()?;
        let number = |at: usize| {
            let bytes = words[at..].first_chunk::<4>()?;
            usize::try_from(u32::from_le_bytes(*bytes)).ok()
        };
        words.starts_with(MAGIC).then_some(Self {
            world: World {
                rank: number(8)?,
                size: number(12)?,
            },
            port: u16::from_le_bytes([words[16], words[17]]),
        })
    }
}

/// Connections to all ranks, with `None` in this one's place.
///
/// # Errors
/// What is wrong, and what to do about it.
pub(super) fn streams(world: World, (host, port): (&str, u16), timeout: Duration) -> Result<Streams, String> {
    let meeting = Meeting {
        world,
        host,
        port,
        timeout,
        deadline: Instant::now() + timeout,
    };
    match world.rank {
        0 => meeting.host_all(),
        _ => meeting.join(),
    }
}

struct Meeting<'a> {
    world: World,
    host: &'a str,
    port: u16,
    timeout: Duration,
    deadline: Instant,
}

impl Meeting<'_> {
    /// What the first rank does.
    fn host_all(&self) -> Result<Streams, String> {
        let listener = listen(self.port).map_err(|error| match error.kind() {
            ErrorKind::AddrInUse => format!(
                "port {} of this host is in use, perhaps by another job\n  hint: set MASTER_PORT to a free one, for all ranks",
                self.port
            ),
            _ => format!("cannot wait for the other ranks at port {}: {error}", self.port),
        })?;
        let mut callers: Vec<(Hello, TcpStream)> = Vec::new();
        let heard = self.answer_calls(&listener, |hello, stream| {
            callers.push((hello, stream));
            self.check(&callers)?;
            Ok(callers.len() + 1 == self.world.size)
        });
        let ranks = callers.iter().map(|(hello, _)| hello.world.rank);
        let outcome = heard.and_then(|_| self.check_all_came(&ranks.chain([0]).collect::<Vec<_>>()));
        let outcome = outcome.and_then(|()| addresses(&callers));
        let mut streams: Streams = (0..self.world.size).map(|_| None).collect();
        for (hello, mut stream) in callers {
            let (word, text) = match &outcome {
                Ok(addresses) => (GOOD, addresses),
                Err(reason) => ("bad", reason),
            };
            let answer = format!("{word}\n{text}");
            let len = (answer.len() as u64).to_le_bytes();
            // One that is gone is found out when it is missed.
            let _ = stream.write_all(&[&len, answer.as_bytes()].concat());
            if let Some(place) = streams.get_mut(hello.world.rank) {
                *place = Some(stream);
            }
        }
        outcome.map(|_| streams)
    }

    /// What the others do.
    fn join(&self) -> Result<Streams, String> {
        let own = listen(0).and_then(|listener| Ok((listener.local_addr()?.port(), listener)));
        let (port, listener) = own.map_err(|error| format!("no port to be called at: {error}"))?;
        let hello = Hello {
            world: self.world,
            port,
        };
        let mut first = self.call(hello, self.host, self.port)?;
        let addresses = self.read_answer(&mut first)?;
        // From here on all are there: what is left takes no longer than it takes to connect.
        let meeting = Meeting {
            deadline: Instant::now() + self.timeout.min(CONNECTING),
            ..*self
        };
        meeting.join_neighbours(hello, &listener, first, &addresses)
    }

    fn join_neighbours(
        &self,
        hello: Hello,
        listener: &TcpListener,
        first: TcpStream,
        addresses: &str,
    ) -> Result<Streams, String> {
        let mut streams: Streams = (0..self.world.size).map(|_| None).collect();
        streams[0] = Some(first);
        for (rank, address) in addresses.lines().enumerate().take(self.world.rank).skip(1) {
            let address: SocketAddr = address
                .parse()
                .map_err(|_| format!("rank 0 says that rank {rank} is at {address:?}"))?;
            let ip = address.ip().to_canonical();
            // As rank 0 sees it: a rank of its own host, which others know as the host of rank 0.
            let host = if ip.is_loopback() {
                self.host.to_owned()
            } else {
                ip.to_string()
            };
            streams[rank] = Some(self.call(hello, &host, address.port())?);
        }
        let behind = self.world.rank + 1;
        if behind < self.world.size {
            self.answer_calls(listener, |hello, stream| {
                let place = streams
                    .get_mut(hello.world.rank)
                    .filter(|_| hello.world.rank >= behind);
                if let Some(place) = place {
                    *place = Some(stream);
                }
                Ok(streams[behind..].iter().all(Option::is_some))
            })?;
        }
        let here = |rank: &usize| streams[*rank].is_some() || *rank == self.world.rank;
        self.check_all_came(&(0..self.world.size).filter(here).collect::<Vec<_>>())?;
        Ok(streams)
    }

    /// Takes calls until `take` has all, or the time is over.
    fn answer_calls(
        &self,
        listener: &TcpListener,
        mut take: impl FnMut(Hello, TcpStream) -> Result<bool, String>,
    ) -> Result<(), String> {
        let failed = |error| format!("cannot wait for other ranks: {error}");
        listener.set_nonblocking(true).map_err(failed)?;
        loop {
            match listener.accept() {
                Ok((mut stream, _)) => {
                    if let Some(hello) = Hello::read(&mut stream)
                        && take(hello, stream)?
                    {
                        return Ok(());
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => match Instant::now() < self.deadline {
                    true => std::thread::sleep(POLL),
                    false => return Ok(()),
                },
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::Interrupted | ErrorKind::ConnectionAborted
                    ) => {}
                Err(error) => return Err(failed(error)),
            }
        }
    }

    /// Calls until somebody answers.
    fn call(&self, hello: Hello, host: &str, port: u16) -> Result<TcpStream, String> {
        let mut unknown_since = Some(Instant::now());
        loop {
            let addresses = match (host, port).to_socket_addrs() {
                Ok(addresses) => addresses,
                Err(_)
                    if unknown_since.is_none_or(|since| since.elapsed() < NAME_PATIENCE)
                        && Instant::now() < self.deadline =>
                {
                    std::thread::sleep(POLL);
                    continue;
                }
                Err(error) => {
                    return Err(format!(
                        "the host {host} is not known here: {error}\n  hint: MASTER_ADDR has to be a name or an address of the host \
                         of rank 0 that all hosts know"
                    ));
                }
            };
            // A name that was known once will be again.
            unknown_since = None;
            let called = connect(addresses).and_then(|mut stream| {
                hello.write(&mut stream)?;
                Ok(stream)
            });
            let error = match called {
                Ok(stream) => return Ok(stream),
                Err(error) => error,
            };
            if Instant::now() >= self.deadline {
                let hint = match (host, port) == (self.host, self.port) {
                    true => {
                        "rank 0 has to run on the host of MASTER_ADDR, and MASTER_PORT has to be open there"
                    }
                    false => {
                        "ranks call each other at ports that the system chooses: these have to be open between the hosts"
                    }
                };
                return Err(format!(
                    "called {host}:{port} again and again: {error}\n  hint: {hint}"
                ));
            }
            std::thread::sleep(POLL);
        }
    }

    /// The addresses of all ranks.
    fn read_answer(&self, first: &mut TcpStream) -> Result<String, String> {
        let patience = self.deadline.saturating_duration_since(Instant::now()) + HELLO_PATIENCE;
        let mut read = || {
            first.set_read_timeout(Some(patience))?;
            let mut len = [0; 8];
            first.read_exact(&mut len)?;
            let mut answer = String::new();
            let len = u64::from_le_bytes(len).min(MAX_ANSWER_BYTES);
            first.take(len).read_to_string(&mut answer)?;
            Ok::<_, io::Error>(answer)
        };
        let answer = read().map_err(|error| {
            format!(
                "no answer from {}:{}: {error}\n  hint: look at the last lines of rank 0; if that is no rank of this run, set \
                 MASTER_PORT to a free port, for all ranks",
                self.host, self.port
            )
        })?;
        match answer.split_once('\n') {
            Some((GOOD, addresses)) => Ok(addresses.to_owned()),
            Some((_, reason)) => Err(format!("rank 0 says: {reason}")),
            None => Err(format!("rank 0 says: {answer:?}")),
        }
    }

    fn check(&self, callers: &[(Hello, TcpStream)]) -> Result<(), String> {
        let places = callers.iter().map(|(hello, _)| hello.world);
        let Some(World { rank, size }) = places.clone().next_back() else {
            return Ok(());
        };
        if size != self.world.size {
            return Err(format!(
                "rank {rank} was started as one of {size} ranks, rank 0 as one of {}\n  hint: start all ranks with one command",
                self.world.size
            ));
        }
        if rank == 0 || rank >= size || places.filter(|place| place.rank == rank).count() > 1 {
            return Err(format!(
                "two processes say that they are rank {rank} of {size}\n  hint: another run may use the same MASTER_PORT"
            ));
        }
        Ok(())
    }

    fn check_all_came(&self, here: &[usize]) -> Result<(), String> {
        let absent = (0..self.world.size).filter(|rank| !here.contains(rank));
        let absent: Vec<String> = absent.map(|rank| rank.to_string()).collect();
        match absent.is_empty() {
            true => Ok(()),
            false => Err(format!(
                "waited {} s for rank {} of {}\n  hint: look at their last lines; all ranks need the same MASTER_ADDR, the host of \
                 rank 0, and the same MASTER_PORT",
                self.timeout.as_secs(),
                absent.join(", "),
                self.world.size
            )),
        }
    }
}

/// A line for each rank; that of the first is empty.
fn addresses(callers: &[(Hello, TcpStream)]) -> Result<String, String> {
    let mut lines = vec![String::new(); callers.len() + 1];
    for (hello, stream) in callers {
        let address = stream.peer_addr();
        let address = address.map_err(|error| format!("rank {} is gone: {error}", hello.world.rank))?;
        lines[hello.world.rank] = SocketAddr::new(address.ip(), hello.port).to_string();
    }
    Ok(lines.join("\n"))
}

/// On all addresses of the host, of both kinds where there are both.
fn listen(port: u16) -> io::Result<TcpListener> {
    let any = |ip: IpAddr| TcpListener::bind((ip, port));
    match any(std::net::Ipv6Addr::UNSPECIFIED.into()) {
        Err(error) if error.kind() != ErrorKind::AddrInUse => any(std::net::Ipv4Addr::UNSPECIFIED.into()),
        result => result,
    }
}

fn connect(addresses: impl Iterator<Item = SocketAddr>) -> io::Result<TcpStream> {
    let mut last = io::Error::new(ErrorKind::NotFound, "the host has no address");
    for address in addresses {
        match TcpStream::connect_timeout(&address, ATTEMPT) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}
