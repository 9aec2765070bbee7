"""The hierarchy of findings: a frozen, named directed acyclic graph.

An edge parent -> child reads "a film that shows the child shows the parent". A node may have several
parents. Nothing here knows about images, labels or models; everything else looks labels up by the names
that a `Hierarchy` holds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from hf_cxr.errors import UserError

KINDS = ("gate", "group", "finding", "device", "no_finding", "uncertain")
"""What a node is. `finding`, `device` and `no_finding` are columns of the source's table, the others are
derived: `gate` is the first-stage decision, `group` the union of its children, `uncertain` R1's extra label."""

OBSERVED_KINDS = ("finding", "device", "no_finding")
SCORED_KINDS = ("finding", "device")
GATE_DEFINITIONS = ("any_finding", "not_no_finding")


class HierarchyError(UserError, ValueError):
    """A taxonomy that cannot be used; the message names the node and the file."""


@dataclass(frozen=True)
class Node:
    """One label: its name, its kind (one of `KINDS`), its direct parents and other spellings of its name."""

    name: str
    kind: str = "finding"
    parents: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True)
class Hierarchy:
    """A validated taxonomy. Build it with `load_taxonomy`, `from_yaml` or `from_config`.

    Args:
        name: name of the taxonomy, e.g. `"nih"`.
        nodes: the nodes in label order; this order is the order of the model's outputs.
        gate_definition: how the gate node's truth is made, one of `GATE_DEFINITIONS`, or None without a gate.
        subsets: named lists of nodes over which figures are averaged, e.g. CheXpert's five competition labels.
        source: where the taxonomy comes from.
        where: file for error messages.

    Raises:
        HierarchyError: duplicate name or alias, unknown parent, unknown kind, cycle, or bad gate.
    """

    name: str
    nodes: tuple[Node, ...]
    gate_definition: str | None = None
    subsets: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    source: str = ""
    where: str = "hierarchy"

    def __post_init__(self) -> None:
        owner: dict[str, str] = {}
        for node in self.nodes:
            for word in (node.name, *node.aliases):
                if word in owner:
                    raise self._error(f"'{word}' of node '{node.name}' is already a name or alias of '{owner[word]}'")
                owner[word] = node.name
            if node.kind not in KINDS:
                raise self._error(f"node '{node.name}' has kind '{node.kind}'; expected one of {', '.join(KINDS)}")
        names = set(self.names)
        for node in self.nodes:
            if len(set(node.parents)) != len(node.parents):
                raise self._error(f"node '{node.name}' lists a parent twice: {list(node.parents)}")
            for parent in node.parents:
                if parent not in names:
                    raise self._error(f"parent '{parent}' of node '{node.name}' is not a node")
        _ = self.topological_order  # raises on a cycle
        gates = [node.name for node in self.nodes if node.kind == "gate"]
        if len(gates) > 1:
            raise self._error(f"one gate at most, found {gates}")
        if gates and self.gate_definition not in GATE_DEFINITIONS:
            raise self._error(
                f"gate '{gates[0]}' needs a definition, one of {', '.join(GATE_DEFINITIONS)}; "
                f"got {self.gate_definition!r}"
            )
        for subset, members in self.subsets.items():
            for member in members:
                if member not in names:
                    raise self._error(f"subset '{subset}' names '{member}', which is not a node")

    def _error(self, text: str) -> HierarchyError:
        return HierarchyError(f"{self.where}: {text}")

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Node names in label order."""
        return tuple(node.name for node in self.nodes)

    @cached_property
    def parents(self) -> dict[str, tuple[str, ...]]:
        """Direct parents of every node."""
        return {node.name: node.parents for node in self.nodes}

    @cached_property
    def children(self) -> dict[str, tuple[str, ...]]:
        """Direct children of every node, in label order."""
        return {name: tuple(n.name for n in self.nodes if name in n.parents) for name in self.names}

    @cached_property
    def edges(self) -> tuple[tuple[str, str], ...]:
        """All (parent, child) pairs."""
        return tuple((parent, node.name) for node in self.nodes for parent in node.parents)

    @cached_property
    def edge_indices(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Positions of the parents and of the children of `edges` in `names`."""
        position = {name: i for i, name in enumerate(self.names)}
        return tuple(position[p] for p, _ in self.edges), tuple(position[c] for _, c in self.edges)

    @cached_property
    def topological_order(self) -> tuple[str, ...]:
        """Names with every parent before its children."""
        order: list[str] = []
        waiting = {node.name: set(node.parents) for node in self.nodes}
        while waiting:
            ready = [name for name, parents in waiting.items() if parents.isdisjoint(waiting)]
            if not ready:
                raise self._error(f"cycle among the nodes {sorted(waiting)}")
            order += ready
            for name in ready:
                del waiting[name]
        return tuple(order)

    def ancestors(self, name: str) -> frozenset[str]:
        """All nodes above `name`, itself excluded."""
        above: set[str] = set()
        for parent in self.parents[self.resolve(name)]:
            above |= {parent} | self.ancestors(parent)
        return frozenset(above)

    def descendants(self, name: str) -> frozenset[str]:
        """All nodes below `name`, itself excluded."""
        name = self.resolve(name)
        return frozenset(other for other in self.names if name in self.ancestors(other))

    def resolve(self, word: str) -> str:
        """The node that `word` names, as its name or an alias.

        Raises:
            HierarchyError: no such node; lists the nodes.
        """
        for node in self.nodes:
            if word == node.name or word in node.aliases:
                return node.name
        raise self._error(f"no node or alias '{word}'; the nodes are {', '.join(self.names)}")

    def of_kind(self, *kinds: str) -> tuple[str, ...]:
        """Names of the nodes of these kinds, in label order."""
        return tuple(node.name for node in self.nodes if node.kind in kinds)

    @property
    def gate(self) -> str | None:
        """Name of the gate node, or None."""
        gates = self.of_kind("gate")
        return gates[0] if gates else None

    @property
    def findings(self) -> tuple[str, ...]:
        """The labels over which macro figures are taken: findings and devices, no groups."""
        return self.of_kind(*SCORED_KINDS)

    @property
    def unscored(self) -> tuple[str, ...]:
        """The other labels: gate, groups, "no finding" and "uncertain"."""
        return tuple(name for name in self.names if name not in self.findings)

    def flat(self) -> Hierarchy:
        """The same observed labels, the gate and `Uncertain` without edges and without groups."""
        kept = tuple(Node(n.name, n.kind, (), n.aliases) for n in self.nodes if n.kind != "group")
        return self._with_nodes(kept, f"{self.name}_flat")

    def subset(self, names: Iterable[str]) -> Hierarchy:
        """The hierarchy over `names` alone; an edge through a left-out node becomes direct.

        Used for the second stage of a two-stage model, which has every node but the gate.
        """
        kept = {self.resolve(name) for name in names}

        def nearest(name: str) -> list[str]:
            found: list[str] = []
            for parent in self.parents[name]:
                found += [parent] if parent in kept else nearest(parent)
            return list(dict.fromkeys(found))

        nodes = tuple(Node(n.name, n.kind, tuple(nearest(n.name)), n.aliases) for n in self.nodes if n.name in kept)
        return self._with_nodes(nodes, self.name)

    def with_gate_definition(self, definition: str) -> Hierarchy:
        """The same graph with another definition of the gate's truth."""
        return Hierarchy(self.name, self.nodes, definition, self.subsets, self.source, self.where)

    def _with_nodes(self, nodes: tuple[Node, ...], name: str) -> Hierarchy:
        kept = {node.name for node in nodes}
        subsets = {key: members for key, members in self.subsets.items() if kept.issuperset(members)}
        has_gate = any(node.kind == "gate" for node in nodes)
        return Hierarchy(name, nodes, self.gate_definition if has_gate else None, subsets, self.source, self.where)

    def to_config(self) -> dict[str, Any]:
        """Plain data for a model's config; `from_config` reads it back."""
        return {
            "id2label": dict(enumerate(self.names)),
            "label2id": {name: i for i, name in enumerate(self.names)},
            "taxonomy": self.name,
            "parents": {node.name: list(node.parents) for node in self.nodes if node.parents},
            "node_kinds": {node.name: node.kind for node in self.nodes},
            "gate": {"node": self.gate, "definition": self.gate_definition} if self.gate else None,
            "label_subsets": {key: list(members) for key, members in self.subsets.items()},
        }

    @classmethod
    def from_config(cls, config: Any) -> Hierarchy:
        """The hierarchy stored in a model's config (a `CXRConfig`), labels in the order of the outputs."""
        nodes = tuple(
            Node(name, config.node_kinds[name], tuple(config.parents.get(name, ()))) for name in config.label_names
        )
        subsets = {key: tuple(members) for key, members in (config.label_subsets or {}).items()}
        definition = config.gate["definition"] if config.gate else None
        return cls(config.taxonomy, nodes, definition, subsets, where="model config")

    @classmethod
    def from_yaml(cls, path: str | Path) -> Hierarchy:
        """Read a taxonomy file; `hf_cxr/taxonomies/nih.yaml` shows the format.

        Raises:
            HierarchyError: the file is malformed or the graph is invalid.
            FileNotFoundError: no such file.
        """
        where = str(path)
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        known = {"name", "source", "gate_definition", "subsets", "nodes", "notes"}
        if not isinstance(content, dict) or not isinstance(content.get("nodes"), list):
            raise HierarchyError(f"{where}: expected a mapping with a list 'nodes'")
        if unknown := set(content) - known:
            raise HierarchyError(f"{where}: unknown keys {sorted(unknown)}; known are {sorted(known)}")
        nodes = []
        for entry in content["nodes"]:
            if not isinstance(entry, dict) or "name" not in entry:
                raise HierarchyError(f"{where}: a node needs a 'name', got {entry!r}")
            if unknown := set(entry) - {"name", "kind", "parents", "aliases", "note"}:
                raise HierarchyError(f"{where}: node '{entry['name']}' has unknown keys {sorted(unknown)}")
            nodes.append(
                Node(
                    entry["name"],
                    entry.get("kind", "finding"),
                    tuple(entry.get("parents", ())),
                    tuple(entry.get("aliases", ())),
                )
            )
        return cls(
            name=content.get("name", Path(path).stem),
            nodes=tuple(nodes),
            gate_definition=content.get("gate_definition"),
            subsets={key: tuple(members) for key, members in content.get("subsets", {}).items()},
            source=content.get("source", ""),
            where=where,
        )


def taxonomy_names() -> tuple[str, ...]:
    """Names of the taxonomies that come with the package."""
    folder = resources.files("hf_cxr") / "taxonomies"
    return tuple(sorted(Path(entry.name).stem for entry in folder.iterdir() if entry.name.endswith(".yaml")))


def load_taxonomy(name_or_path: str | Path, *, flat: bool = False) -> Hierarchy:
    """A taxonomy of the package by name (`"nih"`, `"chexpert"`, `"chexpert_irvin"`) or any YAML file by path.

    Args:
        name_or_path: a name out of `taxonomy_names()`, or the path of a YAML file.
        flat: drop groups and edges (`Hierarchy.flat`).

    Raises:
        HierarchyError: neither a known name nor a file.
    """
    path = Path(name_or_path)
    if str(name_or_path) in taxonomy_names():
        path = Path(str(resources.files("hf_cxr") / "taxonomies" / f"{name_or_path}.yaml"))
    elif not path.is_file():
        raise HierarchyError(
            f"no taxonomy '{name_or_path}': expected one of {', '.join(taxonomy_names())} or the path of a YAML file"
        )
    hierarchy = Hierarchy.from_yaml(path)
    return hierarchy.flat() if flat else hierarchy
