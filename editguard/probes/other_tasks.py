"""Other tasks: can the model still do what has nothing to do with the edit?

Multiple-choice tasks carry their options and are decided by likelihood, the others by real decoding.
"""

from editguard.edits import EditCase, Probe


def task(name: str, prompt: str, answer: str, *, choices: tuple[str, ...] = ()) -> Probe:
    """One item of a task.

    Args:
        name: the task, which becomes the probe's kind.
        prompt: text ending right before the answer.
        answer: the right answer; with `choices`, one of them.
        choices: the options of a multiple-choice item.
    """
    return Probe(property="other_tasks", kind=name, prompt=prompt, answers=(answer,), choices=choices)


def probes(case: EditCase) -> tuple[Probe, ...]:
    """The other-task probes that the case declares."""
    return tuple(probe for probe in case.probes if probe.property == "other_tasks")
