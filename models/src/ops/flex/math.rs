//! Scalar functions that vectorise, and the choice of the vector width at run time.

/// Accumulators of a sum: fixed, so that a sum does not depend on the machine's vector width.
pub(super) const LANES: usize = 16;

/// Compiles a function for AVX-512, AVX2 and the baseline, and picks at run time. No fused multiply-add is used, so all
/// three give the same bits.
macro_rules! simd {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        $vis fn $name($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            fn body($($arg: $ty),*) $(-> $ret)? $body

            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx2")]
                fn avx512($($arg: $ty),*) $(-> $ret)? {
                    body($($arg),*)
                }
                #[target_feature(enable = "avx2")]
                fn avx2($($arg: $ty),*) $(-> $ret)? {
                    body($($arg),*)
                }
                if std::arch::is_x86_feature_detected!("avx512f")
                    && std::arch::is_x86_feature_detected!("avx512vl")
                    && std::arch::is_x86_feature_detected!("avx512bw")
                    && std::arch::is_x86_feature_detected!("avx512dq")
                {
                    #[expect(unsafe_code, reason = "calls code for features found on this machine")]
                    // SAFETY: the features were detected.
                    return unsafe { avx512($($arg),*) };
                }
                if std::arch::is_x86_feature_detected!("avx2") {
                    #[expect(unsafe_code, reason = "calls code for features found on this machine")]
                    // SAFETY: the feature was detected.
                    return unsafe { avx2($($arg),*) };
                }
            }
            body($($arg),*)
        }
    };
}
pub(super) use simd;

/// `exp`, error below 2 ulp on `-87 ..= 88`, saturating outside. NaN stays NaN. Cephes' `expf`.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    let (rest, power) = exp_parts(x);
    (rest + 1.0) * power
}

/// `exp(x) - 1` without cancellation near 0.
#[inline(always)]
pub(super) fn exp_m1(x: f32) -> f32 {
    let (rest, power) = exp_parts(x);
    rest * power + (power - 1.0)
}

/// `(rest, power)` with `exp(x) = (rest + 1) power`, where `power` is a power of two.
#[inline(always)]
fn exp_parts(x: f32) -> (f32, f32) {
    const ROUND: f32 = 12_582_912.0; // 1.5 * 2^23: adding it rounds to an integer in the low bits
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let x = if x < -87.0 { -87.0 } else { x };
    let x = if x > 88.0 { 88.0 } else { x };
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = x - n * LN2_HIGH - n * LN2_LOW;
    let p = 1.987_569_1e-4;
    let p = p * r + 1.398_2e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 1.666_666_5e-1;
    let p = p * r + 0.5;
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(127 << 23));
    (p * r * r + r, power)
}

#[inline(always)]
pub(super) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// `erf`, absolute error below 5e-7: Eigen's rational approximation on `-4 ..= 4`.
#[inline(always)]
pub(super) fn erf(x: f32) -> f32 {
    let x = if x < -4.0 { -4.0 } else { x };
    let x = if x > 4.0 { 4.0 } else { x };
    let x2 = x * x;
    let p = -2.726_142_3e-10;
    let p = p * x2 + 2.770_681_4e-8;
    let p = p * x2 - 2.101_024e-6;
    let p = p * x2 - 5.692_506_5e-5;
    let p = p * x2 - 7.349_906_3e-4;
    let p = p * x2 - 2.954_6e-3;
    let p = p * x2 - 1.609_603_3e-2;
    let q = -1.456_607_2e-5;
    let q = q * x2 - 2.133_740_6e-4;
    let q = q * x2 - 1.682_827e-3;
    let q = q * x2 - 7.373_329_2e-3;
    let q = q * x2 - 1.426_473_9e-2;
    x * p / q
}

/// Sum of `f(a, b)` over two slices of equal length.
#[inline(always)]
pub(super) fn sum2(a: &[f32], b: &[f32], f: impl Fn(f32, f32) -> f32) -> f32 {
    let (a, a_tail) = a.as_chunks::<LANES>();
    let (b, b_tail) = b.as_chunks::<LANES>();
    let mut lanes = [0.0f32; LANES];
    for (a, b) in a.iter().zip(b) {
        for i in 0..LANES {
            lanes[i] += f(a[i], b[i]);
        }
    }
    for ((lane, &a), &b) in lanes.iter_mut().zip(a_tail).zip(b_tail) {
        *lane += f(a, b);
    }
    add_lanes(lanes)
}

/// Sum of `f(a)`.
#[inline(always)]
pub(super) fn sum1(a: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    sum2(a, a, |a, _| f(a))
}

#[inline(always)]
pub(super) fn max(a: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let (chunks, tail) = a.as_chunks::<LANES>();
    let mut lanes = [f32::NEG_INFINITY; LANES];
    for chunk in chunks {
        for i in 0..LANES {
            lanes[i] = larger(lanes[i], chunk[i]);
        }
    }
    let max = tail.iter().fold(f32::NEG_INFINITY, |max, &x| larger(max, x));
    lanes.into_iter().fold(max, larger)
}

#[inline(always)]
fn add_lanes(mut lanes: [f32; LANES]) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
        width /= 2;
    }
    lanes[0]
}

#[cfg(test)]
mod tests {
    use super::{erf, exp, exp_m1};

    #[test]
    fn exp_is_within_two_ulp() {
        for i in -86_999..=87_999 {
            let x = i as f32 * 1e-3;
            let expected = f64::from(x).exp();
            let error = (f64::from(exp(x)) - expected).abs() / expected;
            assert!(
                error < 2.0 * f64::from(f32::EPSILON),
                "exp({x}) = {}, {expected}",
                exp(x)
            );
        }
        assert!(exp(f32::NAN).is_nan());
        assert!(exp(-1e30) < 1e-37);
    }

    #[test]
    fn exp_m1_keeps_its_digits_near_zero() {
        for i in -40_000..=20_000 {
            let x = i as f32 * 5e-4 / 1.7;
            let expected = f64::from(x).exp_m1();
            let error = (f64::from(exp_m1(x)) - expected).abs();
            assert!(
                error <= 3.0 * f64::from(f32::EPSILON) * expected.abs(),
                "expm1({x}) = {}, {expected}",
                exp_m1(x)
            );
        }
        assert_eq!(exp_m1(-1e-6), (-1e-6f64).exp_m1() as f32);
    }

    #[test]
    fn erf_agrees_with_its_series() {
        for i in -500..=500 {
            let x = i as f32 * 1e-2;
            // erf(x) = 2/sqrt(pi) exp(-x²) sum 2^n x^(2n+1) / (2n+1)!!
            let z = f64::from(x);
            let (mut term, mut sum) = (z, z);
            for n in 1..200 {
                term *= 2.0 * z * z / f64::from(2 * n + 1);
                sum += term;
            }
            let expected = 2.0 / std::f64::consts::PI.sqrt() * (-z * z).exp() * sum;
            assert!(
                (f64::from(erf(x)) - expected).abs() < 5e-7,
                "erf({x}) = {}, {expected}",
                erf(x)
            );
        }
    }
}
