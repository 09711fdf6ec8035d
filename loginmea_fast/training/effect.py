"""Keys of a configuration that change nothing beside what else it holds: found, and said, before training starts."""

from __future__ import annotations

from collections.abc import Iterator

from loginmea_fast.training.config import Config
from loginmea_fast.training.keys import KEYS
from loginmea_fast.training.objectives import objective_weights
from loginmea_fast.training.presets import PRESETS
from loginmea_fast.training.sampling import batches

__all__ = ["first_join", "without_effect"]


def first_join(config: Config) -> int:
    """The number of epochs of a round after which bootstrapping's first window ends and its links join."""
    rounds = config.bootstrap_start // config.bootstrap_every
    if (
        config.compat == "authors"
    ):  # windows are counted from epoch 0: the first one that begins after the start
        rounds = -(-rounds // config.bootstrap_window) * config.bootstrap_window
    return (rounds + config.bootstrap_window) * config.bootstrap_every


def without_effect(config: Config, modalities: int, train: int, valid: int) -> Iterator[str]:
    """One sentence for each key that changes nothing.

    Args:
        config: the configuration of a run.
        modalities: how many the model has.
        train: how many training links there are.
        valid: how many validation links there are.
    """

    def changed(*names: str) -> list[str]:
        preset = PRESETS[config.preset]
        return [name for name in names if getattr(config, name) != preset.get(name, KEYS[name].default)]

    def idle(names: list[str], why: str) -> Iterator[str]:
        if names:
            verb = "changes" if len(names) == 1 else "change"
            yield f"{', '.join(names)} {verb} nothing: {why}"

    ends = "a round ends" if config.rounds else "training ends"
    objectives = objective_weights(config)
    if "hard_sample" not in objectives:
        why = "hard_sample is none of the objectives; name it there"
        yield from idle(changed("hard_scale", "hard_samples"), why)
    if set(objectives) == {"hard_sample"}:
        yield from idle(changed("temperature", "bidirectional"), "the hard-sample loss has neither")
    if not config.bootstrap:
        names = changed("bootstrap_start", "bootstrap_every", "bootstrap_window")
        yield from idle([] if config.compat == "authors" else names, "bootstrap is off; turn it on")
    elif config.epochs <= first_join(config):
        why = f"its first links join after epoch {first_join(config)} and {ends} after {config.epochs}"
        yield from idle(["bootstrap"], f"{why}; raise epochs, or lower bootstrap_start or bootstrap_window")
    elif config.compat != "authors":  # whose own numbers waste theirs
        window = config.bootstrap_window * config.bootstrap_every
        if (config.epochs - first_join(config)) % window == 0:
            yield (
                f"the last window of bootstrapping changes nothing: its links join after epoch {config.epochs}, "
                f"when {ends}; raise epochs, or lower bootstrap_start or bootstrap_window"
            )
    if config.optimizer == "rmsprop":
        yield from idle(
            ["weight_decay"] if config.weight_decay else [], "RMSprop has none; set optimizer to 'adamw'"
        )
    one_update = not config.updates or len(batches(train, config.batch_size, at_least=config.updates)) == 1
    if config.partitions and (one_update or config.partitions == 1):
        why = "there is one part" if config.partitions == 1 else "an epoch is one update, about all parts"
        yield f"partitions save nothing: {why}; raise {'partitions' if config.partitions == 1 else 'updates'}"
    if config.share_seeds and one_update:
        why = f"an epoch is one update, which tells all {train:,} training links apart"
        yield from idle(["share_seeds"], f"{why}; raise updates, or turn it off")
    elif not config.use_graph_encoder:
        yield from idle(changed("share_seeds"), "use_graph_encoder is off")
    if not config.rounds:
        yield from idle(changed("certainty"), "there are no further rounds; raise rounds")
    if config.propagation == "none":
        yield from idle(changed("propagation_width"), "propagation is none; set it to 'late'")
    if config.patience and not valid and config.compat != "authors":
        yield from idle(["patience"], "there are no validation links; raise valid_ratio")
    elif config.patience * (config.eval_every or config.epochs) >= config.epochs:
        yield from idle(["patience"], f"{ends} before as many validations; lower it or eval_every")
    if config.warmup_epochs > config.epochs:
        yield from idle(changed("warmup_epochs"), f"beyond the {config.epochs} epochs; lower it")
    if config.decoder == KEYS["decoder"].default:
        yield from idle(changed("decoder_k"), "no decoder is chosen; set decoder")
    fusion = ("rank", "missing", "use_local_fusion", "use_adaptive_weights", "use_low_rank")
    if not modalities:
        names = changed(*fusion, "use_global_aggregation", "aggregation")
        yield from idle(names, "the model has no modalities")
    elif config.aggregation == "channels":
        names = changed(*(name for name in fusion if name != "missing"), "use_global_aggregation")
        yield from idle(names, "modalities go through channels; set aggregation to 'fused' or 'both'")
    elif not config.use_local_fusion:
        yield from idle(changed("rank", "use_adaptive_weights", "use_low_rank"), "use_local_fusion is off")
    elif not config.use_low_rank:
        yield from idle(changed("rank"), "use_low_rank is off")
    fused = config.aggregation == "fused"
    if not config.use_graph_encoder and not (modalities and (config.use_global_aggregation or not fused)):
        yield from idle(changed("depth", "attention"), "no part with attention layers is on")
