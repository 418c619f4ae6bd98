"""What a test holds in its hand: the edited model, or the original one, with the questions a suite asks of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import replace
from functools import wraps
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Self

from editguard.edits import SLOT, EditCase, EditRequest, Probe, Property, superseded
from editguard.errors import ConfigurationError
from editguard.measurements.answering import ANSWER_TOKENS, Answering, Physical, Read, Remembered, Scored, Switchable
from editguard.measurements.decoding import decode
from editguard.measurements.divergence import Over, divergence
from editguard.measurements.drawdown import drawdown
from editguard.measurements.drift import curve
from editguard.measurements.fluency import continuing
from editguard.measurements.inference import AnsweringCost, answering_cost
from editguard.measurements.multi_hop import MultiHop, multi_hop
from editguard.measurements.pair_probability import Compared, compare
from editguard.measurements.perplexity import Of, perplexity
from editguard.measurements.record import Lookup, Measurement
from editguard.measurements.reference import consistency, essence_drift
from editguard.measurements.ripples import Ripples, ripples
from editguard.measurements.scores import measure
from editguard.measurements.sentiment import Replies, sentiment

if TYPE_CHECKING:
    from pathlib import Path

_Arguments = ParamSpec("_Arguments")

SHOWN_TOKENS = 5
SHOWN_EDITS = 3
SHOWN_CHARACTERS = 240


class Answer(str):
    """A model's answer: text, which explains itself when an assertion on it fails.

    Attributes:
        prompt: as the suite asked it.
        stopped: whether the model ended it, rather than the limit of tokens.
        lookup: how it came through a memory of edits, the prompt that was sent among it; None without a memory.
    """

    __slots__ = ("_by", "lookup", "prompt", "stopped")

    prompt: str
    stopped: bool
    lookup: Lookup | None
    _by: ModelUnderTest

    def __new__(
        cls, text: str, *, prompt: str, stopped: bool, by: ModelUnderTest, lookup: Lookup | None = None
    ) -> Self:
        answer = super().__new__(cls, text)
        answer.prompt, answer.stopped, answer.lookup, answer._by = prompt, stopped, lookup, by
        return answer

    def explain(self) -> list[str]:
        """Lines for a person: the edits in force, the prompt, the answer and the next tokens before and after.

        Asks both models, so only when it is called.
        """
        return self._by.explain(self.prompt)

    def __reduce__(self) -> tuple[type[str], tuple[str]]:
        """Copies and pickles are plain text: they outlive the model."""
        return (str, (str(self),))


def _retakable(
    method: Callable[Concatenate[ModelUnderTest, _Arguments], Measurement],
) -> Callable[Concatenate[ModelUnderTest, _Arguments], Measurement]:
    """A measurement that can be taken again from the same model under another condition."""

    @wraps(method)
    def taken(self: ModelUnderTest, /, *args: _Arguments.args, **kwargs: _Arguments.kwargs) -> Measurement:
        found = method(self, *args, **kwargs)
        self._took(found, lambda other: method(other, *args, **kwargs))
        return found

    return taken


class ModelUnderTest:
    """A model with the edits of one group of tests in force.

    Answers are remembered: the model behind is immutable, so that a question asked twice costs once.
    """

    def __init__(
        self,
        edited: Switchable,
        *,
        original: ModelUnderTest | None = None,
        cases: Sequence[EditCase] = (),
        method: str = "original",
        mode: str = "single",
        model: str | None = None,
        tasks: Sequence[Probe] = (),
        limit: int | None = None,
    ) -> None:
        """Wrap a model for a suite.

        Args:
            edited: the model with all edits of `cases` in force.
            original: the model without edits, shared by all tests of a session; None makes this one the original.
            cases: what was applied, in order, with the probes that are asked.
            method: the name under which the method appears.
            mode: "single", "batch" or "sequence".
            model: the model's name; its own by default.
            tasks: probes that `other_tasks` asks besides those that cases declare.
            limit: most probes of a measurement.
        """
        self._edited = edited
        self._answers = Remembered(edited)
        self._original = self._answers if original is None else original._answers
        self._rest = edited if original is None else original._edited
        self.cases = tuple(cases)
        self.method, self.mode = method, mode
        self.model = edited.model.name if model is None else model
        self.requests: tuple[EditRequest, ...] = () if original is None else tuple(case.request for case in self.cases)
        self._tasks = tuple(tasks)
        self._limit = limit
        self._earlier: Callable[[], Sequence[ModelUnderTest]] = tuple

    def growing(self, earlier: Callable[[], Sequence[ModelUnderTest]]) -> Self:
        """Know the models at earlier checkpoints of the same sequence, in their order; returns itself."""
        self._earlier = earlier
        return self

    def earlier(self) -> Sequence[ModelUnderTest]:
        """The models at earlier checkpoints of the same sequence."""
        return self._earlier()

    def unedited(self, original: ModelUnderTest) -> ModelUnderTest:
        """The original model, asked the probes of this one: every score before the edit."""
        before = ModelUnderTest(
            original._edited,
            cases=self.cases,
            mode=self.mode,
            model=self.model,
            tasks=self._tasks,
            limit=self._limit,
        )
        before._answers = before._original = self._original
        return before

    @property
    def edits(self) -> int:
        """How many requests were applied."""
        return len(self.requests)

    # Single questions

    def answer(self, prompt: str) -> Answer:
        """Decode the answer to a prompt, greedily, up to the end of its first sentence or line."""
        return self.answers([prompt])[0]

    def answers(self, prompts: Sequence[str]) -> list[Answer]:
        """Decode the answers to several prompts in batches; in their order."""
        found = decode(self._answers, prompts)
        return [
            Answer(decoded.text, prompt=prompt, stopped=decoded.stopped, by=self, lookup=decoded.lookup)
            for prompt, decoded in zip(prompts, found, strict=True)
        ]

    def score(self, prompt: str, answer: str) -> Scored:
        """Score an answer by teacher forcing: log-probability in nats, share of tokens that are the likeliest."""
        return self._answers.score([(prompt, answer)])[0]

    def next_tokens(self, prompt: str, k: int = SHOWN_TOKENS) -> list[tuple[str, float]]:
        """The k most likely next tokens with their probabilities."""
        return list(self._answers.next_tokens([prompt], k)[0])

    # Measurements

    @_retakable
    def reliability(self) -> Measurement:
        """Share of the edits in force whose own prompt is answered by the target; in a sequence the retention."""
        return self._measure("reliability", None)

    @_retakable
    def generalization(self, kind: str | None = None) -> Measurement:
        """Share of rephrases answered by the target."""
        return self._measure("generalization", kind)

    @_retakable
    def portability(self, kind: str | None = None) -> Measurement:
        """Share of consequences that follow, among those whose other premises the unedited model knows."""
        return self._measure("portability", kind)

    @_retakable
    def locality(self, kind: str | None = None) -> Measurement:
        """Share of out-of-scope probes answered as the unedited model answers, however many edits there are."""
        return self._measure("locality", kind)

    @_retakable
    def other_tasks(self, probes: Sequence[Probe] | None = None, kind: str | None = None) -> Measurement:
        """Share of items of other tasks answered rightly; `agreement` of the result is that with the unedited model.

        Args:
            probes: the items; by default those that the cases or the configuration give.
            kind: the name of one task.
        """
        return self._measure("other_tasks", kind, probes)

    @_retakable
    def curve(self, property: Property, kind: str | None = None) -> Measurement:
        """A property at every checkpoint of the sequence so far, as one measurement; see `drift.curve`.

        For a baseline of the whole curve: a drift that is too slow for any checkpoint adds up.
        """
        return curve([model._measure(property, kind) for model in (*self.earlier(), self)])

    @_retakable
    def preference(self, property: Property, kind: str | None = None) -> Measurement:
        """Share of probes where the wanted one of two given answers is the likelier; see `pair_probability.compare`.

        Efficacy, paraphrase and neighbourhood score of ROME for reliability, generalization and locality. It says less
        than decoding: both answers may be improbable.
        """
        return self._compare(property, kind, "preference")

    @_retakable
    def margin(self, property: Property, kind: str | None = None) -> Measurement:
        """By how much the wanted answer is the more probable, the mean over probes (ROME's magnitudes)."""
        return self._compare(property, kind, "margin")

    @_retakable
    def perplexity(self, texts: Sequence[str], of: Of = "level") -> Measurement:
        """Logarithm of the perplexity of texts, in nats per token, or its "rise" above the unedited model's."""
        return self._signed(perplexity(self._answers, self._original, self.cases, texts, of=of))

    @_retakable
    def lm_eval(
        self,
        task: str,
        *,
        limit: int | None = None,
        metric: str | None = None,
        num_fewshot: int | None = None,
        include_path: str | Path | None = None,
    ) -> Measurement:
        """Items of a task of lm-eval answered rightly, with the unedited model's answers; see `lm_eval_tasks`.

        Args:
            task: its name in lm-eval, or in the folder `include_path`.
            limit: most items of each task; that of the configuration by default.
            metric: of the task, its first by default.
            num_fewshot: examples in front of each item.
        """
        from editguard.measurements.lm_eval_tasks import lm_eval

        found = lm_eval(
            task,
            self._answers,
            self._original,
            self.cases,
            metric=metric,
            num_fewshot=num_fewshot,
            include_path=include_path,
            limit=self._limit if limit is None else limit,
        )
        return self._signed(found)

    @_retakable
    def divergence(self, texts: Sequence[str], over: Over = "texts") -> Measurement:
        """KL divergence, in nats, of next-token distributions from the unedited model's; see `divergence`."""
        return self._signed(divergence(_read(self._edited), _read(self._rest), self.cases, texts, over=over))

    @_retakable
    def essence_drift(self, texts: Mapping[str, Sequence[str]]) -> Measurement:
        """Rise of the log-perplexity of texts about the edits' subjects; see `reference.essence_drift`."""
        return self._signed(essence_drift(self._answers, self._original, self.cases, texts))

    @_retakable
    def consistency(self, references: Mapping[str, Sequence[str]], *, seed: int = 0) -> Measurement:
        """Reference score of free continuations, with texts per target; see `reference.consistency`."""
        return self._signed(consistency(continuing(_read(self._edited), seed), self.cases, references))

    @_retakable
    def sentiment(self, replies: Mapping[str, Replies]) -> Measurement:
        """Whether replies of the wanted sentiment are likelier, with replies per subject; see `sentiment.sentiment`."""
        return self._signed(sentiment(self._answers, self._original, self.cases, replies))

    @_retakable
    def drawdown(self, probes: Sequence[Probe] | None = None, kind: str | None = None) -> Measurement:
        """By how much accuracy on other tasks has fallen, item by item; arguments as for `other_tasks`."""
        after = self.other_tasks(probes, kind)
        before = measure(
            "other_tasks",
            self._original,
            self._original,
            self.cases,
            kind=kind,
            tasks=self._tasks if probes is None else probes,
            limit=self._limit,
        )
        return drawdown(before, after)

    @_retakable
    def multi_hop(self, of: MultiHop = "any", *, form: str = SLOT, known: bool = True) -> Measurement:
        """MQuAKE's measures over the instances in force; see `multi_hop.multi_hop`."""
        return self._signed(multi_hop(self._answers, self._original, self.cases, of=of, form=form, known=known))

    @_retakable
    def ripples(self, of: Ripples = "passed", *, filtered: bool = True) -> Measurement:
        """The criteria of RippleEdits, a value per edit and criterion; see `ripples.ripples`."""
        return self._signed(ripples(self._answers, self._original, self.cases, of=of, filtered=filtered))

    def _took(self, found: Measurement, take: Callable[[ModelUnderTest], Measurement]) -> None:
        """What whoever keeps measurements wants to know: `take` takes the same from a model that was asked nothing."""

    def _signed(self, found: Measurement) -> Measurement:
        """The measurement with the names of what was measured."""
        edits = tuple(request.id for request in self.requests)
        return replace(found, method=self.method, model=self.model, mode=self.mode, edit_ids=edits)

    def _compare(self, property: Property, kind: str | None, of: Compared) -> Measurement:
        found = compare(
            property,
            self._answers,
            self._original,
            self.cases,
            of=of,
            kind=kind,
            limit=self._limit,
        )
        return self._signed(found)

    def _measure(self, property: Property, kind: str | None, tasks: Sequence[Probe] | None = None) -> Measurement:
        found = measure(
            property,
            self._answers,
            self._original,
            self.cases,
            kind=kind,
            tasks=self._tasks if tasks is None else tasks,
            limit=self._limit,
        )
        return self._signed(found)

    # What the edits cost

    def stored_bytes(self) -> int | None:
        """Bytes of all numbers that the edits left behind: factors, neurons, keys and values; shared ones count once.

        The text of a prompt memory is not among them; None where a method does not tell.
        """
        return self._edited.stored_bytes()

    def answering_cost(self, prompts: Sequence[str] | None = None) -> AnsweringCost:
        """Seconds per prompt of a pass with the edits in force and without, timed one after the other.

        Args:
            prompts: what is run; by default the edits' own prompts.

        Raises: ValueError: there is no prompt.
        """
        chosen = [case.request.text for case in self.cases] if prompts is None else prompts
        return answering_cost(self._edited, self._rest, list(dict.fromkeys(chosen)))

    # State

    @property
    def physical(self) -> Physical:
        """The physical model, which other edited models share."""
        return self._edited.model

    def anew(self, asked: Callable[[Switchable], Answering] | None = None) -> Self:
        """The same model and the same unedited one, neither of which was asked anything yet.

        Args:
            asked: what takes each one's place when it is asked; itself by default.
        """
        again = copy(self)
        again._edited, again._rest = self._edited.anew(), self._rest.anew()
        edited, rest = (each if asked is None else asked(each) for each in (again._edited, again._rest))
        again._answers = Remembered(edited)
        again._original = again._answers if self._original is self._answers else Remembered(rest)
        again._earlier = lambda: [model.anew(asked) for model in self.earlier()]
        return again

    def withdraw(self) -> None:
        """Take the edits off the physical model; the next question puts them on again."""
        self._rest.activate()

    def activate(self) -> None:
        """Bring the physical model to these edits."""
        self._edited.activate()

    def digest(self) -> str:
        """SHA-256 over all parameters and buffers of the model with these edits in force."""
        self.activate()
        return self._edited.model.weights.digest()

    def explain(self, prompt: str) -> list[str]:
        """Lines for a person about one prompt: see `Answer.explain`."""
        sent = self._answers.generate([prompt], max_new_tokens=ANSWER_TOKENS)[0].prompt
        after = decode(self._answers, [prompt])[0]
        before = decode(self._original, [prompt])[0]
        lines = [*self._edits_in_force(), f"prompt sent: {_clipped(sent)!r}"]
        if after.lookup is not None:
            lines.append(_told(after.lookup, {request.id: request.statement for request in self.requests}))
        lines.append(f"answer before the edit: {_shown(before.text, before.stopped)}")
        lines.append(f"answer after the edit:  {_shown(after.text, after.stopped)}")
        lines.append(f"next tokens, most likely {SHOWN_TOKENS}, before -> after:")
        old = self._original.next_tokens([prompt], SHOWN_TOKENS)[0]
        new = self._answers.next_tokens([prompt], SHOWN_TOKENS)[0]
        left = [f"{token!r} {probability:.3f}" for token, probability in old]
        right = [f"{token!r} {probability:.3f}" for token, probability in new]
        width = max((len(text) for text in left), default=0)
        lines += [f"  {one:<{width}}  ->  {other}" for one, other in zip(left, right, strict=False)]
        return lines

    def _edits_in_force(self) -> list[str]:
        if not self.requests:
            return ["edits in force: none (the original model)"]
        gone = superseded(self.requests)
        standing = [request for position, request in enumerate(self.requests) if position not in gone]
        if len(standing) == 1:
            return [f"edit in force ({self.method}): {standing[0].statement}"]
        head = f"{len(standing)} edits in force ({self.method}, {self.mode}), the last:"
        return [head, *(f"  {request.statement}" for request in standing[-SHOWN_EDITS:])]

    def __repr__(self) -> str:
        count = "1 edit" if self.edits == 1 else f"{self.edits} edits"
        return f"ModelUnderTest({self.method!r} on {self.model!r}, {count}, {self.mode})"


def _read(model: Any) -> Read:
    """The model, which tells who reads a prompt.

    Raises: ConfigurationError: it does not.
    """
    if not hasattr(model, "by_model"):
        raise ConfigurationError(f"{type(model).__name__} does not give its tokens away: use an EditedModel.")
    read: Read = model
    return read


def _told(lookup: Lookup, statements: Mapping[str, str]) -> str:
    """What a memory of edits made of a prompt, in a line; rows by their statements, where these are known."""
    found = (f"{statements.get(row, row)!r} ({similarity:.2f})" for row, similarity in lookup.retrieved)
    ended = f", {lookup.outcome}" if lookup.outcome else ""
    spent = f"{lookup.tokens} tokens in {lookup.calls} call{'' if lookup.calls == 1 else 's'}"
    return f"memory of edits: {lookup.route}{ended}; nearest: {', '.join(found) or 'none'}; {spent}"


def _clipped(text: str) -> str:
    """The end of a long text, which is where the question stands."""
    if len(text) <= SHOWN_CHARACTERS:
        return text
    return f"[{len(text) - SHOWN_CHARACTERS} characters] {text[-SHOWN_CHARACTERS:]}"


def _shown(text: str, stopped: bool) -> str:
    return repr(text) if stopped else f"{text!r} (cut at the limit of tokens)"
