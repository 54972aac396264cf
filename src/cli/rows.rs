//! Looking at rows: which of them are wrong, and which of their tokens are trained.

use std::{fmt::Write as _, io::IsTerminal, process::ExitCode, sync::Arc};

use brazier_models::VlmConfig;

use super::{BAD_INPUT, Failure, print, say, session};
use crate::{
    config::RunConfig,
    data::{BadRows, Dataset, ShownToken, Split, Tokenizer},
};

/// Wrong rows that are printed of each split.
const SHOWN_BAD_ROWS: usize = 50;
const TRAINED: &str = "\u{1b}[1;32m";
const NOT_TRAINED: &str = "\u{1b}[2m";
const PLAIN: &str = "\u{1b}[0m";

/// Says how long the rows are, how they share rows of batches, and what is wrong with which. `train` was opened with
/// [`BadRows::List`].
pub(super) fn check_data(
    run: &RunConfig,
    model: &VlmConfig,
    tokenizer: &Arc<Tokenizer>,
    train: Dataset,
) -> Result<ExitCode, Failure> {
    let mut num_bad = 0;
    let mut splits = vec![("training data", train)];
    if !run.data.eval.is_empty() {
        let eval = session::open_data(run, model, tokenizer, Split::Eval, BadRows::List)?;
        splits.push(("held-out data", eval));
    }
    for (name, dataset) in splits {
        print(format_args!("{name:<16} {}", dataset.report()));
        print(dataset.lengths());
        let bad = dataset.bad_rows();
        for row in bad.iter().take(SHOWN_BAD_ROWS) {
            print(row);
        }
        if bad.len() > SHOWN_BAD_ROWS {
            print(format_args!("… and {} more", bad.len() - SHOWN_BAD_ROWS));
        }
        num_bad += bad.len();
    }
    let allowed = match run.data.bad_rows {
        BadRows::Skip { limit } => limit,
        BadRows::Error | BadRows::List => 0,
    };
    if num_bad > allowed {
        say(format_args!("error: {num_bad} rows are wrong"));
        return Ok(ExitCode::from(BAD_INPUT));
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints rows token by token: on a terminal in colour, elsewhere trained ones in brackets.
pub(super) fn show_masks(dataset: &Dataset, count: usize) -> Result<(), Failure> {
    let colour = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    match colour {
        true => print(format_args!(
            "{TRAINED}trained{PLAIN} {NOT_TRAINED}not trained{PLAIN}"
        )),
        false => print("[trained] not trained"),
    }
    for index in 0..count.min(dataset.len()) {
        let tokens = dataset.shown_tokens(index)?;
        let trained = tokens.iter().filter(|token| token.trained).count();
        print(format_args!(
            "\n{}: {} tokens, {trained} of them trained",
            dataset.sample(index),
            dataset.num_tokens(index)
        ));
        print(marked(&tokens, colour));
    }
    Ok(())
}

fn marked(tokens: &[ShownToken], colour: bool) -> String {
    let mut text = String::new();
    for ShownToken {
        text: token,
        trained,
        copies,
    } in tokens
    {
        let shown = token.replace('\n', "\\n");
        let copies = match copies {
            1 => String::new(),
            copies => format!("×{copies}"),
        };
        let _ = match (colour, trained) {
            (true, true) => write!(text, "{TRAINED}{shown}{PLAIN}"),
            (true, false) => write!(text, "{NOT_TRAINED}{shown}{copies}{PLAIN}"),
            (false, true) => write!(text, "[{shown}]"),
            (false, false) => write!(text, "{shown}{copies}"),
        };
        if token.ends_with('\n') {
            text.push('\n');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_terminal_trained_tokens_stand_in_brackets() {
        let token = |text: &str, trained, copies| ShownToken {
            text: text.into(),
            trained,
            copies,
        };
        let tokens = [
            token("<image>", false, 4),
            token("user\n", false, 1),
            token("a", true, 1),
            token("b\n", true, 1),
        ];
        assert_eq!(marked(&tokens, false), "<image>×4user\\n\n[a][b\\n]\n");
        assert!(marked(&tokens, true).contains("\u{1b}[1;32ma\u{1b}[0m"));
    }
}
