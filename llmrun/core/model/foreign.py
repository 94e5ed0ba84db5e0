"""Modules that a user's factory makes: constructed, read, given a loss, recomputed block by block (torch)."""

import importlib
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from llmrun.core.generators import cpu_generator, seed_everything
from llmrun.core.model.arguments import call_arguments
from llmrun.core.model.facts import BufferFacts, FactoryCall, ModelFacts
from llmrun.core.streams import stream_key
from llmrun.errors import InputError, LlmrunError, Place

FACTORY = Place(key="model.factory")
NAMES_SHOWN = 4
LOOKED_UP = "modules are looked up among the installed packages, then in the directory of the config file"
TRACEBACK_LINES = 6
INIT_METHOD = "llmrun_init"
BLOCKS_ATTRIBUTE = "llmrun_blocks"


def load_function(call: FactoryCall) -> Callable[..., Any]:
    """Import the factory.  Its module is imported under the stream `[seed, "init"]`.  Raises InputError."""
    module_name, _, name = call.factory.partition(":")
    seed_everything(stream_key(call.seed, "init"))
    with user_code(f"cannot import {module_name}"):
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            if error.name is None or not (
                module_name == error.name or module_name.startswith(f"{error.name}.")
            ):
                raise
            raise InputError(
                f"cannot import {module_name}: there is no module {error.name}",
                where=FACTORY,
                hints=[LOOKED_UP],
            ) from error
    if not hasattr(module, name):
        raise InputError(
            f"{module_name} has no function {name}",
            where=FACTORY,
            caused_by=[f"it was imported from {getattr(module, '__file__', None) or 'a namespace package'}"],
        )
    function = getattr(module, name)
    if not callable(function):
        raise InputError(f"{call.factory} must be a function, got {_kind(function)}", where=FACTORY)
    found: Callable[..., Any] = function
    return found


@contextmanager
def user_code(what: str) -> Iterator[None]:
    """Turn an exception of the user's code into an InputError that ends with the last lines of its traceback."""
    try:
        yield
    except (LlmrunError, KeyboardInterrupt, MemoryError, torch.OutOfMemoryError):
        raise
    except BaseException as error:
        if _is_refused_import(error):
            raise
        raise InputError(
            f"{what}: {type(error).__name__}" + (f": {error}" if str(error) else ""),
            where=_place_of(error),
            caused_by=_last_lines(error),
        ) from error


def _is_refused_import(error: BaseException) -> bool:
    """Whether the import recorder refused code that the fingerprint does not cover."""
    return type(error).__name__ == "UncoveredImportError"


_OWN = str(Path(__file__).parent)


def _foreign_frames(error: BaseException) -> list[traceback.FrameSummary]:
    """The frames of a traceback without those of llmrun and of the import system."""
    frames = traceback.extract_tb(error.__traceback__)
    return [
        frame
        for frame in frames
        if not frame.filename.startswith((_OWN, "<frozen")) and frame.filename != importlib.__file__
    ]


def _place_of(error: BaseException) -> Place:
    """The line of the user's that raised; the config key if no line of the user's did."""
    if isinstance(error, SyntaxError) and error.filename:
        return Place(file=error.filename, line=error.lineno)
    frames = _foreign_frames(error)
    return Place(file=frames[-1].filename, line=frames[-1].lineno) if frames else FACTORY


def _last_lines(error: BaseException) -> list[str]:
    """The last lines of the user's part of a traceback."""
    lines = [
        f"{frame.filename}:{frame.lineno}, in {frame.name}" + (f": {frame.line}" if frame.line else "")
        for frame in _foreign_frames(error)
    ]
    return lines[-TRACEBACK_LINES:]


def construct(call: FactoryCall, device: str = "cpu") -> nn.Module:
    """Call the factory, on the CPU, under the stream `[seed, "init"]`; Python's and numpy's generators are set too.

    Raises InputError.
    """
    function = load_function(call)
    from_config = {"vocab_size": call.vocab_size, "L_ctx": call.L_ctx}
    arguments = call_arguments(function, call.factory, call.args, from_config)
    seed_everything(stream_key(call.seed, "init"))
    with user_code(f"{call.factory} failed"), torch.device(device):
        module = function(**arguments)
    if not isinstance(module, nn.Module):
        raise InputError(f"{call.factory} must return an nn.Module, got {_kind(module)}", where=FACTORY)
    module.train()
    return module


def _kind(value: object) -> str:
    return "None" if value is None else f"a {type(value).__name__}"


@contextmanager
def parameters_on_meta() -> Iterator[None]:
    """Move each parameter to the meta device when a module registers it; buffers and temporaries stay on the CPU.

    The object stays the same one, so that parameters that are shared stay shared.
    """
    register = nn.Module.register_parameter

    def registering(self: nn.Module, name: str, param: nn.Parameter | None) -> None:
        if param is not None:
            to_meta(param)
        register(self, name, param)

    nn.Module.register_parameter = registering  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]


def to_meta(parameter: nn.Parameter) -> Tensor:
    """Take the memory from a parameter, which stays the same object.  Returns its values."""
    attributes, kind = dict(parameter.__dict__), type(parameter)
    empty = torch.empty_like(parameter.detach(), device="meta")
    if kind is not nn.Parameter:
        raise InputError(f"parameters must be of the type nn.Parameter, got {kind.__name__}", where=FACTORY)
    replaced = nn.Parameter(empty, requires_grad=parameter.requires_grad)
    torch.utils.swap_tensors(parameter, replaced)  # type: ignore[no-untyped-call]
    parameter.__dict__.update(attributes)
    return replaced.detach()


def read_facts(call: FactoryCall) -> ModelFacts:
    """The facts of the module that the factory makes.

    It is constructed without memory if its constructor allows that, then without memory for parameters only (a
    constructor may read values of temporary tensors), else as for training.
    Raises InputError for a module that cannot be trained.
    """
    for device in ("meta", "cpu"):
        with suppress(InputError), parameters_on_meta():
            return facts_of(construct(call, device), call.vocab_size)
    return facts_of(construct(call), call.vocab_size)


def facts_of(module: nn.Module, vocab_size: int) -> ModelFacts:
    """The facts of a constructed module.  Raises InputError for one that cannot be trained."""
    parameters = dict(module.named_parameters())
    refuse_parameters(parameters)
    blocks = blocks_of(module)
    first = {id(parameter): name for name, parameter in parameters.items()}
    every = module.named_parameters(remove_duplicate=False)
    tied = {name: first[id(parameter)] for name, parameter in every if first[id(parameter)] != name}
    return ModelFacts(
        kind=type(module).__name__,
        parameters={name: tuple(parameter.shape) for name, parameter in parameters.items()},
        tied=tied,
        blocks=blocks,
        frozen=tuple(name for name, parameter in parameters.items() if not parameter.requires_grad),
        tables=tuple(_tables(module, blocks, vocab_size, first)),
        buffers=buffers_of(module),
        fills_itself=callable(getattr(module, INIT_METHOD, None)),
    )


def refuse_parameters(parameters: Mapping[str, nn.Parameter]) -> None:
    """Raises InputError if there are no parameters, or if one is of a type that cannot be trained."""
    if not parameters:
        raise InputError("the model must have parameters, got none", where=FACTORY)
    lazy = [name for name, p in parameters.items() if isinstance(p, nn.parameter.UninitializedParameter)]
    if lazy:
        raise InputError(f"parameters must have a shape, got lazy ones: {shown(lazy)}", where=FACTORY)
    other = [
        f"{name} is {str(parameter.dtype).removeprefix('torch.')}"
        for name, parameter in parameters.items()
        if parameter.dtype != torch.float32
    ]
    if other:
        raise InputError(
            f"parameters must be float32: {shown(other)}",
            where=FACTORY,
            hints=["`precision: bf16` computes in bfloat16 over float32 parameters"],
        )
    empty = [name for name, parameter in parameters.items() if parameter.numel() == 0]
    if empty:
        raise InputError(f"parameters must have elements, got empty ones: {shown(empty)}", where=FACTORY)
    if not any(parameter.requires_grad for parameter in parameters.values()):
        raise InputError("at least one parameter must require gradients, got none", where=FACTORY)


def shown(names: list[str]) -> str:
    """Names, comma-separated, at most `NAMES_SHOWN`."""
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return ", ".join(names[:NAMES_SHOWN]) + more


def buffers_of(module: nn.Module) -> dict[str, BufferFacts]:
    """Every buffer by name."""
    found = {}
    for prefix, part in module.named_modules():
        for name, buffer in part.named_buffers(recurse=False):
            full = f"{prefix}.{name}" if prefix else name
            persistent = name not in part._non_persistent_buffers_set  # noqa: SLF001  torch has no other way to ask
            dtype = str(buffer.dtype).removeprefix("torch.")
            found[full] = BufferFacts(dtype, tuple(buffer.shape), persistent)
    return found


def blocks_of(module: nn.Module) -> tuple[str, ...]:
    """The blocks: those that `llmrun_blocks` names, else the longest `nn.ModuleList` of equal modules.

    Modules are equal if they have one class and the same parameters by name and shape.  Of two lists that are equally
    long the first one counts.  Raises InputError if `llmrun_blocks` does not name submodules.
    """
    named = getattr(module, BLOCKS_ATTRIBUTE, None)
    if named is not None:
        return _named_blocks(module, named)
    best: tuple[str, ...] = ()
    for name, part in module.named_modules():
        if isinstance(part, nn.ModuleList) and len(part) > len(best) and _are_equal(part):
            best = tuple(f"{name}.{index}" if name else str(index) for index in range(len(part)))
    return best


def _named_blocks(module: nn.Module, named: Any) -> tuple[str, ...]:
    if not isinstance(named, list | tuple) or not all(isinstance(name, str) for name in named):
        raise InputError(f"{BLOCKS_ATTRIBUTE} must be a list of module names, got {named!r}", where=FACTORY)
    known = dict(module.named_modules())
    unknown = [name for name in named if name not in known or not name]
    if unknown:
        raise InputError(f"{BLOCKS_ATTRIBUTE} must name submodules, got {shown(unknown)}", where=FACTORY)
    nested = [a for a in named for b in named if a != b and a.startswith(f"{b}.")]
    if nested or len(set(named)) < len(named):
        raise InputError(
            f"{BLOCKS_ATTRIBUTE} must not name a module twice or one inside another", where=FACTORY
        )
    return tuple(named)


def _are_equal(modules: nn.ModuleList) -> bool:
    """Whether all modules have one class and equal parameter shapes."""
    kinds = {
        (type(part), tuple((name, tuple(p.shape)) for name, p in part.named_parameters())) for part in modules
    }
    return len(kinds) == 1


def _tables(
    module: nn.Module, blocks: tuple[str, ...], vocab_size: int, first: Mapping[int, str]
) -> Iterator[str]:
    """The parameters that `N_params` leaves out, by first name, in order (see `ModelFacts.tables`)."""
    found = set()
    for name, part in module.named_modules():
        inside = any(name == block or name.startswith(f"{block}.") for block in blocks)
        is_table = isinstance(part, nn.Embedding)
        is_head = isinstance(part, nn.Linear) and not inside and part.out_features >= vocab_size
        if is_table or is_head:
            found |= {first[id(parameter)] for parameter in part.parameters(recurse=False)}
    return (name for name in first.values() if name in found)


class InitialValues:
    """The initial values of a factory's module, parameter by parameter.

    Those of a module that was constructed with memory are each handed out once, so that the memory is freed.
    """

    def __init__(self, call: FactoryCall, *, fills_itself: bool) -> None:
        self._call, self._fills_itself = call, fills_itself
        self._module: nn.Module | None = None
        self._left: dict[str, Tensor] = {}

    def construct(self) -> nn.Module:
        """The module with its parameters on the meta device, and its buffers filled; their values wait here."""
        if self._fills_itself:
            with parameters_on_meta():
                return construct(self._call)
        module = construct(self._call)
        self._left = {name: to_meta(parameter) for name, parameter in module.named_parameters()}
        return module

    def fill(self, name: str, parameter: nn.Parameter) -> None:
        """Write the initial values of one parameter.

        `llmrun_init(name, tensor, generator)` gets a float32 tensor on the CPU and the generator of the stream
        `[seed, "init", name]`.
        """
        if self._fills_itself:
            values = self._from_method(name, parameter.shape)
        else:
            if name not in self._left:
                self.construct()
            values = self._left.pop(name)
        with torch.no_grad():
            parameter.copy_(values)

    def _from_method(self, name: str, shape: torch.Size) -> Tensor:
        if self._module is None:
            self._module = self.construct()
        values = torch.zeros(shape, dtype=torch.float32)
        with user_code(f"{INIT_METHOD} failed for {name}"), torch.no_grad():
            getattr(self._module, INIT_METHOD)(name, values, cpu_generator(self._call.seed, "init", name))
        return values


def build(
    call: FactoryCall, facts: ModelFacts, initial: InitialValues, *, recompute_blocks: bool
) -> nn.Module:
    """A `LanguageModel` with its parameters on the meta device and its buffers on the CPU; the values go to `initial`.

    Raises InputError.
    """
    if recompute_blocks and not facts.blocks:
        raise InputError(
            "activation_checkpointing: block requires blocks, and the model has none",
            where=Place(key="activation_checkpointing"),
            hints=[f"name them by `{BLOCKS_ATTRIBUTE}`, a list of module names"],
        )
    module = initial.construct()
    if facts_of(module, call.vocab_size) != facts:
        raise InputError(f"{call.factory} must make the same model at every call", where=FACTORY)
    add_loss(module, call.vocab_size)
    if recompute_blocks:
        for name in facts.blocks:
            recompute(module.get_submodule(name))
    return module


def recompute(block: nn.Module) -> None:
    """Recompute the activations of a block in the backward pass, with the random state of the forward pass."""
    forward = block.forward

    def recomputing(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        return checkpoint(forward, *args, use_reentrant=False, preserve_rng_state=True, **kwargs)

    block.forward = recomputing


def add_loss(module: nn.Module, vocab_size: int) -> None:
    """Let the module return (sum of the token losses, number of targets) if it returns logits."""
    module.register_forward_hook(partial(_summed_loss, vocab_size=vocab_size))


def _summed_loss(
    _module: nn.Module, args: tuple[Tensor], output: Any, *, vocab_size: int
) -> tuple[Tensor, int]:
    """The loss as the built-in model computes it: cross entropy in float32 of `tokens[:, 1:]`, summed.

    Raises InputError if the output is neither logits nor (loss sum, number of targets).
    """
    (tokens,) = args
    if isinstance(output, tuple) and len(output) == 2:
        return _checked_loss(*output)
    logits = checked_logits(output, (tokens.shape[0], tokens.shape[1] - 1), vocab_size)
    loss = F.cross_entropy(logits.float().flatten(0, 1), tokens[:, 1:].flatten(), reduction="sum")
    return loss, tokens.shape[0] * (tokens.shape[1] - 1)


RETURNS = (
    "forward(tokens) must return logits [B, L, vocabulary] for tokens[:, :-1], or (float32 sum of the losses,"
    " number of targets)"
)


def _checked_loss(loss: Any, count: Any) -> tuple[Tensor, int]:
    is_loss = isinstance(loss, Tensor) and loss.ndim == 0 and loss.dtype == torch.float32
    if not is_loss or not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise InputError(f"{RETURNS}, got ({described(loss)}, {described(count)})", where=FACTORY)
    return loss, count


def checked_logits(output: Any, positions: tuple[int, int], vocab_size: int) -> Tensor:
    """`output` if it is logits [*positions, at least vocab_size].  Raises InputError."""
    if not isinstance(output, Tensor) or not output.is_floating_point():
        hints = ["return its `.logits`"] if hasattr(output, "logits") else []
        raise InputError(f"{RETURNS}, got {described(output)}", where=FACTORY, hints=hints)
    if output.ndim != 3 or tuple(output.shape[:2]) != positions or output.shape[2] < vocab_size:
        wanted = [*positions, vocab_size]
        hints = []
        if output.ndim == 3 and output.shape[1] == positions[1] + 1:
            hints = ["apply the model to tokens[:, :-1]: the last token is only a target"]
        raise InputError(
            f"logits must have the shape {wanted}, got {list(output.shape)}", where=FACTORY, hints=hints
        )
    return output


def described(value: Any) -> str:
    """A value in words: type, and shape of a tensor."""
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    return "None" if value is None else type(value).__name__


class Logits:
    """A factory's module as a `NextTokenModel`.

    Uses the module's own method `logits(tokens [B, L])` if it has one, else its forward pass, which never sees the last
    token.
    """

    def __init__(self, module: nn.Module, vocab_size: int) -> None:
        self._module, self._vocab_size = module, vocab_size

    def logits(self, tokens: Tensor) -> Tensor:
        """Next-token logits: [B, L], int64 -> [B, L, vocabulary].  Raises InputError if the module only gives losses."""
        own = getattr(self._module, "logits", None)
        with user_code("the forward pass failed"):
            output = own(tokens) if callable(own) else self._module.forward(F.pad(tokens, (0, 1)))
        if isinstance(output, tuple):
            raise InputError(
                "the model returns losses only",
                where=FACTORY,
                hints=["give the module a method `logits(tokens)`: [B, L] -> [B, L, vocabulary]"],
            )
        return checked_logits(output, (tokens.shape[0], tokens.shape[1]), self._vocab_size)
