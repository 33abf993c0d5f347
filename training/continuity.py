"""The state that Trainer loses when a run is resumed."""

import torch
from transformers import Trainer, TrainerCallback

from ..data.streams import InfiniteMixture

LOSS_STATE_KEY, POSITION = "training_loss", "stream_position"  # in trainer_state.json, among the states of callbacks


class ResumeStateCallback(TrainerCallback):
    """Saves and restores the training loss since it was last logged, and the position in a stream.

    A stream would otherwise be tokenized from its beginning, and skipped. Logging, evaluating and saving happen at the
    arguments' intervals; Trainer takes those of the checkpoint. A checkpoint at the end of an epoch is saved after the
    epoch's own log and evaluation, which a resumed run would not repeat.
    """

    def __init__(self, trainer: Trainer):
        self.trainer = trainer

    def save_state(self) -> None:
        """Add this state to that of the next checkpoint."""
        trainer = self.trainer
        trainer.state.stateful_callbacks[LOSS_STATE_KEY] = {
            "since_logged": trainer.accelerator.gather(trainer._tr_loss).mean().item(),
            "logged": trainer._total_loss_scalar,
            "last_logged_step": trainer._globalstep_last_logged,
            "first_step": self.first_step,
        }
        if stream := self._stream(trainer.args):
            blocks = trainer.state.global_step * trainer.args.gradient_accumulation_steps * trainer._train_batch_size
            trainer.state.stateful_callbacks[POSITION] = stream.position(blocks)

    def on_train_begin(self, args, state, control, **kwargs):
        state.compute_steps(args, state.max_steps)
        kept = state.stateful_callbacks.get(LOSS_STATE_KEY)
        self.first_step = state.global_step
        if kept is not None:
            trainer = self.trainer
            trainer._tr_loss = torch.tensor(kept["since_logged"], device=args.device)
            trainer._total_loss_scalar = kept["logged"]
            trainer._globalstep_last_logged = kept["last_logged_step"]
            self.first_step = kept["first_step"]
        position = state.stateful_callbacks.get(POSITION)
        if position and (stream := self._stream(args)):
            stream.start = position

    def _stream(self, args) -> InfiniteMixture | None:
        """Return the stream that the run reads, if it does so alone and from its beginning."""
        dataset = self.trainer.train_dataset
        reads_alone = args.world_size == 1 and not args.ignore_data_skip
        return dataset if isinstance(dataset, InfiniteMixture) and reads_alone else None

    def mean_loss(self) -> float:
        """Return the mean loss of all steps of the run, however often it was resumed."""
        steps = self.trainer.state.global_step - self.first_step
        return self.trainer._total_loss_scalar / max(steps, 1)

    def log_end(self) -> None:
        """Log what Trainer logs when training ends, for a run that was killed just before."""
        trainer = self.trainer
        trainer._total_loss_scalar += trainer._tr_loss.item()
        trainer.log({"total_flos": trainer.state.total_flos, "train_loss": self.mean_loss()})

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.in_epoch, self.due = True, False

    def on_epoch_end(self, args, state, control, **kwargs):
        self.in_epoch = False

    def postpone_save(self) -> None:
        """Delay a save from an epoch's last step to its end; called before each time that Trainer logs and saves."""
        state, control = self.trainer.state, self.trainer.control
        if not self.in_epoch:
            control.should_save |= self.due
        elif state.epoch == int(state.epoch):
            self.due, control.should_save = control.should_save, False
