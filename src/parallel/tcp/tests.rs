use std::{
    net::{TcpListener, TcpStream},
    time::Instant,
};

use super::{super::Threads, *};

const PATIENCE: Duration = Duration::from_secs(20);

fn free_port() -> u16 {
    TcpListener::bind("[::]:0").unwrap().local_addr().unwrap().port()
}

/// Runs each rank on a thread of its own, as if it were a process.
fn ranks<T: Send>(size: usize, run: impl Fn(Tcp) -> T + Sync) -> Vec<T> {
    let port = free_port();
    on_threads(size, |rank| {
        run(Tcp::join(World { rank, size }, ("localhost", port), PATIENCE).unwrap())
    })
}

fn on_threads<T: Send>(size: usize, run: impl Fn(usize) -> T + Sync) -> Vec<T> {
    std::thread::scope(|scope| {
        let run = &run;
        let threads: Vec<_> = (0..size).map(|rank| scope.spawn(move || run(rank))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

/// Every operation, with numbers whose sums depend on their order.
fn all_operations(engine: &mut dyn Engine) -> String {
    let World { rank, size } = engine.world();
    let number = |at: usize| (rank + 1) as f32 * 0.1 + at as f32 * 1.7e3;
    let mut said = Vec::new();
    for len in [0, 1, 5, 40_000] {
        let mut sums: Vec<f32> = (0..len).map(number).collect();
        engine.all_reduce(&mut sums).unwrap();
        let parts = engine
            .reduce_scatter((0..len * size).map(number).collect())
            .unwrap();
        let gathered = engine.all_gather(vec![rank as u8; len]).unwrap();
        let exchanged = engine.exchange(vec![7; rank * len]).unwrap();
        said.push(format!("{sums:?} {parts:?} {gathered:?} {exchanged:?}"));
    }
    said.join("\n")
}

#[test]
fn sums_are_the_same_bits_as_those_of_threads() {
    for size in [2, 3, 4] {
        let engines = Threads::group(size, PATIENCE);
        let expected: Vec<String> = std::thread::scope(|scope| {
            let run = |mut engine: Threads| scope.spawn(move || all_operations(&mut engine));
            let threads: Vec<_> = engines.into_iter().map(run).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(ranks(size, |mut engine| all_operations(&mut engine)), expected);
    }
}

#[test]
fn groups_are_apart() {
    let said = ranks(4, |mut engine| {
        let rank = engine.world().rank;
        let mut rows = engine.split(rank / 2).unwrap();
        let mut columns = engine.split(rank % 2).unwrap();
        let mut alone = rows.split(rank).unwrap();
        let mut said = Vec::new();
        for engine in [rows.as_mut(), columns.as_mut(), alone.as_mut()] {
            let mut sum = vec![10_f32.powi(rank as i32)];
            engine.all_reduce(&mut sum).unwrap();
            said.push((sum[0] as u32, engine.world().rank, engine.world().size));
        }
        drop((rows, columns, alone));
        let mut sum = vec![1.0];
        engine.all_reduce(&mut sum).unwrap();
        (said, sum[0])
    });
    let expected = [
        (vec![(11, 0, 2), (101, 0, 2), (1, 0, 1)], 4.0),
        (vec![(11, 1, 2), (1010, 0, 2), (10, 0, 1)], 4.0),
        (vec![(1100, 0, 2), (101, 1, 2), (100, 0, 1)], 4.0),
        (vec![(1100, 1, 2), (1010, 1, 2), (1000, 0, 1)], 4.0),
    ];
    assert_eq!(said, expected);
}

#[test]
fn a_rank_that_fails_or_goes_is_named_at_once() {
    let start = Instant::now();
    let errors = ranks(3, |mut engine| {
        if engine.world().rank == 1 {
            engine.abort_handle()("its disk is full");
            return String::new();
        }
        engine.all_reduce(&mut vec![1.0]).unwrap_err().to_string()
    });
    assert_eq!(errors[0], "rank 1 failed: its disk is full");
    assert_eq!(errors[2], errors[0]);

    let errors = ranks(3, |mut engine| match engine.world().rank {
        1 => String::new(),
        _ => engine.exchange(vec![1]).unwrap_err().to_string(),
    });
    // Either it is missed first, or one that missed it and has gone as well.
    for error in [&errors[0], &errors[2]] {
        assert!(
            error.ends_with("failed: its process has ended, or the connection to it"),
            "{error}"
        );
    }
    assert!(
        errors[0].starts_with("rank 1 ") || errors[2].starts_with("rank 1 "),
        "{errors:?}"
    );
    assert!(start.elapsed() < PATIENCE, "{:?}", start.elapsed());
}

#[test]
fn a_rank_that_does_not_come_is_named() {
    let port = free_port();
    let errors = on_threads(3, |rank| {
        let world = World { rank, size: 3 };
        let mut engine = Tcp::join(world, ("localhost", port), Duration::from_secs(2)).unwrap();
        if rank == 1 {
            // Stopped, not gone.
            std::thread::sleep(Duration::from_secs(4));
            return String::new();
        }
        engine.all_reduce(&mut vec![1.0]).unwrap_err().to_string()
    });
    for rank in [0, 2] {
        let expected = format!("rank {rank} of 3 waited 2 s in all_reduce for rank 1\n");
        assert!(errors[rank].starts_with(&expected), "{errors:?}");
    }
}

#[test]
fn ranks_at_different_places_are_told() {
    let errors = ranks(2, |mut engine| match engine.world().rank {
        0 => engine.all_gather(vec![1; 3]).unwrap_err().to_string(),
        _ => engine.all_gather(vec![1; 4]).unwrap_err().to_string(),
    });
    let expected = "rank 0 is in all_gather 0 of 3 bytes, others are in all_gather 0 of 4 bytes";
    assert!(
        errors.iter().any(|error| error.starts_with(expected)),
        "{errors:?}"
    );
}

fn meet(rank: usize, size: usize, port: u16, seconds: u64) -> String {
    let joined = Tcp::join(
        World { rank, size },
        ("localhost", port),
        Duration::from_secs(seconds),
    );
    joined.err().map(|error| error.to_string()).unwrap_or_default()
}

#[test]
fn a_meeting_that_fails_says_why() {
    let taken = TcpListener::bind("[::]:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let error = meet(0, 2, port, 1);
    assert!(
        error.starts_with(&format!(
            "the ranks did not meet: port {port} of this host is in use"
        )),
        "{error}"
    );
    assert!(error.contains("MASTER_PORT"), "{error}");
    let error = meet(1, 2, port, 1);
    assert!(
        error.starts_with(&format!(
            "the ranks did not meet: no answer from localhost:{port}"
        )),
        "{error}"
    );

    let port = free_port();
    let error = meet(1, 2, port, 1);
    assert!(
        error.starts_with(&format!(
            "the ranks did not meet: called localhost:{port} again and again: "
        )),
        "{error}"
    );
    let error = meet(0, 3, port, 1);
    assert!(
        error.starts_with("the ranks did not meet: waited 1 s for rank 1, 2 of 3"),
        "{error}"
    );

    let port = free_port();
    let errors = on_threads(2, |rank| meet(rank, rank + 2, port, 20));
    assert!(
        errors[0]
            .starts_with("the ranks did not meet: rank 1 was started as one of 3 ranks, rank 0 as one of 2"),
        "{errors:?}"
    );
    assert!(
        errors[1].starts_with("the ranks did not meet: rank 0 says: rank 1 was started as one of 3 ranks"),
        "{errors:?}"
    );

    let port = free_port();
    let errors = on_threads(3, |number| meet(number.min(1), 3, port, 20));
    assert!(
        errors[0].starts_with("the ranks did not meet: two processes say that they are rank 1 of 3"),
        "{errors:?}"
    );
    assert!(errors[2].contains("rank 0 says: two processes"), "{errors:?}");
}

#[test]
fn strangers_are_ignored() {
    let port = free_port();
    let sums = on_threads(3, |number| {
        if number == 2 {
            let stranger = (0..1000).find_map(|_| {
                std::thread::sleep(Duration::from_millis(1));
                TcpStream::connect(("localhost", port)).ok()
            });
            std::io::Write::write_all(&mut stranger.unwrap(), b"GET / HTTP/1.1\r\n\r\n").unwrap();
            return 2.0;
        }
        if number == 1 {
            std::thread::sleep(Duration::from_millis(300));
        }
        let world = World {
            rank: number,
            size: 2,
        };
        let mut engine = Tcp::join(world, ("localhost", port), PATIENCE).unwrap();
        let mut sum = vec![1.0];
        engine.all_reduce(&mut sum).unwrap();
        sum[0]
    });
    assert_eq!(sums, [2.0; 3]);
}
