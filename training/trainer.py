"""Hugging Face's Trainer with complete checkpoints, exact resumes and an end at a loss of NaN; and with Muon."""

import contextlib
import shutil
from pathlib import Path

import torch
from transformers import PrinterCallback, Trainer
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, SchedulerType, rotate_checkpoints

from ..jobs.processes import barrier, is_main_process
from ..jobs.run_folder import RUN_FILE
from ..jobs.saving import last_checkpoint, saving, write_checksums
from .arguments import PretrainingArguments
from .callbacks import StepClock
from .continuity import ResumeStateCallback
from .learning_check import LearningCheck
from .optimizers import build_optimizer
from .parallel_trainer import ParallelTrainer
from .sharding import local


class NotFinite(RuntimeError):
    """The loss or a weight is NaN or infinite; the message names the place and what to try."""


class SafeTrainerMixin(Trainer):
    """The common part of all trainers; a mixin, named before the Trainer."""

    command = "folio pretrain"  # by which the user began the run

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.trl_forward = vars(self.model).get("forward")
        # On a GPU each step would have to wait.
        self.checks_each_step = self.args.device.type == "cpu"
        self.args.logging_nan_inf_filter = False
        self.remove_callback(PrinterCallback)
        self.clock, self.continuity, self.learning = StepClock(), ResumeStateCallback(self), LearningCheck(self)
        for callback in (self.clock, self.continuity, self.learning):
            self.add_callback(callback)

    def train(self, *args, **kwargs):
        try:
            return super().train(*args, **kwargs)
        finally:  # the model itself is evaluated and saved, in float32
            unwrapped = {"keep_fp32_wrapper": False, "keep_torch_compile": False}
            self.model_wrapped = self.accelerator.unwrap_model(self.model_wrapped, **unwrapped)
            # With the wrapper, accelerate drops every decorator of `forward`, and what TRL puts in its place.
            vars(self.model).pop("forward", None)
            if self.trl_forward is not None:
                self.model.forward = self.trl_forward

    def log(self, logs, start_time=None):
        if "loss" in logs:
            logs |= self.clock.metrics(self.state)
        if "train_loss" in logs:
            logs["train_loss"] = self.continuity.mean_loss()
        super().log(logs, start_time)

    def _maybe_log_save_evaluate(self, tr_loss, grad_norm, *args, **kwargs):
        if self._is_checked and self.continuity.in_epoch:
            self.learning.check_gradient(self._step_loss, grad_norm)
        self.continuity.postpone_save()
        super()._maybe_log_save_evaluate(tr_loss, grad_norm, *args, **kwargs)

    def training_step(self, model, inputs, num_items_in_batch=None):
        loss = super().training_step(model, inputs, num_items_in_batch)
        interval = max(1, int(self.state.logging_steps))
        self._is_checked = self.checks_each_step or self.state.global_step % interval == 0
        self._step_loss = loss
        if self._is_checked and not torch.isfinite(loss):
            ids = inputs["input_ids"][0][:16].tolist()
            batch = "".join(self.processing_class.decode(ids).splitlines()) if self.processing_class else ids
            raise self._not_finite(f"The loss is {loss.item()}", f", whose batch begins with {batch!r}")
        return loss

    def _track_num_input_tokens(self, inputs):
        if self.args.world_size > 1 or self.args.include_num_input_tokens_seen != "all":
            return super()._track_num_input_tokens(inputs)
        self.state.num_input_tokens_seen += inputs["input_ids"].numel()  # Trainer would wait for a GPU

    def _not_finite(self, what: str, where: str = "") -> NotFinite:
        args = self.args
        rates = f"--learning_rate below {args.learning_rate:g}"
        # None until there is an optimizer.
        if getattr(args, "use_muon", False) and args.adam_learning_rate is not None:
            rates += f" and --adam_learning_rate below {args.adam_learning_rate:g}"
        precision = ", or --bf16 false" if args.bf16 else ""
        last = last_checkpoint(args.output_dir)
        return NotFinite(
            f"{what} at step {self.state.global_step + 1:,}{where}. The last good checkpoint is {last or 'none yet'}. "
            f"Start again with {rates}{precision}."
        )

    def check_weights(self) -> None:
        """Raise NotFinite for weights that are NaN or infinite; frozen ones do not change."""
        for name, p in self.model.named_parameters():
            if p.requires_grad and not torch.isfinite(local(p)).all():
                raise self._not_finite(f"The weight {name} is not finite")

    def evaluate(self, *args, **kwargs):
        self.check_weights()
        return super().evaluate(*args, **kwargs)

    def _save_checkpoint(self, model, trial):
        self.check_weights()  # otherwise it would count as a good checkpoint
        self.continuity.save_state()
        path = Path(self._get_output_dir(trial)) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            with saving(path) if is_main_process() else contextlib.nullcontext():
                barrier()  # until what was there before is out of the way
                super()._save_checkpoint(model, trial)
                barrier()  # until each has written its part
                if is_main_process():
                    if (settings := path.parent / RUN_FILE).exists():  # which run it is of
                        shutil.copy(settings, path)
                    write_checksums(path)
        finally:
            self.args.save_total_limit = limit
        if is_main_process():  # Trainer would have removed the older ones before this one was safe
            rotate_checkpoints(str(path.parent), limit, self.state.best_model_checkpoint)


class FolioTrainer(SafeTrainerMixin, ParallelTrainer):
    """Trainer of a causal language model on packed blocks, with the settings of `PretrainingArguments`."""

    args: PretrainingArguments

    def _build_accelerator_args(self, **kwargs):
        settings = super()._build_accelerator_args(**kwargs)
        # Without a mode, one layer is compiled, for all, and not the model.
        settings["dynamo_plugin"].use_regional_compilation = self.args.torch_compile_mode is None
        return settings

    def create_optimizer(self, model=None):
        if self.optimizer is None and self.args.use_muon:
            self.optimizer = build_optimizer(self.model if model is None else model, self.args)
        return super().create_optimizer(model)

    def create_scheduler(self, num_training_steps, optimizer=None):
        args, given = self.args, self.args.lr_scheduler_kwargs
        if args.lr_scheduler_type == SchedulerType.WARMUP_STABLE_DECAY:
            decay, warmup = args.decay_steps, args.get_warmup_steps(num_training_steps)
            decay = int(decay if decay >= 1 else decay * num_training_steps)
            if warmup + decay > num_training_steps:
                steps = f"{warmup} warmup_steps and {decay} decay_steps"
                raise ValueError(f"{steps} do not fit into {num_training_steps} steps of training: give fewer.")
            args.lr_scheduler_kwargs = {"num_decay_steps": decay, "decay_type": "linear", **dict(given or {})}
        try:
            return super().create_scheduler(num_training_steps, optimizer)
        except TypeError as error:
            raise ValueError(f"lr_scheduler_kwargs do not fit {args.lr_scheduler_type}: {error}") from None
        finally:
            args.lr_scheduler_kwargs = given
