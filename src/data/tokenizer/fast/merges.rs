//! Byte-pair encoding of a word.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
};

/// Up to this many bytes, looking at every pair again is faster than a heap.
const FEW_BYTES: usize = 48;
const NO_RANK: u32 = u32::MAX;

/// Merges by rank, and the tokens that bytes start as.
pub(super) struct Merges {
    bytes: [u32; 256],
    pairs: Pairs,
    /// Bytes of each token, by id.
    lengths: Vec<u32>,
    /// Words that are tokens whatever the merges say, where the model wants that.
    whole: HashMap<Box<[u8]>, u32>,
}

/// Buffers of [`Merges::encode`].
#[derive(Default)]
pub(super) struct Buffers {
    ids: Vec<u32>,
    merged: Vec<Merged>,
    next: Vec<usize>,
    before: Vec<usize>,
    queue: BinaryHeap<Reverse<(u32, usize)>>,
}

/// What a pair becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Merged {
    rank: u32,
    id: u32,
}

impl Merged {
    const NEVER: Self = Self { rank: NO_RANK, id: 0 };
}

impl Merges {
    /// From the vocabulary, tokens as bytes, and pairs of tokens in the order of their ranks, each with what it becomes.
    /// `None` if some byte is no token.
    pub(super) fn new(
        vocab: &HashMap<Box<[u8]>, u32>,
        merges: &[([u32; 2], u32)],
        ignore_merges: bool,
    ) -> Option<Self> {
        let mut bytes = [0; 256];
        for (byte, id) in (0..=u8::MAX).zip(&mut bytes) {
            *id = *vocab.get([byte].as_slice())?;
        }
        let num_ids = vocab.values().max().map_or(0, |&id| id as usize + 1);
        let mut lengths = vec![0; num_ids];
        for (token, &id) in vocab {
            lengths[id as usize] = u32::try_from(token.len()).ok()?;
        }
        Some(Self {
            bytes,
            pairs: Pairs::new(merges)?,
            lengths,
            whole: match ignore_merges {
                true => vocab.clone(),
                false => HashMap::new(),
            },
        })
    }

    /// How many bytes a token stands for.
    pub(super) fn length(&self, id: u32) -> usize {
        self.lengths[id as usize] as usize
    }

    /// Appends the tokens of a word: the pair of the lowest rank is merged first, and of equal ones the first.
    pub(super) fn encode(&self, word: &[u8], buffers: &mut Buffers, tokens: &mut Vec<u32>) {
        if let Some(&id) = self.whole.get(word) {
            tokens.push(id);
            return;
        }
        buffers.ids.clear();
        let ids = word.iter().map(|&byte| self.bytes[usize::from(byte)]);
        buffers.ids.extend(ids);
        buffers.merged.clear();
        let pairs = buffers
            .ids
            .windows(2)
            .map(|pair| self.pairs.get(pair[0], pair[1]));
        buffers.merged.extend(pairs);
        match word.len() {
            0..=FEW_BYTES => self.merge_few(buffers),
            _ => self.merge_many(buffers),
        }
        tokens.extend_from_slice(&buffers.ids);
    }

    fn merge_few(&self, Buffers { ids, merged, .. }: &mut Buffers) {
        loop {
            let lowest = merged.iter().enumerate().min_by_key(|(_, merged)| merged.rank);
            let Some((place, &Merged { id, .. })) = lowest.filter(|(_, merged)| merged.rank != NO_RANK)
            else {
                break;
            };
            ids[place] = id;
            ids.remove(place + 1);
            merged.remove(place);
            if place > 0 {
                merged[place - 1] = self.pairs.get(ids[place - 1], id);
            }
            if place < merged.len() {
                merged[place] = self.pairs.get(id, ids[place + 1]);
            }
        }
    }

    fn merge_many(&self, buffers: &mut Buffers) {
        let Buffers {
            ids,
            merged,
            next,
            before,
            queue,
        } = buffers;
        // Tokens are a list: `next` of the last is `len`, and what was merged into the one before it has rank and place
        // that no entry of the queue agrees with.
        let len = ids.len();
        merged.push(Merged::NEVER);
        next.clear();
        next.extend(1..=len);
        before.clear();
        before.extend((0..len).map(|place| place.wrapping_sub(1)));
        queue.clear();
        let ranked = merged.iter().enumerate();
        queue.extend(
            ranked
                .filter(|(_, merged)| merged.rank != NO_RANK)
                .map(|(place, merged)| Reverse((merged.rank, place))),
        );
        while let Some(Reverse((rank, place))) = queue.pop() {
            if merged[place].rank != rank {
                continue;
            }
            let gone = next[place];
            ids[place] = merged[place].id;
            next[place] = next[gone];
            merged[gone] = Merged::NEVER;
            if next[place] < len {
                before[next[place]] = place;
            }
            for left in [before[place], place] {
                let Some(&right) = next.get(left) else { continue };
                merged[left] = match right < len {
                    true => self.pairs.get(ids[left], ids[right]),
                    false => Merged::NEVER,
                };
                if merged[left].rank != NO_RANK {
                    queue.push(Reverse((merged[left].rank, left)));
                }
            }
        }
        let mut place = 0;
        let mut kept = 0;
        while place < len {
            ids[kept] = ids[place];
            kept += 1;
            place = next[place];
        }
        ids.truncate(kept);
    }
}

/// Pairs of tokens by a table with open addresses.
struct Pairs {
    slots: Box<[(u64, Merged)]>,
    /// The upper bits of a hash that count.
    shift: u32,
}

impl Pairs {
    const FREE: u64 = u64::MAX;

    fn new(merges: &[([u32; 2], u32)]) -> Option<Self> {
        let bits = (2 * merges.len()).next_power_of_two().trailing_zeros().max(4);
        let mut pairs = Self {
            slots: vec![(Self::FREE, Merged::NEVER); 1 << bits].into(),
            shift: u64::BITS - bits,
        };
        for (rank, &([left, right], id)) in (0..NO_RANK).zip(merges) {
            let place = pairs.place(left, right);
            pairs.slots[place] = (Self::key(left, right), Merged { rank, id });
        }
        (merges.len() < NO_RANK as usize).then_some(pairs)
    }

    fn key(left: u32, right: u32) -> u64 {
        u64::from(left) << 32 | u64::from(right)
    }

    /// Where a pair is, or would be.
    #[inline]
    fn place(&self, left: u32, right: u32) -> usize {
        let key = Self::key(left, right);
        let mut place = (key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> self.shift) as usize;
        while self.slots[place].0 != key && self.slots[place].0 != Self::FREE {
            place = (place + 1) & (self.slots.len() - 1);
        }
        place
    }

    #[inline]
    fn get(&self, left: u32, right: u32) -> Merged {
        self.slots[self.place(left, right)].1
    }
}
