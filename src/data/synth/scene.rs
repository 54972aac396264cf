//! What is in a picture: coloured shapes in the cells of a 2 × 2 grid.

use rand_chacha::{
    ChaCha8Rng,
    rand_core::{RngCore, SeedableRng},
};

/// Cells on one side of the grid.
pub(super) const GRID_SIDE: usize = 2;
const NUM_CELLS: usize = GRID_SIDE * GRID_SIDE;
/// Fewest and most objects in one picture.
const OBJECTS: std::ops::RangeInclusive<usize> = 2..=4;

/// Pairs that no training picture shows and no training question or answer names. Each colour and each shape of a
/// pair is common in training with other partners, so an answer about the pair has to be put together.
pub(super) const HELD_OUT_PAIRS: [(Colour, Shape); 4] = [
    (Colour::Red, Shape::Ring),
    (Colour::Green, Shape::Triangle),
    (Colour::Blue, Shape::Cross),
    (Colour::Yellow, Shape::Square),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Colour {
    Red,
    Orange,
    Yellow,
    Green,
    Blue,
    Purple,
}

impl Colour {
    pub(super) const ALL: [Colour; 6] = [
        Colour::Red,
        Colour::Orange,
        Colour::Yellow,
        Colour::Green,
        Colour::Blue,
        Colour::Purple,
    ];

    pub(super) fn word(self) -> &'static str {
        match self {
            Colour::Red => "red",
            Colour::Orange => "orange",
            Colour::Yellow => "yellow",
            Colour::Green => "green",
            Colour::Blue => "blue",
            Colour::Purple => "purple",
        }
    }

    /// sRGB before the jitter of each object.
    pub(super) fn rgb(self) -> [f32; 3] {
        match self {
            Colour::Red => [214.0, 40.0, 40.0],
            Colour::Orange => [244.0, 132.0, 24.0],
            Colour::Yellow => [238.0, 208.0, 40.0],
            Colour::Green => [48.0, 154.0, 72.0],
            Colour::Blue => [40.0, 98.0, 206.0],
            Colour::Purple => [136.0, 66.0, 176.0],
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Shape {
    Circle,
    Square,
    Triangle,
    Cross,
    Ring,
}

impl Shape {
    pub(super) const ALL: [Shape; 5] = [
        Shape::Circle,
        Shape::Square,
        Shape::Triangle,
        Shape::Cross,
        Shape::Ring,
    ];

    pub(super) fn word(self) -> &'static str {
        match self {
            Shape::Circle => "circle",
            Shape::Square => "square",
            Shape::Triangle => "triangle",
            Shape::Cross => "cross",
            Shape::Ring => "ring",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Size {
    Small,
    Large,
}

impl Size {
    pub(super) fn word(self) -> &'static str {
        match self {
            Size::Small => "small",
            Size::Large => "large",
        }
    }
}

/// A cell of the grid, counted row by row from the top left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Cell(usize);

impl Cell {
    pub(super) fn all() -> impl Iterator<Item = Cell> {
        (0..NUM_CELLS).map(Cell)
    }

    pub(super) fn index(self) -> usize {
        self.0
    }

    pub(super) fn row(self) -> usize {
        self.0 / GRID_SIDE
    }

    pub(super) fn column(self) -> usize {
        self.0 % GRID_SIDE
    }

    pub(super) fn words(self) -> &'static str {
        const WORDS: [&str; NUM_CELLS] = ["top left", "top right", "bottom left", "bottom right"];
        WORDS[self.0]
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Object {
    pub(super) cell: Cell,
    pub(super) colour: Colour,
    pub(super) shape: Shape,
    pub(super) size: Size,
}

impl Object {
    pub(super) fn is_held_out(self) -> bool {
        HELD_OUT_PAIRS.contains(&(self.colour, self.shape))
    }
}

/// Objects of one picture in reading order, at most one a cell.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Scene {
    pub(super) objects: Vec<Object>,
}

/// Which pairs of colour and shape a scene may show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pairs {
    /// None of [`HELD_OUT_PAIRS`].
    Known,
    /// All, and at least one of [`HELD_OUT_PAIRS`].
    WithHeldOut,
}

impl Scene {
    pub(super) fn draw(dice: &mut Dice, pairs: Pairs) -> Scene {
        let num_objects = OBJECTS.start() + dice.below(OBJECTS.end() - OBJECTS.start() + 1);
        let mut cells: Vec<Cell> = Cell::all().collect();
        dice.shuffle(&mut cells);
        let mut objects: Vec<Object> = cells[..num_objects]
            .iter()
            .enumerate()
            .map(|(index, &cell)| {
                let (colour, shape) = match pairs {
                    Pairs::WithHeldOut if index == 0 => HELD_OUT_PAIRS[dice.below(HELD_OUT_PAIRS.len())],
                    Pairs::WithHeldOut => dice.pair(),
                    Pairs::Known => dice.known_pair(),
                };
                let size = if dice.coin() { Size::Large } else { Size::Small };
                Object {
                    cell,
                    colour,
                    shape,
                    size,
                }
            })
            .collect();
        objects.sort_by_key(|object| object.cell);
        Scene { objects }
    }

    pub(super) fn at(&self, cell: Cell) -> Option<Object> {
        self.objects.iter().copied().find(|object| object.cell == cell)
    }

    pub(super) fn count(&self, holds: impl Fn(&Object) -> bool) -> usize {
        self.objects.iter().filter(|object| holds(object)).count()
    }
}

/// Random choices of one picture. Each picture has a stream of its own, so that pictures can be drawn on any number
/// of threads, in any order, with the same result.
pub(super) struct Dice(ChaCha8Rng);

impl Dice {
    pub(super) fn new(seed: u64, stream: u64) -> Dice {
        let mut generator = ChaCha8Rng::seed_from_u64(seed);
        generator.set_stream(stream);
        Dice(generator)
    }

    /// A number in `0..bound`; `bound` must not be 0.
    pub(super) fn below(&mut self, bound: usize) -> usize {
        ((u64::from(self.0.next_u32()) * bound as u64) >> 32) as usize
    }

    pub(super) fn coin(&mut self) -> bool {
        self.below(2) == 1
    }

    /// A number in `-1.0..1.0`.
    pub(super) fn jitter(&mut self) -> f32 {
        (self.0.next_u32() >> 8) as f32 / (1 << 23) as f32 - 1.0
    }

    pub(super) fn choose<T: Clone>(&mut self, items: &[T]) -> Option<T> {
        if items.is_empty() {
            None
        } else {
            Some(items[self.below(items.len())].clone())
        }
    }

    pub(super) fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }

    pub(super) fn pair(&mut self) -> (Colour, Shape) {
        (
            Colour::ALL[self.below(Colour::ALL.len())],
            Shape::ALL[self.below(Shape::ALL.len())],
        )
    }

    fn known_pair(&mut self) -> (Colour, Shape) {
        loop {
            let pair = self.pair();
            if !HELD_OUT_PAIRS.contains(&pair) {
                return pair;
            }
        }
    }
}
