"""The programs of a run, compiled from shapes alone for a mesh of devices that need not exist.

Nothing of real size is made: states and weights are `jax.ShapeDtypeStruct`s with the shardings
that a run gives them.

Dimension letters: B tokens of a batch, D activation width, N latents, T rows of a tile, M rows of
the other side, L context length.
"""

import importlib.util
import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from saejax import mesh as mesh_lib
from saejax.config import Config, tokens_per_batch, windows_per_batch
from saejax.errors import InputError
from saejax.lm import DecoderConfig, layers_needed, make_capture
from saejax.lm.decoder import Decoder
from saejax.lm.decoder_config import tensor_shapes
from saejax.lm.load import Lm
from saejax.lm.sharding import make_placement
from saejax.matching.column_generation import FIRST_K
from saejax.matching.operands import bucket
from saejax.matching.pricing import tile_rows, tiles
from saejax.plan.cost import Cost, cost
from saejax.plan.devices import DeviceType, check_count, topology
from saejax.train.optim import make_optimizer
from saejax.train.state import init_state
from saejax.train.step import make_step

# "cpu": XLA's compiler for CPUs, with as many pretended devices; "tpu": that of libtpu.
COMPILERS = ("cpu", "tpu")


class Program(NamedTuple):
    """One compiled program, as a device runs it.

    Attributes:
      name: What it does.
      arguments: Bytes of what it is given, as state, weights and batch.
      outputs: Bytes of what it gives that do not take the place of arguments.
      temporaries: Bytes that it takes besides.
      cost: What it does in one run.
      xla: FLOPs and bytes by XLA's own count, of which loops count once.
      seconds: Time to compile.
    """

    name: str
    arguments: int
    outputs: int
    temporaries: int
    cost: Cost
    xla: dict[str, float]
    seconds: float


def default_compiler(device: DeviceType) -> str:
    """The compiler of TPUs for these, if libtpu is installed, else that of CPUs."""
    has_libtpu = importlib.util.find_spec("libtpu") is not None
    return "tpu" if device.kind == "tpu" and has_libtpu else "cpu"


def pretend_cpus(count: int) -> None:
    """Gives this process so many CPU devices; before anything else asks JAX for a device."""
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", count)


def described_mesh(cfg: Config, device: DeviceType, count: int, compiler: str) -> Mesh:
    """The mesh of a run on devices that need not exist.

    Args:
      cfg: The run, whose sizes have to divide by the axes.
      device: Their type.
      count: How many.
      compiler: One of `COMPILERS`; for "cpu" this process has to have as many CPU devices, see
        `pretend_cpus`.

    Raises:
      InputError: If the mesh or the compiler does not fit, saying what would.
    """
    check_count(device, count)
    if compiler == "tpu":
        if default_compiler(device) != "tpu":
            raise InputError(
                f"compiler=tpu with device_type={device.name}: it needs a type of TPU and libtpu "
                "(pip install 'jax[tpu]'); take compiler=cpu"
            )
        name = topology(device, count)
        devices = topologies.get_topology_desc(platform="tpu", topology_name=name).devices
    else:
        devices = jax.devices()[:count]
    try:
        mesh = mesh_lib.make_mesh(cfg.mesh, devices=devices)
        if mesh.size != count:
            raise InputError(f"mesh {dict(mesh.shape)} has {mesh.size} of {count} devices")
        mesh_lib.check_divides(mesh, mesh_lib.DATA, windows_per_batch=windows_per_batch(cfg))
        mesh_lib.check_divides(mesh, mesh_lib.SEED, init_seeds=len(cfg.init_seeds))
        mesh_lib.check_divides(mesh, mesh_lib.LATENT, num_latents=cfg.sae.num_latents)
    except InputError as error:
        found = [mesh_flags(*sizes) for sizes in itertools.islice(other_meshes(cfg, count), 3)]
        raise InputError(
            f"{error}; this run divides by: {' or '.join(found)}"
            if found
            else f"{error}; this run divides by no mesh of {count} devices"
        ) from None
    return mesh


def other_meshes(cfg: Config, count: int) -> Iterator[tuple[int, int, int]]:
    """Meshes (seed, data, latent) of so many devices that the run divides by, fewest latents first.

    Splitting latents costs exchanges in each step, splitting tokens one sum of gradients.
    """
    windows, seeds = windows_per_batch(cfg), len(cfg.init_seeds)
    for latent in range(1, count + 1):
        if count % latent or cfg.sae.num_latents % latent:
            continue
        for seed in range(1, seeds + 1):
            data, left = divmod(count // latent, seed)
            if not left and not seeds % seed and not windows % data:
                yield seed, data, latent


def mesh_flags(seed: int, data: int, latent: int) -> str:
    """The flags that set a mesh."""
    return f"--config.mesh.seed={seed} --config.mesh.data={data} --config.mesh.latent={latent}"


class AbstractStep(NamedTuple):
    """A training step and what it takes, as shapes.

    Attributes:
      step: Jitted; it consumes the state.
      state: Shapes of the state, with their shardings.
      batches: Shapes of the activations [B, D], and of a transcoder's targets.
    """

    step: Any
    state: Any
    batches: tuple[jax.ShapeDtypeStruct, ...]


def abstract_step(cfg: Config, mesh: Mesh, width: int) -> AbstractStep:
    """The training step of all seeds, of which nothing is made.

    Args:
      cfg: The run.
      mesh: Of `described_mesh`, or of devices that exist.
      width: D.
    """
    # As the language model gives them.
    kind = cfg.lm.dtype if cfg.data.activations == "stream" else cfg.data.store_dtype
    shape = (tokens_per_batch(cfg), width)
    x_BD = _abstract(shape, kind, NamedSharding(mesh, mesh_lib.BATCH))
    batches = (x_BD, x_BD) if cfg.target_hookpoint else (x_BD,)
    # The schedule's length is no shape.
    optimizer = make_optimizer(cfg, 1000, latent_axis=mesh_lib.LATENT)

    def first(*batches: Any) -> Any:
        return init_state(cfg, batches[0], optimizer, mesh, *batches[1:])

    state = jax.eval_shape(first, *batches)
    state = jax.tree.map(
        lambda leaf, sharding: _abstract(leaf.shape, leaf.dtype, sharding),
        state,
        mesh_lib.state_shardings(state, mesh),
    )
    step = jax.jit(make_step(cfg, optimizer, state, mesh), donate_argnums=0)
    return AbstractStep(step, state, batches)


def compile_step(cfg: Config, mesh: Mesh, width: int) -> Program:
    """The training step of all seeds; arguments as of `abstract_step`."""
    step, state, batches = abstract_step(cfg, mesh, width)
    return _compiled("training step", lambda: step.lower(state, *batches))


def compile_capture(cfg: Config, mesh: Mesh, lm_config: DecoderConfig) -> Program:
    """The language model up to the hook points, on the windows of a step."""
    names = tuple(name for name in (cfg.hookpoint, cfg.target_hookpoint) if name)
    num_layers = max(layers_needed(lm_config, name) for name in names)
    placement = make_placement(lm_config, mesh, num_layers=num_layers, dtype=cfg.lm.dtype)
    weights = {
        name: _abstract(shape, cfg.lm.dtype, placement.sharding(name, shape))
        for name, shape in _stacked_shapes(lm_config, num_layers).items()
    }
    windows = windows_per_batch(cfg) if cfg.data.activations == "stream" else cfg.lm.batch_windows
    tokens_BL = _abstract(
        (windows, cfg.data.context_length), jnp.int32, NamedSharding(mesh, mesh_lib.BATCH)
    )

    @jax.jit
    def capture(weights: dict[str, jax.Array], tokens_BL: jax.Array) -> dict[str, jax.Array]:
        model = Decoder(lm_config, weights, num_layers, placement)
        return make_capture(Lm(lm_config, model, fingerprint=""), names)(tokens_BL)

    return _compiled("language model", lambda: capture.lower(weights, tokens_BL))


def _stacked_shapes(config: DecoderConfig, num_layers: int) -> dict[str, tuple[int, ...]]:
    """Shapes of the weights that `saejax.lm.decoder.Decoder` takes, those of blocks stacked."""
    blocks = config.hook_blocks
    shapes = {
        name: shape
        for name, shape in tensor_shapes(config, num_layers).items()
        if not name.startswith(f"{blocks}.")
    }
    axes = 1 if config.kernels_in_out else -1
    for part, shape in config.block_shapes().items():
        shapes[f"{blocks}.{part}"] = (num_layers, *shape[::axes])
    return shapes


def compile_matching(
    cfg: Config, mesh: Mesh, width: int, device: DeviceType
) -> dict[str, tuple[Program, int]]:
    """One call of each of the streamed passes over a pair of sides, and calls in a pass.

    "candidates": the exact matching's, in bfloat16 but on CPUs; "row maxima": float32.
    """
    num_latents = cfg.sae.num_latents
    rows = tile_rows(num_latents, mesh.size, backend=device.kind)
    columns = bucket(num_latents, 32)
    whole, by_rows = PartitionSpec(), PartitionSpec(mesh.axis_names)
    first = "float32" if device.kind == "cpu" else "bfloat16"
    made = {}
    for name, kind, k in (("candidates", first, FIRST_K), ("row maxima", "float32", 1)):
        arguments = (
            _abstract((rows, width), kind, NamedSharding(mesh, by_rows)),
            _abstract((rows,), jnp.int32, NamedSharding(mesh, by_rows)),
            _abstract((columns, width), kind, NamedSharding(mesh, whole)),
            _abstract((columns,), jnp.float32, NamedSharding(mesh, whole)),
            _abstract((), jnp.float32, NamedSharding(mesh, whole)),
        )
        kept = min(k, num_latents)
        program = _compiled(
            f"matching, {name}",
            lambda given=arguments, kept=kept: tiles.lower(*given, mesh=mesh, k=kept),
        )
        made[name] = program, -(-num_latents // rows)
    return made


def _abstract(shape: tuple[int, ...], kind: Any, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.dtype(kind), sharding=sharding)


def _compiled(name: str, lower: Callable[[], Any]) -> Program:
    began = time.monotonic()
    compiled = lower().compile()
    memory, found = compiled.memory_analysis(), compiled.cost_analysis() or {}
    return Program(
        name=name,
        arguments=memory.argument_size_in_bytes,
        outputs=memory.output_size_in_bytes - memory.alias_size_in_bytes,
        temporaries=memory.temp_size_in_bytes,
        cost=cost(compiled.as_text()),
        xla={key: found.get(key, 0.0) for key in ("flops", "bytes accessed")},
        seconds=time.monotonic() - began,
    )
