//! Products of odd shapes, layouts and sizes against a sum in f64, packed and by the `gemm` crate.

use super::{Mat, MatMut, Threads, Write, matmul, matmul_transposed, portable};

/// Numbers that look random.
struct Draw(u64);

impl Draw {
    fn below(&mut self, n: usize) -> usize {
        self.0 = (self.0.wrapping_mul(6_364_136_223_846_793_005)).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n
    }

    fn values(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.below(2001) as f32 / 1000.0 - 1.0).collect()
    }
}

/// How a matrix lies in its slice.
#[derive(Clone, Copy, Debug)]
enum Order {
    Rows,
    Strided,
    Transposed,
}

impl Order {
    const ALL: [Self; 3] = [Self::Rows, Self::Strided, Self::Transposed];

    fn slice(self, draw: &mut Draw, rows: usize, cols: usize) -> Vec<f32> {
        draw.values(match self {
            Self::Strided => rows * (cols + 3),
            _ => rows * cols,
        })
    }

    fn view(self, data: &[f32], rows: usize, cols: usize) -> Mat<'_> {
        match self {
            Self::Rows => Mat::new(data, rows, cols),
            Self::Strided => Mat::strided(data, rows, cols, cols + 3),
            Self::Transposed => Mat::new(data, cols, rows).transposed(),
        }
    }
}

fn at(x: &Mat<'_>, row: usize, col: usize) -> f64 {
    f64::from(x.data[row * x.row_stride + col * x.col_stride])
}

/// Each element is within 1e-6 of the sum of its terms' sizes.
fn check(name: &str, result: &[f32], before: f64, a: &Mat<'_>, b: &Mat<'_>) {
    for (i, &x) in result.iter().enumerate() {
        let (row, col) = (i / b.cols, i % b.cols);
        let terms = (0..a.cols).map(|k| at(a, row, k) * at(b, k, col));
        let (sum, size) = terms.fold((before, before.abs()), |(sum, size), x| (sum + x, size + x.abs()));
        assert!(
            (f64::from(x) - sum).abs() <= 1e-6 * (size + 1e-3),
            "{name}: {x} at [{row}, {col}], {sum}"
        );
    }
}

#[test]
fn products_of_odd_shapes_agree_with_their_definition() {
    let mut draw = Draw(1);
    for round in 0..60 {
        // Depths on both sides of a block's, and sizes that fill no sliver.
        let (m, n, k) = (1 + draw.below(130), 1 + draw.below(100), 1 + draw.below(420));
        let (left, right) = (Order::ALL[round % 3], Order::ALL[round / 3 % 3]);
        let (a, b) = (left.slice(&mut draw, m, k), right.slice(&mut draw, k, n));
        let (a, b) = (left.view(&a, m, k), right.view(&b, k, n));
        for (threads, write) in [(Threads::One, Write::Overwrite), (Threads::All, Write::Add)] {
            let mut dst = vec![2.0; m * n];
            let before = if write == Write::Add { 2.0 } else { 0.0 };
            let name = format!("{m}x{k}x{n} {left:?} {right:?}");
            matmul(MatMut::new(&mut dst, m, n), a, b, write, threads);
            check(&name, &dst, before, &a, &b);
            dst.fill(2.0);
            portable(&MatMut::new(&mut dst, m, n), a, b, write, threads);
            check(&format!("{name} by the gemm crate"), &dst, before, &a, &b);
        }
    }
}

#[test]
fn weights_in_their_files_layout_multiply() {
    let mut draw = Draw(2);
    for (n, i, o) in [
        (1, 7, 5),
        (31, 64, 40),
        (32, 64, 11),
        (33, 200, 70),
        (600, 33, 530),
    ] {
        let (x, w) = (draw.values(n * i), draw.values(o * i));
        let (x, w) = (Mat::new(&x, n, i), Mat::new(&w, o, i));
        let mut dst = vec![0.0; n * o];
        matmul_transposed(MatMut::new(&mut dst, n, o), x, w, Write::Overwrite);
        check(&format!("{n}x{i}x{o}"), &dst, 0.0, &x, &w.transposed());
    }
}

#[test]
fn bits_depend_neither_on_threads_nor_on_blocks() {
    let mut draw = Draw(3);
    let (m, n, k) = (700, 600, 500);
    let (a, b) = (draw.values(m * k), draw.values(k * n));
    let product = |a: Mat<'_>, rows: usize, threads: Threads, pool: usize| {
        let mut dst = vec![0.0; rows * n];
        let pool = rayon::ThreadPoolBuilder::new().num_threads(pool).build().unwrap();
        let b = Mat::new(&b, k, n);
        pool.install(|| matmul(MatMut::new(&mut dst, rows, n), a, b, Write::Overwrite, threads));
        dst
    };
    let whole = product(Mat::new(&a, m, k), m, Threads::One, 1);
    for pool in [1, 2, 7] {
        assert!(
            whole == product(Mat::new(&a, m, k), m, Threads::All, pool),
            "{pool} threads"
        );
    }
    let part = product(Mat::new(&a[101 * k..], 300, k), 300, Threads::All, 2);
    assert!(part == whole[101 * n..401 * n], "rows alone");
}

#[cfg(target_arch = "x86_64")]
#[test]
fn threads_get_equally_many_blocks() {
    for (rows, column_blocks, threads, row_blocks) in [
        (256, 1, 2, 2),
        (1024, 1, 2, 4),
        (512, 2, 2, 2),
        (2000, 1, 4, 8),
        (5000, 1, 3, 12),
        // Too few rows for that; 16 blocks of 97 rows are 15 of whole slivers.
        (1552, 1, 16, 15),
        (1024, 1, 16, 10),
        (40, 1, 8, 1),
    ] {
        let block = super::blocks::shared_rows(rows, column_blocks, threads);
        assert_eq!(rows.div_ceil(block), row_blocks, "{rows} rows, {threads} threads");
    }
}
