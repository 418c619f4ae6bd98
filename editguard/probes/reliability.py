"""Reliability: is the request's own prompt answered by the target?"""

from editguard.edits import EditCase, EditRequest, Probe


def request_probe(request: EditRequest) -> Probe:
    """The request's own prompt, with the target as the answer."""
    return Probe(property="reliability", kind="request", prompt=request.text, answers=(request.target.strip(),))


def probes(case: EditCase) -> tuple[Probe, ...]:
    """The request's own prompt first, then what the case declares besides."""
    declared = (probe for probe in case.probes if probe.property == "reliability")
    return (request_probe(case.request), *declared)
