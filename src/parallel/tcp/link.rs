//! A connection to one other rank: frames out, frames in, each way with a thread of its own, so that two ranks which send to
//! each other never wait for each other.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Shutdown, TcpStream},
    ops::Range,
    sync::{
        Arc,
        mpsc::{Receiver, Sender, channel},
    },
    thread::{Builder, JoinHandle},
    time::{Duration, Instant},
};

/// What a frame belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) kind: Kind,
    /// Which engine of the rank.
    pub(super) group: u64,
    /// How many operations that engine had before.
    pub(super) sequence: u64,
    /// Bytes that follow.
    pub(super) len: u64,
}

/// What a frame is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    AllReduce,
    ReduceScatter,
    AllGather,
    Exchange,
    Split,
    /// The sender has failed; the bytes are its last words.
    Abort,
}

impl Kind {
    const ALL: [Self; 6] = [
        Self::AllReduce,
        Self::ReduceScatter,
        Self::AllGather,
        Self::Exchange,
        Self::Split,
        Self::Abort,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::AllReduce => "all_reduce",
            Self::ReduceScatter => "reduce_scatter",
            Self::AllGather => "all_gather",
            Self::Exchange => "exchange",
            Self::Split => "split",
            Self::Abort => "abort",
        }
    }
}

const HEADER_BYTES: usize = 32;
/// What is believed of the length of a frame.
const PROMISED_BYTES: u64 = 64 << 20;

impl Header {
    fn to_bytes(self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        let numbers = [self.kind as u64, self.group, self.sequence, self.len];
        for (place, number) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(numbers) {
            *place = number.to_le_bytes();
        }
        bytes
    }

    /// `None` if no rank of ours wrote it.
    fn from_bytes(bytes: [u8; HEADER_BYTES]) -> Option<Self> {
        let number = |at: usize| u64::from_le_bytes(bytes.as_chunks::<8>().0[at]);
        Some(Self {
            kind: *Kind::ALL.get(usize::try_from(number(0)).ok()?)?,
            group: number(1),
            sequence: number(2),
            len: number(3),
        })
    }
}

/// What waits to be sent.
pub(super) enum Outgoing {
    /// These bytes of a body.
    Frame(Header, Arc<Vec<u8>>, Range<usize>),
    /// Nothing more comes.
    End,
}

/// What came from other ranks.
pub(super) enum Incoming {
    Frame(usize, Header, Vec<u8>),
    /// No more frames will come from this rank.
    Gone(usize),
}

/// An open connection.
pub(super) struct Link {
    outbox: Sender<Outgoing>,
    sender: Option<JoinHandle<()>>,
    stream: Arc<TcpStream>,
}

impl Link {
    /// Starts both threads. What comes goes into `inbox`, which all links of a rank share; whoever takes nothing in for as long
    /// as `patience` is given up.
    pub(super) fn start(
        peer: usize,
        stream: TcpStream,
        inbox: Sender<Incoming>,
        patience: Duration,
    ) -> std::io::Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(None)?;
        stream.set_write_timeout(Some(patience))?;
        let (outbox, frames) = channel();
        // One descriptor for all: there may be a thousand ranks.
        let stream = Arc::new(stream);
        let (writes, reads) = (stream.clone(), stream.clone());
        let sender = Builder::new()
            .name(format!("to-rank-{peer}"))
            .spawn(move || send_all(&writes, &frames))?;
        Builder::new()
            .name(format!("from-rank-{peer}"))
            .spawn(move || receive_all(peer, &reads, &inbox))?;
        Ok(Self {
            outbox,
            sender: Some(sender),
            stream,
        })
    }

    /// The queue. That nobody receives what is in it is found out by waiting for an answer.
    pub(super) fn outbox(&self) -> &Sender<Outgoing> {
        &self.outbox
    }

    /// Lets the sender, which has been told that nothing more comes, finish what is in the queue.
    pub(super) fn close(&mut self, deadline: Instant) {
        const POLL: Duration = Duration::from_millis(1);
        let Some(sender) = self.sender.take() else { return };
        while !sender.is_finished() && Instant::now() < deadline {
            std::thread::sleep(POLL);
        }
        // The other way stays open: what still comes is read, or the other side would be told that its words were lost.
        if !sender.is_finished() {
            let _ = self.stream.shutdown(Shutdown::Both);
        }
    }
}

/// Ends when nothing more can come, or the other side is gone.
fn send_all(mut stream: &TcpStream, frames: &Receiver<Outgoing>) {
    for frame in frames {
        let Outgoing::Frame(header, body, range) = frame else {
            break;
        };
        let sent = stream
            .write_all(&header.to_bytes())
            .and_then(|()| stream.write_all(&body[range]));
        if sent.is_err() {
            return;
        }
    }
    let _ = stream.shutdown(Shutdown::Write);
}

fn receive_all(peer: usize, mut stream: &TcpStream, inbox: &Sender<Incoming>) {
    while let Some((header, body)) = receive(&mut stream) {
        if inbox.send(Incoming::Frame(peer, header, body)).is_err() {
            return;
        }
    }
    let _ = inbox.send(Incoming::Gone(peer));
}

fn receive(stream: &mut &TcpStream) -> Option<(Header, Vec<u8>)> {
    let mut bytes = [0; HEADER_BYTES];
    read_whole(stream, &mut bytes)?;
    let header = Header::from_bytes(bytes)?;
    // A length is only a promise: room for more comes with what comes.
    let mut body = Vec::with_capacity(header.len.min(PROMISED_BYTES) as usize);
    let read = stream.take(header.len).read_to_end(&mut body).ok()?;
    (read as u64 == header.len).then_some((header, body))
}

fn read_whole(stream: &mut &TcpStream, bytes: &mut [u8]) -> Option<()> {
    loop {
        match stream.read_exact(bytes) {
            Ok(()) => return Some(()),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return None,
        }
    }
}
