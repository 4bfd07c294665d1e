"""Says what a run would need on devices that are not there: memory, exchanges, hours.

    python experiments/plan.py --config=configs/paper.py --devices=256 --device_type=v5e \
        --config.mesh.data=32 --config.mesh.latent=8
    python experiments/plan.py --config=configs/llama3_8b.py --devices=256 --device_type=v5e

The language model, the training step and the passes of matching are compiled for the mesh from
shapes alone: nothing of their size is made, no text is read and no model. The report has the
memory of a device by part and whether it fits, with what to change if not; exchanges by kind,
devices, number and bytes; operations by hand and as compiled; and by the rates of the device type
what bounds a step, tokens per second and hours, with all that is assumed.

TPUs (v4, v5e, v5p, v6e) are compiled for by their own compiler where libtpu is installed (pip
install 'jax[tpu]', on any Linux machine), and else, as GPUs are (a100, h100, h200), by XLA's for
CPUs. --device_type=cpu measures this machine first.

Sizes of the model are known for pythia-160m, llama-3-8b and smollm2-135m (--lm_shape, or where
lm.source ends in such a name); of others lm.source has to be there.

256 devices take half a minute and 0.6 GB, with libtpu two minutes and 1.6 GB.
"""

import os

# JAX asks Google's cloud about its TPUs when it is imported beside libtpu; here there are none.
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")

from collections.abc import Sequence

from absl import flags

from saejax import cli
from saejax.errors import InputError
from saejax.plan.compile import COMPILERS, default_compiler, pretend_cpus
from saejax.plan.devices import DEVICE_TYPES, device_type
from saejax.plan.forecast import ATTAINED, forecast
from saejax.plan.lm_shapes import LM_SHAPES, lm_shape
from saejax.plan.measure import measured_cpu
from saejax.plan.report import report

_CONFIG = cli.define_config()
_DEVICES = flags.DEFINE_integer("devices", 8, "How many devices.", lower_bound=1)
_DEVICE_TYPE = flags.DEFINE_string(
    "device_type", "h100", f"Their type: {', '.join(DEVICE_TYPES)}, or cpu, which is measured."
)
_LM_SHAPE = flags.DEFINE_string(
    "lm_shape", "", f"Sizes of the language model, if not lm.source's: {', '.join(LM_SHAPES)}."
)
_COMPILER = flags.DEFINE_enum(
    "compiler", None, COMPILERS, "Compiler; by default tpu where libtpu is there, for TPUs."
)
_ATTAINED = flags.DEFINE_float(
    "attained", None, "Fraction of the rates that is reached: 0.4, or 1 of measured ones."
)


def main(argv: Sequence[str]) -> None:
    """Compiles and reports."""
    del argv
    cfg = cli.config(_CONFIG)
    count, name = _DEVICES.value, _DEVICE_TYPE.value
    attained = _ATTAINED.value or (1.0 if name == "cpu" else ATTAINED)
    if not 0 < attained <= 1:
        raise InputError(f"--attained={attained}: must be above 0 and at most 1")
    lm_config = lm_shape(_LM_SHAPE.value, cfg.lm.source)
    pretend_cpus(count)
    device = measured_cpu(count) if name == "cpu" else device_type(name)
    compiler = _COMPILER.value or default_compiler(device)
    print(report(forecast(cfg, lm_config, device, count, compiler=compiler, attained=attained)))


if __name__ == "__main__":
    cli.run(main)
