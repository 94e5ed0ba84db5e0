"""Seeded faults: each changes one thing in a rank before it starts to train."""

import errno
import os
import sys
import threading
import time
from pathlib import Path

import torch
from seeded import (  # noqa: F401  the server looks every fault up here
    before_step,
    change_token,
    decay_norms,
    flip_moment_bit,
    forget_updates,
    late_learning_rate,
    other_generators,
    other_initial_value,
    other_order,
    perturb_backward,
    perturb_gradient,
    shift_samples,
    swap_tensors,
)

from llmrun.storage.durable import Disk


def signal_itself(step: int, number: int) -> None:
    """When `step` steps are recorded and saved where due, in the next one before its update, the rank gets a signal."""
    from llmrun.core import step as module
    from llmrun.runtime.async_writer import AsyncWriter

    finish, start = module.learning_rate, AsyncWriter.start
    writers = []

    def noting(self, snapshot):
        writers.append(self)
        start(self, snapshot)

    AsyncWriter.start = noting

    def signalled(s, *arguments):
        if s == step + 1:
            for writer in writers[-1:]:
                writer.wait()
                writer.close()  # a rank that dies ends rank 0 too, which has not committed yet
            os.kill(os.getpid(), number)
        return finish(s, *arguments)

    module.learning_rate = signalled


def skip_sample(step: int) -> None:
    """At `step` (1-based) the first sequence of micro-batch 0 is the one that follows it in the order."""
    from llmrun.core.loader import MicroBatches

    tokens = MicroBatches.tokens

    def skipping(self, s, number):
        found = tokens(self, s, number)
        if (s, number) == (step - 1, 0):
            found[0] = tokens(self, s, number + 1)[0]
        return found

    MicroBatches.tokens = skipping


def reseed_dropout(step: int) -> None:
    """At `step` the dropout of micro-batch 0 draws from another stream."""
    from llmrun.core import step as module

    seed = module.seed_micro_batch
    module.seed_micro_batch = lambda key, s, j: seed(key + ((s, j) == (step - 1, 0)), s, j)


def flip_weight_bit(step: int, bit: int = 20) -> None:
    """Between `step` and the next a bit of one weight flips, on every rank alike."""
    before_step(step + 1, lambda state: state.strategy.flat[:1].view(torch.int32).bitwise_xor_(1 << bit))


def zero_moments(step: int) -> None:
    """After `step` the optimizer's moments are zero."""

    def forget(state):
        for moment in state.optimizer.moments.values():
            moment.values.zero_()

    before_step(step + 1, forget)


def poison(step: int, number: int, gradient: bool = False) -> None:
    """At `step` the loss of one micro-batch (or only its gradient) is not finite."""
    from llmrun.core import step as module

    forward = module.micro_batch_loss

    def poisoned(state, micro_batch):
        loss, n = forward(state, micro_batch)
        if (micro_batch.step, micro_batch.number) != (step - 1, number):
            return loss, n
        if gradient:
            loss.register_hook(lambda grad: grad * float("inf"))
            return loss, n
        return loss * float("nan"), n

    module.micro_batch_loss = poisoned


def disk_full_once(step: int, rank: int) -> None:
    """While step `step` is saved, `rank` and no other meets a full disk when it writes its second file."""
    from llmrun.runtime import async_writer as module

    save_rank = module.save_rank

    def full(directory, snapshot, own_rank, world):
        if (snapshot.step, own_rank) == (step, rank):
            return save_rank(directory, snapshot, own_rank, world, FullDisk())
        return save_rank(directory, snapshot, own_rank, world)

    module.save_rank = full


class FullDisk(Disk):
    """Has room for one file."""

    def __init__(self) -> None:
        self.files = 0

    def create(self, path):
        """The second file does not fit."""
        self.files += 1
        if self.files == 2:
            refuse(path)
        return super().create(path)


def disk_full_from(step: int) -> None:
    """After `step` no file can be created, and nothing can be written to standard error."""

    def fill(_state):
        full = os.open("/dev/full", os.O_WRONLY)
        os.dup2(full, 1)
        os.dup2(full, 2)
        Disk.create = lambda _disk, path: refuse(path)

    before_step(step + 1, fill)


def refuse(path) -> None:
    """Raise the error of a full disk."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def no_room_at_first(looks: int = 1, retry_s: float = 60.0) -> None:
    """The first `looks` times that room is checked, there is less than a checkpoint needs.

    retry_s: how long until the next check after a full disk.
    """
    from llmrun.runtime import checkpoint_policy as module

    check_room, module.RETRY_S = module.check_room, retry_s
    left = [looks]

    def checked(directory, n_bytes):
        left[0] -= 1
        return check_room(directory, n_bytes if left[0] < 0 else 2**60 * n_bytes)

    module.check_room = checked


def note_disk(path: str) -> None:
    """Every fsync and rename is noted in a file: one line each, the operation and the file's name."""
    fsync, rename = Disk.fsync, Disk.rename

    def note(line: str) -> None:
        with Path(path).open("a") as file:
            file.write(f"{line}\n")

    def noted_fsync(self, descriptor):
        fsync(self, descriptor)
        note(f"fsync {Path(f'/proc/self/fd/{descriptor}').readlink().name}")

    def noted_rename(self, old, new):
        note(f"rename {new.name}")
        rename(self, old, new)

    Disk.fsync, Disk.rename = noted_fsync, noted_rename


def small_buckets(elements: int) -> None:
    """Gradients travel in many small buckets."""
    from llmrun.core.reduce import reduction as engine

    engine.BUCKET_ELEMENTS = elements


def save_outlasts(steps: int, then_poison: int | None = None, minute_s: float = 60.0) -> None:
    """Each save is written only when training is `steps` further, or waits for it.

    then_poison: the loss of this step is not finite.  minute_s: the length of a minute between saves.
    """
    from llmrun.runtime import async_writer as module
    from llmrun.runtime import checkpoint_policy
    from llmrun.runtime.async_writer import AsyncWriter
    from llmrun.runtime.hooks import Hooks, attach

    save_rank, close, part_status = module.save_rank, AsyncWriter.close, AsyncWriter.part_status
    reached = threading.Condition()
    at = {"step": 0, "awaited": False}

    def note(**changed) -> None:
        with reached:
            at.update(changed)
            reached.notify_all()

    class NoteSteps(Hooks):
        def after_step(self, _state, result):
            note(step=result.step)

    def closing(self):
        note(awaited=True)
        close(self)

    def asking(self):
        note(awaited=True)
        return part_status(self)

    def waiting(directory, snapshot, rank, world):
        far = lambda: at["awaited"] or at["step"] >= snapshot.step + steps  # noqa: E731
        with reached:
            assert reached.wait_for(far, timeout=60), "the loop waits for the save"
        save_rank(directory, snapshot, rank, world)

    attach(NoteSteps())
    checkpoint_policy.SECONDS_PER_MINUTE = minute_s
    module.save_rank, AsyncWriter.close, AsyncWriter.part_status = waiting, closing, asking
    if then_poison is not None:
        poison(then_poison, 0)


def slow_disk(seconds: float) -> None:
    """Every fsync of a file takes its time."""
    fsync = Disk.fsync

    def slow(self, descriptor):
        time.sleep(seconds)
        fsync(self, descriptor)

    Disk.fsync = slow


def writer_bug(rank: int) -> None:
    """The thread that saves raises an unexpected exception, on one rank."""
    from llmrun.runtime import async_writer as module

    save_rank = module.save_rank

    def broken(directory, snapshot, own_rank, world):
        if own_rank == rank:
            raise TypeError("a seeded bug")
        save_rank(directory, snapshot, own_rank, world)

    module.save_rank = broken


def perturb_output(step: int, module: str, number: int = 0) -> None:
    """At `step` the largest element of what a module makes of micro-batch `number` is the float next to it."""
    calls = []

    def bump(_module, _inputs, output):
        calls.append(None)
        if len(calls) != number + 1:
            return output
        changed = output.detach().clone()
        integer = torch.int16 if output.element_size() == 2 else torch.int32
        changed.view(-1).view(integer)[output.abs().argmax()] += 1
        return output + (changed - output).detach()

    before_step(
        step,
        lambda state: state.strategy.model.get_submodule(module).register_forward_hook(bump, prepend=True),
    )


def in_start(start: int, directory: str, then: str, **arguments) -> None:
    """Another mutation, but only in the worker that starts as the `start`th one (from 1) of those that share `directory`."""
    place = Path(directory)
    place.mkdir(exist_ok=True)
    before = len(list(place.iterdir()))
    (place / str(before + 1)).touch()
    if before + 1 == start:
        globals()[then](**arguments)


def from_start(start: int, directory: str, then: str, **arguments) -> None:
    """Another mutation, in the worker that starts as the `start`th one and in all after it."""
    place = Path(directory)
    place.mkdir(exist_ok=True)
    before = len(list(place.iterdir()))
    (place / str(before + 1)).touch()
    if before + 1 >= start:
        globals()[then](**arguments)


def perturb_attention(step: int, gradient: bool = False) -> None:
    """At `step` the first attention of micro-batch 0 gives (or gets back) the float next to its largest element."""
    from llmrun.core.model import attention as module

    def act(_state):
        attend = module.F.scaled_dot_product_attention

        def bumped(*inputs, **named):
            module.F.scaled_dot_product_attention = attend
            found = attend(*inputs, **named)
            if gradient:
                found.register_hook(next_largest)
                return found
            return found + (next_largest(found.detach()) - found).detach()

        module.F.scaled_dot_product_attention = bumped

    before_step(step, act)


def next_largest(values):
    """`values` with the largest element moved to the float next to it, float32."""
    changed = values.clone(memory_format=torch.contiguous_format)
    changed.view(-1).view(torch.int32)[changed.abs().argmax()] += 1
    return changed


def import_file(path: str, step: int = 0) -> None:
    """Import a file before the work begins, or in the step after `step`."""
    import importlib.util

    def load(*_) -> None:
        spec = importlib.util.spec_from_file_location(Path(path).stem, path)
        sys.modules[spec.name] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)

    before_step(step, load) if step else load()


def flush_denormals(step: int) -> None:
    """What a library does that was built with -ffast-math and is loaded in the step after `step`."""
    import torch

    before_step(step, lambda _: torch.set_flush_denormal(True))


def other_threads_in_the_canary() -> None:
    """Another number of threads than the variables say, from the comparison on."""
    import torch

    from llmrun.runtime import session

    check = session.check_before_training

    def check_with_threads(*arguments) -> None:
        torch.set_num_threads(2)
        check(*arguments)

    session.check_before_training = check_with_threads
