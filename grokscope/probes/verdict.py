"""From measurements to a state, a sentence with its numbers, and alerts that end in a command."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping

import numpy as np

from grokscope.measures import states
from grokscope.measures.crossings import Crossing, delay
from grokscope.measures.states import State, StateInputs, Thresholds, run_state
from grokscope.probes.dense import Series, counted
from grokscope.probes.record import Alert, Claim, Record, Verdict
from grokscope.runs import Run

COARSE = 0.5
"""An event interval wider than this share of its upper end is called coarse."""


def judge(run: Run, record: Record, dense: Mapping[str, Series]) -> None:
    """Give ``record`` its verdict and alerts, from the events and the densest series."""
    state = _state(run, record, dense, *counted(record))
    claims = tuple(_claim(claim) for claim in state.evidence)
    sentence = _sentence(run, record, dense, state)
    # the all-pairs reading stands beside the verdict's own
    record.notes["clocks.state_on_all_pairs"] = over_all = _state(
        run, record, dense, "grok", "accuracy.test"
    ).state
    if over_all != state.state:
        sentence += f" Read from all test pairs instead it would be called {over_all}."
    record.verdict = Verdict(state.state, state.flags, sentence, claims)
    record.alerts += _alerts(run, record, state)


def judge_without_clocks(run: Run, record: Record) -> None:
    """Give a verdict to a run of which no event can be dated: no function, or no known split."""
    structure = _structure(record)
    if run.lacks("function") is not None:
        state, text = "not applicable", _weights_only(run)
    else:
        state, text = "inconclusive", _over_all(run, record)
    record.verdict = Verdict(state, (), " ".join(part for part in (text, structure) if part))


def _weights_only(run: Run) -> str:
    lacking = run.lacks("function")
    assert lacking is not None
    if run.model.no_function is None:
        return f"Weights and a function, but no task: {lacking.reason}, so no state is claimed."
    return f"Weights only: the function was not rebuilt ({lacking.reason}), so no state is claimed."


def _over_all(run: Run, record: Record) -> str:
    """What can be said without the split: the run over every input, at the last save."""
    text = "Inconclusive: the training split is not known, so when it fitted cannot be said"
    accuracy, loss, count = record.get("accuracy.all"), record.get("loss.all"), len(run.task.inputs)
    what = "inputs" if run.task.n_tokens is None else "pairs"
    if accuracy is not None:
        return f"{text}; over all {count} {what} its accuracy is {accuracy[-1]:.3f} at the last save."
    if loss is not None:
        return f"{text}; over all {run.task.train_mask.numel()} entries its loss is {loss[-1]:.3g} at the last save."
    return f"{text}."


CLAIMS = {
    "levels_defined": "The run has levels of fit and generalisation",
    "fitted": "Step by which training held its level for 3 evaluations",
    "grok_reached": "Step by which the test level was held for 3 evaluations",
    "test_holds_at_end": "Median test skill of the last 3 evaluations (1 − error for a completion)",
    "delayed": "Low end of the delay, generalisation over fit",
    "without_delay": "High end of the delay, generalisation over fit",
    "repeated_loss_spikes": "Tenfold spikes of the training loss after the fit, accuracy lost",
    "highest_skill_after_fit": "Highest test skill after the fit (memorised: under the threshold)",
    "slope_of_last_part": "Slope of the test skill over the last quarter, per step (moving: 0 is outside)",
    "final_skill": "Median test skill at the end (stalled: at or above the threshold)",
}
"""What each claim of :mod:`grokscope.measures.states` says, in words."""


def _claim(claim: states.Claim) -> Claim:
    return Claim(CLAIMS[claim.name], claim.value, claim.threshold, claim.interval, claim.holds)


def _inputs(
    run: Run, record: Record, dense: Mapping[str, Series], event: str, accuracy: str
) -> StateInputs | None:
    fit, grok = record.events.get("fit"), record.events.get(event)
    if fit is None or grok is None:
        return None
    levels = run.task.levels
    if levels.quantity == "error":
        steps, train = dense["error.train"]
        test = dense["error.test"][1]
        held = bool(np.median(test[-Thresholds().q :]) <= levels.grok)
        return StateInputs(steps, fit, grok, delay(fit, grok), 1 - test, 1 - train, dense["loss.train"][1],
                           grok_at_end=held)  # fmt: skip
    steps, train = dense["accuracy.train"]
    return StateInputs(steps, fit, grok, delay(fit, grok), dense[accuracy][1], train, dense["loss.train"][1],
                       chance=run.task.chance or 0.0)  # fmt: skip


def _thresholds(run: Run) -> Thresholds:
    levels = run.task.levels
    if levels.quantity == "error":  # as skills, 1 − error
        return Thresholds(fit=1 - levels.fit, grok=1 - levels.grok)
    return Thresholds(fit=levels.fit, grok=levels.grok)


def _state(run: Run, record: Record, dense: Mapping[str, Series], event: str, accuracy: str) -> State:
    inputs = _inputs(run, record, dense, event, accuracy)
    if inputs is None:
        return State("not applicable", ())
    if np.size(inputs.steps) < Thresholds().q:
        return State("inconclusive", ())
    return run_state(inputs, _thresholds(run))


def begins_fitted(record: Record, fit: Crossing | None) -> bool:
    """Whether the fit lies before the first save, which is not the beginning: a fork, a replay, late weights."""
    return fit is not None and fit.by is not None and fit.after is None and int(record.steps[0]) > 0


def span(event: Crossing | None) -> str:
    """An event as words: "step 30–31", "after step 1000", "by step 0"."""
    if event is None:
        return "never"
    if event.by is None:
        return "not reached" if event.after is None else f"not by step {event.after}"
    return f"by step {event.by}" if event.after is None else f"between steps {event.after} and {event.by}"


def times(ends: tuple[float | None, float | None]) -> str:
    """A ratio interval as words: "24 to 32 times"."""
    low, high = ends
    if low is None and high is None:
        return "at an unbounded ratio"
    if high is None:
        return f"at least {low:.3g} times"
    return f"at most {high:.3g} times" if low is None else f"{low:.3g} to {high:.3g} times"


def _sentence(run: Run, record: Record, dense: Mapping[str, Series], state: State) -> str:
    if state.state == "not applicable":
        return "No state is claimed: the run has neither an accuracy nor levels of its task's own."
    event, accuracy = counted(record)
    fit, grok = record.events["fit"], record.events[event]
    if accuracy in dense and len(dense[accuracy][0]) < Thresholds().q:
        return " ".join(part for part in (_few_saves(record, accuracy), _structure(record)) if part)
    what = "test samples" if run.task.swap is None else "test pairs"
    if run.task.levels.quantity == "error":
        what = "hidden entries" if run.task.rank is not None else "test samples"
    what = "unmirrored test pairs" if event == "grok_unmirrored" else what
    if fit.by is None:
        text = f"Not fitted: training did not hold its level ({span(fit)})."
    elif grok.by is None:
        text = f"{state.state.capitalize()}: it fitted {span(fit)} and {_unreached(run, record, accuracy, what, grok)}"
    else:
        text = (
            f"{state.state.capitalize()}: it fitted {span(fit)} and generalised to {what} {span(grok)}, "
            f"{times(delay(fit, grok))} later."
        )
    return " ".join(
        part for part in (_origin(run, record), text, _mirrored(record), _structure(record)) if part
    )


def _origin(run: Run, record: Record) -> str:
    """What part of another run this one is, or goes on from."""
    origin = run.origin
    if origin is None:
        return ""
    first, last, parent = record.steps[0], record.steps[-1], origin.get("name")
    if run.manifest.get("kind") == "replayed":
        return f"Steps {first} to {last} of {parent}, computed again; what is said is about them alone."
    changed = origin.get("changed")
    fields = ", ".join(sorted(changed)) if isinstance(changed, Mapping) and changed else "nothing"
    return f"A fork of {parent} at step {origin.get('at')}, with {fields} changed."


def _few_saves(record: Record, accuracy: str) -> str:
    """What can be said of a run whose saves are too few to date anything."""
    count, needed = len(record.steps), Thresholds().q
    saves = "one save" if count == 1 else f"{count} saves"
    values = ((name, record.get(name)) for name in ("accuracy.train", accuracy))
    last = ", ".join(
        f"{name.split('.')[1].replace('_', ' ')} {v[-1]:.4g}" for name, v in values if v is not None
    )
    return (
        f"Inconclusive: {saves}, where {needed} are needed to date anything. At step {record.steps[-1]} its "
        f"accuracy is: {last}."
    )


def _unreached(run: Run, record: Record, accuracy: str, what: str, grok: Crossing) -> str:
    """That the test level was not held, or is met at the end by fewer saves than confirm it."""
    values, chance = record.get(accuracy), run.task.chance
    if values is not None and chance is not None:
        met = states.normalised_skill(values, chance) >= run.task.levels.grok
        count = len(met) if met.all() else int(np.argmin(met[::-1]))
        if 0 < count < Thresholds().q:
            saves = "last save" if count == 1 else f"last {count} saves"
            shown = ", ".join(f"{value:.3f}" for value in values[-count:])
            return (
                f"meets the test level on {what} at its {saves} ({shown}), where {Thresholds().q} would confirm "
                f"it; it did not {span(grok).removeprefix('not ')}."
            )
    return f"did not generalise to {what} ({span(grok)})."


def _mirrored(record: Record) -> str:
    """What the test accuracy at the fit was made of."""
    fit, pairs = record.events["fit"], record.notes.get("loss.pairs", {})
    mirrored, unmirrored = record.get("accuracy.test_mirrored"), record.get("accuracy.test_unmirrored")
    test = record.get("accuracy.test")
    if fit.by is None or mirrored is None or unmirrored is None or test is None:
        return ""
    at = int(np.searchsorted(record.steps, fit.by))
    if at >= len(record.steps) or test[at] < 0.05:
        return ""
    share = (
        mirrored[at]
        * pairs["test_mirrored"]
        / (test[at] * (pairs["test_mirrored"] + pairs["test_unmirrored"]))
    )
    return (
        f"At step {record.steps[at]} its test accuracy was {test[at]:.3f}, {share:.0%} of it mirrored pairs "
        f"({mirrored[at]:.3f} of them right, {unmirrored[at]:.3f} of the others)."
    )


def _structure(record: Record) -> str:
    """Frequencies at the end, the fall of a rank, and whether it began before the test loss moved."""
    parts = []
    for name in ("embedding", "embedding_a"):
        keys = record.get(f"fourier.key_frequencies.by_embedding.{name}")
        if keys is None:
            keys = record.get("fourier.key_frequencies.by_embedding")
        if keys is not None and keys.ndim == 2:
            count = int(np.nansum(keys[-1]))
            word = "frequency carries" if count == 1 else "frequencies carry"
            parts.append(f"{count} {word} 95 % of the embedding's power at the end")
            break
    for target in ("product", "embedding", "embedding_a"):
        rank = f"spectra.{target}.effective_rank"
        values = record.get(rank)
        fit = record.events.get("fit")
        if values is None or fit is None or fit.by is None:
            continue
        start = values[min(int(np.searchsorted(record.steps, fit.by)), len(values) - 1)]
        what = "end-to-end map" if target == "product" else target.replace("_", " ")
        where = f"at step {record.steps[0]}" if begins_fitted(record, fit) else "at the fit"
        fell = (
            f"the effective rank of the {what} went from {start:.3g} {where} to {values[-1]:.3g} at the end"
        )
        mine, loss = record.events.get(f"onset.{rank}"), record.events.get("onset.loss.test")
        if mine is not None and loss is not None and mine.by is not None and loss.by is not None:
            if loss.after is not None and mine.by <= loss.after:
                fell += f", and began to fall ({span(mine)}) before the test loss did ({span(loss)})"
            elif mine.after is not None and loss.by <= mine.after:
                fell += f", and began to fall ({span(mine)}) after the test loss did ({span(loss)})"
            else:
                fell += "; whether it or the test loss began to fall first is not told apart"
                fell += f" ({span(mine)}; {span(loss)})"
        parts.append(fell)
        break
    if not parts:
        return ""
    text = "; ".join(parts)
    return text[0].upper() + text[1:] + "."


def _again(run: Run, suffix: str, *changes: str) -> str:
    """The command that trains the run's own recipe again under another name with some fields changed."""
    settings = "".join(f" --set {shlex.quote(change)}" for change in changes)
    recipe = shlex.quote(str(run.path / "run.json"))
    return f"grokscope train {recipe} --name {shlex.quote(run.name + suffix)}{settings}"


def _alerts(run: Run, record: Record, state: State) -> list[Alert]:
    train = run.config.get("train", {})
    if not run.trained_here or "steps" not in train:
        return _coarse(record, lambda _: f"grokscope inspect {shlex.quote(run.name)}")
    alerts, last, reached = [], int(train["steps"]), int(run.trajectory.steps[-1])
    ended = run.manifest.get("ended")
    if isinstance(ended, Mapping) and ended.get("step") == reached:
        alerts.append(
            Alert(
                f"The run was to end once {ended.get('until')} held, at step {reached} of {last}; what comes after it "
                "nobody has seen.",
                _again(run, "-long", "train.until=''"),
            )
        )
    elif reached < last:
        recipe = shlex.quote(str(run.path / "run.json"))
        alerts.append(
            Alert(
                f"The run stopped at step {reached} of {last}; everything here is about that part.",
                f"grokscope train {recipe} --name {shlex.quote(run.path.name)} --resume",
            )
        )
    elif state.state in ("still moving", "stalled", "memorised", "not fitted"):
        alerts.append(
            Alert(
                f"The run ended as {state.state}: a longer one would tell whether it goes on.",
                _again(run, "-long", f"train.steps={4 * last}"),
            )
        )
    if "unstable" in state.flags:
        alerts.append(
            Alert(
                "The training loss spiked tenfold and took the training accuracy with it, more than once.",
                _again(run, "-slow", f"train.lr={train['lr'] / 3:.3g}"),
            )
        )

    def denser(by: int) -> str:
        return _again(run, "-dense", f'save.evaluate=["0:{by}:1", "{by}:end:5"]')

    return alerts + _coarse(record, denser)


def _coarse(record: Record, command: Callable[[int], str]) -> list[Alert]:
    """One alert for each event whose interval is wide beside its step."""
    found = []
    for event in ("fit", "grok"):
        crossing = record.events.get(event)
        if crossing is None or crossing.by is None or crossing.by <= 2:
            continue
        if crossing.after is None and int(record.steps[0]) > 0:
            continue  # it lies before the first save: no evaluation in this run would date it
        if (crossing.by - (crossing.after or 0)) / crossing.by > COARSE:
            text = (
                f"The interval of {event} ({span(crossing)}) is coarse: the evaluations around it are far "
                "apart, and the delay inherits its width."
            )
            found.append(Alert(text, command(crossing.by)))
    return found
