"""Why a scheme: what was predicted and measured at each step, what is known of it, and what else there was."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from automc.errors import NotThere, StudyError
from automc.knowledge import explain as known
from automc.knowledge import graph
from automc.knowledge.words import in_words
from automc.study.outline import Outline
from automc.study.protocol import Protocol, Recommendation, settled
from automc.study.spec import StudySpec
from automc.study.stored import load_best, load_some
from automc.study.trial import Trial
from kg import studies
from kg.errors import NotInGraph, SchemaInvalid
from kg.schema import Scheme

if TYPE_CHECKING:
    from kg.store import GraphStore

SIBLINGS = 8
"""Other measured next steps that are named, the most accurate first."""
RECOMMENDED = "recommended"

Account = dict[str, Any]


def why(study: str, wanted: str) -> Account:
    """Say why a study came to a scheme.

    Args:
        study: its name.
        wanted: a trial's number, "recommended", or the scheme itself.

    Returns:
        "study", "scheme", "trial", "standing" (a sentence), and "steps": for each its "strategy", "trial", what was
        "predicted" and "measured" (step AR and PR, against the step's input model), "how" it was chosen, "rivals"
        (weighed, not executed) and "siblings" (executed after the same steps), each with "why_not", and "known",
        see `automc.knowledge.explain`.

    Raises:
        StudyError: there is no such study, or it has not executed this scheme.
        NotInGraph: there is no graph.
    """
    with graph(create=False) as store:  # opened once for all that is read
        record, protocol, best, outline = load_best(study)
        choice = settled(record, protocol, best, len(outline))
        target = find(study, wanted, choice)
        evidence = known.read_evidence(store)
        by_scheme = {trial.scheme: trial for trial in load_some(study, (), *target.scheme.beginnings)}
        searcher, first = StudySpec.from_dict(record["spec"]).searcher, record.get("first") or ()
        return {
            "study": study,
            "scheme": target.scheme.id,
            "trial": target.ordinal,
            "standing": _standing(study, target, best, outline, protocol, choice),
            "steps": [
                _step(store, study, by_scheme[scheme], searcher, evidence, first) for scheme in target.scheme.beginnings
            ],
        }


def find(study: str, wanted: str, choice: Recommendation | None, option: str = "--why") -> Trial:
    """Return the trial that a person means by its number, "recommended", or its scheme.

    Raises:
        NotThere: there is none; `option` is where it was asked for.
    """
    name = wanted.strip().removeprefix(f"{study}:")
    if name == RECOMMENDED:
        if choice is None:
            raise StudyError(
                f"The study {study} recommends nothing yet. `automc show {study} --trials` lists its trials."
            )
        return choice.trial
    if name.isdigit():
        found = load_some(study, [int(name)])
    else:
        try:
            scheme = Scheme.parse(name)
        except SchemaInvalid as error:
            raise StudyError(
                f"{option} {wanted}: give a trial's number, '{RECOMMENDED}', or a scheme. {error}"
            ) from None
        found = [trial for trial in load_some(study, (), scheme) if trial.scheme == scheme]
    if found:
        return found[0]
    raise NotThere(
        f"The study {study} has not executed {wanted}. `automc show {study} --trials` lists what it has, with numbers."
    )


def _standing(
    study: str, trial: Trial, best: Sequence[Trial], outline: Outline, protocol: Protocol, choice: Recommendation | None
) -> str:
    """What became of a scheme in its study."""
    if trial.status != "ok":
        return f"It ended as {trial.status}: {trial.reason.splitlines()[0] if trial.reason else 'no reason given'}"
    change = "" if trial.ar is None else f" (AR {trial.ar:+.2%})"
    bits = f" and {trial.sr:.2%} of the bits" if trial.quantised else ""
    said = (
        f"It has {trial.accuracy:.2%} {protocol.measure}{change} and removes {trial.pr:.2%} of the parameters{bits}. "
    )
    if choice and choice.trial.ordinal == trial.ordinal:
        return said + f"It is recommended: {choice.why}."
    front = protocol.front(best)
    if any(one.ordinal == trial.ordinal for one in front):
        return said + f"It is on the front: nothing measured has more {protocol.measure} and fewer {protocol.noun}."
    if missed := protocol.misses(trial):
        if protocol.gamma_alone:
            return said + f"That is less than the {protocol.gamma:.0%} asked for, so it is not on the front."
        return said + f"It is not on the front, because it misses the target: {'; '.join(m.text for m in missed)}."
    if front and front[0].scheme.level != trial.scheme.level:
        return said + "Others were trained longer: the front is of those, and this one does not compare with them."
    ordinal = outline.best_over(trial)
    if ordinal is None:
        return said + "Another trial has the same accuracy and size."
    better = load_some(study, [ordinal])[0]
    figures = f"{better.accuracy:.2%} with {better.removed:.2%} removed"
    return f"{said}Trial {better.ordinal} is better: {figures}, by {in_words(better.scheme)}."


def _step(
    store: GraphStore, study: str, trial: Trial, searcher: str, evidence: known.Evidence, first: Sequence[str]
) -> Account:
    scheme = trial.scheme
    siblings = _siblings(store, study, trial)
    # How many schemes go on from each; what was trained for longer has none.
    went_on = Counter(
        (id, min(level, 1)) for id, _, level, _ in studies.children(store, study, [t.scheme.full.id for t in siblings])
    )
    predicted = trial.predicted_step_ar is not None
    return {
        "position": len(scheme),
        "strategy": scheme.steps[-1].id,
        "trial": trial.ordinal,
        "predicted": {"step_ar": trial.predicted_step_ar, "step_pr": trial.predicted_step_pr} if predicted else None,
        "measured": {"step_ar": trial.step_ar, "step_pr": trial.step_pr, "status": trial.status},
        "how": _how(trial, searcher, trial.scheme.id in first),
        "rivals": [
            {"strategy": strategy, "step_ar": ar, "step_pr": pr, "why_not": _why_weighed(trial, ar, pr)}
            for strategy, ar, pr in trial.rivals
        ],
        "siblings": [
            {
                "strategy": t.scheme.steps[-1].id, "trial": t.ordinal, "status": t.status, "step_ar": t.step_ar,
                "step_pr": t.step_pr, "accuracy": t.accuracy, "pr": t.pr,
                "why_not": _why_measured(trial, t, went_on[t.scheme.full.id, t.scheme.level]),
            }
            for t in siblings
        ],
        "known": _known(evidence, scheme),
    }  # fmt: skip


def _siblings(store: GraphStore, study: str, trial: Trial) -> list[Trial]:
    """Other trials of the same level and the same steps before the last, the most accurate first."""
    found = studies.children(store, study, [trial.scheme.parent.full.id])
    alike = [(-(accuracy or 0.0), ordinal) for _, ordinal, level, accuracy in found if level == trial.scheme.level]
    ordinals = [ordinal for _, ordinal in sorted(alike) if ordinal != trial.ordinal][:SIBLINGS]
    by_ordinal = {one.ordinal: one for one in load_some(study, ordinals)}
    return [by_ordinal[ordinal] for ordinal in ordinals]


def _known(evidence: known.Evidence, scheme: Scheme) -> Account | None:
    """What is known of a scheme's last strategy; None where its method is gone from the graph or retired."""
    try:
        return known.explain_with(evidence, scheme.steps[-1])
    except NotInGraph:
        return None


def _how(trial: Trial, searcher: str, first: bool) -> str:
    """How a study came to a step."""
    if first:
        return "One of the first trials: each method straight to the target, before the searcher is asked."
    asked = f"Asked for in round {trial.round}"
    if trial.scheme.level > 1:
        return f"{asked}: among the best of its level, so it was trained on from where its training stood."
    if trial.predicted_step_ar is None:
        return f"{asked} by the {searcher} search, which predicted nothing for it."
    if trial.drawn:
        return f"{asked}, drawn at random among all admissible steps: a part of each round explores."
    return f"{asked}: of all admissible steps it was expected to add most to the front, beside the others of the round."


def _why_weighed(trial: Trial, ar: float, pr: float) -> str:
    """Why a step that was only predicted was not taken."""
    if trial.drawn:
        return "another step was drawn at random in its place"
    less = ar <= (trial.predicted_step_ar or 0.0), pr <= (trial.predicted_step_pr or 0.0)
    return {
        (True, True): "expected to be no more accurate and to remove no more",
        (True, False): "expected to remove more, but to cost more accuracy than that is worth to the front",
        (False, True): "expected to be more accurate, but to remove too little to add as much to the front",
        (False, False): "expected to be better, but too like what the round had chosen already",
    }[less]


def _why_measured(mine: Trial, other: Trial, went_on: int) -> str:
    """What a step that was executed as well came to, beside this one."""
    if other.status != "ok":
        return f"{other.status}: {other.reason.splitlines()[0] if other.reason else 'no reason given'}"
    if mine.status != "ok":
        return "it ended well, this one did not"
    further = f"; {went_on} schemes go on from it" if went_on else ""
    if (other.accuracy, other.params) == (mine.accuracy, mine.params):
        return f"the same accuracy and size{further}"
    more = (other.accuracy or 0.0) >= (mine.accuracy or 0.0), (other.pr or 0.0) >= (mine.pr or 0.0)
    return {
        (True, True): "better in both accuracy and size",
        (True, False): "more accurate, but removes less",
        (False, True): "removes more, but is less accurate",
        (False, False): "less accurate, and removes less",
    }[more] + further


def text(account: Account, evidence: int = 2) -> str:
    """Print an account for a person.

    Args:
        account: of `why`.
        evidence: records and neighbours that are printed for each step.
    """
    lines = [
        f"Trial {account['trial']} of {account['study']}: {account['scheme']}",
        *([_words(account["scheme"])] if account["steps"] else []),
        account["standing"],
    ]
    for step in account["steps"]:
        lines += ["", f"Step {step['position']}: {step['strategy']} (trial {step['trial']})"]
        lines += [f"  {_words(step['strategy'])}", f"  {step['how']}"]
        lines += [f"  predicted  {_rates(step['predicted'])}"] if step["predicted"] else []
        lines.append(f"  measured   {_rates(step['measured'])}")
        if step["rivals"]:
            lines.append("  Also weighed, not executed (as predicted):")
        lines += [f"    {_words(one['strategy'])}: {_rates(one)}; {one['why_not']}" for one in step["rivals"]]
        if step["siblings"]:
            lines.append("  Also executed after the same steps (as measured):")
        lines += [_sibling(one) for one in step["siblings"]]
        lines += _evidence(step["known"], evidence)
    return "\n".join(lines)


def _sibling(one: Account) -> str:
    rates = f"{_rates(one)}; " if one["status"] == "ok" else ""
    return f"    {_words(one['strategy'])} (trial {one['trial']}): {rates}{one['why_not']}"


def _words(scheme: str) -> str:
    return in_words(Scheme.parse(scheme))


def _evidence(explanation: Account | None, most: int) -> list[str]:
    if explanation is None:
        return ["  Its method is no longer in the graph, or retired."]
    method = explanation["method"]
    lines = [f"  {method['id']} is {method['title']}. {method['citation']}"]
    if explanation["records"]:
        lines.append("  What is known of this strategy:")
    lines += [f"    {known.record_text(record)}" for record in explanation["records"][:most]]
    if explanation["nearest"]:
        lines.append("  Nearest strategies:")
    for near in explanation["nearest"][:most]:
        lines.append(f"    {near['cosine']:.3f}  {near['strategy']}")
        lines += [f"           {known.record_text(record)}" for record in near["records"][:1]]
    return lines


def _rates(figures: Mapping[str, Any]) -> str:
    if figures["step_ar"] is None or figures["step_pr"] is None:
        return str(figures.get("status", "nothing"))
    return f"AR {figures['step_ar']:+.2%}, PR {figures['step_pr']:.2%}"
