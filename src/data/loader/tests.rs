//! Batches in order, whoever makes them.

use super::*;
use crate::{
    data::{Grouping, ImageSource, dataset::fixtures::Folder},
    fs,
};

const NUM_ROWS: usize = 11;

fn folder() -> Folder {
    let row = |number: usize| {
        let (text, image) = ("cdit".repeat(number), number % 3);
        format!(
            r#"{{"messages": [{{"role": "user", "content": "<image>{text}"}},
            {{"role": "assistant", "content": "{number}"}}], "images": ["{image}.png"]}}"#
        )
        .replace('\n', " ")
    };
    Folder::new(&(0..NUM_ROWS).map(row).collect::<Vec<_>>().join("\n"), 3)
}

fn dataset() -> (Folder, Arc<Dataset>) {
    let folder = folder();
    let dataset = folder.open().unwrap();
    (folder, Arc::new(dataset))
}

fn plan(rank: usize, world_size: usize, accumulation: usize, epochs: u64) -> BatchPlan {
    let total_rows = Some(epochs * NUM_ROWS as u64);
    BatchPlan {
        micro_batch_size: 2,
        accumulation,
        rank,
        world_size,
        total_rows,
    }
}

fn run(dataset: &Arc<Dataset>, plan: BatchPlan, first_step: u64, workers: usize) -> Vec<Vec<Batch>> {
    let mut loader = Loader::start(dataset.clone(), plan, first_step, workers, 2).unwrap();
    std::iter::from_fn(|| loader.next_step().unwrap()).collect()
}

fn lines<'a>(batches: impl IntoIterator<Item = &'a Batch>) -> Vec<usize> {
    batches
        .into_iter()
        .flat_map(|batch| &batch.samples)
        .map(|sample| sample.line)
        .collect()
}

#[test]
fn workers_do_not_change_what_is_delivered() {
    let (_folder, dataset) = dataset();
    let plan = plan(0, 1, 3, 4);
    let expected = run(&dataset, plan, 0, 0);
    assert_eq!(expected.len(), 8);
    for workers in [1, 4] {
        assert!(run(&dataset, plan, 0, workers) == expected, "{workers} workers");
    }
}

#[test]
fn starting_at_a_step_equals_running_to_it() {
    let (_folder, dataset) = dataset();
    let plan = plan(0, 1, 2, 3);
    let whole = run(&dataset, plan, 0, 0);
    for first in 0..=whole.len() {
        for workers in [0, 2] {
            assert!(
                run(&dataset, plan, first as u64, workers) == whole[first..],
                "step {first}"
            );
        }
    }
}

#[test]
fn ranks_share_the_steps_of_one() {
    let (_folder, dataset) = dataset();
    let alone = run(&dataset, plan(0, 1, 4, 2), 0, 0);
    let [even, odd] = [0, 1].map(|rank| run(&dataset, plan(rank, 2, 2, 2), 0, 1));
    assert_eq!((even.len(), odd.len()), (alone.len(), alone.len()));
    for ((alone, even), odd) in alone.iter().zip(&even).zip(&odd) {
        let mut shared: Vec<&Batch> = Vec::new();
        for micro in 0..2 {
            shared.extend(even.get(micro));
            shared.extend(odd.get(micro));
        }
        assert!(shared.iter().copied().eq(alone));
    }
}

#[test]
fn each_epoch_delivers_every_row_once_and_the_last_step_is_short() {
    let (_folder, dataset) = dataset();
    let steps = run(&dataset, plan(0, 1, 2, 2), 0, 2);
    let seen = lines(steps.iter().flatten());
    assert_eq!(seen.len(), 2 * NUM_ROWS);
    assert_ne!(seen[..NUM_ROWS], seen[NUM_ROWS..], "epochs differ");
    for epoch in seen.chunks(NUM_ROWS) {
        let mut epoch = epoch.to_vec();
        epoch.sort_unstable();
        assert_eq!(epoch, (1..=NUM_ROWS).collect::<Vec<_>>());
    }
    // 22 samples in steps of 2 micro-batches of 2.
    let rows: Vec<Vec<usize>> = steps
        .iter()
        .map(|step| step.iter().map(|batch| batch.rows).collect())
        .collect();
    assert_eq!(rows[4..], [vec![2, 2], vec![2]]);
}

#[test]
fn a_rank_without_samples_still_makes_the_last_step() {
    let (_folder, dataset) = dataset();
    // 11 samples in steps of 8: three are left, two of them for rank 0.
    let counts = [0, 1, 2, 3].map(|rank| {
        run(&dataset, plan(rank, 4, 1, 1), 0, 1)[1]
            .iter()
            .map(|batch| batch.rows)
            .collect::<Vec<_>>()
    });
    assert_eq!(counts, [vec![2], vec![1], vec![], vec![]]);
}

#[test]
fn an_endless_loader_stops_when_dropped() {
    let (_folder, dataset) = dataset();
    let plan = BatchPlan {
        total_rows: None,
        ..plan(0, 1, 2, 1)
    };
    let mut loader = Loader::start(dataset.clone(), plan, 1_000_000_007, 3, 5).unwrap();
    let step = loader.next_step().unwrap().unwrap();
    let mut alone = Loader::start(dataset.clone(), plan, 1_000_000_007, 0, 0).unwrap();
    assert!(step == alone.next_step().unwrap().unwrap());
    drop(alone);
    drop(loader);
    assert_eq!(Arc::strong_count(&dataset), 1, "a thread is left");
}

#[test]
fn no_more_than_the_prefetch_is_prepared() {
    let (_folder, dataset) = dataset();
    let plan = BatchPlan {
        total_rows: None,
        ..plan(0, 1, 2, 1)
    };
    let mut loader = Loader::start(dataset, plan, 10, 1, 3).unwrap();
    let queued = |loader: &Loader| loader.pool.as_ref().unwrap().next_queued;
    assert_eq!(queued(&loader), 14);
    loader.next_step().unwrap();
    assert_eq!(queued(&loader), 14);
    loader.next_step().unwrap();
    assert_eq!(queued(&loader), 15);
}

#[test]
fn a_panic_is_a_value() {
    assert_eq!(caught(|| 3), Ok(3));
    assert_eq!(caught(|| panic!("lost")), Err::<(), _>("lost".into()));
    assert_eq!(caught(|| panic!("lost {}", 2)), Err::<(), _>("lost 2".into()));
}

#[test]
fn an_error_comes_in_its_turn_and_costs_one_step() {
    let mut folder = folder();
    folder.options.shuffle = false;
    crate::fs::write_durable(&folder.dir.path().join("2.png"), b"broken").unwrap();
    let dataset = Arc::new(folder.open().unwrap());
    // Row 3 (step 0) has the first broken image; rows 6, 9 and 11 follow in steps 1 and 2.
    let outcomes = |workers| {
        let mut loader = Loader::start(dataset.clone(), plan(0, 1, 2, 1), 0, workers, 3).unwrap();
        let mut outcomes = Vec::new();
        loop {
            match loader.next_step() {
                Ok(None) => return outcomes,
                Ok(Some(batches)) => outcomes.push(format!("{:?}", lines(&batches))),
                Err(error) => outcomes.push(error.to_string()),
            }
        }
    };
    let alone = outcomes(0);
    for (outcome, line) in alone.iter().zip([3, 6, 9]) {
        assert!(
            outcome.contains(&format!("rows.jsonl:{line}: image ")),
            "{outcome}"
        );
    }
    assert_eq!(outcomes(1), alone);
    assert_eq!(outcomes(4), alone);
}

/// Rows of several samples, and batches of like length.
fn grouped() -> Vec<(Folder, Arc<Dataset>)> {
    let groupings = [
        Grouping::Packed { max_images: None },
        Grouping::Packed { max_images: Some(2) },
        Grouping::ByLength { micro_batch_size: 2 },
    ];
    let open = |grouping| {
        let mut folder = folder();
        folder.options.grouping = grouping;
        folder.options.sequence_length = 110;
        folder.options.pad_to_multiple_of = Some(16);
        let dataset = Arc::new(folder.open().unwrap());
        (folder, dataset)
    };
    groupings.map(open).into()
}

#[test]
fn grouped_rows_are_the_same_for_all_workers_and_from_any_step() {
    for (_folder, dataset) in grouped() {
        let plan = BatchPlan {
            total_rows: Some(dataset.stream().rows_in(3.0)),
            ..plan(0, 1, 2, 0)
        };
        let whole = run(&dataset, plan, 0, 0);
        let mut seen = lines(whole.iter().flatten());
        seen.sort_unstable();
        let expected = (1..=NUM_ROWS).flat_map(|line| [line; 3]);
        assert!(
            seen.into_iter().eq(expected),
            "three epochs, each with every row once"
        );
        for first in 0..=whole.len() {
            for workers in [0, 1, 3] {
                assert!(run(&dataset, plan, first as u64, workers) == whole[first..]);
            }
        }
    }
}

#[test]
fn grouped_rows_are_shared_by_ranks() {
    for (_folder, dataset) in grouped() {
        let total_rows = Some(dataset.stream().rows_in(2.0));
        let all = |rank, world_size| {
            let plan = BatchPlan {
                total_rows,
                ..plan(rank, world_size, 12 / world_size, 0)
            };
            run(&dataset, plan, 0, 1)
        };
        let alone = all(0, 1);
        for world_size in 2..=4 {
            let ranks: Vec<_> = (0..world_size).map(|rank| all(rank, world_size)).collect();
            for (step, alone) in alone.iter().enumerate() {
                let micros =
                    (0..12 / world_size).flat_map(|micro| ranks.iter().map(move |rank| (rank, micro)));
                let shared = micros.filter_map(|(rank, micro)| rank[step].get(micro));
                assert!(shared.eq(alone), "{world_size} ranks, step {step}");
            }
        }
    }
}

#[test]
fn a_packed_row_holds_its_samples_as_they_are() {
    let (_folder, dataset) = grouped().remove(0);
    let plan = BatchPlan {
        total_rows: Some(dataset.stream().rows_in(1.0)),
        ..plan(0, 1, 1, 0)
    };
    let mut most = 0;
    for batch in run(&dataset, plan, 0, 0).iter().flatten() {
        assert_eq!(batch.length % 16, 0);
        assert_eq!(batch.segments.len(), batch.rows);
        let mut samples = batch.samples.iter();
        let mut images = batch.images.as_ref().unwrap().pixels.as_slice();
        for (row, segments) in batch.segments.iter().enumerate() {
            most = most.max(segments.len());
            let mut start = row * batch.length;
            for &length in segments {
                let sample = dataset.example(samples.next().unwrap().line - 1).unwrap();
                assert_eq!(batch.input_ids[start..start + length], sample.input_ids);
                assert_eq!(batch.labels[start..start + length], sample.labels);
                let (own, others) = images.split_at(sample.images[0].pixels.len());
                assert_eq!(own, &*sample.images[0].pixels);
                (start, images) = (start + length, others);
            }
            let padding = start..(row + 1) * batch.length;
            assert!(padding.len() <= batch.length - segments.iter().sum::<usize>());
            assert!(
                batch.labels[padding]
                    .iter()
                    .all(|&label| label == crate::data::IGNORE_LABEL)
            );
        }
    }
    assert!(most > 2);
}

/// S4.8: the lengths are drawn anew in each epoch, and neither threads nor a resumed run change them.
#[test]
fn rows_are_cut_at_random_and_the_same_way_again() {
    let mut folder = folder();
    let whole = folder.open().unwrap();
    folder.options.random_truncation = true;
    let dataset = Arc::new(folder.open().unwrap());
    let report = dataset.report();
    // The answers of one digit are a label and the end of a turn.
    assert_eq!(report.cut_at_random, NUM_ROWS);
    assert!(
        report
            .to_string()
            .ends_with("; 11 rows cut at a random length in each epoch"),
        "{report}"
    );

    let plan = plan(0, 1, 1, 3);
    let steps = run(&dataset, plan, 0, 0);
    assert_eq!(run(&dataset, plan, 0, 2), steps);
    assert_eq!(run(&dataset, plan, 7, 1), steps[7..]);

    let by_line = |line: usize| {
        let index = (0..whole.len()).find(|&index| whole.sample(index).line == line);
        whole.example(index.unwrap()).unwrap()
    };
    let mut lengths: Vec<Vec<usize>> = vec![Vec::new(); NUM_ROWS + 1];
    for batch in steps.iter().flatten() {
        for (row, (segments, sample)) in batch.segments.iter().zip(&batch.samples).enumerate() {
            let uncut = by_line(sample.line);
            let ids = &batch.input_ids[row * batch.length..][..segments[0]];
            assert!(segments[0] < uncut.input_ids.len());
            assert_eq!(*ids, uncut.input_ids[..segments[0]]);
            lengths[sample.line].push(segments[0]);
        }
        assert_eq!(batch.images.as_ref().unwrap().num_images(), batch.rows);
        assert!(batch.num_labelled >= batch.rows);
    }
    assert!(lengths[1..].iter().all(|lengths| lengths.len() == 3));
    assert!(
        lengths
            .iter()
            .any(|lengths| lengths.iter().any(|length| *length != lengths[0]))
    );
}

/// Held-out rows are judged as they are.
#[test]
fn held_out_rows_are_not_cut_at_random() {
    let mut folder = folder();
    folder.options.random_truncation = true;
    let images = crate::data::ImageOptions::clip(2, crate::data::dataset::fixtures::COPIES);
    let eval = Dataset::open(
        crate::data::Split::Eval,
        &folder.options,
        Some(images),
        folder.tokenizer.clone(),
    );
    let eval = eval.unwrap();
    assert_eq!(eval.report().cut_at_random, 0);
    assert_eq!(
        eval.example_in(3, 5, &|_| false).unwrap().input_ids,
        eval.example(5).unwrap().input_ids
    );
}

/// What is held is neither decoded nor even there; everything else of the batches stays.
#[test]
fn images_that_are_held_are_not_read() {
    let (folder, dataset) = dataset();
    // Eleven rows name three files in turn.
    assert_eq!((dataset.num_images(), dataset.report().images), (3, NUM_ROWS));
    let plan = plan(0, 1, 3, 1);
    let expected = run(&dataset, plan, 0, 0);
    fs::remove_file(&folder.dir.path().join("1.png")).unwrap();
    let number_of_1 = 1;
    for workers in [0, 2] {
        let held: Held = Arc::new(move |number| number == number_of_1);
        let mut loader = Loader::start_with_held(dataset.clone(), plan, 0, workers, 2, held).unwrap();
        let mut seen = [0; 2];
        for expected in &expected {
            let batches = loader.next_step().unwrap().unwrap();
            for (batch, expected) in batches.iter().zip(expected) {
                assert_eq!(batch.input_ids, expected.input_ids);
                let (images, all) = (batch.images.as_ref().unwrap(), expected.images.as_ref().unwrap());
                let mut pixels = images.pixels.chunks(12);
                for ((source, whole), decoded) in
                    images.sources.iter().zip(&all.sources).zip(all.pixels.chunks(12))
                {
                    let ImageSource::Decoded(Some(number)) = *whole else {
                        panic!("{whole:?} in a batch of which nothing is held");
                    };
                    match source {
                        ImageSource::Held(held) => assert_eq!((*held, number), (number_of_1, number_of_1)),
                        ImageSource::Decoded(found) => {
                            assert_eq!(*found, Some(number));
                            assert_eq!(pixels.next().unwrap(), decoded);
                        }
                    }
                    seen[usize::from(number == number_of_1)] += 1;
                }
                assert_eq!(pixels.next(), None);
            }
        }
        assert_eq!(seen, [7, 4]);
        // Without, the run would have stopped there.
        let mut loader = Loader::start(dataset.clone(), plan, 0, workers, 2).unwrap();
        assert!(
            std::iter::repeat_with(|| loader.next_step())
                .take(expected.len())
                .any(|step| step.is_err())
        );
    }
}
