//! What was decoded last, for sources that decode many rows at once.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

type Slot<T> = Arc<OnceLock<Result<T, String>>>;

/// The decoded parts of a file that were used last. A part is decoded by one thread while the others that need it wait.
pub(super) struct Recent<T> {
    capacity: usize,
    /// The one used last is at the end.
    slots: Mutex<VecDeque<(usize, Slot<T>)>>,
}

impl<T: Clone> Recent<T> {
    /// For parts of at most `size_bytes` each: as many as fit into `memory_bytes`, but one for each thread at least, or
    /// threads at different places would decode the same parts again and again.
    pub(super) fn new(size_bytes: usize, memory_bytes: usize) -> Self {
        Self {
            capacity: (memory_bytes / size_bytes.max(1)).max(rayon::current_num_threads() + 1),
            slots: Mutex::default(),
        }
    }

    /// The part, decoded by `decode` if it is not there.
    pub(super) fn part(&self, part: usize, decode: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
        let slot = self.slot(part);
        slot.get_or_init(decode).clone()
    }

    fn slot(&self, part: usize) -> Slot<T> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let known = slots.iter().position(|(number, _)| *number == part);
        let slot = known.and_then(|place| slots.remove(place));
        let (_, slot) = slot.unwrap_or_default();
        slots.push_back((part, slot.clone()));
        if slots.len() > self.capacity {
            slots.pop_front();
        }
        slot
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn the_least_recently_used_part_goes() {
        let recent = Recent {
            capacity: 2,
            slots: Mutex::default(),
        };
        let decoded = Cell::new(0);
        let mut ask = |part: usize| {
            let before = decoded.get();
            let found = recent.part(part, || {
                decoded.set(decoded.get() + 1);
                Ok(part)
            });
            assert_eq!(found, Ok(part));
            decoded.get() > before
        };
        let asked = [0, 1, 0, 2, 0, 1].map(&mut ask);
        assert_eq!(asked, [true, true, false, true, false, true]);
        assert_eq!(recent.part(1, || Err("not again".into())), Ok(1));
    }
}
