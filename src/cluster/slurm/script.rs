//! The text of the script.

use std::fmt::Write;

use super::{Container, Job, SlurmError};

/// Seconds that other tasks may go on after the first has ended: the first rank may still be exporting the model.
const WAIT_SECS: u32 = 3600;

/// Writes the script.
///
/// # Errors
/// Everything that is wrong with the job.
pub fn script(job: &Job) -> Result<String, Vec<SlurmError>> {
    let errors = job.errors();
    if !errors.is_empty() {
        return Err(errors);
    }
    let mut text = String::from("#!/bin/bash\n");
    for note in &job.notes {
        // A line break would end the comment.
        line(&mut text, format!("# {}", note.replace('\n', " ")).trim_end());
    }
    text.push_str("#\n");
    header(&mut text, job);
    text.push_str("\nset -euo pipefail\n");
    variables(&mut text, job);
    start(&mut text, job);
    finish(&mut text, job);
    Ok(text)
}

fn line(text: &mut String, line: &str) {
    text.push_str(line);
    text.push('\n');
}

/// What sbatch reads. It stops at the first line that is neither empty nor a comment.
fn header(text: &mut String, job: &Job) {
    let logs = job.logs.display();
    let name = &job.name;
    let mut options = vec![
        format!("--job-name={name}"),
        format!("--output={logs}/%x.%j.out"),
        // A job that comes back goes on in the same log.
        "--open-mode=append".into(),
        format!("--nodes={}", job.nodes),
        format!("--ntasks-per-node={}", job.gpus_per_node),
        format!("--gpus-per-node={}", job.gpus_per_node),
        format!("--cpus-per-task={}", job.cpus_per_task),
        format!("--time={}", job.time),
        format!("--signal={}", job.signal),
    ];
    options.push(
        if job.max_requeues > 0 {
            "--requeue"
        } else {
            "--no-requeue"
        }
        .into(),
    );
    for (flag, value) in [
        ("partition", &job.partition),
        ("account", &job.account),
        ("reservation", &job.reservation),
        ("mem", &job.mem),
    ] {
        options.extend(value.iter().map(|value| format!("--{flag}={value}")));
    }
    for option in options {
        line(text, &format!("#SBATCH {option}"));
    }
}

fn variables(text: &mut String, job: &Job) {
    text.push_str(
        "\n# NCCL says what goes wrong; NCCL_DEBUG=INFO also says which network it takes.\n\
         # https://docs.nvidia.com/deeplearning/nccl/user-guide/docs/env.html\n\
         export NCCL_DEBUG=\"${NCCL_DEBUG:-WARN}\"\n",
    );
    for variable in job.cluster.variables(job.nodes) {
        let _ = write!(
            text,
            "\n# {}\n# {}\nexport {}=\"{}\"\n",
            variable.reason, variable.source, variable.name, variable.value
        );
    }
}

/// The tasks. brazier finds rank, size and where to meet in what srun sets: no MASTER_ADDR, no port, no launcher.
fn start(text: &mut String, job: &Job) {
    text.push_str(
        "\n# Every task is a rank and takes the GPU of its number on its node, so all GPUs stay visible to all tasks.\n\
         # --cpus-per-task: since SLURM 22.05 srun does not take it over from the header.\n\
         # --kill-on-bad-exit=0: at the signal each rank saves and exits with code 75; the first must not end the others.\n\
         # --wait: the first rank exports the model when the others are done.\n",
    );
    match &job.container {
        Container::None => {}
        // In the header, the script itself would run inside, where scontrol is not.
        Container::Image { .. } | Container::Environment(_) => text.push_str(
            "# The container is srun's and not the header's: this script needs scontrol, which is outside.\n",
        ),
    }
    if job.mpi {
        text.push_str(
            "# --mpi=pmix: the ranks find each other through MPI, for which brazier is built with the feature mpi.\n",
        );
    }
    let mpi = if job.mpi { " --mpi=pmix" } else { "" };
    let _ = write!(text, "code=0\nsrun{mpi}");
    text.push_str(" --cpus-per-task=\"$SLURM_CPUS_PER_TASK\" --kill-on-bad-exit=0");
    let _ = write!(text, " --wait={WAIT_SECS}");
    let options = match &job.container {
        Container::None => Vec::new(),
        Container::Image { image, mounts } => {
            let mut options = vec![format!("--container-image={image}")];
            options.extend(mounts.iter().map(|mounts| format!("--container-mounts={mounts}")));
            options
        }
        Container::Environment(file) => vec![format!("--environment={file}")],
    };
    for option in options {
        let _ = write!(text, " \\\n    {}", quoted(&option));
    }
    let command: Vec<String> = job.command.iter().map(|word| quoted(word)).collect();
    let _ = writeln!(text, " \\\n    {} || code=$?", command.join(" "));
}

/// Code 75: stopped on request, with a checkpoint on the disk.
fn finish(text: &mut String, job: &Job) {
    let max = job.max_requeues;
    text.push_str("\n# 75: the run was asked to stop, and has saved.\n");
    if max == 0 {
        text.push_str(
            "if [[ $code -eq 75 ]]; then\n    echo \"stopped with a checkpoint saved; sbatch the same script to go on\"\nfi\n",
        );
    } else {
        let _ = write!(
            text,
            "if [[ $code -eq 75 ]]; then\n    \
                 restarts=${{SLURM_RESTART_COUNT:-0}}\n    \
                 if ((restarts < {max})); then\n        \
                     echo \"stopped with a checkpoint saved; back into the queue ($((restarts + 1)) of {max})\"\n        \
                     scontrol requeue \"$SLURM_JOB_ID\"\n    \
                 else\n        \
                     echo \"stopped with a checkpoint saved, and requeued {max} times already; sbatch this script to go on\"\n    \
                 fi\n\
             fi\n"
        );
    }
    text.push_str("exit \"$code\"\n");
}

/// A word as the shell must see it.
pub fn quoted(word: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./=:,@%+".contains(&byte);
    match !word.is_empty() && word.bytes().all(is_plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', "'\\''")),
    }
}
