"""Where a hospital's words and a model's taxonomy meet: shared nodes, new nodes, and what is not scored and why.

Only what both have is scored. A hospital's finding that the taxonomy lacks is left aside, or added as a new node if
the map says under which parent; a node that the hospital does not annotate is unknown on all its films.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from hf_cxr.data.hospital_map import NO_FINDING, HospitalMap
from hf_cxr.data.near import near, nearest
from hf_cxr.hierarchy import OBSERVED_KINDS, Hierarchy, HierarchyError, Node, load_taxonomy, taxonomy_names

USES = ("scored", "new", "counted as parent", "gate only", "not scored")


@dataclass(frozen=True)
class Meeting:
    """What becomes of one finding of the hospital.

    Attributes:
        finding: as the map calls it. node: the taxonomy's, None without one.
        use: one of `USES`: `scored`; `new`, a node that the head grows by; `counted as parent`, a new node that the
            model has no output for; `gate only`, `No Finding`, which the gate's truth is made of; `not scored`.
        why: the reason.
    """

    finding: str
    node: str | None
    use: str
    why: str


@dataclass(frozen=True)
class JoinedTaxonomy:
    """A model's taxonomy for a hospital's films.

    Attributes:
        hierarchy: the model's nodes in their order, then the new ones. A group that the hospital annotates, and
            whose children it does not all annotate, is a finding in it, so that its truth is the hospital's. The
            gate's definition is `not_no_finding` where no film could be known to show none of the taxonomy's findings.
        base: the model's own. name: the hospital's.
        meetings: one a finding of the map. unannotated: findings of the base that the hospital does not annotate.
        gate: how the gate's truth is made here, or why it cannot be; None without a gate.
    """

    hierarchy: Hierarchy
    base: Hierarchy
    name: str
    meetings: tuple[Meeting, ...]
    unannotated: tuple[str, ...]
    gate: str | None

    @property
    def scored(self) -> tuple[str, ...]:
        """The nodes whose truth the hospital knows, in label order, new ones included; no others have figures here."""
        found = {meeting.node for meeting in self.meetings if meeting.use in ("scored", "new")}
        return tuple(name for name in self.hierarchy.names if name in found)

    @property
    def new_nodes(self) -> tuple[str, ...]:
        """The nodes that the base lacks, in label order: what the head grows by."""
        return self.hierarchy.names[len(self.base.names) :]

    def columns(self, names: Sequence[str], raw_NF: NDArray[Any]) -> tuple[tuple[str, ...], NDArray[Any]]:
        """The columns of the hospital's findings that `labels.encode` takes with `hierarchy`.

        Args:
            names, raw_NF: of `data.findings_matrix`, F findings as the map calls them.

        Returns:
            The names of the nodes, and their columns; `No Finding`, if there, for the gate.

        Raises:
            HierarchyError: a column is no finding of the map.
        """
        nodes = {meeting.finding: meeting.node for meeting in self.meetings if meeting.use != "not scored"}
        strange = [name for name in names if name not in {meeting.finding for meeting in self.meetings}]
        if strange:
            raise HierarchyError(f"{', '.join(strange)}: no finding of the map of {self.name}; was it made for others?")
        kept = [i for i, name in enumerate(names) if name in nodes and nodes[name] is not None]
        return tuple(str(nodes[names[i]]) for i in kept), raw_NF[:, kept]

    def summary(self) -> dict[str, Any]:
        """What is scored here and what is not, with the reasons; plain data for a report."""
        return {
            "hospital": self.name,
            "taxonomy": self.base.name,
            "scored": list(self.scored),
            "new_nodes": list(self.new_nodes),
            "unannotated": list(self.unannotated),
            "gate": self.gate,
            "findings": [asdict(meeting) for meeting in self.meetings],
        }

    def __str__(self) -> str:
        lines = [f"{self.name} on taxonomy {self.base.name}: {len(self.scored)} nodes are scored."]
        lines += [f"  {m.finding}: {m.use} ({m.why})" for m in self.meetings]
        if self.unannotated:
            lines.append(f"  not annotated there, so unknown on every film: {', '.join(self.unannotated)}")
        return "\n".join(lines + ([f"  gate: {self.gate}"] if self.gate else []))


def join_taxonomy(mapped: HospitalMap, base: Hierarchy, *, extend: bool = True) -> JoinedTaxonomy:
    """Join a hospital's map with a model's taxonomy.

    Args:
        mapped: of `data.load_map`.
        base: `Hierarchy.from_config(model.config)`, or any taxonomy. A config keeps no aliases; they are taken from the
            map's taxonomies and those of the package.
        extend: add the map's new nodes at the end, for a model that is to be adapted. A model as it is has no output
            for them: they then count as their parents, which the data have made present with them.

    Raises:
        HierarchyError: findings that neither the base nor the map's taxonomies have, with the nearest names; two
            findings that name one node; a gate that cannot be annotated; a new node that is there already or whose
            parent is not. All such mistakes are told at once.
    """
    others = [_other(name, mapped) for name in mapped.taxonomies]
    base = _with_aliases(base, [*others, *map(load_taxonomy, taxonomy_names())])
    new = {node.name: node for node in mapped.new_nodes}
    mistakes: list[str] = []
    found: dict[str, str] = {}
    meetings = []
    for finding in mapped.findings:
        if finding == NO_FINDING:
            meetings.append(_no_finding(base))
        elif finding in new and _node(base, finding) is None:
            if extend:
                meetings.append(Meeting(finding, finding, "new", f"under {', '.join(new[finding].parents)}"))
            else:
                why = f"the model has no output for it; its films count as {', '.join(new[finding].parents)}"
                meetings.append(Meeting(finding, None, "counted as parent", why))
        else:
            meeting = _meet(finding, base, others, mapped, mistakes)
            if meeting.node is not None and found.setdefault(meeting.node, finding) != finding:
                mistakes.append(f"'{finding}' and '{found[meeting.node]}' are both node '{meeting.node}'; use one")
            meetings.append(meeting)
    mistakes += _taken(base, mapped)
    hierarchy, meetings = _observed_groups(base, meetings)
    if extend:
        hierarchy = _extended(hierarchy, mapped, mistakes)
    if mistakes:
        raise HierarchyError(f"{mapped.path}:\n" + "\n".join(f"  {mistake}" for mistake in mistakes))
    annotated = {meeting.node for meeting in meetings}
    unannotated = tuple(n for n in hierarchy.of_kind("finding", "device") if n not in annotated)
    hierarchy, gate = _gate(hierarchy, mapped, set(unannotated))
    return JoinedTaxonomy(hierarchy, base, mapped.name, tuple(meetings), unannotated, gate)


def _other(name: str, mapped: HospitalMap) -> Hierarchy:
    beside = mapped.path.parent / name
    return load_taxonomy(beside if beside.is_file() else Path(name).expanduser() if Path(name).is_file() else name)


def _with_aliases(base: Hierarchy, others: Sequence[Hierarchy]) -> Hierarchy:
    """The base with the other spellings that any taxonomy has for its nodes."""
    taken = {word for node in base.nodes for word in (node.name, *node.aliases)}
    nodes = []
    for node in base.nodes:
        aliases = list(node.aliases)
        for other in (other for hierarchy in others for other in hierarchy.nodes):
            words = (other.name, *other.aliases)
            if node.name in words:
                aliases += [word for word in words if word not in taken]
                taken.update(words)
        nodes.append(replace(node, aliases=tuple(aliases)))
    return replace(base, nodes=tuple(nodes))


def _node(hierarchy: Hierarchy, word: str) -> Node | None:
    return next((node for node in hierarchy.nodes if word == node.name or word in node.aliases), None)


def _no_finding(base: Hierarchy) -> Meeting:
    if NO_FINDING in base.names:
        return Meeting(NO_FINDING, NO_FINDING, "scored", "a node of the taxonomy")
    return Meeting(NO_FINDING, NO_FINDING, "gate only", "says which films are normal; no node of the taxonomy")


def _meet(
    finding: str, base: Hierarchy, others: Sequence[Hierarchy], mapped: HospitalMap, mistakes: list[str]
) -> Meeting:
    node = _node(base, finding)
    if node is not None and node.kind in OBSERVED_KINDS:
        why = "the same node" if node.name == finding else f"the taxonomy calls it {node.name}"
        return Meeting(finding, node.name, "scored", why)
    if node is not None and node.kind == "group" and finding in mapped.said:
        return Meeting(finding, node.name, "scored", f"a group of {base.name}")  # `_observed_groups` has the last word
    if node is not None:
        why = f"{node.kind} of {base.name}, whose truth is made of the findings'"
        if finding in mapped.said:
            mistakes.append(
                f"'{finding}' is the {why}; map the word to a finding, or to a new node under it such as "
                f"'Other abnormality: {{parent: {finding}}}'"
            )
        return Meeting(finding, None, "not scored", why)
    homes = [other.name for other in others if _node(other, finding) is not None]
    if homes:
        return Meeting(finding, None, "not scored", f"no node of {base.name}; one of {', '.join(homes)}")
    owners = {word: n.name for h in (base, *others) for n in h.nodes for word in (*n.aliases, n.name)}
    close = [owners[word] for word in nearest(finding, owners)]
    where = ", ".join(dict.fromkeys(h.name for h in (base, *others)))
    hint = f"did you mean '{close[0]}'? Else " if close else ""
    remedy = "add it under `new_nodes` with its parent, or put its words under `ignore`"
    mistakes.append(f"no node '{finding}' in {where}; {hint}{remedy}")
    return Meeting(finding, None, "not scored", "no such node")


def _observed_groups(base: Hierarchy, meetings: list[Meeting]) -> tuple[Hierarchy, list[Meeting]]:
    """Make findings of the groups that the hospital annotates itself; leave to their children those it need not."""
    annotated = {meeting.node for meeting in meetings}
    own, settled = set(), []
    groups = set(base.of_kind("group"))
    for meeting in meetings:
        if meeting.node in groups:
            lacking = [child for child in base.children[str(meeting.node)] if child not in annotated]
            if lacking:
                own.add(meeting.node)
                why = f"a group of {base.name}, here by the hospital's own word, which does not annotate"
                meeting = replace(meeting, why=f"{why} {', '.join(lacking)}")
            else:
                why = f"a group of {base.name}, whose truth is made of {', '.join(base.children[str(meeting.node)])}"
                meeting = Meeting(meeting.finding, None, "not scored", why)
        settled.append(meeting)
    nodes = tuple(replace(node, kind="finding") if node.name in own else node for node in base.nodes)
    return replace(base, nodes=nodes), settled


def _taken(base: Hierarchy, mapped: HospitalMap) -> list[str]:
    """New nodes that the base has elsewhere; one in the same place is of a model that was adapted to this map."""
    mistakes = []
    for new in mapped.new_nodes:
        owner = _node(base, new.name)
        if owner is not None and base.edges:
            parents = {node.name for node in (_node(base, parent) for parent in new.parents) if node is not None}
            if owner.name != new.name or set(owner.parents) != parents:
                place = f"under {', '.join(owner.parents)}" if owner.parents else "at the top"
                mistakes.append(
                    f"new node '{new.name}' is in {base.name} already, as '{owner.name}' {place}; rename it"
                )
    return mistakes


def _extended(base: Hierarchy, mapped: HospitalMap, mistakes: list[str]) -> Hierarchy:
    nodes = list(base.nodes)
    for new in mapped.new_nodes:
        if _node(base, new.name) is not None:
            continue
        names = {word: node for node in nodes for word in (node.name, *node.aliases)}
        parents = []
        for parent in new.parents:
            if parent not in names:
                if base.edges:  # a flat taxonomy has no groups, and needs no parents
                    mistakes.append(
                        f"new node '{new.name}' has no parent '{parent}' in {base.name}{near(parent, names)}"
                    )
            elif names[parent].kind in ("no_finding", "uncertain"):
                mistakes.append(f"new node '{new.name}' cannot stand under '{parent}', which is no finding")
            elif base.edges:
                parents.append(names[parent].name)
        nodes.append(Node(new.name, new.kind, tuple(dict.fromkeys(parents))))
    grown = len(nodes) > len(base.nodes) and not mistakes
    return replace(base, nodes=tuple(nodes), name=f"{base.name}+{mapped.name}") if grown else base


def _gate(hierarchy: Hierarchy, mapped: HospitalMap, unannotated: set[str]) -> tuple[Hierarchy, str | None]:
    """The gate's definition that these films can answer, and why."""
    if hierarchy.gate is None:
        return hierarchy, None
    lacking = [name for name in hierarchy.of_kind("finding") if name in unannotated]
    if hierarchy.gate_definition == "not_no_finding" and NO_FINDING not in mapped.findings:
        if lacking:
            return hierarchy.with_gate_definition("any_finding"), _undecided(lacking)
        why = "any_finding: the hospital annotates all findings, and has no word for No Finding"
        return hierarchy.with_gate_definition("any_finding"), why
    if hierarchy.gate_definition == "not_no_finding" or not lacking:
        return hierarchy, f"{hierarchy.gate_definition}, as the model's"
    if NO_FINDING not in mapped.findings:
        return hierarchy, _undecided(lacking)
    why = f"not_no_finding: the hospital does not annotate {', '.join(lacking)}, but says which films have No Finding"
    return hierarchy.with_gate_definition("not_no_finding"), why


def _undecided(lacking: list[str]) -> str:
    return f"not scored: no film is known to be normal, without {', '.join(lacking)} and without No Finding"
