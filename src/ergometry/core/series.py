"""The tables of a run: what each is called, its columns and their units. The one place that names them.

Every table is rows of float64. A training process sends a row as one fixed-size slot of the shared ring
(:mod:`ergometry.meter.ring`); the recorder stores many as one chunk; a report reads them as columns.
Times (``*t*_s``) are monotonic seconds since the run's origin. This module is standard library only.
"""

from __future__ import annotations

from dataclasses import dataclass

#: A ring slot carries this many float64, so no table sent by the training process has more columns.
MAX_COLUMNS = 14


@dataclass(frozen=True, slots=True)
class Series:
    """A kind of row: its code on the ring (0 for tables that only the recorder writes), name and columns."""

    code: int
    name: str
    columns: tuple[str, ...]


STEPS = Series(
    1,
    "steps",
    (
        "step",
        "t0_s",
        "t1_s",
        "data_s",
        "forward_s",
        "backward_s",
        "optimizer_s",
        "other_s",
        "examples",
        "tokens",
        "backwards",
        "flops",
        "loader_pass",
        "flags",
    ),
)
"""One row per training step, by host time. The five phases sum to ``t1_s - t0_s``, less any evaluation inside the step
(under accumulation). NaN where not known.
``loader_pass`` counts the passes over the training data loader from 1 (0: none seen, or it draws with replacement)."""

SKIPPED, NO_BACKWARD, EXCEPTION = 1, 2, 4
"""Bits of ``flags``: the optimizer skipped the step (GradScaler), no backward was seen, a call in it raised."""

DEVICE_STEPS = Series(
    2,
    "device_steps",
    ("step", "device", "data_s", "forward_s", "backward_s", "optimizer_s", "other_s", "evaluation_s"),
)
"""The same phases by an accelerator's own time, from device events, on asynchronous devices."""

LOSSES = Series(3, "losses", ("step", "t_s", "loss"))
"""The unscaled loss of a step: the sum of the scalars that ``backward`` was called on; NaN where it was not finite."""

LEDGER = Series(
    4,
    "ledger",
    (
        "step",
        "grad_sq",
        "grad_sq_stderr",
        "dtheta_sq",
        "dtheta_sq_stderr",
        "work",
        "work_stderr",
        "sampled",
        "parameters",
        "cost_s",
        "path",
        "path_stderr",
        "given",
        "given_cosine",
    ),
)
"""Of one optimizer step: |g|² (minibatch, unscaled, as the step's last backward left it), |Δθ|², −g·Δθ, with the
sampling error of blocks of parameters (0 when exact: sampled = parameters); ``path`` is |g||Δθ|. ``given`` is
g·ĝ/|g|² and ``given_cosine`` g·ĝ/(|g||ĝ|), with ĝ the gradient that the optimizer was given: 1 and 1 unless the script
clipped it or made another of it; NaN where g was taken as the optimizer had it, and not before. The optimizers of one
step are added up."""

LEARNING_RATES = Series(5, "learning_rates", ("step", "optimizer", "group", "lr"))
"""Written when a learning rate has changed."""

EVALUATIONS = Series(6, "evaluations", ("t0_s", "t1_s", "forwards", "examples", "after_step"))
"""Stretches of evaluation between training steps."""

MEMORY = Series(7, "memory", ("t_s", "device", "peak_bytes"))
"""Peak memory so far: of the process (device -1) or allocated on an accelerator."""

WINDOWS = Series(8, "windows", ("window", "t0_s", "t1_s"))
"""Windows of ``erg.measure``; their names are in the log's ``windows`` entry."""

OVERHEAD = Series(9, "overhead", ("t_s", "ledger_s", "flops_s", "hooks", "hook_s"))
"""The instrument's own time so far: seconds in the ledger and in counting, hook calls, seconds in them."""

WORK = Series(
    10,
    "work",
    (
        "step",
        "forward_flops",
        "backward_flops",
        "optimizer_flops",
        "forward_bytes",
        "backward_bytes",
        "optimizer_bytes",
        "parameter_bytes",
        "recomputed_flops",
        "communication_bytes",
        "uncounted",
    ),
)
"""The work of a training step, all operators counted, NaN where it is not known. Bytes are the compulsory traffic, of
which ``parameter_bytes`` are of weights, gradients and optimizer state. ``recomputed_flops``, of the backward's, ran
again under checkpointing: forward + backward less these is the model's. ``communication_bytes`` are those that this
process sends in collectives, by the ring. ``uncounted`` is 1 where something of the step was not counted.
``steps.flops`` are products (as torch's own counter counts) executed in forward and backward, and no other
arithmetic."""

PROFILE_USES = Series(11, "profile_uses", ("t_s", "profile", "uses", "step"))
"""How often each profile of the label ``profiles`` was used so far: of each profile the last row counts. A call that
was estimated from one like it counts as that many uses as it is larger."""

FIRST_LAW = Series(
    12,
    "first_law",
    (
        "step",
        "t_s",
        "loss_before",
        "loss_after",
        "midpoint",
        "midpoint_stderr",
        "path_midpoint",
        "path_midpoint_stderr",
        "how",
        "sampled",
        "parameters",
        "cost_s",
    ),
)
"""Of one sampled step k, unscaled loss units: ℓ_Bk(θ_k) and ℓ_Bk(θ_k+1), summed over the step's backwards; where it was
taken, −½(g+g⁺)·Δθ and ½(|g|+|g⁺|)|Δθ| with the sampling error of blocks, else NaN. ``how``: 1 the script's own
operators replayed, 2 the loss function that the user gave."""

NOISE = Series(
    13,
    "noise",
    (
        "step",
        "how",
        "small_batch",
        "big_batch",
        "small_sq",
        "big_sq",
        "small_preconditioned_sq",
        "big_preconditioned_sq",
        "lag2_sq",
        "sampled",
        "parameters",
        "dataset",
        "cost_s",
    ),
)
"""|g|² of gradients over two batch sizes (examples), unscaled, of the whole model or of one part of it (``how`` 5),
each unbiased: blocks of parameters are already scaled up. ``how``: 1 micro-batches of one step, 2 ranks, 3 halves of
one batch, 4 two consecutive steps (and ``lag2_sq``, |g_k+2 − g_k|², bounds the drift between them), 5 examples by the
gradients of normalisation layers. Preconditioned: Σ g²/(√v+ε) with Adam's own v, NaN elsewhere. ``dataset``: examples
of the training set, NaN where it streams."""

EQUILIBRIUM = Series(
    14,
    "equilibrium",
    (
        "step",
        "theta_g",
        "theta_g_stderr",
        "dtheta_sq",
        "dtheta_sq_stderr",
        "virial",
        "virial_stderr",
        "momentum",
        "eligible",
        "sampled",
        "parameters",
        "cost_s",
    ),
)
"""Of one optimizer step: θ·g, |Δθ|² and (θ−θ̄)·g, with θ̄ the mean over the steps sampled so far, g with coupled weight
decay. ``eligible`` is 1 for plain SGD with heavy-ball momentum (no dampening, no Nesterov), for which the
fluctuation–dissipation relation is stated."""

LENGTH = Series(
    15,
    "length",
    (
        "step",
        "t_s",
        "js",
        "js_sq",
        "angle",
        "angle_sq",
        "js_ends",
        "angle_ends",
        "examples",
        "classes",
        "js_stderr",
        "angle_stderr",
        "cost_s",
    ),
)
"""Of a probe batch's outputs p, since the last row: means over its predictions of √(8·JS), 8·JS, the Fisher angle and
its square; ``*_ends``: from the first probe to this one. ``examples`` is the number of predictions; the standard
errors are over them, of the whole lengths so far (the sums of ``js`` and ``angle`` up to this row)."""

CURVATURE = Series(
    16,
    "curvature",
    (
        "step",
        "t_s",
        "largest",
        "largest_stderr",
        "along_gradient",
        "along_gradient_stderr",
        "trace",
        "trace_stderr",
        "noise_trace",
        "noise_trace_stderr",
        "grad_sq",
        "how",
        "products",
        "cost_s",
    ),
)
"""Of the Hessian of a batch's loss: λ_max, GᵀHG, trH, tr(HΣ) (NaN where not taken), and |G|² of that batch; where
tr(HΣ) was taken, GᵀHG and |G|² are freed of the batch's noise, else they are of its own gradient. ``how``: 1 exact
Hessian-vector products, 2 finite differences of gradients. ``products``: how many were taken."""

INFORMATION = Series(
    17,
    "information",
    ("step", "t_s", "how", "part", "nat", "stderr", "parameters", "examples", "prior_precision", "cost_s"),
)
"""½·logdet(1 + F_tot/λ), nat. ``how``: 1 exact, 2 stochastic Lanczos, 3 Kronecker-factored, 4 exact blocks, 5 exact
diagonal. ``part`` is -1 for the whole model, else the number of a module in the list ``modules`` of the label
``information``, whose ``prior`` says on what λ and n rest. ``examples`` is n."""

MODULE_WORK = Series(
    18, "module_work", ("t_s", "module", "steps", "work", "work_stderr", "midpoint", "grad_sq", "dtheta_sq")
)
"""Displacement work by module, summed over the sampled steps so far: of each module (a number in the label
``physics_modules``) the last row counts."""

PATH = Series(
    19,
    "path",
    (
        "step",
        "optimizer",
        "since",
        "steps",
        "step_cost",
        "cost",
        "cost_stderr",
        "coarse_cost",
        "least_cost",
        "least_cost_stderr",
        "optimality_stderr",
        "sampled",
        "parameters",
        "cost_s",
    ),
)
"""Of one optimizer's path up to the end of ``step``, one that was looked at; the path began before step ``since`` and
has ``steps`` steps of its optimizer. ``step_cost``: Σ_i Δθ_i²/η_i of this step alone. Of the whole path so far:
``cost``, Σ_k Σ_i Δθ_ik²/η_ik, with steps that were not looked at taken as their neighbours, at their own η;
``coarse_cost``, the same of the path through the looks, at most the true cost; ``least_cost``, Σ_i (θ−θ_0)_i²/Σ_k η_ik.
Blocks are scaled up already: standard errors are theirs (0 when exact: sampled = parameters), ``optimality_stderr``
that of least_cost/cost."""

PROCESS = Series(0, "process", ("t_s", "cpu_s", "rss_bytes", "recorder_cpu_s", "machine_busy_s"))
"""Sampled by the recorder: the process tree's processor time and resident memory; its own processor time; the busy
time of all the machine's processors together."""

HEALTH = Series(
    0,
    "health",
    (
        "t_s",
        "board",
        "clock_hz",
        "max_clock_hz",
        "memory_clock_hz",
        "temperature_c",
        "power_limit_w",
        "utilisation",
        "memory_utilisation",
        "throttle",
        "process_utilisation",
        "pcie_tx_bytes_per_s",
        "pcie_rx_bytes_per_s",
        "link_tx_bytes_per_s",
        "link_rx_bytes_per_s",
    ),
)
"""Sampled by the recorder: the state of each accelerator. ``board`` is the number in its domain (``node0/gpu3``: 3);
clocks are those of its processors and memory; utilisations are shares of time, 0 to 1, ``process_utilisation`` that of
the measured process tree; traffic is over PCI Express and over links between boards. NaN where not readable."""

HEAT, POWER_CAP, POWER_BRAKE, IDLE, OTHER_THROTTLE = 1, 2, 4, 8, 16
"""Bits of ``throttle``: what holds a board's clock down. Heat; its power limit; a brake from outside (power supply);
nothing to do; anything else (a limit of clocks that someone set, boards that wait for each other)."""

SENT = (
    STEPS,
    DEVICE_STEPS,
    LOSSES,
    LEDGER,
    LEARNING_RATES,
    EVALUATIONS,
    MEMORY,
    WINDOWS,
    OVERHEAD,
    WORK,
    PROFILE_USES,
    FIRST_LAW,
    NOISE,
    EQUILIBRIUM,
    LENGTH,
    CURVATURE,
    INFORMATION,
    MODULE_WORK,
    PATH,
)
RESTATED = (STEPS, LOSSES, LEDGER, WORK, FIRST_LAW)
"""Tables whose row of a step may be written again, when another optimizer joins the step or a loss comes late: the
last one counts. Readers of a run see that one alone."""

BY_CODE = {series.code: series for series in SENT}

PHASES = ("data", "forward", "backward", "optimizer", "evaluation", "other")
"""The phases of a run. ``evaluation`` lies between steps, the others within them."""

assert all(len(series.columns) <= MAX_COLUMNS for series in SENT)
