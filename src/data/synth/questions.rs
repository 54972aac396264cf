//! Questions about a scene with their answers, chosen so that no turn of a conversation gives away another.

use super::scene::{Cell, Colour, Dice, GRID_SIDE, HELD_OUT_PAIRS, Object, Pairs, Scene, Shape};

/// Questions of one conversation before the rows are described.
const SHORT_TURNS: usize = 5;
/// What they ask for, as far as the picture offers it.
const SHORT_KINDS: [Kind; 11] = [
    Kind::Colour,
    Kind::Colour,
    Kind::Shape,
    Kind::Shape,
    Kind::Size,
    Kind::Size,
    Kind::Check,
    Kind::Check,
    Kind::Where,
    Kind::Where,
    Kind::At,
];
/// Tag of a turn whose question or answer names one of [`HELD_OUT_PAIRS`].
pub(super) const HELD_OUT_TAG: &str = "held_out_pair";

/// The answer about an empty cell.
const NOTHING: &str = "nothing";

/// What a question asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Kind {
    Count,
    CountColour,
    Colour,
    Shape,
    Size,
    Check,
    At,
    Where,
    Row,
}

impl Kind {
    pub(super) const ALL: [Kind; 9] = [
        Kind::Count,
        Kind::CountColour,
        Kind::Colour,
        Kind::Shape,
        Kind::Size,
        Kind::Check,
        Kind::At,
        Kind::Where,
        Kind::Row,
    ];

    pub(super) fn tag(self) -> &'static str {
        match self {
            Kind::Count => "count",
            Kind::CountColour => "count_colour",
            Kind::Colour => "colour",
            Kind::Shape => "shape",
            Kind::Size => "size",
            Kind::Check => "check",
            Kind::At => "at",
            Kind::Where => "where",
            Kind::Row => "row",
        }
    }
}

/// A question with its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Turn {
    pub(super) kind: Kind,
    pub(super) question: String,
    pub(super) answer: String,
    /// Whether question or answer is about one of [`HELD_OUT_PAIRS`].
    pub(super) is_held_out: bool,
    /// What the question names.
    subject: Words,
    /// What the answer names.
    named: Words,
}

impl Turn {
    pub(super) fn tag(&self) -> &'static str {
        if self.is_held_out {
            HELD_OUT_TAG
        } else {
            self.kind.tag()
        }
    }
}

/// A set of colours, shapes and cells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Words(u32);

impl Words {
    fn colour(colour: Colour) -> Words {
        Words(1 << colour as u32)
    }

    fn shape(shape: Shape) -> Words {
        Words(1 << (8 + shape as u32))
    }

    fn cell(cell: Cell) -> Words {
        Words(1 << (16 + cell.index()))
    }

    fn pair(colour: Colour, shape: Shape) -> Words {
        Words::colour(colour).and(Words::shape(shape))
    }

    fn and(self, other: Words) -> Words {
        Words(self.0 | other.0)
    }

    fn is_disjoint(self, other: Words) -> bool {
        self.0 & other.0 == 0
    }
}

/// A conversation about a scene: a few short questions and, last, what is in each row.
///
/// A question never names a colour, shape or cell that an earlier question or answer named. So what was said before
/// does not answer it, and the picture has to.
pub(super) fn conversation(scene: &Scene, pairs: Pairs, dice: &mut Dice) -> Vec<Turn> {
    // Counts come first: later, most of the colours left to ask for are not in the picture.
    let mut kinds = match dice.below(4) {
        0 => vec![Kind::Count],
        1 => vec![Kind::Count, Kind::CountColour],
        _ => vec![Kind::CountColour],
    };
    let mut others = SHORT_KINDS;
    dice.shuffle(&mut others);
    kinds.extend(others);
    let mut turns = Vec::new();
    let mut said = Words::default();
    for kind in kinds {
        if turns.len() == SHORT_TURNS {
            break;
        }
        if let Some(turn) = ask(kind, scene, pairs, said, dice) {
            said = said.and(turn.subject).and(turn.named);
            turns.push(turn);
        }
    }
    let mut rows: Vec<usize> = (0..GRID_SIDE).collect();
    dice.shuffle(&mut rows);
    turns.extend(rows.into_iter().map(|index| row(scene, index, dice)));
    turns
}

/// Draws a question of a kind about what was not `said` yet; `None` if the scene does not offer one.
fn ask(kind: Kind, scene: &Scene, pairs: Pairs, said: Words, dice: &mut Dice) -> Option<Turn> {
    let asker = Asker { scene, pairs, said };
    match kind {
        Kind::Count => Some(asker.count(dice)),
        Kind::CountColour => asker.count_colour(dice),
        Kind::Colour => asker.colour(dice),
        Kind::Shape => asker.shape(dice),
        Kind::Size => asker.size(dice),
        Kind::Check => asker.check(dice),
        Kind::At => asker.at(dice),
        Kind::Where => asker.place(dice),
        Kind::Row => None,
    }
}

/// How a question refers to an object.
#[derive(Clone)]
struct Reference {
    object: Object,
    phrase: String,
    words: Words,
}

struct Asker<'a> {
    scene: &'a Scene,
    pairs: Pairs,
    said: Words,
}

impl Asker<'_> {
    fn is_fresh(&self, words: Words) -> bool {
        self.said.is_disjoint(words)
    }

    fn count(&self, dice: &mut Dice) -> Turn {
        let forms = [
            "How many objects are there?",
            "Count the objects.",
            "How many objects do you see?",
        ];
        let question = forms[dice.below(forms.len())].to_string();
        turn(Kind::Count, question, self.scene.objects.len().to_string())
    }

    fn count_colour(&self, dice: &mut Dice) -> Option<Turn> {
        let fresh: Vec<Colour> = Colour::ALL
            .into_iter()
            .filter(|&colour| self.is_fresh(Words::colour(colour)))
            .collect();
        let count = |colour: Colour| self.scene.count(|object| object.colour == colour);
        let colour = choose_by_count(&fresh, count, dice)?;
        let word = colour.word();
        let question = match dice.below(3) {
            0 => format!("How many {word} objects are there?"),
            1 => format!("How many objects are {word}?"),
            _ => format!("Count the {word} objects."),
        };
        let turn = turn(Kind::CountColour, question, count(colour).to_string());
        Some(Turn {
            subject: Words::colour(colour),
            ..turn
        })
    }

    /// Objects that their shape tells from all others, where the word is fresh.
    fn by_shape(&self) -> Vec<Reference> {
        let refer = |&object: &Object| Reference {
            object,
            phrase: object.shape.word().to_string(),
            words: Words::shape(object.shape),
        };
        let objects = self.scene.objects.iter();
        let alone = objects.filter(|object| self.scene.count(|other| other.shape == object.shape) == 1);
        alone
            .map(refer)
            .filter(|reference| self.is_fresh(reference.words))
            .collect()
    }

    /// Objects that their colour tells from all others, where the word is fresh.
    fn by_colour(&self) -> Vec<Reference> {
        let refer = |&object: &Object| Reference {
            object,
            phrase: format!("{} object", object.colour.word()),
            words: Words::colour(object.colour),
        };
        let objects = self.scene.objects.iter();
        let alone = objects.filter(|object| self.scene.count(|other| other.colour == object.colour) == 1);
        alone
            .map(refer)
            .filter(|reference| self.is_fresh(reference.words))
            .collect()
    }

    fn by_either(&self) -> Vec<Reference> {
        [self.by_shape(), self.by_colour()].concat()
    }

    fn colour(&self, dice: &mut Dice) -> Option<Turn> {
        let Reference {
            object,
            phrase,
            words,
        } = dice.choose(&self.by_shape())?;
        let question = match dice.below(3) {
            0 => format!("What colour is the {phrase}?"),
            1 => format!("Which colour does the {phrase} have?"),
            _ => format!("Name the colour of the {phrase}."),
        };
        let turn = turn(Kind::Colour, question, object.colour.word().to_string());
        let named = Words::colour(object.colour);
        Some(Turn {
            is_held_out: object.is_held_out(),
            subject: words,
            named,
            ..turn
        })
    }

    fn shape(&self, dice: &mut Dice) -> Option<Turn> {
        let Reference {
            object,
            phrase,
            words,
        } = dice.choose(&self.by_colour())?;
        let question = match dice.below(3) {
            0 => format!("What shape is the {phrase}?"),
            1 => format!("Which shape does the {phrase} have?"),
            _ => format!("Name the shape of the {phrase}."),
        };
        let turn = turn(Kind::Shape, question, object.shape.word().to_string());
        let named = Words::shape(object.shape);
        Some(Turn {
            is_held_out: object.is_held_out(),
            subject: words,
            named,
            ..turn
        })
    }

    fn size(&self, dice: &mut Dice) -> Option<Turn> {
        let Reference {
            object,
            phrase,
            words,
        } = dice.choose(&self.by_either())?;
        let question = match dice.below(3) {
            0 => format!("Is the {phrase} large or small?"),
            1 => format!("How big is the {phrase}?"),
            _ => format!("What size is the {phrase}?"),
        };
        Some(Turn {
            subject: words,
            ..turn(Kind::Size, question, object.size.word().to_string())
        })
    }

    /// As often yes as no. Where the answer is no, the colour asked for is that of another object, if there is one:
    /// whether the picture shows the colour must not tell.
    fn check(&self, dice: &mut Dice) -> Option<Turn> {
        let mut references = self.by_shape();
        references.retain(|reference| self.is_fresh(Words::colour(reference.object.colour)));
        let Reference {
            object,
            phrase,
            words,
        } = dice.choose(&references)?;
        let is_so = dice.coin();
        let allowed: Vec<Colour> = Colour::ALL
            .into_iter()
            .filter(|&colour| (colour == object.colour) == is_so && self.is_fresh(Words::colour(colour)))
            .filter(|&colour| self.may_name(colour, object.shape))
            .collect();
        let mut shown = allowed.clone();
        shown.retain(|&colour| self.scene.count(|other| other.colour == colour) > 0);
        let colour = dice.choose(if shown.is_empty() { &allowed } else { &shown })?;
        let word = colour.word();
        let question = match dice.below(3) {
            0 => format!("Is the {phrase} {word}?"),
            1 => format!("Is the colour of the {phrase} {word}?"),
            _ => format!("Does the {phrase} have the colour {word}?"),
        };
        let turn = turn(
            Kind::Check,
            question,
            if is_so { "yes" } else { "no" }.to_string(),
        );
        let is_held_out = HELD_OUT_PAIRS.contains(&(colour, object.shape));
        Some(Turn {
            is_held_out,
            subject: words.and(Words::colour(colour)),
            ..turn
        })
    }

    /// Training never names a held-out pair, not even to deny it.
    fn may_name(&self, colour: Colour, shape: Shape) -> bool {
        self.pairs == Pairs::WithHeldOut || !HELD_OUT_PAIRS.contains(&(colour, shape))
    }

    fn at(&self, dice: &mut Dice) -> Option<Turn> {
        let fresh = Cell::all().filter(|&cell| self.is_fresh(Words::cell(cell)));
        // Mostly cells that hold something: `nothing` would be a good guess otherwise.
        let wants_object = dice.below(5) > 0;
        let cells: Vec<Cell> = fresh
            .filter(|&cell| self.scene.at(cell).is_some() == wants_object)
            .collect();
        let cell = dice.choose(&cells)?;
        let words = cell.words();
        let question = match dice.below(3) {
            0 => format!("What is in the {words}?"),
            1 => format!("What do you see in the {words}?"),
            _ => format!("Which object is in the {words}?"),
        };
        let subject = Words::cell(cell);
        Some(match self.scene.at(cell) {
            Some(object) => Turn {
                subject,
                named: Words::pair(object.colour, object.shape),
                is_held_out: object.is_held_out(),
                ..turn(Kind::At, question, phrase(object))
            },
            None => Turn {
                subject,
                ..turn(Kind::At, question, NOTHING.to_string())
            },
        })
    }

    fn place(&self, dice: &mut Dice) -> Option<Turn> {
        let Reference {
            object,
            phrase,
            words,
        } = dice.choose(&self.by_either())?;
        let question = match dice.below(3) {
            0 => format!("Where is the {phrase}?"),
            1 => format!("In which place is the {phrase}?"),
            _ => format!("Find the {phrase}."),
        };
        let turn = turn(Kind::Where, question, object.cell.words().to_string());
        Some(Turn {
            subject: words,
            named: Words::cell(object.cell),
            ..turn
        })
    }
}

/// What lies in the cells of a row, from left to right.
fn row(scene: &Scene, row: usize, dice: &mut Dice) -> Turn {
    let name = ["top", "bottom"][row];
    let question = match dice.below(3) {
        0 => format!("What is in the {name} row?"),
        1 => format!("Describe the {name} row."),
        _ => format!("Name what is in the {name} row."),
    };
    let cells = Cell::all().filter(|cell| cell.row() == row);
    let objects: Vec<Option<Object>> = cells.map(|cell| scene.at(cell)).collect();
    let describe = |object: &Option<Object>| match object {
        Some(object) => format!("{} {}", object.size.word(), phrase(*object)),
        None => NOTHING.to_string(),
    };
    let answer: Vec<String> = objects.iter().map(describe).collect();
    let is_held_out = objects.iter().flatten().any(|object| object.is_held_out());
    Turn {
        is_held_out,
        ..turn(Kind::Row, question, answer.join(", "))
    }
}

fn turn(kind: Kind, question: String, answer: String) -> Turn {
    let (subject, named) = (Words::default(), Words::default());
    Turn {
        kind,
        question,
        answer,
        is_held_out: false,
        subject,
        named,
    }
}

fn phrase(object: Object) -> String {
    format!("{} {}", object.colour.word(), object.shape.word())
}

/// Chooses a count first and then one of the items with that count, so that rare counts are asked as often as common ones.
fn choose_by_count<T: Copy>(items: &[T], count: impl Fn(T) -> usize, dice: &mut Dice) -> Option<T> {
    let mut counts: Vec<usize> = items.iter().map(|&item| count(item)).collect();
    counts.sort_unstable();
    counts.dedup();
    let wanted = dice.choose(&counts)?;
    let matching: Vec<T> = items
        .iter()
        .copied()
        .filter(|&item| count(item) == wanted)
        .collect();
    dice.choose(&matching)
}
