//! What several dialects say in the same words: schedules, optimizers, lengths, recurrences, precision.

use super::{
    settle::number,
    translation::{Given, Translation},
};
use crate::config::{
    error::{closest, one_of},
    tree::{self, Value},
};

/// Word by word: what a dialect says and what that is here.
pub(super) type Words = &'static [(&'static str, &'static str)];

impl Translation<'_> {
    /// Translates one of a list of words. `mistakes` are words that people write for others.
    pub(super) fn word(
        &mut self,
        given: Given,
        words: Words,
        mistakes: Words,
    ) -> Option<(&'static str, Given)> {
        let text = given.node.text().unwrap_or_default().to_lowercase();
        let meant = mistakes.iter().find(|(mistake, _)| *mistake == text);
        let (text, given) = match meant {
            Some((_, meant)) => ((*meant).to_owned(), given.read_as(meant)),
            None => (text, given),
        };
        if let Some((_, native)) = words.iter().find(|(word, _)| *word == text) {
            return Some((native, given));
        }
        let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        let hint = closest(&text, known.iter().copied()).map(|word| format!("did you mean {word}?"));
        self.refuse(&given, &format!("expected {}", one_of(&known)), hint.as_deref());
        None
    }

    /// Steps or epochs: transformers lets a positive `max_steps` decide.
    pub(super) fn run_length(&mut self, epochs: &str, steps: &str, default_epochs: f64) {
        let epochs = self.take(epochs);
        match self.take(steps) {
            Some(given) if number(&given.node).is_some_and(|steps| steps > 0.0) => {
                self.put("train.steps", given.node.value.clone(), &given);
                if let Some(epochs) = epochs {
                    self.no_effect(&epochs, "the number of steps decides");
                }
                return;
            }
            Some(given) => self.no_effect(&given, "the number of epochs decides"),
            None => {}
        }
        match epochs {
            Some(given) => self.put("train.epochs", given.node.value.clone(), &given),
            None => self.default("train.epochs", Value::Float(default_epochs)),
        }
    }

    /// `bf16`, `fp16` and their like; true if bf16 is on.
    pub(super) fn precision(&mut self, bf16: &[&str], default: Option<&str>) {
        const KEY: &str = "train.precision";
        for key in bf16 {
            let Some(given) = self.take(key) else { continue };
            match (&given.node.value, given.node.text().as_deref()) {
                (Value::Bool(true), _) | (_, Some("full")) => {
                    self.put(KEY, Value::String("bf16".into()), &given)
                }
                (Value::Bool(false), _) => self.put(KEY, Value::String("f32".into()), &given),
                (_, Some("auto")) => {
                    let note = "auto is bf16; where a device lacks it, --set train.precision=f32";
                    self.put_noted(KEY, Value::String("bf16".into()), &given, Some(note));
                }
                _ => self.expected(&given, "true or false"),
            }
        }
        if let Some(default) = default {
            self.default(KEY, Value::String(default.into()));
        }
    }

    /// Recomputation of activations.
    pub(super) fn recompute(&mut self, key: &str, default: bool) {
        const KEY: &str = "train.recompute";
        let blocks = || Value::String("blocks".into());
        let Some(given) = self.take(key) else {
            if default {
                self.default(KEY, blocks());
            }
            return;
        };
        match (&given.node.value, given.node.text().as_deref()) {
            (Value::Bool(true), _) => self.put(KEY, blocks(), &given),
            (Value::Bool(false), _) => self.put(KEY, Value::String("none".into()), &given),
            (_, Some("unsloth" | "offload" | "offload_disk" | "offload_layers")) => {
                let note =
                    "what is not kept is computed again, never moved to the host; no result depends on it";
                self.put_noted(KEY, blocks(), &given, Some(note));
            }
            _ => self.expected(&given, "true or false"),
        }
    }

    /// The optimizer's name.
    pub(super) fn optimizer(&mut self, key: &str) {
        const WORDS: Words = &[
            ("adamw_torch", "adamw"),
            ("adamw_torch_fused", "adamw"),
            ("adamw_apex_fused", "adamw"),
            ("adamw_hf", "adamw"),
            ("adamw", "adamw"),
        ];
        let Some(given) = self.take(key) else { return };
        let name = given.node.text().unwrap_or_default();
        match WORDS.iter().find(|(word, _)| *word == name) {
            Some((_, native)) => self.put("train.optimizer.name", Value::String((*native).into()), &given),
            None => {
                let reason = format!("Brazier has no optimizer {name} yet: it has adamw_torch");
                self.refuse_unless_left_out(&given, &reason);
            }
        }
    }

    /// Arguments of the optimizer, as a mapping or as `name=value, name=value`.
    pub(super) fn optimizer_arguments(&mut self, key: &str) {
        let Some(given) = self.take(key) else { return };
        let names: Vec<String> = match &given.node.value {
            Value::Map(entries) => entries.iter().map(|entry| entry.key.clone()).collect(),
            Value::String(text) => {
                let parts = text.split(',').filter_map(|part| part.split('=').next());
                parts.map(|name| name.trim().to_owned()).collect()
            }
            _ => return self.expected(&given, "a mapping"),
        };
        // How a step is computed, not what it computes.
        let speed = ["fused", "foreach", "capturable"];
        match names.iter().find(|name| !speed.contains(&name.as_str())) {
            None => self.no_effect(&given, "AdamW is one fused operation in any case"),
            Some(name) => {
                let reason = format!("Brazier does not know the argument {name} of the optimizer here");
                self.refuse(
                    &given,
                    &format!("refused: {reason}"),
                    Some("write learning rate, betas, epsilon and weight decay by their own keys"),
                );
            }
        }
    }

    /// How often something happens: a strategy's word, and a number of steps or a part of all. `native` is
    /// `checkpoint.every` or `eval.every`.
    pub(super) fn recurrence(&mut self, native: &str, strategy: &str, steps: &str, default: Recurrence) {
        const WORDS: Words = &[
            ("no", "no"),
            ("steps", "steps"),
            ("epoch", "epoch"),
            ("best", "best"),
        ];
        const MISTAKES: Words = &[
            ("epochs", "epoch"),
            ("step", "steps"),
            ("none", "no"),
            ("never", "no"),
            // What YAML 1.1 makes of `no`.
            ("false", "no"),
        ];
        let steps = self.take(steps);
        let strategy = self.take(strategy);
        let strategy = strategy.and_then(|given| self.word(given, WORDS, MISTAKES));
        match (strategy, steps) {
            (Some(("steps", strategy)), Some(steps)) => {
                self.put_interval(native, &steps);
                self.no_effect(&strategy, "the number of steps says it");
            }
            (None, Some(steps)) => self.put_interval(native, &steps),
            (Some((word, strategy)), steps) => {
                if let Some(steps) = steps {
                    self.no_effect(&steps, "the strategy is another");
                }
                self.put_strategy(native, word, &strategy, default);
            }
            (None, None) => match default {
                Recurrence::Steps(steps) => self.default(&format!("{native}.steps"), Value::Integer(steps)),
                Recurrence::Epoch => self.default(&format!("{native}.epochs"), Value::Integer(1)),
            },
        }
    }

    fn put_strategy(&mut self, native: &str, word: &str, strategy: &Given, default: Recurrence) {
        match (word, default) {
            ("epoch", _) => self.put(&format!("{native}.epochs"), Value::Integer(1), strategy),
            ("no", _) => self.put(native, Value::String("never".into()), strategy),
            ("steps", Recurrence::Steps(steps)) => {
                self.put(&format!("{native}.steps"), Value::Integer(steps), strategy);
            }
            ("best", _) => {
                let note = "the newest stays besides the best, so that a stopped run can go on";
                self.put_noted("checkpoint.keep.best", Value::Integer(1), strategy, Some(note));
            }
            _ => self.refuse(strategy, "says no number of steps", Some("write it, or epoch")),
        }
    }

    /// A number of steps, or below 1 a part of all.
    pub(super) fn put_interval(&mut self, native: &str, given: &Given) {
        match number(&given.node) {
            Some(part) if part > 0.0 && part < 1.0 => {
                self.put(&format!("{native}.ratio"), Value::Float(part), given);
            }
            Some(_) => self.put(&format!("{native}.steps"), given.node.value.clone(), given),
            None => self.expected(given, "a number"),
        }
    }

    /// How many checkpoints stay. Left out, all of them do, unless the dialect has a default.
    pub(super) fn keep(&mut self, key: &str, default: Option<i64>) {
        match (self.take(key), default) {
            (Some(given), _) => self.put("checkpoint.keep.last", given.node.value.clone(), &given),
            (None, Some(default)) => self.default("checkpoint.keep.last", Value::Integer(default)),
            (None, None) => {
                let every = tree::get(&self.out, "checkpoint.every");
                if every.is_none_or(|every| every.value != Value::String("never".into())) {
                    self.default("checkpoint.keep.every", Value::Integer(1));
                }
            }
        }
    }
}

/// A dialect's default for how often something happens.
#[derive(Clone, Copy)]
pub(super) enum Recurrence {
    Steps(i64),
    Epoch,
}

/// The keys of a learning rate schedule.
pub(super) struct ScheduleKeys<'a> {
    pub(super) name: &'a str,
    pub(super) default_name: &'static str,
    pub(super) warmup_steps: &'a str,
    pub(super) warmup_ratio: &'a str,
    /// Path of the mapping with the schedule's arguments.
    pub(super) kwargs: &'a str,
    /// axolotl's minimum as a part of the peak.
    pub(super) min_ratio: Option<&'a str>,
}

const SCHEDULES: &[(&str, &str)] = &[
    ("linear", "linear"),
    ("cosine", "cosine"),
    ("cosine_with_min_lr", "cosine_with_min_lr"),
    ("constant", "constant"),
    ("constant_with_warmup", "constant"),
    ("inverse_sqrt", "inverse_sqrt"),
    ("warmup_stable_decay", "wsd"),
];

impl Translation<'_> {
    /// `train.schedule`.
    pub(super) fn schedule(&mut self, keys: &ScheduleKeys) {
        let minimum = keys.min_ratio.and_then(|key| self.take(key));
        let (name, given) = match self.take(keys.name) {
            None => (keys.default_name.to_owned(), None),
            Some(given) => (given.node.text().unwrap_or_default().to_lowercase(), Some(given)),
        };
        let native = SCHEDULES.iter().find(|(word, _)| *word == name);
        let native = match (native, &minimum) {
            (Some((_, "cosine")), Some(_)) => "cosine_with_min_lr",
            (Some((_, native)), _) => native,
            (None, _) => {
                if let Some(given) = given {
                    self.refuse_unless_left_out(&given, &format!("Brazier has no schedule {name} yet"));
                }
                return self.drop_schedule(keys, minimum);
            }
        };
        match given {
            Some(given) => self.put("train.schedule.name", Value::String(native.into()), &given),
            None => self.default("train.schedule.name", Value::String(native.into())),
        }
        match minimum {
            Some(given) if native == "cosine_with_min_lr" => {
                self.put("train.schedule.min_lr_ratio", given.node.value.clone(), &given);
            }
            Some(given) => self.no_effect(&given, "it belongs to lr_scheduler: cosine"),
            None => {}
        }
        self.schedule_arguments(keys.kwargs, native);
        self.warmup(keys, &name);
    }

    /// The keys of a schedule that is refused have been seen, and say nothing more.
    fn drop_schedule(&mut self, keys: &ScheduleKeys, minimum: Option<Given>) {
        let mut others: Vec<Given> = minimum.into_iter().collect();
        others.extend(
            [keys.warmup_steps, keys.warmup_ratio]
                .iter()
                .filter_map(|key| self.take(key)),
        );
        for (argument, _) in ARGUMENTS {
            others.extend(self.take(&format!("{}.{argument}", keys.kwargs)));
        }
        for given in others {
            self.no_effect(&given, "the schedule is refused");
        }
    }

    fn schedule_arguments(&mut self, kwargs: &str, native: &str) {
        for (argument, (key, schedules)) in ARGUMENTS {
            let Some(given) = self.take(&format!("{kwargs}.{argument}")) else {
                continue;
            };
            if schedules.contains(&native) {
                self.put(&format!("train.schedule.{key}"), given.node.value.clone(), &given);
            } else {
                self.refuse(
                    &given,
                    "refused: the schedule has no such argument",
                    Some("take it out"),
                );
            }
        }
        for (argument, usual) in USUAL {
            let Some(given) = self.take(&format!("{kwargs}.{argument}")) else {
                continue;
            };
            let value = given.node.text().unwrap_or_default();
            if value == *usual {
                self.no_effect(&given, "it is always so");
            } else {
                let reason = format!("Brazier's schedules have {argument} = {usual}");
                self.refuse_unless_left_out(&given, &reason);
            }
        }
    }

    /// Steps decide over a ratio, unless they are none, as in transformers.
    fn warmup(&mut self, keys: &ScheduleKeys, name: &str) {
        let ratio = self.take(keys.warmup_ratio);
        let steps = self.take(keys.warmup_steps);
        // transformers' `constant` knows no warm-up.
        if name == "constant" {
            for given in steps.into_iter().chain(ratio) {
                self.no_effect(
                    &given,
                    "the schedule constant has no warm-up; constant_with_warmup does",
                );
            }
            return;
        }
        match (steps, ratio) {
            (Some(steps), Some(ratio)) if number(&steps.node) == Some(0.0) => {
                self.no_effect(&steps, "the ratio decides");
                self.put("train.schedule.warmup_ratio", ratio.node.value.clone(), &ratio);
            }
            (Some(steps), ratio) => {
                let is_part = number(&steps.node).is_some_and(|part| part > 0.0 && part < 1.0);
                let key = if is_part { "warmup_ratio" } else { "warmup_steps" };
                self.put(&format!("train.schedule.{key}"), steps.node.value.clone(), &steps);
                if let Some(ratio) = ratio {
                    self.no_effect(&ratio, "the number of steps decides");
                }
            }
            (None, Some(ratio)) => {
                self.put("train.schedule.warmup_ratio", ratio.node.value.clone(), &ratio);
            }
            (None, None) => {}
        }
    }
}

/// transformers' arguments of schedules, the native key, and the native schedules that have it.
type Argument = (&'static str, (&'static str, &'static [&'static str]));
pub(super) const ARGUMENTS: &[Argument] = &[
    ("min_lr", ("min_lr", &["cosine_with_min_lr"])),
    ("min_lr_rate", ("min_lr_ratio", &["cosine_with_min_lr"])),
    ("min_lr_ratio", ("min_lr_ratio", &["wsd"])),
    ("num_decay_steps", ("decay_steps", &["wsd"])),
    ("timescale", ("timescale", &["inverse_sqrt"])),
];
/// Arguments with the one value that Brazier's schedules have.
pub(super) const USUAL: &[(&str, &str)] = &[
    ("num_cycles", "0.5"),
    ("warmup_type", "linear"),
    ("decay_type", "linear"),
];
