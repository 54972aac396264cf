//! Ranks that are processes, by TCP: from torchrun or srun, with nothing to install. Each is connected to each.
//!
//! A sum is made where its part belongs: every rank sends each other one that one's part, and adds up what it gets in the
//! order of the ranks. So sums are the same bits as those of [`super::Threads`].

mod link;
mod meet;
#[cfg(test)]
mod tests;

use std::{
    cell::RefCell,
    cmp,
    collections::VecDeque,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, RecvTimeoutError, Sender},
    },
    time::{Duration, Instant},
};

use super::{CollectiveError, World, engine::Engine};
use link::{Header, Incoming, Kind, Link, Outgoing};

/// How long a rank that has failed stays for the others to hear of it.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// One process of a run. Belongs to the thread that made it.
pub struct Tcp {
    mesh: Rc<RefCell<Mesh>>,
    /// Places of this group's ranks among all, in order.
    members: Vec<usize>,
    /// This rank's place among them.
    rank: usize,
    group: u64,
    sequence: u64,
}

/// All connections of a rank.
struct Mesh {
    /// Among all.
    world: World,
    /// To each rank but this one.
    links: Vec<Option<Link>>,
    inbox: Receiver<Incoming>,
    /// Frames that came before they were asked for, by rank.
    waiting: Vec<VecDeque<(Header, Vec<u8>)>>,
    gone: Vec<bool>,
    failed: Option<CollectiveError>,
    /// This rank has told the others that it has failed.
    aborted: Arc<AtomicBool>,
    timeout: Duration,
    /// Groups that there are.
    num_groups: u64,
}

impl Tcp {
    /// Meets the other processes of the run, of which the first waits at `host:port`.
    ///
    /// # Errors
    /// If that port is in use, nobody answers there, or not all come within `timeout`; if two processes say that they are the
    /// same rank, or that there are different numbers of ranks.
    pub fn join(world: World, meet: (&str, u16), timeout: Duration) -> Result<Self, CollectiveError> {
        let failed = |reason| CollectiveError::Engine {
            rank: world.rank,
            reason,
        };
        let streams = meet::streams(world, meet, timeout);
        let streams = streams.map_err(|reason| CollectiveError::Meeting { reason })?;
        let (sender, inbox) = std::sync::mpsc::channel();
        let links = streams.into_iter().enumerate().map(|(peer, stream)| {
            let link = stream.map(|stream| Link::start(peer, stream, sender.clone(), timeout));
            link.transpose()
        });
        let links = links.collect::<Result<Vec<_>, _>>();
        let links = links.map_err(|error| failed(format!("the connections cannot be used: {error}")))?;
        let mesh = Mesh {
            world,
            links,
            inbox,
            waiting: (0..world.size).map(|_| VecDeque::new()).collect(),
            gone: vec![false; world.size],
            failed: None,
            aborted: Arc::default(),
            timeout,
            num_groups: 1,
        };
        Ok(Self {
            mesh: Rc::new(RefCell::new(mesh)),
            members: (0..world.size).collect(),
            rank: world.rank,
            group: 0,
            sequence: 0,
        })
    }

    /// Sends each other rank its range of `body`, and takes what they send: the bytes of all ranks, in order, without those of
    /// this one. `len` is how many each must send.
    fn trade(
        &mut self,
        kind: Kind,
        body: Vec<u8>,
        range_of: impl Fn(usize) -> std::ops::Range<usize>,
        len: Option<u64>,
    ) -> Result<Vec<Vec<u8>>, CollectiveError> {
        let mut mesh = self.mesh.borrow_mut();
        let body = Arc::new(body);
        let (group, sequence) = (self.group, self.sequence);
        self.sequence += 1;
        let header = |len| Header {
            kind,
            group,
            sequence,
            len,
        };
        // The neighbour first, so that not all send to the same one at once.
        let size = self.members.len();
        for place in (1..size).map(|step| (self.rank + step) % size) {
            let range = range_of(place);
            let header = header(range.len() as u64);
            mesh.send(self.members[place], Outgoing::Frame(header, body.clone(), range));
        }
        let peers = self
            .members
            .iter()
            .copied()
            .filter(|&peer| peer != mesh.world.rank);
        let peers: Vec<usize> = peers.collect();
        let taken = mesh.take(&peers, header(0), len);
        taken.inspect_err(|error| mesh.failed = Some(error.clone()))
    }
}

impl Mesh {
    fn send(&self, peer: usize, frame: Outgoing) {
        if let Some(link) = &self.links[peer] {
            let _ = link.outbox().send(frame);
        }
    }

    /// The next frame of each of these ranks.
    fn take(
        &mut self,
        peers: &[usize],
        expected: Header,
        len: Option<u64>,
    ) -> Result<Vec<Vec<u8>>, CollectiveError> {
        let deadline = Instant::now() + self.timeout;
        loop {
            if let Some(error) = &self.failed {
                return Err(error.clone());
            }
            let missing = || {
                peers
                    .iter()
                    .copied()
                    .filter(|&peer| self.waiting[peer].is_empty())
            };
            if missing().next().is_none() {
                break;
            }
            if let Some(rank) = missing().find(|&peer| self.gone[peer]) {
                return Err(gone(rank));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            match self.inbox.recv_timeout(left) {
                Ok(incoming) => self.accept(incoming)?,
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    let absent: Vec<String> = missing().map(|rank| rank.to_string()).collect();
                    return Err(CollectiveError::TimedOut {
                        rank: self.world.rank,
                        size: self.world.size,
                        operation: expected.kind.name(),
                        seconds: self.timeout.as_secs(),
                        missing: format!(" for rank {}", absent.join(", ")),
                    });
                }
            }
        }
        let mut taken = Vec::with_capacity(peers.len());
        for &peer in peers {
            let Some((header, body)) = self.waiting[peer].pop_front() else {
                unreachable!("a frame of each rank is there")
            };
            self.check(header, expected, len)?;
            taken.push(body);
        }
        Ok(taken)
    }

    /// Puts a frame where it waits until it is asked for.
    fn accept(&mut self, incoming: Incoming) -> Result<(), CollectiveError> {
        match incoming {
            Incoming::Frame(
                rank,
                Header {
                    kind: Kind::Abort, ..
                },
                words,
            ) => {
                let message = String::from_utf8_lossy(&words).into_owned();
                return Err(CollectiveError::Peer { rank, message });
            }
            Incoming::Frame(peer, header, body) => self.waiting[peer].push_back((header, body)),
            Incoming::Gone(peer) => self.gone[peer] = true,
        }
        Ok(())
    }

    /// Takes what has come, without waiting.
    fn listen(&mut self) -> Result<(), CollectiveError> {
        while let Ok(incoming) = self.inbox.try_recv() {
            self.accept(incoming)?;
        }
        Ok(())
    }

    fn check(&self, found: Header, expected: Header, len: Option<u64>) -> Result<(), CollectiveError> {
        let is_same = Header { len: 0, ..found } == Header { len: 0, ..expected };
        if is_same && len.is_none_or(|len| len == found.len) {
            return Ok(());
        }
        let in_words = |header: Header, len: Option<u64>| match len {
            Some(len) => format!("{} {} of {len} bytes", header.kind.name(), header.sequence),
            None => format!("{} {}", header.kind.name(), header.sequence),
        };
        Err(CollectiveError::Disagree {
            rank: self.world.rank,
            found: in_words(expected, len),
            expected: in_words(found, len.map(|_| found.len)),
        })
    }
}

fn gone(rank: usize) -> CollectiveError {
    CollectiveError::Peer {
        rank,
        message: "its process has ended, or the connection to it".to_owned(),
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        let links = || self.links.iter().flatten();
        links().for_each(|link| _ = link.outbox().send(Outgoing::End));
        let has_failed = self.failed.is_some() || self.aborted.load(Ordering::Relaxed);
        let patience = if has_failed { LAST_WORDS } else { self.timeout };
        let deadline = Instant::now() + patience;
        self.links
            .iter_mut()
            .flatten()
            .for_each(|link| link.close(deadline));
    }
}

fn to_bytes(values: &[f32]) -> Vec<u8> {
    let mut bytes = vec![0; values.len() * 4];
    for (to, value) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(values) {
        *to = value.to_le_bytes();
    }
    bytes
}

fn floats(bytes: &[u8]) -> impl Iterator<Item = f32> {
    bytes
        .as_chunks::<4>()
        .0
        .iter()
        .map(|value| f32::from_le_bytes(*value))
}

impl Tcp {
    /// The sum of this rank's part of what all ranks have.
    fn own_sum(&mut self, kind: Kind, values: &[f32]) -> Result<Vec<f32>, CollectiveError> {
        let (rank, len) = (self.rank, values.len() / self.members.len());
        let range_of = |place| place * len * 4..(place + 1) * len * 4;
        let others = self.trade(kind, to_bytes(values), range_of, Some(len as u64 * 4))?;
        let mut sum = vec![0.0; len];
        for place in 0..self.members.len() {
            match place.cmp(&rank) {
                cmp::Ordering::Equal => add(&mut sum, values[rank * len..][..len].iter().copied()),
                cmp::Ordering::Less => add(&mut sum, floats(&others[place])),
                cmp::Ordering::Greater => add(&mut sum, floats(&others[place - 1])),
            }
        }
        Ok(sum)
    }

    /// What each rank gives, this one included.
    fn all(&mut self, kind: Kind, part: Vec<u8>, len: Option<u64>) -> Result<Vec<Vec<u8>>, CollectiveError> {
        let whole = 0..part.len();
        let mut all = self.trade(kind, part.clone(), |_| whole.clone(), len)?;
        all.insert(self.rank, part);
        Ok(all)
    }
}

fn add(sum: &mut [f32], values: impl Iterator<Item = f32>) {
    sum.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
}

impl Engine for Tcp {
    fn world(&self) -> World {
        World {
            rank: self.rank,
            size: self.members.len(),
        }
    }

    fn all_reduce(&mut self, values: &mut Vec<f32>) -> Result<(), CollectiveError> {
        let (len, size) = (values.len(), self.members.len());
        values.resize(len.next_multiple_of(size), 0.0);
        let sum = self.own_sum(Kind::AllReduce, values)?;
        let part_len = sum.len() as u64 * 4;
        let parts = self.all(Kind::AllReduce, to_bytes(&sum), Some(part_len))?;
        values.clear();
        parts.iter().for_each(|part| values.extend(floats(part)));
        values.truncate(len);
        Ok(())
    }

    fn reduce_scatter(&mut self, values: Vec<f32>) -> Result<Vec<f32>, CollectiveError> {
        debug_assert!(values.len().is_multiple_of(self.members.len()));
        self.own_sum(Kind::ReduceScatter, &values)
    }

    fn all_gather(&mut self, part: Vec<u8>) -> Result<Vec<u8>, CollectiveError> {
        let len = part.len() as u64;
        Ok(self.all(Kind::AllGather, part, Some(len))?.concat())
    }

    fn exchange(&mut self, part: Vec<u8>) -> Result<Vec<Vec<u8>>, CollectiveError> {
        self.all(Kind::Exchange, part, None)
    }

    fn split(&mut self, colour: usize) -> Result<Box<dyn Engine>, CollectiveError> {
        let num_groups = self.mesh.borrow().num_groups;
        let mine = [colour as u64, num_groups].map(u64::to_le_bytes).concat();
        let all = self.all(Kind::Split, mine.clone(), Some(mine.len() as u64))?;
        let places: Vec<usize> = (0..all.len())
            .filter(|&place| all[place][..8] == mine[..8])
            .collect();
        // One number for a new group on all its ranks, which none of them has used.
        let known = all
            .iter()
            .filter_map(|said| Some(u64::from_le_bytes(*said.last_chunk()?)));
        let group = known.max().unwrap_or(num_groups);
        self.mesh.borrow_mut().num_groups = group + 1;
        Ok(Box::new(Self {
            mesh: self.mesh.clone(),
            rank: places
                .iter()
                .position(|&place| place == self.rank)
                .unwrap_or_default(),
            members: places.into_iter().map(|place| self.members[place]).collect(),
            group,
            sequence: 0,
        }))
    }

    fn check(&mut self) -> Result<(), CollectiveError> {
        let mut mesh = self.mesh.borrow_mut();
        if let Some(error) = &mesh.failed {
            return Err(error.clone());
        }
        let heard = mesh.listen();
        heard.inspect_err(|error| mesh.failed = Some(error.clone()))?;
        match self.members.iter().find(|&&peer| mesh.gone[peer]) {
            Some(&rank) => Err(gone(rank)),
            None => Ok(()),
        }
    }

    fn abort_handle(&self) -> Box<dyn Fn(&str) + Send + Sync> {
        let mesh = self.mesh.borrow();
        let links = mesh.links.iter().flatten();
        let outboxes: Vec<Sender<Outgoing>> = links.map(|link| link.outbox().clone()).collect();
        let aborted = mesh.aborted.clone();
        Box::new(move |message| {
            aborted.store(true, Ordering::Relaxed);
            let body = Arc::new(message.as_bytes().to_vec());
            for outbox in &outboxes {
                let header = Header {
                    kind: Kind::Abort,
                    group: 0,
                    sequence: 0,
                    len: body.len() as u64,
                };
                // Whoever is gone need not hear it.
                let _ = outbox.send(Outgoing::Frame(header, body.clone(), 0..body.len()));
            }
        })
    }
}
