//! bf16 parameters over f32 masters.

use std::collections::HashMap;

use brazier::learner::options::{Precision, StepConfig, TrainMode};
use brazier_models::{HostDtype, HostTensor};
use half::bf16;

use crate::{
    all_weights, batches, devices_by_precision, learner, snapshot,
    support::{f32s, plain_step},
};

fn bf16s(tensor: &HostTensor) -> Vec<bf16> {
    assert_eq!(tensor.dtype, HostDtype::Bf16, "{}", tensor.name);
    let chunks = tensor.bytes.as_chunks::<2>().0;
    chunks.iter().map(|&chunk| bf16::from_le_bytes(chunk)).collect()
}

/// Near 1 neighbours in bf16 are 0.004 and more apart: steps of 0.001 would all be rounded away.
#[test]
fn many_small_updates_add_up() {
    let rounded = (0..30).fold(bf16::ONE, |weight, _| bf16::from_f32(weight.to_f32() - 1e-3));
    assert_eq!(rounded, bf16::ONE);

    for (precision, device) in devices_by_precision() {
        if precision != Precision::Bf16 {
            continue;
        }
        let config = StepConfig {
            precision,
            ..plain_step(TrainMode::Full)
        };
        let mut learner = learner(&config, 1, &device);
        let norm = |learner: &_| {
            let weights = all_weights(learner);
            let is_norm = |tensor: &&HostTensor| tensor.name == "language_model.model.norm.weight";
            bf16s(weights.iter().find(is_norm).unwrap())
        };
        assert!(norm(&learner).iter().all(|&weight| weight == bf16::ONE));
        for _ in 0..30 {
            learner.step(&batches(0, 8)).unwrap();
        }
        let far = norm(&learner)
            .iter()
            .filter(|weight| (weight.to_f32() - 1.0).abs() > 0.01)
            .count();
        assert!(far >= 4, "{far} of 16 weights moved: {:?}", norm(&learner));
    }
}

/// The master is the truth; the parameter is its master rounded once, from the first step on and after a restore.
#[test]
fn a_parameter_is_its_master_rounded() {
    for (precision, device) in devices_by_precision() {
        if precision != Precision::Bf16 {
            continue;
        }
        let config = StepConfig {
            precision,
            ..plain_step(TrainMode::EndToEnd)
        };
        let mut trained = learner(&config, 1, &device);
        for step in 0..3 {
            trained.step(&batches(step, 4)).unwrap();
        }
        let saved = snapshot(&trained);
        let mut restored = learner(&config, 2, &device);
        restored.restore(&saved).unwrap();
        let masters: HashMap<&str, &HostTensor> = saved
            .tensors
            .iter()
            .filter_map(|tensor| Some((tensor.name.strip_prefix("master.")?, tensor)))
            .collect();
        assert_eq!(masters.len(), trained.trainable().params.len());
        let mut finer = 0;
        for tensor in all_weights(&trained).iter().chain(&all_weights(&restored)) {
            let Some(master) = masters.get(tensor.name.as_str()) else {
                continue;
            };
            let master = f32s(&master.bytes);
            let rounded: Vec<bf16> = master.iter().map(|&weight| bf16::from_f32(weight)).collect();
            assert_eq!(bf16s(tensor), rounded, "{}", tensor.name);
            finer += rounded
                .iter()
                .zip(&master)
                .filter(|(rounded, master)| rounded.to_f32() != **master)
                .count();
        }
        assert!(
            finer > 1000,
            "only {finer} masters hold more than their parameter"
        );
    }
}

/// The loss of a bf16 run stays beside that of the f32 run.
#[test]
fn bf16_follows_f32() {
    let [mut f32_losses, mut bf16_losses] = [Vec::new(), Vec::new()];
    for (precision, device) in devices_by_precision() {
        let config = StepConfig {
            precision,
            ..plain_step(TrainMode::Full)
        };
        let mut learner = learner(&config, 1, &device);
        let losses = (0..20)
            .map(|_| learner.step(&batches(0, 4)).unwrap().loss)
            .collect::<Vec<_>>();
        match precision {
            Precision::F32 => f32_losses = losses,
            Precision::Bf16 => bf16_losses = losses,
        }
    }
    assert!(f32_losses[19] < 0.8 * f32_losses[0], "{f32_losses:?}");
    for (bf16_loss, f32_loss) in bf16_losses.iter().zip(&f32_losses) {
        assert!(
            (bf16_loss / f32_loss - 1.0).abs() < 0.02,
            "{bf16_losses:?}\n{f32_losses:?}"
        );
    }
}
